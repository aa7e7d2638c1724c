"""Noise levels and estimates: the two values that every part of the mathematics exchanges.

A noisy image is `x = alpha * clean + sigma * eps` with eps a unit Gaussian field (Kingma et al.
2021, arXiv:2107.00630). Samplers, targets and losses see a level `(t, alpha, sigma)`, never
the schedule that made it, so each of them is written once for VP, VE, flow and EDM noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import torch

from medidiff.sending import sent
from medidiff.types import Image, Tensor


@dataclass(frozen=True, eq=False)
class NoiseLevel:
    """How much signal and how much noise a picture holds: x = alpha * clean + sigma * eps.

    Shapes: t, alpha and sigma are float64 and all () or all (batch,).
    """

    t: Tensor
    alpha: Tensor
    sigma: Tensor

    @cached_property
    def noise_ratio(self) -> Tensor:
        """sigma / alpha, what EDM and k-diffusion call sigma; inf where alpha is 0."""
        return self.sigma / self.alpha

    @cached_property
    def half_log_snr(self) -> Tensor:
        """log(alpha / sigma), DPM-Solver's lambda; inf on a clean level, -inf on pure noise."""
        return self.alpha.log() - self.sigma.log()

    @property
    def is_clean(self) -> bool:
        """Whether every member of the level is a clean image."""
        return bool(((self.sigma == 0) & (self.alpha == 1)).all())

    def expand(self, batch: int) -> NoiseLevel:
        """The same level with one entry for each of `batch` images."""
        return NoiseLevel(
            self.t.expand(batch).clone(),
            self.alpha.expand(batch).clone(),
            self.sigma.expand(batch).clone(),
        )

    def to(self, device: torch.device | str) -> NoiseLevel:
        """The same level on another device."""
        return NoiseLevel(self.t.to(device), self.alpha.to(device), self.sigma.to(device))


def noise_level(t: float, alpha: float, sigma: float) -> NoiseLevel:
    """A level from three plain numbers, for discrete tables and tests."""
    return NoiseLevel(
        *(torch.tensor(float(value), dtype=torch.float64) for value in (t, alpha, sigma))
    )


CLEAN = noise_level(0.0, 1.0, 0.0)
"""The level of an image without noise, the last of a path."""


@dataclass(frozen=True, eq=False)
class Estimate:
    """What a denoiser says about x: the expected clean image and the expected noise.

    `spread` is a second output of the same network call, for the learned-variance models.
    """

    clean: Image
    eps: Image
    spread: Image | None = None


Denoise: TypeAlias = Callable[[Image, NoiseLevel], Estimate]
"""(x, level) -> Estimate: all that a sampler knows of a model."""


def scale(coefficient: Tensor, x: Image) -> Tensor:
    """`coefficient` in the dtype of `x` and in a shape that broadcasts over it.

    Shapes: coefficient is () or (batch,), float64; it is rounded to x's dtype only here.
    A () coefficient on the CPU stays there: torch multiplies any device's tensor by it, and a copy
    would make the GPU wait.
    """
    if coefficient.ndim == 0 and coefficient.device.type == "cpu":
        return coefficient.to(x.dtype)
    shape = (-1,) + (1,) * (x.ndim - 1) if coefficient.ndim else ()
    return sent(coefficient.to(dtype=x.dtype), x.device).reshape(shape)


def diffuse(clean: Image, level: NoiseLevel, eps: Image) -> Image:
    """The noisy image alpha * clean + sigma * eps. Kingma et al. 2021 (arXiv:2107.00630)."""
    return scale(level.alpha, clean) * clean + scale(level.sigma, clean) * eps


def ddim_hop(here: Estimate, to: NoiseLevel) -> Image:
    """The image that an estimate says stands at another level: its clean image and its noise.

    Source: Song, Meng & Ermon 2021 (arXiv:2010.02502), eq. 12 with sigma_t = 0.
    """
    return diffuse(here.clean, to, here.eps)


def chosen(mask: Tensor, new: Image, old: Image) -> Image:
    """Each image from `new` where the mask is true, else from `old`.

    Shapes: mask is () or (batch,), bool; new and old are (batch, channel, *space).
    """
    if mask.ndim == 0 and mask.device.type == "cpu":
        return new if bool(mask) else old
    return torch.where(scale(mask.double(), new) > 0, new, old)


def chosen_level(mask: Tensor, new: NoiseLevel, old: NoiseLevel) -> NoiseLevel:
    """As `chosen`, for levels."""
    return NoiseLevel(
        torch.where(mask, new.t, old.t),
        torch.where(mask, new.alpha, old.alpha),
        torch.where(mask, new.sigma, old.sigma),
    )


def eps_of(x: Image, clean: Image, level: NoiseLevel) -> Image:
    """The noise left in `x` when `clean` is taken away; 0 where sigma is 0.

    Source: Song, Meng & Ermon 2021 (arXiv:2010.02502), solved for eps.
    """
    inverse = torch.where(level.sigma == 0, 0.0, 1 / level.sigma)
    return scale(inverse, x) * x - scale(level.alpha * inverse, x) * clean


def half_log_snr_gap(now: NoiseLevel, to: NoiseLevel) -> Tensor:
    """h = lambda(to) - lambda(now) >= 0; inf when `now` is pure noise or `to` is clean.

    Source: Lu et al. 2022 (arXiv:2206.00927), section 3 (h there).
    """
    return to.half_log_snr - now.half_log_snr
