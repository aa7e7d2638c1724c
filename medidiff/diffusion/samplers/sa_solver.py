"""SA-Solver: stochastic Adams predictor and corrector. Xue et al. 2023 (arXiv:2309.05019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch

from medidiff.diffusion.levels import Denoise, Estimate, NoiseLevel, scale
from medidiff.diffusion.samplers.exponential import (
    Basis,
    Hop,
    behind_pure_noise,
    lagrange_shares,
    polynomial_terms,
)
from medidiff.diffusion.sampling import Step
from medidiff.types import Image, Tensor

Over: TypeAlias = Literal["time", "half-log-snr", "noise-ratio"]
"""What tau's interval is measured in."""


@dataclass(frozen=True, eq=False)
class Hopped:
    """The hop before: its first-order part with its noise, and the estimates up to its beginning.

    Keeping the noisy first-order part is what gives predictor and corrector the same noise.
    """

    first: Image
    levels: tuple[NoiseLevel, ...]
    estimates: tuple[Estimate, ...]


@dataclass(frozen=True)
class SASolver:
    """The reverse SDE with tau times its noise, by Adams steps of any order. One call a hop.

    tau = 0 is the probability-flow ODE, tau = 1 the reverse SDE; tau is constant in an interval
    and 0 outside it. The share of noise in `Hop` is eta = tau^2.
    Source: Xue et al. 2023 (arXiv:2309.05019); the default interval is diffusers' (0.2
    to 0.8 of the time).
    Differs: a hop from pure noise is of first order and is not corrected. tau holds for a hop by
    the level where it begins.
    """

    kind: Literal["sa-solver"] = "sa-solver"
    predictor_order: int = 2
    """Predictions that a step uses."""
    corrector_order: int = 2
    """Predictions that its correction uses, the one at its end among them; 0 for none."""
    basis: Basis = "clean"
    """Which output is expanded."""
    tau: float = 1.0
    """How much noise within the interval; 0 for the ODE."""
    over: Over = "time"
    """What the interval is measured in."""
    tau_from: float = 0.2
    """The interval's lower end, included."""
    tau_until: float = 0.8
    """The interval's upper end, included."""
    weights: Literal["exact", "second-order-half"] = "exact"
    """exact integrates the Lagrange polynomials; second-order-half is diffusers' and the authors'
    code, whose steps of order 2 take h^2 / 2 for the integral of the slope (basis clean)."""
    lower_order_final: bool = True
    """Whether a path ends by hops of orders ..., 2, 1."""

    def __post_init__(self) -> None:
        if self.predictor_order < 1 or self.corrector_order < 0 or self.tau < 0:
            raise ValueError(
                f"sa-solver needs predictor_order >= 1, corrector_order >= 0 and tau >= 0, got "
                f"{self.predictor_order}, {self.corrector_order}, {self.tau}"
            )
        if not self.tau_from <= self.tau_until:
            raise ValueError(
                f"sa-solver needs tau_from <= tau_until, got {self.tau_from}, {self.tau_until}"
            )

    @property
    def finishes(self) -> bool:
        """The driver takes the last hop."""
        return False

    def eta(self, level: NoiseLevel) -> Tensor:
        """tau^2 at a level. Shapes: the level's."""
        place = {
            "time": level.t,
            "half-log-snr": level.half_log_snr,
            "noise-ratio": level.noise_ratio,
        }[self.over]
        # 1e-9: a level of a table lies on the interval's end in spite of rounding
        inside = (place >= self.tau_from - 1e-9) & (place <= self.tau_until + 1e-9)
        return torch.where(inside, self.tau**2, 0.0).to(level.alpha.dtype)

    def step(
        self,
        denoise: Denoise,
        x: Image,
        now: NoiseLevel,
        to: NoiseLevel,
        memory: Hopped | None,
        at: Step,
    ) -> tuple[Image, Hopped]:
        """The correction of the hop before, then the prediction of this one."""
        here = denoise(x, now)
        levels, estimates = (now,), (here,)
        if memory is not None:
            x = self._corrected(x, memory, now, here, at)
            levels, estimates = (now, *memory.levels), (here, *memory.estimates)
        hop = self._hop(now, to)
        first = hop.first_order(x, here)
        if self.tau > 0:
            first = first + scale(hop.fresh, x) * at.noise()
        order = min(self.predictor_order, behind_pure_noise(levels))
        if self.lower_order_final:
            order = min(order, 1 + len(at.ahead))
        past = [hop.prediction(each) for each in estimates[:order]]
        keep = max(self.predictor_order, self.corrector_order - 1, 1)
        after = Hopped(first, levels[:keep], estimates[:keep])
        return first + self._sum(hop, levels[:order], past, None), after

    def _hop(self, now: NoiseLevel, to: NoiseLevel) -> Hop:
        return Hop(now, to, self.basis, self.eta(now))

    def _corrected(
        self, x: Image, before: Hopped, now: NoiseLevel, here: Estimate, at: Step
    ) -> Image:
        """The hop before, once more, with the prediction at its end and the same noise."""
        hop = self._hop(before.levels[0], now)
        if self.corrector_order == 0 or not bool(hop.gap.isfinite().all()):
            return x
        start, end = hop.prediction(before.estimates[0]), hop.prediction(here)
        if self.corrector_order == 1:  # the end's prediction alone: an implicit first-order step
            return before.first + scale(hop.weight(1), x) * (end - start)
        count = min(self.corrector_order - 1, behind_pure_noise(before.levels))
        if self.lower_order_final:
            count = min(count, 2 + len(at.ahead))
        past = [hop.prediction(each) for each in before.estimates[:count]]
        return before.first + self._sum(hop, before.levels[:count], past, end)

    def _sum(
        self, hop: Hop, levels: tuple[NoiseLevel, ...], past: list[Image], end: Image | None
    ) -> Image | float:
        """What the polynomial through all predictions adds to the constant through the first."""
        return polynomial_terms(hop, levels, past, end, lambda ratios: self._shares(hop, ratios))

    def _shares(self, hop: Hop, ratios: Tensor) -> Tensor:
        halved = self.weights == "second-order-half" and self.basis == "clean"
        if halved and ratios.shape[-1] == 1:
            return hop.rate.abs()[..., None] / 2
        return lagrange_shares(ratios, hop.rate)
