"""Gradients through the denoiser: J^T v with J = d clean / dx."""

from __future__ import annotations

from collections.abc import Callable

import torch

from medidiff.diffusion.levels import Denoise, Estimate, NoiseLevel
from medidiff.types import Image


def pulled(
    denoise: Denoise, x: Image, level: NoiseLevel, cotangent: Callable[[Image], Image]
) -> tuple[Estimate, Image]:
    """The estimate at x, without its graph, and J^T cotangent(clean)."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        here = denoise(leaf, level)
        (gradient,) = torch.autograd.grad(here.clean, leaf, cotangent(here.clean.detach()))
    return detached(here), gradient


def detached(here: Estimate) -> Estimate:
    """The same numbers without their graph."""
    spread = None if here.spread is None else here.spread.detach()
    return Estimate(here.clean.detach(), here.eps.detach(), spread)
