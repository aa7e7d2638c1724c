"""Projection onto the measurement between the steps of a predictor and a corrector.

Song et al. 2022 (arXiv:2111.08005); Chung & Ye 2022 (Score-MRI, arXiv:2110.05243).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from medidiff.diffusion.levels import Denoise, NoiseLevel, scale
from medidiff.diffusion.samplers import PredictorCorrector
from medidiff.diffusion.sampling import Step
from medidiff.inverse.problem import Plan, Problem
from medidiff.physics.operators import per_image
from medidiff.types import Image

PASTE_DRAW = 1000
"""The first draw of the measurement's noise, apart from the corrector's and predictor's."""


@dataclass(frozen=True)
class Projection:
    """After each corrector and each predictor x is moved onto the measurement of its level.

        x <- x + strength A+ (y_now - A x),    y_now = alpha y               hard
                                               y_now = alpha y + sigma A z   noised

    It fits the measurement's noise as if it were signal, and is not the posterior (the laws' test
    says by how much). After the last hop, one plain denoise, the clean image is projected again
    (not when weighed). Data consistency is another name of it.
    Source: Song et al. 2022 (arXiv:2111.08005), algorithm 1 for the noised form; Chung & Ye 2022
    (arXiv:2110.05243), algorithm 2 for the hard one.
    Differs: A+ is regularised by `ridge`; Score-MRI's code leaves the last denoising out.
    """

    kind: Literal["projection"] = "projection"
    measurement: Literal["hard", "noised", "weighed"] = "noised"
    """hard: the measurement itself; noised: the measurement with the noise of x's level; weighed:
    the same with (sigma_y / r)^2 more of a ridge, so that below its own noise it moves x no
    more."""
    strength: float = 1.0
    """Share of the way to the measurement, 0 to 1 (lambda; 1 replaces)."""
    ridge: float = 1e-2
    """Of the pseudo-inverse, over the operator's largest singular value squared."""
    steps: PredictorCorrector = field(default_factory=PredictorCorrector)
    """The predictor and the corrector."""

    def __post_init__(self) -> None:
        if not (0 < self.strength <= 1 and self.ridge >= 0):
            raise ValueError(
                "projection needs 0 < strength <= 1 and ridge >= 0, got "
                f"{self.strength}, {self.ridge}"
            )

    def plan(self, problem: Problem, denoise: Denoise, levels: Sequence[NoiseLevel]) -> Plan:
        """Projected steps along the path."""
        return Plan(denoise, ProjectionSampler(problem, self), levels)


@dataclass(frozen=True, eq=False)
class ProjectionSampler:
    """The steps of `Projection`."""

    problem: Problem
    options: Projection

    @property
    def finishes(self) -> bool:
        """The result is projected, too."""
        return True

    def step(
        self, denoise: Denoise, x: Image, now: NoiseLevel, to: NoiseLevel, memory: None, at: Step
    ) -> tuple[Image, None]:
        """Correct, project, predict, project."""
        steps = self.options.steps
        x = steps.correct(denoise, x, now, to, at)
        x = self._projected(x, now, at, PASTE_DRAW)
        x = steps.predict(denoise, x, now, to, at)
        return self._projected(x, to, at, PASTE_DRAW + 1), None

    def _projected(self, x: Image, level: NoiseLevel, at: Step, draw: int) -> Image:
        linear = self.problem.linearised(x)
        operator, y = linear.operator, linear.measurement
        aim = per_image(level.alpha, y) * y
        if self.options.measurement != "hard" and not level.is_clean:
            aim = aim + operator.forward(scale(level.sigma, x) * at.noise(draw))
        residual, ridge = aim - operator.forward(x), self.options.ridge * operator.norms(x) ** 2
        if self.options.measurement != "weighed":
            return x + self.options.strength * operator.pseudo_inverse(residual, ridge)
        if level.is_clean:
            return x
        more = ridge + (linear.noise_std / level.noise_ratio.cpu()) ** 2
        return x + self.options.strength * operator.prox(torch.zeros_like(x), residual, more)
