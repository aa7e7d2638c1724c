"""A variational autoencoder that brings large images onto a coarse grid of few channels, and back.

In 2-D and 3-D from one definition, on the U-Net's blocks.
Source: Kingma and Welling 2014 (arXiv:1312.6114), section 2.3, for the posterior; Rombach et al.
2022 (arXiv:2112.10752), section 3.1 and appendix, for the network, as MONAI 1.6's `AutoencoderKL`
has it, whose weights it can hold (two heads for mean and log variance; no activation before the
last convolutions). Differs: no attention at full resolution; any grid size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from medidiff.networks.blocks import (
    Attention,
    Dims,
    Resampler,
    ResidualBlock,
    make_conv,
    make_norm,
)
from medidiff.networks.fields import Conv, Field, convolve, norm_silu
from medidiff.networks.padding import cropped, padded
from medidiff.networks.shape import NetworkShape
from medidiff.types import Image, Tensor

LOG_VARIANCE = (-30.0, 20.0)  # beyond, its exponential is nothing or overflows; as MONAI's


@dataclass(frozen=True)
class AutoencoderOptions:
    """A KL autoencoder: its levels from fine to coarse, and the channels of its latents."""

    kind: Literal["autoencoder"] = "autoencoder"
    channels: tuple[int, ...] = (32, 64, 128)
    """Channels of each level; each level has half the grid of the one before."""
    blocks: int = 2
    """Residual blocks of a level, on either way."""
    latent_channels: int = 4
    """Channels of the latents, which lie on the grid of the coarsest level."""
    attention: tuple[bool, ...] = ()
    """Which levels attend, never the finest; empty means none."""
    middle: Literal["none", "encoder", "decoder", "both"] = "none"
    """Which way has two more blocks at the coarsest level with attention between them."""
    groups: int = 32
    """Groups of a normalisation, at most."""
    norm_eps: float = 1e-6
    """Added to the variance in a normalisation."""

    def __post_init__(self) -> None:
        if not self.channels or min(self.channels) < 1:
            raise ValueError(f"channels needs a level, each at least 1, not {self.channels}")
        for name in ("blocks", "latent_channels", "groups"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.attention and len(self.attention) != len(self.channels):
            raise ValueError(
                f"attention names {len(self.attention)} levels, channels {len(self.channels)}"
            )
        if self.attention and self.attention[0]:
            raise ValueError("attention at full resolution is not offered: leave the first level")
        if not self.norm_eps > 0:
            raise ValueError(f"norm_eps must be above 0, not {self.norm_eps}")

    @property
    def reduction(self) -> int:
        """Voxels of an image along each axis for one of its latents."""
        return 2 ** (len(self.channels) - 1)

    def latent_space(self, space: Sequence[int]) -> tuple[int, ...]:
        """The latents' grid for images of this grid."""
        return tuple(-(-size // self.reduction) for size in space)


class Posterior(NamedTuple):
    """q(z | x), a Gaussian for each latent. Shapes: (batch, latent_channels, *latent_space)."""

    mean: Tensor
    log_variance: Tensor

    def draw(self, eps: Tensor) -> Tensor:
        """Kingma and Welling 2014 (arXiv:1312.6114), section 2.4."""
        return self.mean + (self.log_variance / 2).exp() * eps

    def divergence(self) -> Tensor:
        """KL(q(z | x) || N(0, 1)) of each image, as the mean over its latents.

        Shapes: (batch,). Source: Kingma and Welling 2014 (arXiv:1312.6114), appendix B. Differs: a
        mean where theirs is a sum, so that a weight means the same for images of any size.
        """
        mean, log_variance = self.mean.float(), self.log_variance.float()
        each = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance)
        return each.flatten(1).mean(1)


class Reconstructed(NamedTuple):
    """What an autoencoder gives for an image: the image again, and the latents' posterior."""

    image: Image
    posterior: Posterior


class Halving(nn.Module):
    """A convolution that halves the grid, padded behind each axis only.

    Source: Rombach et al. 2022 (arXiv:2112.10752), in its code.
    """

    def __init__(self, dims: Dims, channels: int) -> None:
        super().__init__()
        self.conv = make_conv(dims, channels, channels, stride=2)
        self.conv.padding = (0,) * dims

    def forward(self, x: Field) -> Field:
        """Shapes: (batch, channel, *space) -> half the space."""
        tensor = x.settled()
        return convolve(F.pad(tensor, (0, 1) * (tensor.ndim - 2)), self.conv)


class Way(nn.Module):
    """The way to the latents, or the way back: layers in order between two convolutions."""

    def __init__(self, first: Conv, layers: Sequence[nn.Module], norm: nn.GroupNorm, last: Conv):
        super().__init__()
        self.first = first
        self.layers = nn.ModuleList(layers)
        self.norm = norm
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (batch, channel, *space) -> (batch, other channels, *other space)."""
        h = convolve(x, self.first)
        for layer in self.layers:
            h = layer(h, None) if isinstance(layer, Resampler) else layer(h)
        return self.last(norm_silu([h], self.norm, act=False))


class Autoencoder(nn.Module):
    """Images to the posterior of their latents, and latents to images.

    Shapes: images (batch, in_channels, *space) with any space.
    """

    def __init__(self, options: AutoencoderOptions, shape: NetworkShape) -> None:
        super().__init__()
        if shape.concat_channels or shape.conditions or shape.in_channels != shape.out_channels:
            raise ValueError("an autoencoder gives the channels it takes and is told nothing else")
        self.options = options
        self.shape = shape
        latent = options.latent_channels
        self.encoder = self._encoder()
        self.decoder = self._decoder()
        self.mean = make_conv(shape.dims, latent, latent, kernel=1)
        self.log_variance = make_conv(shape.dims, latent, latent, kernel=1)
        self.from_latent = make_conv(shape.dims, latent, latent, kernel=1)

    def encode(self, x: Image) -> Posterior:
        """The posterior of the latents. Errors: ValueError if a shape does not fit."""
        self._check(x, self.shape.in_channels, "the image")
        h = self.encoder(padded(_as_computed(x, self.encoder), self.options.reduction))
        log_variance = self.log_variance(h).clamp(*LOG_VARIANCE)
        return Posterior(self.mean(h).to(x.dtype), log_variance.to(x.dtype))

    def decode(self, z: Tensor, space: Sequence[int] | None = None) -> Image:
        """The image of latents, on the grid `space` or on all that they cover.

        Errors: ValueError if a shape does not fit.
        """
        self._check(z, self.options.latent_channels, "the latents")
        if space is not None and self.options.latent_space(space) != tuple(z.shape[2:]):
            raise ValueError(f"latents on {tuple(z.shape[2:])} are not those of {tuple(space)}")
        image = self.decoder(self.from_latent(_as_computed(z, self.decoder))).to(z.dtype)
        return image if space is None else cropped(image, space, self.options.reduction)

    def forward(self, x: Image, eps: Tensor | None = None) -> Reconstructed:
        """The image again, through a draw of the latents, or through their mean without `eps`.

        Shapes: `eps` (batch, latent_channels, *latent_space).
        """
        posterior = self.encode(x)
        latents = posterior.mean if eps is None else posterior.draw(eps)
        return Reconstructed(self.decode(latents, x.shape[2:]), posterior)

    def _encoder(self) -> Way:
        options, dims = self.options, self.shape.dims
        layers: list[nn.Module] = []
        coming = options.channels[0]
        for level, channels in enumerate(options.channels):
            layers += self._level(level, coming, channels)
            coming = channels
            if level < len(options.channels) - 1:
                layers.append(Halving(dims, channels))
        layers += self._middle("encoder")
        return Way(
            make_conv(dims, self.shape.in_channels, options.channels[0]),
            layers,
            make_norm(coming, options.groups, options.norm_eps),
            make_conv(dims, coming, options.latent_channels),
        )

    def _decoder(self) -> Way:
        options, dims = self.options, self.shape.dims
        layers = self._middle("decoder")
        coming = options.channels[-1]
        for level in reversed(range(len(options.channels))):
            channels = options.channels[level]
            layers += self._level(level, coming, channels)
            coming = channels
            if level > 0:
                layers.append(Resampler(dims, channels, "up"))
        return Way(
            make_conv(dims, options.latent_channels, options.channels[-1]),
            layers,
            make_norm(coming, options.groups, options.norm_eps),
            make_conv(dims, coming, self.shape.out_channels),
        )

    def _level(self, level: int, coming: int, channels: int) -> list[nn.Module]:
        layers: list[nn.Module] = []
        for _ in range(self.options.blocks):
            layers.append(self._block(coming, channels))
            if self.options.attention and self.options.attention[level]:
                layers.append(self._attention(channels))
            coming = channels
        return layers

    def _middle(self, way: Literal["encoder", "decoder"]) -> list[nn.Module]:
        if self.options.middle not in (way, "both"):
            return []
        width = self.options.channels[-1]
        return [self._block(width, width), self._attention(width), self._block(width, width)]

    def _block(self, inputs: int, outputs: int) -> ResidualBlock:
        groups, eps = self.options.groups, self.options.norm_eps
        return ResidualBlock(self.shape.dims, inputs, outputs, embedding=0, groups=groups, eps=eps)

    def _attention(self, channels: int) -> Attention:
        groups, eps = self.options.groups, self.options.norm_eps
        return Attention(channels, head_channels=channels, groups=groups, eps=eps)

    def _check(self, x: Tensor, channels: int, what: str) -> None:
        dims = self.shape.dims
        if x.ndim != dims + 2 or x.shape[1] != channels:
            raise ValueError(
                f"{what} must be (batch, {channels}, *space) with {dims} axes of space, "
                f"not {tuple(x.shape)}"
            )


def _as_computed(x: Tensor, layer: nn.Module) -> Tensor:
    """In autocast's dtype within autocast, else in that of the weights."""
    if torch.is_autocast_enabled(x.device.type):
        return x.to(torch.get_autocast_dtype(x.device.type))
    return x.to(next(layer.parameters()).dtype)
