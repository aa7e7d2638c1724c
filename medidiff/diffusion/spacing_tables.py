"""Spacings by a table: levels that the user lists (such as align-your-steps), and Beta quantiles.

rule: half-log-SNR of each noisy level, the noisiest first, to as many as are asked for
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch

from medidiff.diffusion.levels import NoiseLevel
from medidiff.diffusion.schedules import Schedule
from medidiff.types import Tensor

DEAD_SIGNAL = 0.006
"""Where alpha is smaller than this there is nothing to resolve: DPM-Solver's lambda of -5.1
(Lu et al. 2022, arXiv:2206.00927, appendix D.4, on the cosine schedule)."""


@dataclass(frozen=True)
class GivenLevels:
    """Levels by the user's list, and log-linear in the noise ratio between them for other counts.

    An align-your-steps list is one of these: its times (label n of N is (n + 1) / N here) or its
    noise ratios, without the final 0, which is the driver's clean level. From an intermediate start
    the part of the list below it is used, the start first.
    Source: Sabour et al. 2024 (arXiv:2404.14507), section 3 and, for other counts, appendix B.
    """

    kind: Literal["given-levels"] = "given-levels"
    values: tuple[float, ...] = (20.0, 5.0, 1.0, 0.2, 0.02)
    """From noise to clean, at least one."""
    of: Literal["time", "half-log-snr", "noise-ratio"] = "noise-ratio"
    """What the values are; times and noise ratios fall, half-log-SNRs rise."""

    def __post_init__(self) -> None:
        sign = -1 if self.of == "half-log-snr" else 1
        falls = all(sign * a > sign * b for a, b in zip(self.values, self.values[1:], strict=False))
        noisy = self.of == "half-log-snr" or all(value > 0 for value in self.values)
        finite = all(math.isfinite(value) for value in self.values)
        if not (self.values and falls and noisy and finite):
            raise ValueError(
                f"given-levels needs finite values from noise to clean, without the clean level, "
                f"got {self.values} as {self.of}"
            )

    def times(self, schedule: Schedule, steps: int, start: NoiseLevel) -> list[Tensor]:
        """The times of the listed levels, or of as many between them."""
        listed = self._listed(schedule)
        lams = schedule(listed).half_log_snr
        rows = [
            _below(listed, lams, float(first), schedule, steps)
            for first in start.half_log_snr.reshape(-1)
        ]
        return [column.reshape(start.t.shape) for column in torch.stack(rows, 1)]

    def _listed(self, schedule: Schedule) -> Tensor:
        values = torch.tensor(self.values, dtype=torch.float64)
        if self.of == "time":
            return values
        return schedule.time_of(values if self.of == "half-log-snr" else -values.log())


def _below(listed: Tensor, lams: Tensor, first: float, schedule: Schedule, steps: int) -> Tensor:
    """The list's times from one start down, (steps,)."""
    if first <= float(lams[0]) + 1e-9:
        if len(listed) == steps:
            return listed
    else:
        rest = lams[lams > first + 1e-9]
        lams = torch.cat([torch.tensor([first], dtype=torch.float64), rest])
    return schedule.time_of(interpolated(lams.clamp_min(math.log(DEAD_SIGNAL)), steps))


def interpolated(table: Tensor, steps: int) -> Tensor:
    """A rising or falling table at `steps` equal parts of its index. Shapes: (K,) -> (steps,)."""
    if steps == 1:
        return table[:1]
    places = torch.arange(steps, dtype=torch.float64) * ((len(table) - 1) / (steps - 1))
    below = places.floor().long().clamp(0, max(len(table) - 2, 0))
    above = (below + 1).clamp_max(len(table) - 1)
    return torch.lerp(table[below], table[above], places - below)


@dataclass(frozen=True)
class BetaQuantiles:
    """Noise ratios at equal quantiles of a Beta(shape, shape) between the ends.

    Source: Lee et al. 2024 (arXiv:2407.12173), section 4; diffusers' "beta" spacing.
    From (nearly) pure noise the levels are counted from where the signal wakes (`DEAD_SIGNAL`).
    """

    kind: Literal["beta-quantiles"] = "beta-quantiles"
    shape: float = 0.6
    """Below 1 the levels crowd at both ends; 1 is even in the noise ratio."""
    end: float | None = None
    """The last noisy time; None is the schedule's t_min."""

    def __post_init__(self) -> None:
        if not self.shape > 0:
            raise ValueError(f"beta-quantiles needs shape > 0, got {self.shape}")

    def times(self, schedule: Schedule, steps: int, start: NoiseLevel) -> list[Tensor]:
        """The times of the noise ratios at the quantiles."""
        first, last = ((-end).exp() for end in log_snr_ends(schedule, start, self.end))
        parts = [beta_quantile(1 - part, self.shape) for part in equal_parts(steps)]
        return [schedule.time_of(-torch.lerp(last, first, part).log()) for part in parts]


@cache
def beta_quantile(probability: float, shape: float) -> float:
    """The quantile of the symmetric Beta(shape, shape), by bisection of its power series."""
    if probability > 0.5:
        return 1 - beta_quantile(1 - probability, shape)
    low, high = 0.0, 0.5
    for _ in range(200):
        middle = (low + high) / 2
        below = _beta_below(middle, shape) < probability
        low, high = (middle, high) if below else (low, middle)
    return (low + high) / 2


def _beta_below(x: float, shape: float) -> float:
    """The distribution function for x <= 1/2, where 80 terms of its series are exact."""
    total, factor = 0.0, 1.0
    for n in range(80):
        total += factor / (shape + n) * x**n
        factor *= (n + 1 - shape) / (n + 1)
    whole = math.exp(2 * math.lgamma(shape) - math.lgamma(2 * shape))
    return x**shape * total / whole


def equal_parts(steps: int) -> list[float]:
    """0 to 1 in so many equal parts; 0 alone for one."""
    return [index / max(steps - 1, 1) for index in range(steps)]


def log_snr_ends(
    schedule: Schedule, start: NoiseLevel, end: float | None = None
) -> tuple[Tensor, Tensor]:
    """Half-log-SNR of the start and of the schedule's last noisy level.

    Errors: ValueError if the start is the cleaner.
    """
    first = start.half_log_snr
    first = torch.where(start.alpha < DEAD_SIGNAL, first.clamp_min(math.log(DEAD_SIGNAL)), first)
    last = schedule(torch.full_like(first, schedule.t_min if end is None else end)).half_log_snr
    if bool((first >= last).any()):
        raise ValueError(
            "the path starts at a level cleaner than the schedule's last noisy one "
            f"(noise ratio {float((-last).exp().max()):.3g}); use the 'uniform-time' spacing there"
        )
    return first, last
