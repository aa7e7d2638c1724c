"""DPM-Solver, single-step. Lu et al. 2022 (arXiv:2206.00927; DPM-Solver++: arXiv:2211.01095)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from medidiff.diffusion.levels import Denoise, Estimate, NoiseLevel, half_log_snr_gap, scale
from medidiff.diffusion.samplers.exponential import Basis, Hop, second_order
from medidiff.diffusion.sampling import Step
from medidiff.diffusion.times import fast_order
from medidiff.types import Image, Tensor


@dataclass(frozen=True, eq=False)
class Group:
    """Hops that make one step of the solver: where it began and the predictions since then."""

    x: Image
    order: int
    levels: tuple[NoiseLevel, ...]
    estimates: tuple[Estimate, ...]


@dataclass(frozen=True)
class DPMSolver:
    """An exponential Runge-Kutta method of order 1, 2 or 3. One network call a hop of the path.

    One step of the solver is a group of `order` hops: the levels inside a group are its stages,
    and only at the end of a group is the image of the solver's order. `SingleStepLogSNR` puts them
    where the paper does (r = 1/2; 1/3 and 2/3), but any path will do.
    Source: Lu et al. 2022 (arXiv:2206.00927), section 3 and appendix D (basis "eps");
    (arXiv:2211.01095), section 4 and appendix A (basis "clean", DPM-Solver++ 2S and 3S).
    Differs: a group that would begin at pure noise is one hop of first order.
    """

    kind: Literal["dpm-solver"] = "dpm-solver"
    order: Literal[1, 2, 3] = 3
    """Hops in a group; 1 is DDIM."""
    basis: Basis = "eps"
    """Which output is expanded: "eps" is DPM-Solver, "clean" DPM-Solver++."""
    rule: Literal["midpoint", "taylor"] = "midpoint"
    """How the last stage uses the others; the authors' code's solver_type (midpoint: "dpmsolver",
    taylor: "taylor")."""
    last: Literal["fast", "full", "first-order"] = "fast"
    """The orders of what does not fill groups: fast, the paper's (a rest of 3 is 2 and 1); full,
    groups of `order` while they fit; first-order, fast with the last hop always of order 1."""

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3):
            raise ValueError(f"dpm-solver needs order 1, 2 or 3, got {self.order}")

    @property
    def finishes(self) -> bool:
        """The driver takes the last hop."""
        return False

    def step(
        self,
        denoise: Denoise,
        x: Image,
        now: NoiseLevel,
        to: NoiseLevel,
        memory: Group | None,
        at: Step,
    ) -> tuple[Image, Group | None]:
        """The next stage of the group from its beginning, or its end."""
        here = denoise(x, now)
        if memory is None:
            order = 1 if bool((now.alpha == 0).all()) else self._next_order(at.hops)
            group = Group(x, order, (now,), (here,))
        else:
            group = Group(memory.x, memory.order, (*memory.levels, now), (*memory.estimates, here))
        done = len(group.levels) == group.order
        return self._stage(group, to), None if done else group

    def embedded_step(
        self, denoise: Denoise, x: Image, now: NoiseLevel, to: NoiseLevel, at: Step
    ) -> tuple[Image, Image]:
        """The hop by order - 1 and by `order`, which share their calls: (low, high).

        Source: Lu et al. 2022 (arXiv:2206.00927), appendix C ("DPM-Solver-12" and "-23").
        """
        if self.order == 1:
            raise ValueError("dpm-solver of order 1 has no lower order to be compared with")
        first, start = now.half_log_snr, denoise(x, now)
        levels, estimates = [now], [start]
        for stage in range(1, self.order):
            between = first + (to.half_log_snr - first) * stage / self.order
            level = at.level(half_log_snr=between)
            group = Group(x, self.order, tuple(levels), tuple(estimates))
            estimates.append(denoise(self._stage(group, level), level))
            levels.append(level)
        low = Group(x, self.order - 1, tuple(levels[:-1]), tuple(estimates[:-1]))
        high = Group(x, self.order, tuple(levels), tuple(estimates))
        return self._stage(low, to), self._stage(high, to)

    def _next_order(self, calls: int) -> int:
        if self.last == "first-order" and self.order == 2 and calls == 2:
            return 1
        return min(self.order, calls) if self.last == "full" else fast_order(calls, self.order)

    def _stage(self, group: Group, to: NoiseLevel) -> Image:
        """From the group's beginning to `to`, by the predictions made so far."""
        hop = Hop(group.levels[0], to, self.basis)
        result = hop.first_order(group.x, group.estimates[0])
        if len(group.levels) == 1:
            return result
        start, *later = (hop.prediction(estimate) for estimate in group.estimates)
        ratios = [_ratio(group.levels[0], level, hop) for level in group.levels[1:]]
        if group.order == 2:
            return result + second_order(hop, later[0] - start, ratios[0], self.rule)
        if len(later) == 2 and self.rule == "taylor":
            return result + _third_order(hop, [each - start for each in later], ratios)
        return result + second_order(hop, later[-1] - start, ratios[-1], "taylor")


def _ratio(start: NoiseLevel, level: NoiseLevel, hop: Hop) -> Tensor:
    """r: where a stage stands, as a part of the whole hop."""
    part = half_log_snr_gap(start, level) / hop.gap
    return torch.where(hop.gap == 0, 1.0, part)  # an empty hop adds nothing


def _third_order(hop: Hop, changes: list[Image], ratios: list[Tensor]) -> Image:
    """The terms of the parabola through the three predictions.

    Source: Lu et al. 2022 (arXiv:2206.00927), section 3, order 3.
    """
    near, far = ratios
    spread = far - near
    once, twice = hop.higher(hop.weight(2) / spread), hop.higher(2 * hop.weight(3) / spread)
    slopes = [
        (scale(hop.higher(1 / ratio), change) * change)
        for ratio, change in zip(ratios, changes, strict=True)
    ]
    return (
        scale(once * far - twice, slopes[0]) * slopes[0]
        + scale(twice - once * near, slopes[1]) * slopes[1]
    )
