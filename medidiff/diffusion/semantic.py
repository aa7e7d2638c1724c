"""Semantic guidance: towards an image's content, style or structure, or a text's meaning.

Liu et al. 2023, "More control for free! Image synthesis with semantic diffusion guidance"
(arXiv:2112.05744). Each aim is a function F of the noisy image and its level; the sampler's mean is
shifted by its variance times the gradient of F.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import torch

from medidiff.diffusion.levels import Denoise, NoiseLevel, diffuse, scale
from medidiff.diffusion.sampling import Sampler, Step
from medidiff.diffusion.variance import renewed
from medidiff.types import Image, Tensor

REFERENCE_DRAW = 2_000_000
"""The draw of a hop that noises the reference, far above a sampler's own draws."""


class NoisyEncoder(Protocol):
    """What an image holds, read from its noisy version.

    Shapes: x (batch, channel, *space) -> maps, each (batch, C_j, *space_j), shallow to deep, and an
    embedding (batch, K) in the space of the texts' embeddings. Differentiable in x.
    """

    def __call__(self, x: Image, level: NoiseLevel) -> tuple[Sequence[Tensor], Tensor]: ...


Aim: TypeAlias = Callable[[Image, NoiseLevel, Image | None], Tensor]
"""(x, level, the reference noised to the level or None) -> F, (batch,): larger is nearer."""


def content(encoder: NoisyEncoder) -> Aim:
    """The cosine between the embeddings of x and of the noised reference."""

    def aim(x: Image, level: NoiseLevel, noised: Image | None) -> Tensor:
        return _cosine(encoder(x, level)[1], _target(encoder, level, noised)[1])

    return aim


def text(encoder: NoisyEncoder, embedding: Tensor) -> Aim:
    """The cosine between the embedding of x and that of a text, (batch, K) or (K,)."""

    def aim(x: Image, level: NoiseLevel, noised: Image | None) -> Tensor:
        return _cosine(encoder(x, level)[1], embedding)

    return aim


def structure(encoder: NoisyEncoder) -> Aim:
    """Minus the squared distance of the maps, each per entry, summed over the maps."""

    def aim(x: Image, level: NoiseLevel, noised: Image | None) -> Tensor:
        ours, theirs = encoder(x, level)[0], _target(encoder, level, noised)[0]
        pairs = zip(ours, theirs, strict=True)
        return -_total([(a - b).square().flatten(1).mean(1) for a, b in pairs])

    return aim


def style(encoder: NoisyEncoder) -> Aim:
    """Minus the squared distance of the maps' Gram matrices, summed over the maps.

    Differs: a Gram matrix for each image, divided by its number of entries; the authors' code
    flattens the batch into the channels, so that images leak into each other.
    """

    def aim(x: Image, level: NoiseLevel, noised: Image | None) -> Tensor:
        ours, theirs = encoder(x, level)[0], _target(encoder, level, noised)[0]
        pairs = zip(ours, theirs, strict=True)
        return -_total([(gram(a) - gram(b)).square().sum((1, 2)) for a, b in pairs])

    return aim


def gram(maps: Tensor) -> Tensor:
    """Inner products of the channels over the number of entries, (batch, C, C).

    Source: Gatys et al. 2016, "Image style transfer using convolutional neural networks".
    """
    flat = maps.flatten(2)
    return flat @ flat.transpose(1, 2) / flat[0].numel()


def weighted(*aims: tuple[float, Aim]) -> Aim:
    """The sum of several aims with their weights."""

    def aim(x: Image, level: NoiseLevel, noised: Image | None) -> Tensor:
        return _total([weight * each(x, level, noised) for weight, each in aims])

    return aim


def gradient(aim: Aim, x: Image, level: NoiseLevel, noised: Image | None) -> Image:
    """d F / d x of each image at x."""
    with torch.enable_grad():
        here = x.detach().requires_grad_()
        (found,) = torch.autograd.grad(aim(here, level, noised).sum(), here)
    return found


Variance: TypeAlias = Callable[[Image, NoiseLevel, NoiseLevel], Tensor]
"""(x, now, to) -> the variance of a sampler's hop, () or (batch,) or shaped as x."""


def small_variance(x: Image, now: NoiseLevel, to: NoiseLevel) -> Tensor:
    """DDPM's posterior variance, 0 on the hop onto the clean level."""
    return to.sigma**2 * renewed(now, to)


def large_variance(x: Image, now: NoiseLevel, to: NoiseLevel) -> Tensor:
    """DDPM's forward variance, beta."""
    return now.sigma**2 * renewed(now, to)


@dataclass(frozen=True)
class Guided:
    """`sampler` with its mean shifted by its variance times the gradient of an aim at x.

    Source: Liu et al. 2023 (arXiv:2112.05744); Dhariwal & Nichol 2021
    (arXiv:2105.05233), section 4, for an aim log p(class | x), which makes it class guidance.
    Differs: the gradient is taken at x and not at the mean, as in both papers' code. The reference
    is noised anew on each hop, by a draw of its own. Without a variance, as with DDIM, there is
    nothing to scale the gradient by: guide the denoiser there.
    """

    sampler: Sampler
    aim: Aim
    reference: Image | None = None
    variance: Variance = small_variance

    @property
    def finishes(self) -> bool:
        """The last hop is shifted, too, where its variance is not 0."""
        return True

    def step(
        self, denoise: Denoise, x: Image, now: NoiseLevel, to: NoiseLevel, memory: Any, at: Step
    ) -> tuple[Image, Any]:
        """The sampler's step, and the shift."""
        if to.is_clean and not self.sampler.finishes:
            moved = denoise(x, now).clean
        else:
            moved, memory = self.sampler.step(denoise, x, now, to, memory, at)
        noised = None
        if self.reference is not None:
            noised = diffuse(self.reference, now, at.noise(REFERENCE_DRAW))
        shift = gradient(self.aim, x, now, noised)
        variance = self.variance(x, now, to)
        if variance.ndim <= 1:
            variance = scale(variance, x)
        return moved + variance * shift, memory


def _target(
    encoder: NoisyEncoder, level: NoiseLevel, noised: Image | None
) -> tuple[Sequence[Tensor], Tensor]:
    """What the encoder says of the reference, a constant."""
    if noised is None:
        raise ValueError("this aim is an image's: give the guided sampler a reference")
    with torch.no_grad():
        return encoder(noised, level)


def _cosine(ours: Tensor, theirs: Tensor) -> Tensor:
    return torch.nn.functional.cosine_similarity(ours, theirs.expand_as(ours), dim=-1)


def _total(terms: list[Tensor]) -> Tensor:
    return torch.stack(terms).sum(0)
