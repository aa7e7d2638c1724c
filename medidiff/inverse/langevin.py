"""Annealed Langevin dynamics of the posterior. Jalal et al. 2021 (arXiv:2108.01368)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from medidiff.diffusion.levels import Denoise, NoiseLevel, scale
from medidiff.diffusion.sampling import Step
from medidiff.inverse.problem import Plan, Problem
from medidiff.physics.operators import per_image
from medidiff.types import Image


@dataclass(frozen=True)
class CSGMLangevin:
    """At each level some Langevin steps by the prior's score and the measurement's.

        u <- u + size (score + pull) + sqrt(2 size) z,    u = x / alpha, r its noise ratio
        pull = A* ((y - A u) / (sigma_y^2 + r^2))            annealed
        pull = -balance |score| g / |g|,  g = A* (A u - y)   balanced

    size is `step` over the curvature that the two have at most. The last level's image is denoised.
    Source: Jalal et al. 2021 (arXiv:2108.01368), section 3 (annealed); their code (balanced).
    Differs: the size adapts to the level and the operator; theirs is step (sigma / sigma_L)^2.
    """

    kind: Literal["csgm-langevin"] = "csgm-langevin"
    steps: int = 3
    """Langevin steps at each level."""
    step: float = 0.5
    """Length of a step over the largest curvature, 0 to 2."""
    pull: Literal["annealed", "balanced"] = "annealed"
    """How the measurement pulls."""
    balance: float = 5.0
    """Of the balanced pull: its norm over the score's."""

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 < self.step < 2 or not self.balance > 0:
            raise ValueError(
                "csgm-langevin needs steps >= 1, 0 < step < 2 and balance > 0, got "
                f"{self.steps}, {self.step}, {self.balance}"
            )

    def plan(self, problem: Problem, denoise: Denoise, levels: Sequence[NoiseLevel]) -> Plan:
        """Its own steps along the path."""
        return Plan(denoise, CSGMLangevinSampler(problem, self), levels)


@dataclass(frozen=True, eq=False)
class CSGMLangevinSampler:
    """The steps of `CSGMLangevin`."""

    problem: Problem
    options: CSGMLangevin

    @property
    def finishes(self) -> bool:
        """The last level has its Langevin steps, too."""
        return True

    def step(
        self, denoise: Denoise, x: Image, now: NoiseLevel, to: NoiseLevel, memory: None, at: Step
    ) -> tuple[Image, None]:
        """Langevin at `now`, then x on the next level's scale: u is kept."""
        if bool((now.alpha == 0).any()):  # no u there; what x says is nothing
            return scale(to.sigma, x) * at.noise(), None
        u = x / scale(now.alpha, x)
        for draw in range(self.options.steps):
            u = self._moved(denoise, u, now, at.noise(draw))
        x = scale(now.alpha, x) * u
        if to.is_clean:
            return denoise(x, now).clean, None
        return scale(to.alpha, x) * u, None

    def _moved(self, denoise: Denoise, u: Image, now: NoiseLevel, z: Image) -> Image:
        r = now.noise_ratio.cpu()
        score = -denoise(scale(now.alpha, u) * u, now).eps / scale(r, u)
        operator, y = self.problem.operator, self.problem.measurement
        predicted = operator.forward(u)
        target, std = self.problem.likelihood.surrogate(predicted, y)
        # each value's own noise: weighed rows would anneal by 1 + r^2 in units of it
        power = per_image(std, predicted.real) ** 2 + per_image(r, predicted.real) ** 2
        pull = operator.adjoint((target - predicted) / power)
        if self.options.pull == "balanced":
            pull = self.options.balance * _norms(score) / _norms(pull).clamp_min(1e-12) * pull
        least = power.flatten(1).amin(1) if power.ndim > 1 else power
        curvature = 1 / r**2 + operator.norms(u) ** 2 / least.double().cpu()
        size = per_image(self.options.step / curvature, u)
        return u + size * (score + pull) + (2 * size).sqrt() * z


def _norms(field: Image) -> Image:
    """The Euclidean norm of each image, shaped to broadcast over it."""
    return torch.linalg.vector_norm(field, dim=tuple(range(1, field.ndim)), keepdim=True)
