"""The blocks of a U-Net, for 2-D and 3-D alike and for either memory layout.

Three functions hold what a faster kernel would replace, each in one place: `norm_silu`, `join`
and `resample`.
"""

from __future__ import annotations

from typing import Literal, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import nn

from medidiff.types import Tensor

Dims = Literal[2, 3]
Resampling = Literal["keep", "down", "up"]
Conv = nn.Conv2d | nn.Conv3d
Layer = TypeVar("Layer", bound=nn.Module)


def largest_divisor(number: int, limit: int) -> int:
    """The largest divisor of `number` that is not above `limit`."""
    return next(divisor for divisor in range(min(number, limit), 0, -1) if number % divisor == 0)


def make_conv(dims: Dims, inputs: int, outputs: int, kernel: Literal[1, 3] = 3) -> Conv:
    """A convolution that keeps the grid."""
    if dims == 2:
        return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
    return nn.Conv3d(inputs, outputs, kernel, padding=kernel // 2)


def make_norm(channels: int, groups: int) -> nn.GroupNorm:
    """A group normalisation with as many groups, up to `groups`, as divide the channels."""
    return nn.GroupNorm(largest_divisor(channels, groups), channels)


def zeroed(layer: Layer) -> Layer:
    """The layer with all its weights at zero, so that what it ends starts as nothing."""
    for weight in layer.parameters():
        nn.init.zeros_(weight)
    return layer


def normalise(x: Tensor, norm: nn.GroupNorm) -> Tensor:
    """Group normalisation in the dtype of `x`.

    Autocast would write the whole field in float32, although the kernel sums in float32 anyhow.
    """
    with torch.autocast(x.device.type, enabled=False):
        weight, bias = norm.weight.to(x.dtype), norm.bias.to(x.dtype)
        return F.group_norm(x, norm.num_groups, weight, bias, norm.eps)


def norm_silu(x: Tensor, norm: nn.GroupNorm, scale_shift: Tensor | None = None) -> Tensor:
    """silu(norm(x) * (1 + scale) + shift).

    Shapes: `x` (batch, C, *space); `scale_shift` (batch, 2 C), scales first.
    Source: adaptive group normalisation, Dhariwal and Nichol 2021 (arXiv:2105.05233),
    section 3.1.
    """
    x = normalise(x, norm)
    if scale_shift is not None:
        scale, shift = scale_shift.reshape(len(x), -1, *[1] * (x.ndim - 2)).chunk(2, dim=1)
        x = torch.addcmul(shift, x, 1 + scale)
    return F.silu(x)


def join(x: Tensor, skip: Tensor) -> Tensor:
    """The decoder's field with the encoder's field of the same size behind it."""
    return torch.cat([x, skip], dim=1)


def resample(x: Tensor, how: Resampling) -> Tensor:
    """The field on the same grid, on half of it (means) or on twice of it (repeats)."""
    if how == "keep":
        return x
    if how == "up":
        return F.interpolate(x, scale_factor=2.0, mode="nearest")
    return F.avg_pool2d(x, 2) if x.ndim == 4 else F.avg_pool3d(x, 2)


class ResidualBlock(nn.Module):
    """Two convolutions told of the noise level, beside a shortcut; it may halve or double the grid.

    The second convolution starts at zero.
    Source: Dhariwal and Nichol 2021 (arXiv:2105.05233), section 3: BigGAN's resampling inside the
    block, scale and shift from the embedding behind the second norm.
    """

    def __init__(
        self,
        dims: Dims,
        inputs: int,
        outputs: int,
        *,
        embedding: int,
        groups: int,
        dropout: float = 0.0,
        resampling: Resampling = "keep",
    ) -> None:
        super().__init__()
        self.resampling: Resampling = resampling
        self.dropout = dropout
        self.first_norm = make_norm(inputs, groups)
        self.first = make_conv(dims, inputs, outputs)
        self.modulate = nn.Linear(embedding, 2 * outputs)
        self.second_norm = make_norm(outputs, groups)
        self.second = zeroed(make_conv(dims, outputs, outputs))
        self.shortcut = (
            nn.Identity() if inputs == outputs else make_conv(dims, inputs, outputs, kernel=1)
        )

    def forward(self, x: Tensor, embedding: Tensor, skip: Tensor | None = None) -> Tensor:
        """Shapes: `x` and `skip` (batch, channel, *space), their channels together `inputs`."""
        if skip is not None:
            x = join(x, skip)
        h = self.first(resample(norm_silu(x, self.first_norm), self.resampling))
        h = norm_silu(h, self.second_norm, self.modulate(embedding))
        h = self.second(F.dropout(h, self.dropout, self.training))
        # A pointwise layer and resampling may change places: doubling last spares the large grid.
        if self.resampling == "up":
            return resample(self.shortcut(x), "up") + h
        return self.shortcut(resample(x, self.resampling)) + h


class Attention(nn.Module):
    """Self-attention over all voxels of the field, added to it; nothing at first.

    Source: Vaswani et al. 2017 (arXiv:1706.03762), eq. 1, heads of at most `head_channels`.
    """

    def __init__(self, channels: int, *, head_channels: int, groups: int) -> None:
        super().__init__()
        self.head = largest_divisor(channels, head_channels)
        self.norm = make_norm(channels, groups)
        self.queries_keys_values = nn.Linear(channels, 3 * channels)
        self.output = zeroed(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (batch, channel, *space) -> the same."""
        # With channels last this is a view; a linear layer then keeps the voxels' order.
        tokens = normalise(x, self.norm).flatten(2).transpose(1, 2)
        batch, voxels, channels = tokens.shape
        mixed = self.queries_keys_values(tokens)
        split = mixed.view(batch, voxels, 3, channels // self.head, self.head)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(query, key, value)
        attended = self.output(attended.transpose(1, 2).reshape(batch, voxels, channels))
        return x + attended.transpose(1, 2).reshape(x.shape)


class Stage(nn.Module):
    """A residual block, with attention after it where the level has it."""

    def __init__(self, residual: ResidualBlock, attention: Attention | None = None) -> None:
        super().__init__()
        self.residual = residual
        self.attention = attention

    def forward(self, x: Tensor, embedding: Tensor, skip: Tensor | None = None) -> Tensor:
        """Shapes: as the residual block."""
        x = cast(Tensor, self.residual(x, embedding, skip))
        return x if self.attention is None else self.attention(x)
