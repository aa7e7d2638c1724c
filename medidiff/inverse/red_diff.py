"""Regularisation by denoising diffusion. Mardani et al. 2024 (RED-diff, arXiv:2305.04391)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from medidiff.diffusion.levels import Denoise, NoiseLevel, diffuse
from medidiff.diffusion.noise import NoiseSource
from medidiff.diffusion.sampling import Step
from medidiff.inverse.problem import LinearProblem, Plan, Problem
from medidiff.physics.operators import per_image
from medidiff.types import Image, Tensor


@dataclass(frozen=True)
class REDDiff:
    """One image, optimised by Adam: near the measurement, and clean in the denoiser's eyes.

        mean of (y - A mu)^2 / 2 + weight r mean of (eps(alpha mu + sigma eps) - eps) mu

    with r the noise ratio and no gradient through the network. It seeks a mode: its images differ
    by their noise draws only, and their spread says nothing of the posterior's.
    Source: Mardani et al. 2024 (arXiv:2305.04391), algorithm 1, lambda_t = lambda sigma / alpha.
    """

    kind: Literal["red-diff"] = "red-diff"
    weight: float = 0.25
    """lambda."""
    rate: float = 0.1
    """Adam's learning rate."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Adam's averages of the gradient and of its square."""

    def __post_init__(self) -> None:
        if not (self.weight >= 0 and self.rate > 0 and all(0 <= b < 1 for b in self.betas)):
            raise ValueError(
                "red-diff needs weight >= 0, rate > 0 and betas within [0, 1), got "
                f"{self.weight}, {self.rate}, {self.betas}"
            )

    def plan(self, problem: Problem, denoise: Denoise, levels: Sequence[NoiseLevel]) -> Plan:
        """One step of Adam a hop; the state is the image itself."""
        sampler = REDDiffSampler(problem, self)
        return Plan(denoise, sampler, levels, sampler.begin)


@dataclass(frozen=True, eq=False)
class Moments:
    """Adam's memory."""

    first: Image
    second: Image
    count: int


@dataclass(frozen=True, eq=False)
class REDDiffSampler:
    """The steps of `REDDiff`; x is mu."""

    problem: Problem
    options: REDDiff

    @property
    def finishes(self) -> bool:
        """The result is mu."""
        return True

    def begin(self, level: NoiseLevel, noise: NoiseSource, like: Image) -> Image:
        """The regularised pseudo-inverse of the measurement."""
        linear = self.problem.linearised(torch.zeros_like(like))
        ridge = torch.maximum(linear.noise_std**2, 1e-3 * linear.operator.norms(like) ** 2)
        return linear.operator.prox(torch.zeros_like(like), linear.measurement, ridge).to(like)

    def step(
        self,
        denoise: Denoise,
        x: Image,
        now: NoiseLevel,
        to: NoiseLevel,
        memory: Moments | None,
        at: Step,
    ) -> tuple[Image, Moments]:
        """One step of Adam. Kingma & Ba 2015 (arXiv:1412.6980), algorithm 1."""
        gradient = self._gradient(denoise, x, now, at.noise())
        beta, beta_2 = self.options.betas
        old = memory or Moments(torch.zeros_like(x), torch.zeros_like(x), 0)
        count = old.count + 1
        first = beta * old.first + (1 - beta) * gradient
        second = beta_2 * old.second + (1 - beta_2) * gradient**2
        size = (second / (1 - beta_2**count)).sqrt() + 1e-8
        x = x - self.options.rate * first / (1 - beta**count) / size
        return x, Moments(first, second, count)

    def _gradient(self, denoise: Denoise, x: Image, now: NoiseLevel, eps: Image) -> Image:
        linear = self.problem.linearised(x)
        of_data = -linear.operator.adjoint(linear.residual(x)) / _numbers(linear)
        r = torch.where(now.alpha == 0, 0.0, now.noise_ratio)
        difference = denoise(diffuse(x, now, eps), now).eps - eps
        return of_data + self.options.weight * per_image(r, x) * difference / x[0].numel()


def _numbers(linear: LinearProblem) -> int:
    """Real numbers in one image's measurement."""
    y: Tensor = linear.measurement
    return y[0].numel() * (2 if y.is_complex() else 1)
