"""Pseudo-inverse guidance. Song, Vahdat, Mardani & Kautz 2023 ("PiGDM", ICLR)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from medidiff.diffusion.levels import Denoise, Estimate, NoiseLevel, scale
from medidiff.diffusion.samplers import DDPM, AnySampler
from medidiff.inverse.gradients import pulled
from medidiff.inverse.problem import LinearProblem, Plan, Problem
from medidiff.physics.operators import SpectralOperator, per_image
from medidiff.types import Image, Tensor


@dataclass(frozen=True)
class PiGDM:
    """The clean image given x is taken for a Gaussian of variance r^2 around its estimate.

        clean + sigma^2 / alpha J^T A^T (r^2 A A^T + sigma_y^2)^-1 (y - A clean)

    with r^2 = sigma^2 / (alpha^2 + sigma^2) and J = d clean / dx. From pure noise (alpha = 0),
    which says nothing of the clean image, it is the plain estimate.
    Source: Song et al. 2023 (ICLR, "Pseudoinverse-guided diffusion models for inverse problems"),
    section 3, with their r.
    Differs: written as an estimate, so that any sampler can use it; their step adds the gradient
    after a DDIM step, scaled by alpha.
    """

    kind: Literal["pigdm"] = "pigdm"
    gradient: Literal["network", "none"] = "network"
    """network: J through the denoiser, at the cost of its backward pass; none: J = alpha r^2 /
    sigma^2, that of a white image, which makes the estimate a proximal step."""
    sampler: AnySampler = field(default_factory=DDPM)
    """What walks along the guided estimates."""

    def plan(self, problem: Problem, denoise: Denoise, levels: Sequence[NoiseLevel]) -> Plan:
        """The sampler's steps along guided estimates."""
        return Plan(pigdm(denoise, problem, self.gradient), self.sampler, levels)


def pigdm(
    denoise: Denoise, problem: Problem, gradient: Literal["network", "none"] = "network"
) -> Denoise:
    """`denoise` that knows a measurement, as `PiGDM` says."""

    def guide(x: Image, level: NoiseLevel) -> Estimate:
        here, push = guidance(denoise, problem, x, level, gradient)
        return moved(here, push, x, level)

    return guide


def moved(here: Estimate, push: Image, x: Image, level: NoiseLevel) -> Estimate:
    """The estimate of a density with `push` = grad log p(y | x) more: clean + sigma^2 / alpha push.

    From pure noise it stays.
    Source: Tweedie's formula, Robbins 1956; Chung et al. 2023 (arXiv:2209.14687), section 3.
    """
    of_clean = torch.where(level.alpha == 0, 0.0, level.sigma**2 / level.alpha)
    of_eps = torch.where(level.alpha == 0, 0.0, level.sigma)
    clean = here.clean + scale(of_clean, x) * push
    return Estimate(clean, here.eps - scale(of_eps, x) * push, here.spread)


def guidance(
    denoise: Denoise,
    problem: Problem,
    x: Image,
    level: NoiseLevel,
    gradient: Literal["network", "none"] = "network",
) -> tuple[Estimate, Image]:
    """The estimate at x, and J^T A^T (r^2 A A^T + noise_std^2)^-1 (y - A clean), J = d clean / dx.

    Errors: ValueError at a step without noise of either kind.
    """
    variance = level.sigma**2 / (level.alpha**2 + level.sigma**2)

    def pull(clean: Image) -> Image:
        return explained(problem.linearised(clean), clean, variance)

    if gradient == "network":
        return pulled(denoise, x, level, pull)
    here = denoise(x, level)
    share = level.alpha / (level.alpha**2 + level.sigma**2)
    return here, scale(share, x) * pull(here.clean)


def explained(problem: LinearProblem, clean: Image, variance: Tensor) -> Image:
    """A^T (variance A A^T + noise_std^2)^-1 (y - A clean).

    By the decomposition where it is known, else as a proximal step: (A^T A + rho)^-1 A^T r /
    variance with rho = noise_std^2 / variance.
    Errors: ValueError without noise of either kind.
    """
    operator, residual, std = problem.operator, problem.residual(clean), problem.noise_std
    variance = variance.cpu()
    if bool(((std == 0) & (variance == 0)).any()):
        raise ValueError("a noise-free measurement has no density at the clean level")
    if isinstance(operator, SpectralOperator):
        placed = operator.measured(residual)
        s = operator.singular_values.to(placed.device, placed.dtype.to_real())
        spread = per_image(variance, placed) * s**2 + per_image(std, placed) ** 2
        return operator.image(torch.where(s > 0, s / spread, 0.0) * placed).to(clean.dtype)
    rho = std**2 / variance
    nearer = operator.prox(torch.zeros_like(clean), residual, rho.clamp_min(1e-8))
    return nearer / per_image(variance, clean)
