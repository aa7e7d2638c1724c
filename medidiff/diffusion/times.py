"""Times: which noise levels are trained, and which ones a sampler visits.

Training times turn one uniform number into one level by an inverse distribution function, so a
keyed uniform is all the randomness there is. Spacings turn a number of steps into a path.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, get_args

import torch

from medidiff.diffusion.levels import CLEAN, NoiseLevel
from medidiff.diffusion.schedules import Discrete, Schedule
from medidiff.diffusion.spacing_tables import (
    BetaQuantiles,
    GivenLevels,
    equal_parts,
    log_snr_ends,
)
from medidiff.diffusion.steps import TABLE, AnyStepSpacing
from medidiff.types import Tensor


class TrainingTimes(Protocol):
    """Uniform numbers to the levels that are trained.

    Shapes: draw is (batch,), float64, in the open interval (0, 1); so is the level.
    """

    def levels(self, schedule: Schedule, draw: Tensor) -> NoiseLevel: ...


@dataclass(frozen=True)
class UniformTimes:
    """t uniform over the schedule's noisy times. Song et al. 2021 (arXiv:2011.13456)."""

    kind: Literal["uniform"] = "uniform"

    def levels(self, schedule: Schedule, draw: Tensor) -> NoiseLevel:
        """The levels at t_min + draw * (t_max - t_min)."""
        return schedule(schedule.t_min + draw.double() * (schedule.t_max - schedule.t_min))


@dataclass(frozen=True)
class LogitNormalTimes:
    """logit(t) Gaussian, for more training at middle times.

    Source: Esser et al. 2024 (arXiv:2403.03206).
    """

    kind: Literal["logit-normal"] = "logit-normal"
    mean: float = 0.0
    """Mean of logit(t); above 0 favours noise."""
    std: float = 1.0
    """Standard deviation of logit(t)."""

    def __post_init__(self) -> None:
        _check_std(self.kind, self.std)

    def levels(self, schedule: Schedule, draw: Tensor) -> NoiseLevel:
        """The levels at sigmoid(mean + std * z)."""
        return schedule((self.mean + self.std * torch.special.ndtri(draw.double())).sigmoid())


@dataclass(frozen=True)
class LogNormalNoiseRatio:
    """ln(noise_ratio) Gaussian, whatever the schedule.

    Source: Karras et al. 2022 (arXiv:2206.00364), table 1.
    """

    kind: Literal["log-normal-noise-ratio"] = "log-normal-noise-ratio"
    mean: float = -1.2
    """Mean of ln(noise_ratio) (the paper's P_mean)."""
    std: float = 1.2
    """Standard deviation of ln(noise_ratio) (P_std)."""

    def __post_init__(self) -> None:
        _check_std(self.kind, self.std)

    def levels(self, schedule: Schedule, draw: Tensor) -> NoiseLevel:
        """The levels whose noise ratio is exp(mean + std * z)."""
        log_ratio = self.mean + self.std * torch.special.ndtri(draw.double())
        return schedule(schedule.time_of(-log_ratio))


