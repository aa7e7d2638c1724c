"""Plug-and-play restoration with a diffusion prior. Zhu et al. 2023 (arXiv:2305.08995)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from medidiff.diffusion.levels import Denoise, NoiseLevel, eps_of, scale
from medidiff.diffusion.sampling import Step
from medidiff.inverse.likelihoods import Gaussian
from medidiff.inverse.problem import LinearProblem, Plan, Problem
from medidiff.types import Image, Tensor

SMALLEST_WEIGHT = 1e-8
"""Of the estimate beside the measurement: it decides only what the measurement does not see."""


@dataclass(frozen=True)
class DiffPIR:
    """The estimate moved towards the measurement by a proximal step, then noised again.

        clean <- argmin |y - A clean|^2 + rho |clean - estimate|^2,   rho = weight (sigma_y / r)^2

    with r the noise ratio, and eps of the new clean image with a share of fresh noise. One network
    call a step, no gradient through it. It is not the posterior: the laws' test says by how much.
    Source: Zhu et al. 2023 (arXiv:2305.08995), algorithm 1.
    Differs: the last hop, too, takes the proximal step.
    """

    kind: Literal["diffpir"] = "diffpir"
    weight: float = 3.0
    """lambda; the paper's experiments have 1 to 7."""
    fresh: float = 0.3
    """zeta: share of the noise's power that is drawn anew at each step, 0 to 1."""
    inner: int = 3
    """Quadratic stand-ins that a proximal step goes through where the noise is not Gaussian."""

    def __post_init__(self) -> None:
        if not (self.weight > 0 and 0 <= self.fresh <= 1 and self.inner >= 1):
            raise ValueError(
                "diffpir needs weight > 0, 0 <= fresh <= 1 and inner >= 1, got "
                f"{self.weight}, {self.fresh}, {self.inner}"
            )

    def plan(self, problem: Problem, denoise: Denoise, levels: Sequence[NoiseLevel]) -> Plan:
        """Its own steps along the path."""
        return Plan(denoise, DiffPIRSampler(problem, self), levels)


@dataclass(frozen=True, eq=False)
class DiffPIRSampler:
    """The steps of `DiffPIR`."""

    problem: Problem
    options: DiffPIR

    @property
    def finishes(self) -> bool:
        """The hop onto the clean level takes the proximal step, too."""
        return True

    def step(
        self, denoise: Denoise, x: Image, now: NoiseLevel, to: NoiseLevel, memory: None, at: Step
    ) -> tuple[Image, None]:
        """Estimate, proximal step, noise."""
        clean, fresh = self._nearest(denoise(x, now).clean, now), self.options.fresh
        eps = eps_of(x, clean, now)
        noise = (1 - fresh) ** 0.5 * eps + (fresh**0.5 * at.noise() if fresh > 0 else 0)
        return scale(to.alpha, x) * clean + scale(to.sigma, x) * noise, None

    def _nearest(self, estimate: Image, now: NoiseLevel) -> Image:
        gaussian = isinstance(self.problem.likelihood, Gaussian)
        clean = estimate
        for _ in range(1 if gaussian else self.options.inner):
            linear = self.problem.linearised(clean)
            rho = self.options.weight * (linear.noise_std / now.noise_ratio.cpu()) ** 2
            clean = nearest(linear, estimate, rho)
        return clean


def nearest(problem: LinearProblem, estimate: Image, rho: Tensor) -> Image:
    """argmin |y - A x|^2 + rho |x - estimate|^2, also for rho = 0."""
    return problem.operator.prox(estimate, problem.measurement, rho.clamp_min(SMALLEST_WEIGHT))
