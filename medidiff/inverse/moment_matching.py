"""Moment matching: the clean image given x as a Gaussian of its true covariance.

Boys et al. 2023 (TMPD, arXiv:2310.06721); Rozet et al. 2024 (arXiv:2405.13712).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch

from medidiff.diffusion.levels import Denoise, Estimate, NoiseLevel
from medidiff.diffusion.samplers import AnySampler, DPMSolverPP
from medidiff.inverse.gradients import detached
from medidiff.inverse.pigdm import moved, pigdm
from medidiff.inverse.problem import LinearProblem, Plan, Problem
from medidiff.physics.iterative import ConjugateGradients
from medidiff.physics.operators import per_image
from medidiff.types import Image, Tensor

SMALLEST_RIDGE = 1e-4
"""Of the preconditioner, beside singular values of about 1: single precision holds it."""


@dataclass(frozen=True)
class MomentMatching:
    """The clean image given x is taken for a Gaussian of its mean and its covariance.

        clean + sigma^2 / alpha J^T A^T (A V A^T + sigma_y^2)^-1 (y - A clean),
        V = Cov[clean | x] = sigma^2 / alpha J,   J = d clean / dx

    For a Gaussian prior that is exact. V is never formed: conjugate gradients apply it by
    Jacobian-vector products, each of which costs a backward pass (J is symmetric where the denoiser
    is a posterior mean, so the transpose serves). From pure noise it is the plain estimate.
    What the conjugate gradients leave of the residual is explained by a white covariance.
    On a Gaussian field with its exact denoiser `below=10` draws the posterior with a bias of at
    most a tenth of its deviation and a spread within .9 to 1.1 along nine levels of equal steps in
    log-SNR down to a noise ratio of .02, for at most 100 forward-equivalent calls
    (benchmarks/posterior_calibration.py). Trained priors lose by it: see `below`.
    Source: Boys et al. 2023 (arXiv:2310.06721) for the estimate and the diagonal; Rozet et al. 2024
    (arXiv:2405.13712), section 4, for conjugate gradients.
    Differs: the conjugate gradients are preconditioned by PiGDM's closed form, that of a white V,
    and J^T A^T u is taken from their own products.
    """

    kind: Literal["moment-matching"] = "moment-matching"
    covariance: Literal["full", "diagonal"] = "full"
    """full: by conjugate gradients; diagonal: A V A^T replaced by its row sums, for one backward
    pass more than PiGDM and for operators of rows without signs (masks, averages): others
    overshoot."""
    solver: ConjugateGradients = field(default_factory=lambda: ConjugateGradients(0.05, 12))
    """When the conjugate gradients end; each of their steps costs two calls, and the whole up to
    1 + 2 steps. They end, too, where the covariance is found to be none."""
    below: float = 1.0
    """Noise ratio up to which the network's covariance is used; above it PiGDM's without gradient.
    With an exact denoiser 10 is right: what is above serves as well while images of unit size are
    lost in the noise, and 1 leaves a bias where little is seen. A trained network's Jacobian may
    have negative variances at a ratio of 2 and more, and 10 then loses many decibels where little
    is seen, so that 1 is the default."""
    sampler: AnySampler = field(default_factory=DPMSolverPP)
    """What walks along the guided estimates."""

    def __post_init__(self) -> None:
        if not self.below >= 0:
            raise ValueError(f"moment-matching needs below >= 0, got {self.below}")

    def plan(self, problem: Problem, denoise: Denoise, levels: Sequence[NoiseLevel]) -> Plan:
        """The sampler's steps along guided estimates."""
        return Plan(moment_matched(denoise, problem, self), self.sampler, levels)


def moment_matched(denoise: Denoise, problem: Problem, options: MomentMatching) -> Denoise:
    """`denoise` that knows a measurement, as `MomentMatching` says.

    Errors: ValueError for a noise-free measurement.
    """

    plain = pigdm(denoise, problem, "none")

    def guide(x: Image, level: NoiseLevel) -> Estimate:
        if not bool((level.noise_ratio <= options.below).any()):
            return plain(x, level)
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            here = denoise(leaf, level)
            push = _push(here.clean, leaf, problem, level, options)
        return moved(detached(here), push, x, level)

    return guide


def _push(
    clean: Image, leaf: Image, problem: Problem, level: NoiseLevel, options: MomentMatching
) -> Image:
    """J^T A^T u with (A V A^T + sigma_y^2) u = y - A clean."""
    linear = problem.linearised(clean.detach())
    if bool((linear.noise_std == 0).any()):
        raise ValueError(
            "moment matching needs measurement noise: give noise_std > 0, however small"
        )
    ratio = _ratio(level)

    def spread(u: Tensor) -> tuple[Tensor, Image]:
        """A V A^T u, and J^T A^T u on the way to it."""
        cotangent = linear.operator.adjoint(u).to(clean)
        image = torch.autograd.grad(clean, leaf, cotangent, retain_graph=True)[0]
        return linear.operator.forward(per_image(ratio, image) * image), image

    if options.covariance == "diagonal":
        residual = linear.residual(clean.detach())
        rows, _ = spread(torch.ones_like(residual))
        power = per_image(linear.noise_std, residual) ** 2
        return spread(residual / (rows.real.clamp_min(0) + power))[1]
    return _solved(linear, clean.detach(), spread, level, options.solver)


def _ratio(level: NoiseLevel) -> Tensor:
    """sigma^2 / alpha; 0 from pure noise, which says nothing."""
    return torch.where(level.alpha == 0, 0.0, level.sigma**2 / level.alpha)


def _solved(
    linear: LinearProblem,
    clean: Image,
    spread: Callable[[Tensor], tuple[Tensor, Image]],
    level: NoiseLevel,
    solver: ConjugateGradients,
) -> Image:
    """J^T A^T u, by conjugate gradients from u = 0; the residual that they leave is explained by
    a white covariance, as PiGDM does without gradient."""
    residual = linear.residual(clean)
    power = per_image(linear.noise_std, residual) ** 2
    nothing, least = torch.zeros_like(residual), 0.99 * linear.noise_std**2

    def normal(u: Tensor) -> tuple[Tensor, Image]:
        if u is nothing:  # no product with the start
            return nothing, torch.zeros_like(clean)
        product, image = spread(u)
        return product + power * u, image

    white = partial(_whitened, linear, level)
    u, image = solver.solve_beside(normal, residual, nothing, least, white)
    ratio = per_image(_ratio(level), image)
    left = residual - linear.operator.forward(ratio * image) - power * u
    share = per_image(level.alpha / (level.alpha**2 + level.sigma**2), image)
    return image + share * linear.operator.adjoint(white(left) / power)


def _whitened(linear: LinearProblem, level: NoiseLevel, v: Tensor) -> Tensor:
    """sigma_y^2 (r^2 A A^T + sigma_y^2)^-1 v, r^2 = sigma^2 / (alpha^2 + sigma^2): PiGDM's inverse.

    By Woodbury's formula it is v - A (A^T A + sigma_y^2 / r^2)^-1 A^T v, a proximal step.
    """
    variance = (level.sigma**2 / (level.alpha**2 + level.sigma**2)).cpu()
    operator = linear.operator
    like = torch.zeros_like(operator.adjoint(v))
    nearest = operator.prox(like, v, (linear.noise_std**2 / variance).clamp_min(SMALLEST_RIDGE))
    return v - operator.forward(nearest)
