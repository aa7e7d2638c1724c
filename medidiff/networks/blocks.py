"""The blocks of a U-Net, for 2-D and 3-D alike.

What a layer does to a field, on a CPU or fused on a GPU, is in `fields`; here is what a block is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, TypeVar, cast

import torch.nn.functional as F
from torch import nn

from medidiff.networks.fields import (
    Conv,
    Field,
    Filter,
    Resampling,
    added,
    convolve,
    norm_silu,
    norm_silu_convolve,
    pointwise,
    repeated,
    resample,
    resampled,
)
from medidiff.types import Tensor

Dims = Literal[2, 3]
Modulation = Literal["scale-shift", "film", "shift"]
Layer = TypeVar("Layer", bound=nn.Module)


def largest_divisor(number: int, limit: int) -> int:
    """The largest divisor of `number` that is not above `limit`."""
    return next(divisor for divisor in range(min(number, limit), 0, -1) if number % divisor == 0)


def make_conv(
    dims: Dims, inputs: int, outputs: int, kernel: Literal[1, 3] = 3, stride: Literal[1, 2] = 1
) -> Conv:
    """A convolution that keeps the grid, or halves it."""
    kind = nn.Conv2d if dims == 2 else nn.Conv3d
    return kind(inputs, outputs, kernel, stride=stride, padding=kernel // 2)


def make_norm(channels: int, groups: int, eps: float) -> nn.GroupNorm:
    """A group normalisation with as many groups, up to `groups`, as divide the channels."""
    return nn.GroupNorm(largest_divisor(channels, groups), channels, eps)


def zeroed(layer: Layer) -> Layer:
    """The layer with all its weights at zero, so that what it ends starts as nothing."""
    for weight in layer.parameters():
        nn.init.zeros_(weight)
    return layer


class ResidualBlock(nn.Module):
    """Two convolutions told of the noise level, beside a shortcut; it may halve or double the grid.

    The second convolution starts at zero. With `embedding` 0 the block is told nothing.
    Source: Dhariwal and Nichol 2021 (arXiv:2105.05233), section 3: BigGAN's resampling inside the
    block, scale and shift from the embedding behind the second norm; "shift" adds the embedding
    before that norm, as Ho et al. 2020 (arXiv:2006.11239), appendix B; "film" scales and shifts
    behind both norms (Perez et al. 2018, arXiv:1709.07871, section 2).
    """

    def __init__(
        self,
        dims: Dims,
        inputs: int,
        outputs: int,
        *,
        embedding: int,
        groups: int,
        eps: float,
        modulation: Modulation = "scale-shift",
        dropout: float = 0.0,
        resampling: Resampling = "keep",
        taps: Filter = "box",
    ) -> None:
        super().__init__()
        self.resampling: Resampling = resampling
        self.taps: Filter = taps
        self.modulation: Modulation = modulation
        self.dropout = dropout
        self.first_norm = make_norm(inputs, groups, eps)
        self.first = make_conv(dims, inputs, outputs)
        told = (1 if modulation == "shift" else 2) * outputs
        self.modulate = nn.Linear(embedding, told) if embedding > 0 else None
        film = modulation == "film" and embedding > 0
        self.modulate_first = nn.Linear(embedding, 2 * inputs) if film else None
        self.second_norm = make_norm(outputs, groups, eps)
        self.second = zeroed(make_conv(dims, outputs, outputs))
        self.shortcut = None if inputs == outputs else make_conv(dims, inputs, outputs, kernel=1)

    def forward(
        self, x: Field, embedding: Tensor | None = None, skip: Field | None = None
    ) -> Field:
        """Shapes: `x` and `skip` (batch, channel, *space), their channels together `inputs`."""
        parts = [x] if skip is None else [x, skip]
        first = None if self.modulate_first is None else self.modulate_first(embedding)
        if self.resampling == "keep":
            h = norm_silu_convolve(parts, self.first_norm, self.first, first)
        else:
            h = resample(norm_silu(parts, self.first_norm, first), self.resampling, self.taps)
            h = convolve(h, self.first)
        scale_shift = None
        if self.modulate is not None:
            told = self.modulate(embedding)
            if self.modulation == "shift":
                h = h.shifted(told)
            else:
                scale_shift = told
        dropout = self.dropout if self.training else 0.0
        h = norm_silu_convolve([h], self.second_norm, self.second, scale_shift, dropout)
        parts = [resampled(part, self.resampling, self.taps) for part in parts]
        if self.shortcut is not None:
            return pointwise(parts, self.shortcut, h)
        return added(parts[0], h)


class Resampler(nn.Module):
    """A convolution that halves the grid, or one behind every voxel repeated.

    Source: Ho et al. 2020 (arXiv:2006.11239), appendix B, and its code.
    """

    def __init__(self, dims: Dims, channels: int, resampling: Literal["down", "up"]) -> None:
        super().__init__()
        self.resampling: Resampling = resampling
        self.conv = make_conv(dims, channels, channels, stride=2 if resampling == "down" else 1)

    def forward(self, x: Field, embedding: Tensor) -> Field:
        """Shapes: (batch, channel, *space) -> half or twice the space; the embedding is unused."""
        del embedding
        return convolve(x.settled() if self.resampling == "down" else repeated(x), self.conv)


class ProgressiveInput(nn.Module):
    """The network's input, halved once more, brought into the field of a coarser level.

    "skip" adds a pointwise layer of the halved input; "residual" carries the field on: its halved
    self, convolved, and the level's field are averaged (by sqrt 2) and become what is halved next.
    Source: Song et al. 2021 (arXiv:2011.13456), appendix H.1 ("progressive growing" of inputs).
    """

    def __init__(
        self, dims: Dims, inputs: int, channels: int, how: Literal["skip", "residual"], taps: Filter
    ) -> None:
        super().__init__()
        self.how: Literal["skip", "residual"] = how
        self.taps: Filter = taps
        self.layer = make_conv(dims, inputs, channels, kernel=1 if how == "skip" else 3)

    def forward(self, x: Field, carried: Tensor) -> tuple[Field, Tensor]:
        """The level's field and what the next level halves.

        Shapes: `carried` (batch, inputs, *2 space), `x` (batch, channels, *space).
        """
        halved = resample(carried, "down", self.taps)
        brought = convolve(halved, self.layer)
        if self.how == "skip":
            return added(x, brought), halved
        together = added(x, brought).settled() * 0.5**0.5
        return Field(together), together


class Attention(nn.Module):
    """Self-attention over all voxels of the field, added to it; nothing at first.

    Source: Vaswani et al. 2017 (arXiv:1706.03762), eq. 1, heads of at most `head_channels`.
    """

    def __init__(self, channels: int, *, head_channels: int, groups: int, eps: float) -> None:
        super().__init__()
        self.head = largest_divisor(channels, head_channels)
        self.norm = make_norm(channels, groups, eps)
        self.queries_keys_values = nn.Linear(channels, 3 * channels)
        self.output = zeroed(nn.Linear(channels, channels))

    def forward(self, x: Field) -> Field:
        """Shapes: (batch, channel, *space) -> the same."""
        # With channels last this is a view; a linear layer then keeps the voxels' order.
        tokens = norm_silu([x], self.norm, act=False).flatten(2).transpose(1, 2)
        batch, voxels, channels = tokens.shape
        mixed = self.queries_keys_values(tokens)
        split = mixed.view(batch, voxels, 3, channels // self.head, self.head)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(query, key, value)
        attended = self.output(attended.transpose(1, 2).reshape(batch, voxels, channels))
        return added(x, Field(attended.transpose(1, 2).reshape(x.data.shape)))


class Stage(nn.Module):
    """A residual block, with attention after it where the level has it."""

    def __init__(self, residual: ResidualBlock, attention: Attention | None = None) -> None:
        super().__init__()
        self.residual = residual
        self.attention = attention

    def forward(self, x: Field, embedding: Tensor, skip: Field | None = None) -> Field:
        """Shapes: as the residual block."""
        x = cast(Field, self.residual(x, embedding, skip))
        return x if self.attention is None else self.attention(x)


class StageOptions(Protocol):
    """What the options of a network say of its stages."""

    @property
    def channels(self) -> Sequence[int]: ...
    @property
    def attention(self) -> Sequence[bool]: ...
    @property
    def blocks(self) -> int: ...
    @property
    def waves(self) -> int: ...
    @property
    def head_channels(self) -> int: ...
    @property
    def groups(self) -> int: ...
    @property
    def norm_eps(self) -> float: ...
    @property
    def modulation(self) -> Modulation: ...
    @property
    def dropout(self) -> float: ...
    @property
    def taps(self) -> Filter: ...


def make_stage(
    options: StageOptions,
    dims: Dims,
    inputs: int,
    outputs: int,
    width: int,
    *,
    attends: bool,
    resampling: Resampling = "keep",
) -> Stage:
    """A stage as a network's options say, told of an embedding of `width`."""
    residual = ResidualBlock(
        dims,
        inputs,
        outputs,
        embedding=width,
        groups=options.groups,
        eps=options.norm_eps,
        modulation=options.modulation,
        dropout=options.dropout,
        resampling=resampling,
        taps=options.taps,
    )
    if not attends:
        return Stage(residual)
    attention = Attention(
        outputs,
        head_channels=options.head_channels,
        groups=options.groups,
        eps=options.norm_eps,
    )
    return Stage(residual, attention)


def check_counts(options: StageOptions) -> None:
    """Errors: ValueError for levels, counts or shares that no network has."""
    if not options.channels or min(options.channels) < 1:
        raise ValueError(f"channels needs a level, each at least 1, not {options.channels}")
    for name in ("blocks", "head_channels", "groups", "waves"):
        if getattr(options, name) < 1:
            raise ValueError(f"{name} must be at least 1, not {getattr(options, name)}")
    if len(options.attention) != len(options.channels):
        raise ValueError(
            f"attention names {len(options.attention)} levels, channels {len(options.channels)}"
        )
    if not options.norm_eps > 0:
        raise ValueError(f"norm_eps must be above 0, not {options.norm_eps}")
    if not 0 <= options.dropout < 1:
        raise ValueError(f"dropout must be at least 0 and below 1, not {options.dropout}")
