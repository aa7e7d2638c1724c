"""qsh-zh/deis: tAB, rhoAB, rhoRK and iPNDM on the linear VP schedule.

Its coefficients are left sums of ten thousand points, 1e-5 to 1e-3 off. Of tAB they are recorded:
ours are compared with them to 1e-3, and our step with theirs in place of ours to the usual
tolerance. Of rhoAB they are summed here in the original's way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from medidiff.conformance.families.dpm import Heard
from medidiff.conformance.recordings import (
    LEVEL_TOLERANCE,
    TOLERANCE,
    Case,
    Unsupported,
    check_agrees,
    check_levels,
)
from medidiff.diffusion.levels import NoiseLevel
from medidiff.diffusion.samplers.deis import DEIS, RhoRK, lagrange
from medidiff.diffusion.samplers.multistep import PNDM
from medidiff.diffusion.sampling import Sampler, Step, walk
from medidiff.diffusion.schedules import VPLinear
from medidiff.diffusion.times import Karras, PolynomialTime, Spacing, path
from medidiff.types import Tensor

SUM_TOLERANCE = 1e-3
POINTS = 10_000
METHODS = {"1euler": "euler", "2heun": "heun", "3kutta": "kutta", "4rk": "classical"}


@dataclass(frozen=True)
class GivenCoefficients(DEIS):
    """DEIS with the original's own coefficients, in units of x: row i for hop i."""

    table: Any = None

    def coefficients(
        self, levels: tuple[NoiseLevel, ...], to: NoiseLevel, at: Step
    ) -> list[Tensor]:
        """C_j of the table, in x / alpha."""
        return [value / to.alpha for value in self.table[at.index][1 : len(levels) + 1]]


@dataclass(frozen=True)
class SummedCoefficients(DEIS):
    """rhoAB with the original's integral: the left sum of ten thousand points."""

    def coefficients(
        self, levels: tuple[NoiseLevel, ...], to: NoiseLevel, at: Step
    ) -> list[Tensor]:
        """C_j, about 1e-5 off."""
        rhos = [level.noise_ratio for level in levels]
        width = (to.noise_ratio - rhos[0]) / POINTS
        inner = rhos[0] + width * torch.arange(POINTS, dtype=torch.float64)
        return [width * lagrange(rhos, j)(inner)[0].sum() for j in range(len(rhos))]


def replay(case: Case) -> None:
    """Times, then coefficients where recorded, then states."""
    meta, schedule = case.meta, VPLinear()
    levels = path(spacing_of(meta), schedule, meta["num_step"] + 1)[:-1]
    times = torch.stack([level.t for level in levels])
    check_agrees("times", times, case["rev_ts"], LEVEL_TOLERANCE)
    sampler = sampler_of(meta, "ab_coef" in case)
    if "ab_coef" in case:
        check_coefficients(case, levels, schedule)
        sampler = GivenCoefficients(order=meta["ab_order"], table=case["ab_coef"])
    follow(case, levels, sampler, TOLERANCE)


def follow(case: Case, levels: list[NoiseLevel], sampler: Sampler, tolerance: float) -> None:
    """The recorded first and last state."""
    denoise, x = Heard(case.mixture), case["x_init"]
    states = [x, *(state for _, state in walk(denoise, x, levels, sampler, None, VPLinear()))]
    check_levels(denoise.levels, case)
    check_agrees("result", states[-1], case["x_final"], tolerance)
    count = len(case["xs"])
    places = torch.linspace(0, len(states) - 1, count).round().long()
    if "xs_index" in case:
        places = case["xs_index"].long()
    for place, reference in zip(places.tolist(), case["xs"], strict=True):
        check_agrees(f"state {place}", states[place], reference, tolerance)


def check_coefficients(case: Case, levels: list[NoiseLevel], schedule: VPLinear) -> None:
    """psi and C_j of every hop."""
    sampler = DEIS(order=case.meta["ab_order"])
    for index, row in enumerate(case["ab_coef"]):
        now, to = levels[index], levels[index + 1]
        check_agrees(f"psi {index}", to.alpha / now.alpha, row[0], SUM_TOLERANCE)
        before = tuple(reversed(levels[max(0, index - sampler.order) : index + 1]))
        at = Step(index, len(levels) - 1, case["x_init"], None, schedule)
        ours = torch.stack([to.alpha * each for each in sampler.coefficients(before, to, at)])
        check_agrees(f"C {index}", ours, row[1 : len(ours) + 1], SUM_TOLERANCE)


def spacing_of(meta: dict[str, Any]) -> Spacing:
    """Equal steps in a root of the time, or of the noise ratio."""
    if meta["ts_phase"] == "t":
        return PolynomialTime(power=meta["ts_order"], end=meta["t_eps"])
    if meta["ts_phase"] == "rho":
        return Karras(rho=meta["ts_order"], end=meta["t_eps"])
    raise Unsupported(f"ts_phase {meta['ts_phase']}")


def sampler_of(meta: dict[str, Any], in_time: bool) -> Sampler:
    """The sampler that the options name: iPNDM has neither an order nor a method.

    What tells tAB from rhoAB is that its coefficients were recorded.
    """
    if "rk_method" in meta:
        return RhoRK(method=METHODS[meta["rk_method"]])  # type: ignore[arg-type]
    if "ab_order" not in meta:
        return PNDM(order=4, start="grow")
    order = meta["ab_order"]
    return DEIS(order=order) if in_time else SummedCoefficients(order=order, variable="rho")