@dataclass(frozen=True)
class UniformSteps:
    """One of the steps 1 .. N of a discrete process, all as likely.

    Source: Ho et al. 2020 (arXiv:2006.11239), algorithm 1. N is the schedule's where it has steps.
    """

    kind: Literal["uniform-steps"] = "uniform-steps"
    steps: int = TABLE
    """Steps of the process on a schedule without its own."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"uniform-steps needs steps >= 1, got {self.steps}")

    def levels(self, schedule: Schedule, draw: Tensor) -> NoiseLevel:
        """The levels at ceil(draw * N) / N."""
        count = schedule.steps if isinstance(schedule, Discrete) else self.steps
        return schedule((draw.double() * count).ceil() / count)


AnyTimes: TypeAlias = UniformTimes | LogitNormalTimes | LogNormalNoiseRatio | UniformSteps


class Spacing(Protocol):
    """`steps` noisy times from that of `start` down; all >= t_min if it is used at all."""

    def times(self, schedule: Schedule, steps: int, start: NoiseLevel) -> list[Tensor]: ...


@dataclass(frozen=True)
class UniformTime:
    """Equal steps in t, "trailing": from the start on, the last hop from t_start / steps to clean.

    Source: Lin et al. 2024 (arXiv:2305.08891), table 2.
    """

    kind: Literal["uniform-time"] = "uniform-time"

    def times(self, schedule: Schedule, steps: int, start: NoiseLevel) -> list[Tensor]:
        """t_start * (1 - i / steps)."""
        return [start.t * (1 - index / steps) for index in range(steps)]


@dataclass(frozen=True)
class UniformLogSNR:
    """Equal steps in log-SNR down to t_min. Lu et al. 2022 (arXiv:2206.00927), section 3.4.

    From (nearly) pure noise the steps are counted from where the signal wakes (`DEAD_SIGNAL`).
    """

    kind: Literal["uniform-log-snr"] = "uniform-log-snr"
    end: float | None = None
    """The last noisy time; None is the schedule's t_min."""
    power: float = 1.0
    """Above 1 the steps shrink towards the clean end: k-diffusion's "polyexponential" (Crowson
    2022)."""

    def __post_init__(self) -> None:
        if not self.power > 0:
            raise ValueError(f"uniform-log-snr needs power > 0, got {self.power}")

    def times(self, schedule: Schedule, steps: int, start: NoiseLevel) -> list[Tensor]:
        """The times of equal steps in half-log-SNR."""
        first, last = log_snr_ends(schedule, start, self.end)
        parts = [(1 - part) ** self.power for part in equal_parts(steps)]
        return [schedule.time_of(torch.lerp(last, first, part)) for part in parts]


@dataclass(frozen=True)
class Karras:
    """noise_ratio**(1/rho) in equal steps down to t_min.

    Source: Karras et al. 2022 (arXiv:2206.00364), eq. 5.
    From (nearly) pure noise the steps are counted from where the signal wakes (`DEAD_SIGNAL`).
    """

    kind: Literal["karras"] = "karras"
    rho: float = 7.0
    """How strongly the levels crowd towards the clean end."""
    end: float | None = None
    """The last noisy time; None is the schedule's t_min."""

    def __post_init__(self) -> None:
        if not self.rho > 0:
            raise ValueError(f"karras needs rho > 0, got {self.rho}")

    def times(self, schedule: Schedule, steps: int, start: NoiseLevel) -> list[Tensor]:
        """The times of equal steps in the root of the noise ratio."""
        first, last = ((-end / self.rho).exp() for end in log_snr_ends(schedule, start, self.end))
        roots = [torch.lerp(first, last, part) for part in equal_parts(steps)]
        return [schedule.time_of(-self.rho * root.log()) for root in roots]


@dataclass(frozen=True)
class PolynomialTime:
    """t**(1/power) in equal steps, from the start down to and including `end`.

    Source: Lu et al. 2022 (arXiv:2206.00927), appendix D.5: power 1 is its time_uniform, 2 its
    time_quadratic; Zhang & Chen 2023 (arXiv:2204.13902).
    """

    kind: Literal["polynomial-time"] = "polynomial-time"
    power: float = 1.0
    """How strongly the times crowd towards the clean end."""
    end: float | None = None
    """The last noisy time; None is the schedule's t_min."""

    def __post_init__(self) -> None:
        if not self.power > 0:
            raise ValueError(f"polynomial-time needs power > 0, got {self.power}")

    def times(self, schedule: Schedule, steps: int, start: NoiseLevel) -> list[Tensor]:
        """The powers of equal steps in the root of the time."""
        end = torch.full_like(start.t, schedule.t_min if self.end is None else self.end)
        if bool((start.t < end).any()):
            raise ValueError(
                f"the path starts at a time before {float(end.max()):.3g}, its last noisy one"
            )
        first, last = start.t ** (1 / self.power), end ** (1 / self.power)
        return [torch.lerp(first, last, part) ** self.power for part in equal_parts(steps)]


