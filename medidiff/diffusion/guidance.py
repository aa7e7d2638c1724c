"""Guidance: a `Denoise` made from two, on clean estimates.

One convention everywhere: scale 1 is the plain conditional model, larger is stronger. Papers that
write w with w = 0 for "none" have scale = 1 + w.
"""

from __future__ import annotations

import torch

from medidiff.diffusion.levels import Denoise, Estimate, NoiseLevel, eps_of, scale
from medidiff.types import Image


def classifier_free(conditional: Denoise, unconditional: Denoise, guidance_scale: float) -> Denoise:
    """unconditional + scale * (conditional - unconditional).

    At scale 1 this is `conditional` itself and the unconditional model is not called. The noise is
    re-derived from the guided clean image; the spread is the conditional model's.
    Source: Ho & Salimans 2022 (arXiv:2207.12598), eq. 6, with scale = 1 + w, on clean estimates.
    """
    if guidance_scale == 1:
        return conditional

    def guide(x: Image, level: NoiseLevel) -> Estimate:
        base, aim = unconditional(x, level), conditional(x, level)
        clean = base.clean + guidance_scale * (aim.clean - base.clean)
        return Estimate(clean, eps_of(x, clean, level), aim.spread)

    return guide


def interval(guided: Denoise, plain: Denoise, low: float, high: float) -> Denoise:
    """`guided` where low < noise_ratio <= high, `plain` elsewhere.

    Source: Kynkaanniemi et al. 2024 (arXiv:2404.07724), eq. 5.
    """
    if not low < high:
        raise ValueError(f"the guidance interval needs low < high, got {low}, {high}")

    def guide(x: Image, level: NoiseLevel) -> Estimate:
        inside = (level.noise_ratio > low) & (level.noise_ratio <= high)
        if bool(inside.all()):
            return guided(x, level)
        if not bool(inside.any()):
            return plain(x, level)
        return _choose(inside, x, guided(x, level), plain(x, level))

    return guide


def _choose(inside: torch.Tensor, x: Image, yes: Estimate, no: Estimate) -> Estimate:
    mask = scale(inside.double(), x) > 0
    return Estimate(torch.where(mask, yes.clean, no.clean), torch.where(mask, yes.eps, no.eps))
