"""What stands between images and the space that a diffusion works in.

The identity; a Haar wavelet; a KL autoencoder. A codec is part of a model: it is saved with the
prior, with a shift and a scale for each of its channels that were measured on the whole train
split, so that the diffusion sees channels of mean 0 and standard deviation 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Literal, Protocol, TypeAlias

import torch
from torch import nn

from medidiff.networks.autoencoder import Autoencoder, AutoencoderOptions
from medidiff.networks.kernels import plain
from medidiff.networks.padding import cropped, padded
from medidiff.networks.shape import NetworkShape
from medidiff.networks.tiling import Tiles, tiled
from medidiff.networks.wavelet import haar, inverse_haar
from medidiff.types import Image, Tensor

WaveletScale: TypeAlias = Literal["band", "one", "wdm"]
WDM_LOW = 3.0  # what WDM divides the low band by (its code; Friedrich et al. 2024)


class Codec(Protocol):
    """Images to model space and back."""

    def encode(self, x: Image) -> Tensor:
        """Shapes: (batch, image channel, *space) -> (batch, channel, *self.space(space))."""
        ...

    def decode(self, z: Tensor, space: Sequence[int]) -> Image:
        """The images on the grid `space` of what `encode` gives."""
        ...

    def channels(self, images: int, dims: int) -> int:
        """Channels in model space for images of so many channels."""
        ...

    def space(self, space: Sequence[int]) -> tuple[int, ...]:
        """The grid in model space for images of this grid."""
        ...

    def noise_scale(self, space: Sequence[int]) -> float | None:
        """What white Gaussian noise of standard deviation 1 is in model space: white, of this
        standard deviation; None if it is no longer white and Gaussian."""
        ...


@dataclass(frozen=True)
class IdentityCodec:
    """The diffusion works on the images themselves."""

    kind: Literal["identity"] = "identity"

    def encode(self, x: Image) -> Tensor:
        return x

    def decode(self, z: Tensor, space: Sequence[int]) -> Image:
        del space
        return z

    def channels(self, images: int, dims: int) -> int:
        del dims
        return images

    def space(self, space: Sequence[int]) -> tuple[int, ...]:
        return tuple(space)

    def noise_scale(self, space: Sequence[int]) -> float | None:
        del space
        return 1.0


@dataclass(frozen=True)
class Standard:
    """A shift and a scale for each channel: those of the train split become 0 and 1."""

    shift: tuple[float, ...]
    scale: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.shift) != len(self.scale) or not all(each > 0 for each in self.scale):
            raise ValueError("a shift and a scale above 0 for each channel are needed")

    def applied(self, z: Tensor) -> Tensor:
        """(z - shift) / scale. Shapes: (batch, channel, *space)."""
        return (z - _along(self.shift, z)) / _along(self.scale, z)

    def undone(self, z: Tensor) -> Tensor:
        """z * scale + shift."""
        return z * _along(self.scale, z) + _along(self.shift, z)


def measured(batches: Iterable[Tensor]) -> Standard:
    """Mean and standard deviation of each channel over all batches, summed in float64.

    Shapes: (batch, channel, *space) each.
    Errors: ValueError if there is no batch or a channel is constant.
    """
    count, total, square = 0, torch.zeros(()), torch.zeros(())
    for batch in batches:
        values = batch.double().transpose(0, 1).flatten(1).cpu()
        count += values.shape[1]
        total = total + values.sum(1)
        square = square + (values**2).sum(1)
    if count == 0:
        raise ValueError("there is nothing to measure a codec's scale on")
    mean = total / count
    std = (square / count - mean**2).clamp_min(0).sqrt()
    if not bool((std > 1e-8).all()):
        raise ValueError("a channel of the codec is the same everywhere in the train split")
    return Standard(tuple(mean.tolist()), tuple(std.tolist()))


def _along(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(
        -1, *[1] * (like.ndim - 2)
    )


@dataclass(frozen=True)
class WaveletCodec:
    """The Haar wavelet's bands as channels, on half the grid; nothing is lost."""

    kind: Literal["wavelet"] = "wavelet"
    scale: WaveletScale = "band"
    """Each band to unit variance; or one scale for all, so that white noise stays white and scans
    can be denoised; or as WDM: the low band divided by 3, nothing shifted."""


