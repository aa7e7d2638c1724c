"""The U-Net, in 2-D and 3-D from one definition.

Source: Dhariwal and Nichol 2021 (arXiv:2105.05233), section 3 and appendix, after Ho et al. 2020
(arXiv:2006.11239). Differs: attention only where asked, two or three dimensions, any grid size; the
block that doubles the grid already has the finer level's channels, which spares time at full size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from medidiff.networks.blocks import (
    Modulation,
    ProgressiveInput,
    Resampler,
    Stage,
    check_counts,
    make_conv,
    make_norm,
    make_stage,
    zeroed,
)
from medidiff.networks.embeddings import Embedding
from medidiff.networks.fields import (
    Field,
    Filter,
    Resampling,
    checkpointed,
    convolve,
    norm_silu_project,
)
from medidiff.networks.kernels import as_now
from medidiff.networks.padding import cropped, padded
from medidiff.networks.shape import NetworkShape
from medidiff.types import Image, Tensor

EMBEDDING_FACTOR = 4  # width of the embedding in units of the first level's channels


@dataclass(frozen=True)
class UNetOptions:
    """A U-Net: its levels from fine to coarse. What it takes and gives is `NetworkShape`'s."""

    kind: Literal["unet"] = "unet"
    channels: tuple[int, ...] = (64, 128, 256)
    """Channels of each level; each level has half the grid of the one before."""
    blocks: int = 2
    """Residual blocks of a level on the way down; one more on the way up."""
    attention: tuple[bool, ...] = (False, False, True)
    """Which levels attend."""
    middle_attention: Literal["as-last-level", "always"] = "as-last-level"
    """Whether the middle attends when the last level does, or always, as MONAI's does."""
    modulation: Modulation = "scale-shift"
    """How a block is told the noise level: scale and shift behind its second norm, behind both
    ("film"), or a shift before the second."""
    resampling: Literal["residual", "convolution"] = "residual"
    """What leads to the next grid: a residual block, or a single convolution."""
    taps: Filter = "box"
    """How a residual block halves and doubles: means and repeats, or smoothed (NCSN++'s FIR)."""
    progressive_input: Literal["none", "skip", "residual"] = "none"
    """Whether every level also gets the input, halved down to its grid (NCSN++'s)."""
    beside: Literal["same-grid", "low-resolution"] = "same-grid"
    """The grid of an image given beside; one of low resolution is interpolated, as ADM's
    super-resolution network does."""
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
    checkpoint_levels: tuple[bool, ...] = ()
    """Which levels compute their activations again instead of keeping them; empty means none."""

    def __post_init__(self) -> None:
        check_counts(self)
        if self.taps == "fir" and self.resampling != "residual":
            raise ValueError("taps 'fir' belongs to resampling 'residual'")
        if self.checkpoint_levels and len(self.checkpoint_levels) != len(self.channels):
            raise ValueError(
                f"checkpoint_levels names {len(self.checkpoint_levels)} levels, "
                f"channels {len(self.channels)}"
            )


class _Level(nn.Module):
    """The stages of one grid size, and the block that leads on to the next grid."""

    def __init__(self, stages: Sequence[Stage], lead: nn.Module | None, recompute: bool) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.lead = lead
        self.recompute = recompute

    def run(self, stage: nn.Module, *inputs: Field | Tensor) -> Field:
        if self.recompute and torch.is_grad_enabled():
            # nothing random is computed again unless there is dropout, and its state would be read
            # from the GPU, which a recording forbids
            keep = any(getattr(each, "dropout", 0) > 0 for each in stage.modules())
            call = as_now(checkpointed(stage))
            again = checkpoint(call, *inputs, use_reentrant=False, preserve_rng_state=keep)
            return cast(Field, again)
        return stage(*inputs)


class DownLevel(_Level):
    """A level of the encoder: every field it makes is a skip connection."""

    def forward(self, x: Field, embedding: Tensor, skips: list[Field]) -> Field:
        """The field for the next level; those made on the way are put onto `skips`."""
        for stage in (*self.stages, *([self.lead] if self.lead is not None else [])):
            x = self.run(stage, x, embedding)
            skips.append(x)
        return x


