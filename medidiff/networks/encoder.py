"""The half of a U-Net that reads: classes or an embedding of a noisy image, in 2-D and 3-D.

Source: Dhariwal and Nichol 2021 (arXiv:2105.05233), appendix: the classifier is the U-Net's
encoder with attention pooling on its coarsest grid. With modulation "film" it is the noised encoder
of Liu et al. 2023 (arXiv:2112.05744), told of the noise level behind every norm of its residual
blocks and of its end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from medidiff.networks.blocks import (
    Dims,
    Modulation,
    Stage,
    check_counts,
    largest_divisor,
    make_conv,
    make_norm,
    make_stage,
)
from medidiff.networks.embeddings import Embedding
from medidiff.networks.fields import Field, Filter, convolve, norm_silu
from medidiff.networks.padding import padded
from medidiff.networks.shape import NetworkShape
from medidiff.networks.unet import EMBEDDING_FACTOR, DownLevel
from medidiff.types import Image, Tensor

POSITIONS = 8  # learned places along each axis, interpolated to the grid that is pooled


@dataclass(frozen=True)
class EncoderOptions:
    """An encoder: its levels from fine to coarse. What it takes and gives is `NetworkShape`'s."""

    kind: Literal["encoder"] = "encoder"
    channels: tuple[int, ...] = (32, 64, 128)
    """Channels of each level; each level has half the grid of the one before."""
    blocks: int = 2
    """Residual blocks of a level."""
    attention: tuple[bool, ...] = (False, False, True)
    """Which levels attend; the middle does when the last level does."""
    modulation: Modulation = "scale-shift"
    """How a block is told the noise level; "film" tells every norm."""
    pooling: Literal["attention", "mean"] = "attention"
    """How the coarsest grid becomes one vector: by attention of its mean to it, or its mean."""
    taps: Filter = "box"
    """How a residual block halves: means, or smoothed (NCSN++'s FIR)."""
    head_channels: int = 64
    """Channels of an attention head, at most."""
    groups: int = 32
    """Groups of a normalisation, at most."""
    norm_eps: float = 1e-5
    """Added to the variance in a normalisation."""
    waves: int = 64
    """Frequencies of the noise label's embedding, each a cosine and a sine."""
    dropout: float = 0.0
    """Share of activations dropped inside each block in training."""

    def __post_init__(self) -> None:
        check_counts(self)


class AttentionPool(nn.Module):
    """One vector from a field: its mean attends to all its voxels and itself.

    Source: Radford et al. 2021 (arXiv:2103.00020), section 2.4, as Dhariwal and Nichol 2021
    (arXiv:2105.05233) take it. Differs: the places' embedding is interpolated to any grid.
    Shapes: (batch, C, *space) -> (batch, outputs).
    """

    def __init__(self, dims: Dims, channels: int, outputs: int, head_channels: int) -> None:
        super().__init__()
        self.head = largest_divisor(channels, head_channels)
        places = torch.randn(1, channels, *[POSITIONS] * dims) / math.sqrt(channels)
        self.places = nn.Parameter(places)
        self.mean_place = nn.Parameter(torch.randn(channels) / math.sqrt(channels))
        self.query = nn.Linear(channels, channels)
        self.keys_values = nn.Linear(channels, 2 * channels)
        self.output = nn.Linear(channels, outputs)

    def forward(self, x: Tensor) -> Tensor:
        mode = "bilinear" if x.ndim == 4 else "trilinear"
        places = F.interpolate(self.places, x.shape[2:], mode=mode, align_corners=False)
        voxels = (x + places.to(x.dtype)).flatten(2).transpose(1, 2)
        mean = (x.flatten(2).mean(2) + self.mean_place.to(x.dtype))[:, None]
        tokens = torch.cat([mean, voxels], dim=1)
        key, value = self._by_head(self.keys_values(tokens)).chunk(2, dim=1)
        query = self._by_head(self.query(mean))
        attended = F.scaled_dot_product_attention(query, key, value)
        return self.output(attended.transpose(1, 2).flatten(1))

    def _by_head(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (-1, self.head)).transpose(1, 2)


