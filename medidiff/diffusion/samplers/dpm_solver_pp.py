"""DPM-Solver(++), multistep, and the SDE forms. Lu et al. 2022 (arXiv:2211.01095)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from medidiff.diffusion.levels import Denoise, NoiseLevel, half_log_snr_gap, scale
from medidiff.diffusion.samplers.exponential import Basis, Hop, second_order
from medidiff.diffusion.sampling import Step
from medidiff.types import Image, Tensor


@dataclass(frozen=True, eq=False)
class Past:
    """The predictions of earlier hops with their levels, the latest first."""

    levels: tuple[NoiseLevel, ...]
    predictions: tuple[Image, ...]


@dataclass(frozen=True)
class DPMSolverPP:
    """An exponential integrator that remembers up to two predictions. One call a hop.

    Source: Lu et al. 2022 (arXiv:2211.01095), section 4 (2M); section 5 (the SDE forms); order 1
    is DDIM (section 4.1); the authors' code for order 3 and for the basis "eps".
    A hop from pure noise has an infinite gap: it is of first order and so is the one after it.
    """

    kind: Literal["dpm-solver++"] = "dpm-solver++"
    order: Literal[1, 2, 3] = 2
    """1 is DDIM; 2 and 3 extrapolate from one and two predictions before."""
    basis: Basis = "clean"
    """Which output is expanded: "clean" is DPM-Solver++, "eps" DPM-Solver."""
    rule: Literal["midpoint", "taylor"] = "midpoint"
    """How order 2 uses the prediction before; diffusers calls taylor "heun"."""
    eta: float = 0.0
    """Share of the reverse SDE's noise: 0 is the ODE, 1 SDE-DPM-Solver++."""
    curvature: Literal["full", "half"] = "full"
    """Order 3: half takes the second derivative as the authors' code does, 1/2 of the parabola's,
    which leaves the method of second order."""
    lower_order_below: int = 10
    """Paths with fewer hops end by hops of orders ..., 2, 1; 0 for never."""

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3) or not 0 <= self.eta <= 1:
            raise ValueError(
                f"dpm-solver++ needs order 1, 2 or 3 and 0 <= eta <= 1, "
                f"got {self.order}, {self.eta}"
            )

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
        memory: Past | None,
        at: Step,
    ) -> tuple[Image, Past]:
        """The first-order hop plus what the predictions before add to it."""
        hop, here = Hop(now, to, self.basis, self.eta), denoise(x, now)
        past = memory or Past((), ())
        past = Past((now, *past.levels)[:3], (hop.prediction(here), *past.predictions)[:3])
        result = hop.first_order(x, here) + self._higher(hop, past, self._order(past, at))
        if self.eta > 0:
            result = result + scale(hop.fresh, x) * at.noise()
        return result, past

    def _order(self, past: Past, at: Step) -> int:
        order = min(self.order, len(past.levels))
        return min(order, 1 + len(at.ahead)) if at.count < self.lower_order_below else order

    def _higher(self, hop: Hop, past: Past, order: int) -> Image | float:
        if order == 1:
            return 0.0
        # gaps between the predictions, in hops; infinite where one was made at pure noise
        gaps = [half_log_snr_gap(past.levels[1], past.levels[0]) / hop.gap]
        change = past.predictions[0] - past.predictions[1]
        if order == 2:
            return second_order(hop, change, gaps[0], self.rule)
        gaps.append(half_log_snr_gap(past.levels[2], past.levels[1]) / hop.gap)
        before = past.predictions[1] - past.predictions[2]
        return self._parabola(hop, change, before, gaps)

    def _parabola(self, hop: Hop, change: Image, before: Image, gaps: list[Tensor]) -> Image:
        """gain (w_2 h F' + w_3 h^2 F'') of the parabola through three predictions."""
        near, far = 1 / gaps[0], 1 / gaps[1]
        share, whole = gaps[0] / (gaps[0] + gaps[1]), 1 / (gaps[0] + gaps[1])
        share = hop.higher(share.nan_to_num(0.0))
        bend = hop.weight(3) * whole * (2 if self.curvature == "full" else 1)
        latest = hop.higher((hop.weight(2) * (1 + share) + bend) * near)
        earlier = hop.higher(-(hop.weight(2) * share + bend) * far)
        return scale(latest, change) * change + scale(earlier, before) * before