@dataclass(frozen=True)
class ShiftedTime:
    """Equal steps in t, moved towards noise: t' = shift t / (1 + (shift - 1) t).

    Made for `Flow`, where it multiplies the noise ratio by `shift`: images of m times the voxels
    that a schedule was made for keep their signal longer and want shift = sqrt(m).
    Source: Esser et al. 2024 (arXiv:2403.03206). Training times are shifted by
    `LogitNormalTimes` with mean = log(shift), which is the same.
    """

    kind: Literal["shifted-time"] = "shifted-time"
    shift: float = 3.0
    """1 is none; above 1 more steps are spent on noisy levels."""
    end: float | None = None
    """The last noisy time before it is shifted; None is the start's by the count of steps."""

    def __post_init__(self) -> None:
        if not self.shift > 0:
            raise ValueError(f"shifted-time needs shift > 0, got {self.shift}")

    def times(self, schedule: Schedule, steps: int, start: NoiseLevel) -> list[Tensor]:
        """The shifted times of equal steps from the start's unshifted one."""
        first = shifted(start.t, 1 / self.shift)
        last = first / steps if self.end is None else torch.full_like(first, self.end)
        return [shifted(torch.lerp(first, last, part), self.shift) for part in equal_parts(steps)]


def shifted(t: Tensor, shift: float) -> Tensor:
    """shift t / (1 + (shift - 1) t). Esser et al. 2024 (arXiv:2403.03206)."""
    return shift * t / (1 + (shift - 1) * t)


@dataclass(frozen=True)
class SingleStepLogSNR:
    """Groups of equal length in log-SNR, each divided evenly: the stages of `DPMSolver`.

    `order` is the solver's; what does not fill groups is divided as its `last` "fast" says.
    Source: Lu et al. 2022 (arXiv:2206.00927), section 3.4 and appendix D.3.
    """

    kind: Literal["single-step-log-snr"] = "single-step-log-snr"
    order: Literal[1, 2, 3] = 3
    """Hops in a group."""
    end: float | None = None
    """The last noisy time; None is the schedule's t_min."""

    def times(self, schedule: Schedule, steps: int, start: NoiseLevel) -> list[Tensor]:
        """The times of the groups' ends and stages."""
        first, last = log_snr_ends(schedule, start, self.end)
        orders = single_step_orders(steps - 1, self.order)
        parts = [
            (group + stage / order) / len(orders)
            for group, order in enumerate(orders)
            for stage in range(order)
        ]
        return [schedule.time_of(torch.lerp(first, last, part)) for part in [*parts, 1.0][:steps]]


def fast_order(calls: int, order: int) -> int:
    """The order of the next group where so many hops are left: a rest of 3 is a 2 and a 1.

    Source: Lu et al. 2022 (arXiv:2206.00927), section 3.4.
    """
    return 2 if order == 3 and calls == 3 else min(order, calls)


def single_step_orders(calls: int, order: int) -> list[int]:
    """The orders of the groups into which `DPMSolver` divides `calls` hops.

    Source: Lu et al. 2022 (arXiv:2206.00927), section 3.4.
    """
    orders: list[int] = []
    while calls > 0:
        orders.append(fast_order(calls, order))
        calls -= orders[-1]
    return orders


AnySpacing: TypeAlias = (
    UniformTime
    | UniformLogSNR
    | Karras
    | PolynomialTime
    | ShiftedTime
    | SingleStepLogSNR
    | BetaQuantiles
    | GivenLevels
    | AnyStepSpacing
)


def path(
    spacing: Spacing, schedule: Schedule, steps: int, start: NoiseLevel | None = None
) -> list[NoiseLevel]:
    """`steps` noisy levels from `start` (or the spacing's first) down, then the clean level.

    Shapes: levels are () or, with a start of shape (batch,), (batch,) except for the clean one.
    Errors: ValueError if steps < 1, or if start is cleaner than the last level to be visited.
    The list has steps + 1 entries, and sampling along it is `steps` hops.

    >>> len(path(UniformTime(), Flow(), 20))  # doctest: +SKIP
    21
    """
    if steps < 1:
        raise ValueError(f"a path needs at least 1 step, got {steps}")
    if start is None:
        start = schedule(torch.tensor(schedule.t_max, dtype=torch.float64))
        # a spacing of steps or given levels has its own first, maybe below the noisiest level
        if isinstance(spacing, (*get_args(AnyStepSpacing), GivenLevels)):
            start = schedule(spacing.times(schedule, steps, start)[0])
    later = spacing.times(schedule, steps, start)[1:]
    return [start, *(schedule(t) for t in later), CLEAN]


def _check_std(kind: str, std: float) -> None:
    if not std > 0:
        raise ValueError(f"{kind} needs std > 0, got {std}")