@dataclass(frozen=True)
class FittedWavelet:
    """A wavelet codec with its shift and scale; `kind` of `WaveletCodec`."""

    standard: Standard
    kind: Literal["wavelet"] = "wavelet"
    scale: WaveletScale = "band"
    """How `standard` was chosen."""

    def encode(self, x: Image) -> Tensor:
        return self.standard.applied(haar(padded(x, 2)))

    def decode(self, z: Tensor, space: Sequence[int]) -> Image:
        return cropped(inverse_haar(self.standard.undone(z)), space, 2)

    def channels(self, images: int, dims: int) -> int:
        return images * 2**dims

    def space(self, space: Sequence[int]) -> tuple[int, ...]:
        return tuple(-(-size // 2) for size in space)

    def noise_scale(self, space: Sequence[int]) -> float | None:
        if len(set(self.standard.scale)) > 1 or any(size % 2 for size in space):
            return None  # stretched by band, or mirrored at the border
        return 1 / self.standard.scale[0]


def fit_wavelet(
    options: WaveletCodec, batches: Iterable[Image], images: int, dims: int
) -> FittedWavelet:
    """The wavelet codec for the train images. Shapes: (batch, images, *space) each.

    Source of scale "wdm": Friedrich et al. 2024 (arXiv:2402.19043), in its code.
    """
    bands = 2**dims
    if options.scale == "wdm":
        scale = (WDM_LOW,) * images + (1.0,) * (images * (bands - 1))
        return FittedWavelet(Standard((0.0,) * len(scale), scale), scale=options.scale)
    found = measured(haar(padded(batch, 2)) for batch in batches)
    if options.scale == "one":
        together = (sum(each**2 for each in found.scale) / len(found.scale)) ** 0.5
        found = replace(found, scale=(together,) * len(found.scale))
    return FittedWavelet(found, scale=options.scale)


@dataclass(frozen=True)
class AutoencoderCodec:
    """A KL autoencoder that was trained before; the diffusion works on its latents' means."""

    kind: Literal["autoencoder"] = "autoencoder"
    model: str = ""
    """The trained autoencoder: a model or run folder, or its name in the registry."""
    versions: int = 1
    """Latents kept of each training image: one of itself, and further ones of its augmentations."""
    tiles: Tiles | None = None
    """Encode and decode by tiles, for images that do not fit into memory whole."""

    def __post_init__(self) -> None:
        if not self.model:
            raise ValueError("codec.model: name the trained autoencoder")
        if self.versions < 1:
            raise ValueError(f"versions must be at least 1, not {self.versions}")


@dataclass(frozen=True)
class FittedAutoencoder:
    """What a prior says of the autoencoder in its folder."""

    network: AutoencoderOptions
    shape: NetworkShape
    standard: Standard
    source: str
    """Digest of the model that the autoencoder was taken from."""
    tiles: Tiles | None = None
    kind: Literal["autoencoder"] = "autoencoder"


AnyCodec: TypeAlias = IdentityCodec | WaveletCodec | AutoencoderCodec
AnyFittedCodec: TypeAlias = IdentityCodec | FittedWavelet | FittedAutoencoder


@dataclass(frozen=True)
class Seams:
    """How tiles differ from the whole. Units: standard deviations of a latent; model units."""

    latents_rms: float
    latents_largest: float
    image_rms: float
    image_largest: float


class LatentCodec(nn.Module):
    """The autoencoder of a model, at work: no gradient for its weights, one for its input."""

    def __init__(
        self, fitted: FittedAutoencoder, network: Autoencoder, *, fused: bool = True
    ) -> None:
        super().__init__()
        self.fitted = fitted
        self.network = network.eval().requires_grad_(False)
        self.fused = fused

    def encode(self, x: Image, *, whole: bool = False) -> Tensor:
        """The latents' mean, standardised; over tiles if the codec has them and not `whole`."""
        reduction = self.fitted.network.reduction
        with self._way():
            mean = self._over(
                lambda part: self.network.encode(part).mean,
                padded(x, reduction),
                (reduction, 1),
                whole,
            )
        return self.fitted.standard.applied(mean)

    def decode(self, z: Tensor, space: Sequence[int], *, whole: bool = False) -> Image:
        """The images of standardised latents."""
        reduction = self.fitted.network.reduction
        with self._way():
            raw = self.fitted.standard.undone(z)
            image = self._over(self.network.decode, raw, (1, reduction), whole)
        return cropped(image, space, reduction)

    def channels(self, images: int, dims: int) -> int:
        del images, dims
        return self.fitted.network.latent_channels

    def space(self, space: Sequence[int]) -> tuple[int, ...]:
        return self.fitted.network.latent_space(space)

    def noise_scale(self, space: Sequence[int]) -> float | None:
        del space
        return None  # noise in an image is neither Gaussian nor white in its latents

    @torch.no_grad()
    def seams(self, x: Image) -> Seams:
        """What the tiles change for these images, which must fit into memory whole."""
        whole, parts = self.encode(x, whole=True), self.encode(x)
        space = x.shape[2:]
        one, other = self.decode(whole, space, whole=True), self.decode(whole, space)
        latents, image = (parts - whole).float(), (other - one).float()
        return Seams(*(f(d) for d in (latents, image) for f in (_rms, _largest)))

    def _over(
        self, call: Callable[[Tensor], Tensor], x: Tensor, units: tuple[int, int], whole: bool
    ) -> Tensor:
        if whole or self.fitted.tiles is None:
            return call(x)
        return tiled(call, x, self.fitted.tiles, units=units)

    def _way(self) -> AbstractContextManager[None]:
        return nullcontext() if self.fused else plain()


def _rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt())


def _largest(x: Tensor) -> float:
    return float(x.abs().max())


def codec_of(
    fitted: AnyFittedCodec, network: Autoencoder | None = None, *, fused: bool = True
) -> Codec:
    """The codec at work. Errors: ValueError for an autoencoder without its network."""
    if not isinstance(fitted, FittedAutoencoder):
        return fitted
    if network is None:
        raise ValueError("a codec of kind autoencoder needs its network")
    return LatentCodec(fitted, network, fused=fused)
