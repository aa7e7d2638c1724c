"""Pseudo-inverse guidance. Song, Vahdat, Mardani & Kautz 2023 ("PiGDM", ICLR)."""

from __future__ import annotations

import torch

from medidiff.diffusion.levels import Denoise, Estimate, NoiseLevel, scale
from medidiff.physics.operators import SpectralOperator
from medidiff.types import Image, Tensor


def pigdm(
    denoise: Denoise, operator: SpectralOperator, measurement: Tensor, noise_std: float
) -> Denoise:
    """`denoise` that knows a measurement: clean + sigma^2 / alpha * grad log p(y | x).

    The clean image given x is taken for a Gaussian of variance r^2 around its estimate,
    r^2 = sigma^2 / (alpha^2 + sigma^2), and the gradient goes through the network: a call costs its
    backward pass too. From pure noise (alpha = 0), which says nothing of the clean image, it is
    `denoise`.
    Source: Song et al. 2023 (ICLR, "Pseudoinverse-guided diffusion models for inverse problems"),
    section 3, with their r.
    Differs: written as an estimate, so that any sampler can use it; their step adds the gradient
    after a DDIM step, scaled by alpha.
    """

    def guide(x: Image, level: NoiseLevel) -> Estimate:
        here, push = guidance(denoise, operator, measurement, noise_std, x, level)
        of_clean = torch.where(level.alpha == 0, 0.0, level.sigma**2 / level.alpha)
        of_eps = torch.where(level.alpha == 0, 0.0, level.sigma)
        clean = here.clean + scale(of_clean, x) * push
        return Estimate(clean, here.eps - scale(of_eps, x) * push, here.spread)

    return guide


def guidance(
    denoise: Denoise,
    operator: SpectralOperator,
    measurement: Tensor,
    noise_std: float,
    x: Image,
    level: NoiseLevel,
) -> tuple[Estimate, Image]:
    """The estimate at x, and J^T A^T (r^2 A A^T + noise_std^2)^-1 (y - A clean), J = d clean / dx.

    Errors: ValueError at a step without noise of either kind.
    """
    variance = level.sigma**2 / (level.alpha**2 + level.sigma**2)
    if noise_std == 0 and bool((variance == 0).any()):
        raise ValueError("a noise-free measurement has no density at the clean level")
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        here = denoise(leaf, level)
        residual = measurement - operator.forward(here.clean.detach())
        # A^T (A A^T + ridge)^-1 is the regularised pseudo-inverse, and the rest is 1 / r^2
        s = operator.singular_values.to(x.device)
        placed = operator.measured(residual)
        spread = scale(variance, placed) * s**2 + noise_std**2
        pulled = operator.image(torch.where(s > 0, s / spread, 0.0) * placed)
        (gradient,) = torch.autograd.grad(here.clean, leaf, pulled.to(here.clean))
    kept = None if here.spread is None else here.spread.detach()
    return Estimate(here.clean.detach(), here.eps.detach(), kept), gradient