class UpLevel(_Level):
    """A level of the decoder: every stage takes a skip connection."""

    def forward(self, x: Field, embedding: Tensor, skips: list[Field]) -> Field:
        """The field for the next level; what it needs is taken off `skips`."""
        for stage in self.stages:
            x = self.run(stage, x, embedding, skips.pop())
        return x if self.lead is None else self.run(self.lead, x, embedding)


class UNet(nn.Module):
    """The network: noisy image, noise label and what is known in, prediction out."""

    def __init__(self, options: UNetOptions, shape: NetworkShape) -> None:
        super().__init__()
        self.options = options
        self.shape = shape
        channels = options.channels
        width = EMBEDDING_FACTOR * channels[0]
        self.embedding = Embedding(width, shape.conditions, options.waves)
        self.first = make_conv(shape.dims, shape.in_channels + shape.concat_channels, channels[0])
        skips = [channels[0]]
        self.down = nn.ModuleList(
            self._down_level(level, width, skips) for level in range(len(channels))
        )
        self.progressive = nn.ModuleList(self._progressive_inputs())
        attends = options.attention[-1] or options.middle_attention == "always"
        self.middle = nn.ModuleList(
            self._stage(channels[-1], channels[-1], width, attends=attends and place == 0)
            for place in range(2)
        )
        self.up = nn.ModuleList(
            self._up_level(level, width, skips) for level in reversed(range(len(channels)))
        )
        self.last_norm = make_norm(channels[0], options.groups, options.norm_eps)
        self.last = zeroed(make_conv(shape.dims, channels[0], shape.out_channels))

    def forward(
        self,
        x: Image,
        label: Tensor,
        condition: Tensor | None = None,
        concat: Tensor | None = None,
    ) -> Tensor:
        """The network's prediction, in the dtype of `x`.

        Shapes: `x` (batch, in_channels, *space) with any space; `label` (batch,); `condition`
        (batch, K), NaN where unknown, None for all unknown; `concat` (batch, concat_channels,
        *space) -> (batch, out_channels, *space).
        Errors: ValueError if a shape does not fit the options.
        """
        return self.predicted(self.decoded(x, label, condition, concat)[0], x)

    def predicted(self, field: Field, x: Image) -> Tensor:
        """The prediction that the last field holds, on the grid and in the dtype of `x`."""
        prediction = norm_silu_project(field, self.last_norm, self.last)
        return self.cropped(prediction, x.shape[2:]).to(x.dtype)

    def decoded(
        self,
        x: Image,
        label: Tensor,
        condition: Tensor | None = None,
        concat: Tensor | None = None,
    ) -> tuple[Field, Tensor]:
        """The last field, on the padded grid, and the embedding: what a head reads."""
        self._check_inputs(x, label, condition, concat)
        embedding = self.embedding(label, condition)
        inputs = x if concat is None else torch.cat([x, self._beside(concat, x)], dim=1)
        if torch.is_autocast_enabled(x.device.type):  # a fused layer computes in its input's dtype
            inputs = inputs.to(torch.get_autocast_dtype(x.device.type))
        carried = padded(inputs, self.multiple)
        h = convolve(carried, self.first)
        skips = [h]
        if self.options.progressive_input == "residual":
            carried = h.settled()
        for index, level in enumerate(self.down):
            if index > 0 and self.options.progressive_input != "none":
                h, carried = self.progressive[index - 1](h, carried)
                skips[-1] = h
            h = level(h, embedding, skips)
        for stage in self.middle:
            h = stage(h, embedding)
        for level in self.up:
            h = level(h, embedding, skips)
        return h, embedding

    def _stage(
        self,
        inputs: int,
        outputs: int,
        width: int,
        *,
        attends: bool,
        resampling: Resampling = "keep",
    ) -> Stage:
        return make_stage(
            self.options,
            self.shape.dims,
            inputs,
            outputs,
            width,
            attends=attends,
            resampling=resampling,
        )

    def _lead(
        self, channels: int, onwards: int, width: int, resampling: Literal["down", "up"]
    ) -> nn.Module:
        """What leads from a level to the next; only a block changes the number of channels."""
        if self.options.resampling == "convolution":
            return Resampler(self.shape.dims, channels, resampling)
        return self._stage(channels, onwards, width, attends=False, resampling=resampling)

    def _progressive_inputs(self) -> list[ProgressiveInput]:
        options, shape = self.options, self.shape
        if options.progressive_input == "none":
            return []
        how = options.progressive_input
        image = shape.in_channels + shape.concat_channels
        # the lead of a level keeps its channels: what enters level i + 1 has those of level i
        return [
            ProgressiveInput(
                shape.dims,
                image if how == "skip" else options.channels[max(level - 1, 0)],
                options.channels[level],
                how,
                options.taps,
            )
            for level in range(len(options.channels) - 1)
        ]

    def _beside(self, concat: Tensor, x: Tensor) -> Tensor:
        if concat.shape[2:] == x.shape[2:]:
            return concat.to(x.dtype)
        mode = "bilinear" if x.ndim == 4 else "trilinear"
        return F.interpolate(concat.to(x.dtype), x.shape[2:], mode=mode, align_corners=False)

    def _recompute(self, level: int) -> bool:
        return bool(self.options.checkpoint_levels) and self.options.checkpoint_levels[level]

    def _down_level(self, level: int, width: int, skips: list[int]) -> DownLevel:
        """The encoder's level; the channels of the skips it makes are put onto `skips`."""
        channels, stages = self.options.channels[level], []
        for _ in range(self.options.blocks):
            attends = self.options.attention[level]
            stages.append(self._stage(skips[-1], channels, width, attends=attends))
            skips.append(channels)
        if level == len(self.options.channels) - 1:
            return DownLevel(stages, None, self._recompute(level))
        skips.append(channels)
        lead = self._lead(channels, channels, width, "down")
        return DownLevel(stages, lead, self._recompute(level))

    def _up_level(self, level: int, width: int, skips: list[int]) -> UpLevel:
        """The decoder's level; the channels of the skips it takes are taken off `skips`."""
        channels, stages = self.options.channels[level], []
        coming = self._coming_channels(level)
        for _ in range(self.options.blocks + 1):
            attends = self.options.attention[level]
            stages.append(self._stage(coming + skips.pop(), channels, width, attends=attends))
            coming = channels
        if level == 0:
            return UpLevel(stages, None, self._recompute(level))
        lead = self._lead(channels, self.options.channels[level - 1], width, "up")
        return UpLevel(stages, lead, self._recompute(level))

    def _coming_channels(self, level: int) -> int:
        """Channels in which a level of the decoder gets its field from the level below."""
        channels = self.options.channels
        keeps = self.options.resampling == "convolution" and level + 1 < len(channels)
        return channels[level + 1] if keeps else channels[level]

    @property
    def multiple(self) -> int:
        """What each axis of the padded grid is a multiple of."""
        return 2 ** (len(self.options.channels) - 1)

    def cropped(self, x: Tensor, space: Sequence[int]) -> Tensor:
        """What lies on the padded grid, on the grid `space`."""
        return cropped(x, space, self.multiple)

    def _check_inputs(
        self, x: Tensor, label: Tensor, condition: Tensor | None, concat: Tensor | None
    ) -> None:
        shape = self.shape
        if x.ndim != shape.dims + 2 or x.shape[1] != shape.in_channels:
            raise ValueError(
                f"the image must be (batch, {shape.in_channels}, *space) with {shape.dims} "
                f"axes of space, not {tuple(x.shape)}"
            )
        if label.shape != x.shape[:1]:
            raise ValueError(f"label must be ({len(x)},), not {tuple(label.shape)}")
        wanted = (len(x), len(shape.conditions))
        if condition is not None and tuple(condition.shape) != wanted:
            raise ValueError(f"condition must be {wanted}, not {tuple(condition.shape)}")
        beside = (len(x), shape.concat_channels, *x.shape[2:])
        given = (len(x), 0, *x.shape[2:]) if concat is None else tuple(concat.shape)
        if self.options.beside == "low-resolution" and concat is not None:
            given = (*given[:2], *beside[2:]) if concat.ndim == x.ndim else given
        if given != beside:
            raise ValueError(f"concat must be {beside}, not {given}")