class MeanPool(nn.Module):
    """The mean over space, and a linear layer. Shapes: (batch, C, *space) -> (batch, outputs)."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.output = nn.Linear(channels, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(x.flatten(2).mean(2))


class Encoder(nn.Module):
    """The network: noisy image and noise label in, one vector out.

    Shapes: as `forward`; `out_channels` of the shape are the vector's.
    Errors: ValueError for a shape with conditions or an image beside: it is told of neither.
    """

    def __init__(self, options: EncoderOptions, shape: NetworkShape) -> None:
        super().__init__()
        if shape.conditions or shape.concat_channels:
            raise ValueError("an encoder takes no conditions and no image beside")
        self.options, self.shape = options, shape
        channels = options.channels
        self.width = EMBEDDING_FACTOR * channels[0]
        self.embedding = Embedding(self.width, (), options.waves)
        self.first = make_conv(shape.dims, shape.in_channels, channels[0])
        self.down = nn.ModuleList(self._level(level) for level in range(len(channels)))
        self.middle = nn.ModuleList(
            self._stage(channels[-1], channels[-1], attends=options.attention[-1] and place == 0)
            for place in range(2)
        )
        self.last_norm = make_norm(channels[-1], options.groups, options.norm_eps)
        film = options.modulation == "film"
        self.modulate = nn.Linear(self.width, 2 * channels[-1]) if film else None
        outputs, head = shape.out_channels, options.head_channels
        self.pool: nn.Module = MeanPool(channels[-1], outputs)
        if options.pooling == "attention":
            self.pool = AttentionPool(shape.dims, channels[-1], outputs, head)

    def forward(
        self,
        x: Image,
        label: Tensor,
        condition: Tensor | None = None,
        concat: Image | None = None,
    ) -> Tensor:
        """The vector of each image, in the dtype of `x`.

        Shapes: `x` (batch, in_channels, *space) with any space; `label` (batch,)
        -> (batch, out_channels). `condition` and `concat` are those of a denoiser: None.
        Errors: ValueError if a shape does not fit, or for a condition or an image beside.
        """
        if condition is not None or concat is not None:
            raise ValueError("an encoder takes no condition and no image beside")
        return self.read(x, label)[1]

    def read(self, x: Image, label: Tensor) -> tuple[list[Tensor], Tensor]:
        """The field that ends each level, fine to coarse, the middle's, and the vector."""
        self._check_inputs(x, label)
        dtype, embedding = x.dtype, self.embedding(label, None)
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        h = convolve(padded(x, 2 ** (len(self.down) - 1)), self.first)
        maps: list[Field] = []
        for level in self.down:
            skips: list[Field] = []
            coarser = level(h, embedding, skips)
            maps.append(skips[-1] if len(maps) == len(self.down) - 1 else skips[-2])
            h = coarser
        for stage in self.middle:
            h = stage(h, embedding)
        maps.append(h)
        told = None if self.modulate is None else self.modulate(embedding)
        vector = self.pool(norm_silu([h], self.last_norm, told))
        return [each.settled().to(dtype) for each in maps], vector.to(dtype)

    def _stage(
        self,
        inputs: int,
        outputs: int,
        *,
        attends: bool,
        resampling: Literal["keep", "down"] = "keep",
    ) -> Stage:
        return make_stage(
            self.options,
            self.shape.dims,
            inputs,
            outputs,
            self.width,
            attends=attends,
            resampling=resampling,
        )

    def _level(self, level: int) -> DownLevel:
        channels, attends = self.options.channels, self.options.attention[level]
        coming = channels[max(level - 1, 0)]
        stages = [
            self._stage(coming if place == 0 else channels[level], channels[level], attends=attends)
            for place in range(self.options.blocks)
        ]
        if level == len(channels) - 1:
            return DownLevel(stages, None, recompute=False)
        lead = self._stage(channels[level], channels[level], attends=False, resampling="down")
        return DownLevel(stages, lead, recompute=False)

    def _check_inputs(self, x: Tensor, label: Tensor) -> None:
        shape = self.shape
        if x.ndim != shape.dims + 2 or x.shape[1] != shape.in_channels:
            raise ValueError(
                f"the image must be (batch, {shape.in_channels}, *space) with {shape.dims} "
                f"axes of space, not {tuple(x.shape)}"
            )
        if label.shape != x.shape[:1]:
            raise ValueError(f"label must be ({len(x)},), not {tuple(label.shape)}")
