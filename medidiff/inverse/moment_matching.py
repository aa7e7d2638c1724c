"""Moment matching: the clean image given x as a Gaussian of its true covariance.

Boys et al. 2023 (TMPD, arXiv:2310.06721); Rozet et al. 2024 (arXiv:2405.13712).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
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


@dataclass(frozen=True)
class MomentMatching:
    """The clean image given x is taken for a Gaussian of its mean and its covariance.

        clean + sigma^2 / alpha J^T A^T (A V A^T + sigma_y^2)^-1 (y - A clean),
        V = Cov[clean | x] = sigma^2 / alpha J,   J = d clean / dx

    For a Gaussian prior that is exact. V is never formed: conjugate gradients apply it by
    Jacobian-vector products, each of which costs a backward pass (J is symmetric where the denoiser
    is a posterior mean, so the transpose serves). From pure noise it is the plain estimate.
    Source: Boys et al. 2023 (arXiv:2310.06721) for the estimate and the diagonal; Rozet et al. 2024
    (arXiv:2405.13712), section 4, for conjugate gradients.
    """

    kind: Literal["moment-matching"] = "moment-matching"
    covariance: Literal["full", "diagonal"] = "full"
    """full: by conjugate gradients; diagonal: A V A^T replaced by its row sums, for one backward
    pass more than PiGDM and for operators of rows without signs (masks, averages): others
    overshoot."""
    solver: ConjugateGradients = field(default_factory=lambda: ConjugateGradients(1e-3, 5))
    """When the conjugate gradients end; each of their steps costs two calls, and the whole up to
    3 + 2 steps. They end, too, where the covariance is found to be none."""
    below: float = 1.0
    """Noise ratio up to which the network's covariance is used; above it PiGDM's without gradient.
    A trained network's Jacobian says little of much noise: at a ratio of 2 and more it was found to
    have negative variances. An exact denoiser may have inf."""
    sampler: AnySampler = field(default_factory=DPMSolverPP)
    """What walks along the guided estimates."""

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
    ratio = torch.where(level.alpha == 0, 0.0, level.sigma**2 / level.alpha)

    def transposed(image: Image) -> Image:
        return torch.autograd.grad(clean, leaf, image.to(clean), retain_graph=True)[0]

    def spread(u: Tensor) -> Tensor:
        image = transposed(linear.operator.adjoint(u))
        return linear.operator.forward(per_image(ratio, image) * image)

    u = _solved(linear, linear.residual(clean.detach()), spread, options)
    return transposed(linear.operator.adjoint(u))


def _solved(
    linear: LinearProblem,
    residual: Tensor,
    spread: Callable[[Tensor], Tensor],
    options: MomentMatching,
) -> Tensor:
    power = per_image(linear.noise_std, residual) ** 2
    if options.covariance == "diagonal":
        rows = spread(torch.ones_like(residual))
        return residual / (rows.real.clamp_min(0) + power)
    nothing, least = torch.zeros_like(residual), 0.99 * linear.noise_std**2

    def normal(u: Tensor) -> Tensor:
        return nothing if u is nothing else spread(u) + power * u  # no product with the start

    return options.solver.solve(normal, residual, nothing, least)
