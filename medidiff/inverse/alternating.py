"""Image and operator estimated in turn, where something of the operator is not known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from medidiff.diffusion.levels import Denoise, Estimate, NoiseLevel
from medidiff.diffusion.sampling import Step
from medidiff.inverse.problem import Plan, Posterior, Problem
from medidiff.physics.operators import LinearOperator
from medidiff.types import Image, Tensor

PARAMETERS = 10_000
"""Draw of a hop that the operator's parameters are drawn with: beyond those of any method."""


@dataclass(frozen=True, eq=False)
class Refitted:
    """An operator after a fit, and the measurement, of which an offset may go through it."""

    operator: LinearOperator
    measurement: Tensor
    memory: Any
    """What the next fit starts from."""


class Refit(Protocol):
    """What a clean estimate, which may be wrong by `width`, says of the operator's parameters.

    `memory` is what the fit before left, None at first; with `at` the parameters are a draw by its
    noise, numbers from `PARAMETERS` on, not the fit itself. width is (batch,) or ().
    """

    def __call__(self, clean: Image, width: Tensor, memory: Any, at: Step | None) -> Refitted: ...


@dataclass(frozen=True, eq=False)
class Alternating:
    """A method whose operator is fitted again at every level, to the clean estimate found there.

        operator <- refit(estimate),   x <- the method's step with that operator

    With `drawn` the parameters of each step are a draw given the estimate, as the image's are, so
    that samples differ by what is not known of the operator, too. The estimate is the method's own
    where it asks for one at the step's x and level without gradient: DAPS, DDNM, DDRM, DiffPIR,
    Projection and RePaint spend no network call on the fit. Those that go through the network's
    gradient (DPS, PiGDM, MomentMatching) and those that ask elsewhere (REDDiff, CSGMLangevin)
    spend up to one more a level.
    Source: Chung et al. 2023 (arXiv:2211.10656) for a diffusion prior beside an operator that is
    estimated along the same path; Murata et al. 2023 (arXiv:2301.12686) for drawing both in turn;
    Song et al. 2023 (ICLR, PiGDM), section 3, for the width of an estimate.
    Differs: the parameters have a Gaussian prior of their own, not a second network, and the fit is
    whatever `refit` does.
    """

    method: Posterior
    refit: Refit
    drawn: bool = False

    @property
    def kind(self) -> str:
        """The method's."""
        return self.method.kind

    def plan(self, problem: Problem, denoise: Denoise, levels: Sequence[NoiseLevel]) -> Plan:
        """The method's plan with its sampler made anew at each step."""
        first = self.method.plan(problem, denoise, levels)
        return replace(
            first, denoise=denoise, sampler=AlternatingSampler(self, problem, levels, first)
        )


@dataclass(frozen=True, eq=False)
class AlternatingSampler:
    """The steps of `Alternating`; its memory is the fit's and the method's."""

    options: Alternating
    problem: Problem
    levels: Sequence[NoiseLevel]
    first: Plan

    @property
    def finishes(self) -> bool:
        """The last hop, too, has its fit."""
        return True

    def step(
        self, denoise: Denoise, x: Image, now: NoiseLevel, to: NoiseLevel, memory: Any, at: Step
    ) -> tuple[Image, Any]:
        """Estimate, fit, the method's step."""
        fit, inner = (None, None) if memory is None else memory
        here = denoise(x, now)
        # as PiGDM has it: the estimate's error, of data of unit variance
        width = now.sigma / (now.alpha**2 + now.sigma**2).sqrt()
        found = self.options.refit(here.clean, width, fit, at if self.options.drawn else None)
        fit = found.memory
        problem = replace(self.problem, operator=found.operator, measurement=found.measurement)
        plan = self.options.method.plan(problem, _known(denoise, x, now, here), self.levels)
        if to.is_clean and not plan.sampler.finishes:
            return plan.denoise(x, now).clean, (fit, inner)
        x, inner = plan.sampler.step(plan.denoise, x, now, to, inner, at)
        return x, (fit, inner)


def _known(denoise: Denoise, x: Image, now: NoiseLevel, here: Estimate) -> Denoise:
    """`denoise` that has been asked for x at `now` already; gradients are asked for anew."""

    def ask(noisy: Image, level: NoiseLevel) -> Estimate:
        asked = noisy is x and level is now and not noisy.requires_grad
        return here if asked else denoise(noisy, level)

    return ask
