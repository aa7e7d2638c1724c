"""Guidance: a `Denoise` made from two, on clean estimates.

One convention everywhere: scale 1 is the plain conditional model, larger is stronger. Papers that
write w with w = 0 for "none" have scale = 1 + w.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch

from medidiff.diffusion.levels import Denoise, Estimate, NoiseLevel, eps_of, scale
from medidiff.types import Image, Tensor


def classifier_free(
    conditional: Denoise,
    unconditional: Denoise,
    guidance_scale: float,
    rescale: float = 0.0,
) -> Denoise:
    """unconditional + scale * (conditional - unconditional).

    At scale 1 this is `conditional` itself and the unconditional model is not called. The noise is
    re-derived from the guided clean image; the spread is the conditional model's.
    `rescale`, 0 to 1, is how far each guided image's standard deviation is brought back to the
    conditional one's, against the overexposure of large scales.
    Source: Ho & Salimans 2022 (arXiv:2207.12598), with scale = 1 + w, on clean estimates;
    Lin et al. 2024 (arXiv:2305.08891), section 3.4, for `rescale` (their phi, 0.7).
    Differs: the deviation is that of the clean estimates, whatever the network predicts.
    """
    if not 0 <= rescale <= 1:
        raise ValueError(f"guidance needs 0 <= rescale <= 1, got {rescale}")
    if guidance_scale == 1:
        return conditional

    def guide(x: Image, level: NoiseLevel) -> Estimate:
        base, aim = unconditional(x, level), conditional(x, level)
        clean = base.clean + guidance_scale * (aim.clean - base.clean)
        if rescale > 0:
            clean = (1 - rescale + rescale * _contrast(aim.clean, clean)) * clean
        return Estimate(clean, eps_of(x, clean, level), aim.spread)

    return guide


def autoguided(
    model: Denoise, weaker: Denoise, guidance_scale: float, rescale: float = 0.0
) -> Denoise:
    """weaker + scale * (model - weaker), where `weaker` is a smaller or less trained model of the
    same condition: away from its errors, at no cost of diversity.

    Source: Karras et al. 2024 (arXiv:2406.02507), on clean estimates. The formula is that of
    `classifier_free`; only what is extrapolated from differs.
    """
    return classifier_free(model, weaker, guidance_scale, rescale)


def interval(guided: Denoise, plain: Denoise, low: float, high: float) -> Denoise:
    """`guided` where low < noise_ratio <= high, `plain` elsewhere.

    Source: Kynkaanniemi et al. 2024 (arXiv:2404.07724).
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


Gradient: TypeAlias = Callable[[Image, NoiseLevel], Image]
"""(x, level) -> the gradient of log p(condition | x) with respect to x, per image."""


def classifier_gradient(log_probability: Callable[[Image, NoiseLevel], Tensor]) -> Gradient:
    """The gradient of a classifier's log p(condition | x), (batch,), by automatic differentiation.

    Source: Dhariwal & Nichol 2021 (arXiv:2105.05233), section 4; the classifier knows noisy images.
    """

    def gradient(x: Image, level: NoiseLevel) -> Image:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            return torch.autograd.grad(log_probability(leaf, level).sum(), leaf)[0]

    return gradient


def classifier_guided(denoise: Denoise, gradient: Gradient, guidance_scale: float) -> Denoise:
    """`denoise` with eps - scale * sigma * gradient as its noise, and the clean image that follows.

    From pure noise (alpha = 0), where x says nothing of the condition, it is `denoise`. Here
    scale 0 is none: the classifier is added, not extrapolated to.
    Source: Dhariwal & Nichol 2021 (arXiv:2105.05233), section 4; the clean estimate is not
    clipped again.
    """

    def guide(x: Image, level: NoiseLevel) -> Estimate:
        here = denoise(x, level)
        push = guidance_scale * gradient(x, level)
        of_clean = torch.where(level.alpha == 0, 0.0, level.sigma**2 / level.alpha)
        of_eps = torch.where(level.alpha == 0, 0.0, level.sigma)
        clean = here.clean + scale(of_clean, x) * push
        return Estimate(clean, here.eps - scale(of_eps, x) * push, here.spread)

    return guide


def _choose(inside: torch.Tensor, x: Image, yes: Estimate, no: Estimate) -> Estimate:
    mask = scale(inside.double(), x) > 0
    spread = yes.spread
    if spread is not None and no.spread is not None:
        spread = torch.where(mask, spread, no.spread)
    clean = torch.where(mask, yes.clean, no.clean)
    return Estimate(clean, torch.where(mask, yes.eps, no.eps), spread)


def _contrast(aim: Image, guided: Image) -> Image:
    """Each image's standard deviation in `aim` over that in `guided`; 1 where both are flat."""
    deviations = (each.flatten(1).std(1).double() for each in (aim, guided))
    wanted, found = (deviation.clamp_min(1e-12) for deviation in deviations)
    return (wanted / found).to(guided.dtype).reshape(-1, *(1,) * (guided.ndim - 1))
