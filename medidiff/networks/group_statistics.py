"""Statistics of a group normalisation that are given, not taken from the field that it reads.

    y = (x + offset - mean) rstd weight + bias, times 1 + scale, plus shift    = gain x + bias

Source: Wu and He 2018 (arXiv:1803.08494), section 3, for the norm.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from medidiff.types import Tensor

SLAB = 2**22  # values of a field that are held in a wider dtype at a time


@dataclass(frozen=True, eq=False)
class GroupStatistics:
    """Mean and 1 / standard deviation of the groups of each image. Shapes: (batch, groups) each."""

    mean: Tensor
    rstd: Tensor

    def gain_and_bias(
        self, norm: nn.GroupNorm, scale_shift: Tensor | None = None, offset: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The normalisation of `x + offset`, scaled by 1 + scale and shifted, as gain * x + bias.

        Shapes: scale_shift (batch, 2 C), scales first; offset (batch or 1, C); results (batch, C).
        """
        size = norm.num_channels // norm.num_groups
        mean, rstd = (each.repeat_interleave(size, dim=1) for each in (self.mean, self.rstd))
        gain = rstd * norm.weight
        away = -mean if offset is None else offset - mean
        bias = norm.bias + away * gain
        if scale_shift is None:
            return gain, bias
        scale, shift = scale_shift.to(gain).chunk(2, dim=1)
        return gain * (1 + scale), bias * (1 + scale) + shift


@dataclass(frozen=True, eq=False)
class ChannelMoments:
    """Of each channel, from parts of a field: how many values, their mean, and the sum of their
    squared deviations from it. Shapes: counts (parts,), the others (batch, parts, C), float64."""

    counts: Tensor
    mean: Tensor
    square: Tensor

    def sums(self, offset: Tensor | None) -> Tensor:
        """Count, sum and sum of squares of the channels with `offset` added. Shapes:
        (3, batch, C)."""
        mean = self.mean if offset is None else self.mean + offset.double()[:, None]
        counts = self.counts[:, None].expand_as(mean)
        each = torch.stack([counts, counts * mean, self.square + counts * mean**2])
        return each.sum(2)


def scaled(x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    """gain * x + bias in the dtype of `x`, computed in float32 at least.

    Shapes: x (batch, C, *space), gain and bias (batch, C).
    Without a gradient no more is held than the result: the wider dtype is that of a slab.
    """
    shape = (*gain.shape, *[1] * (x.ndim - 2))
    gain, bias = (each.to(_wide(x)).view(shape) for each in (gain, bias))
    with torch.autocast(x.device.type, enabled=False):
        if torch.is_grad_enabled() or x.dtype == gain.dtype:
            return torch.addcmul(bias, x.to(gain.dtype), gain).to(x.dtype)
        out = torch.empty_like(x)
        for here, there in zip(_slabs(x), _slabs(out), strict=True):
            there.copy_(torch.addcmul(bias, here.to(gain.dtype), gain))
        return out


def channel_moments(x: Tensor) -> ChannelMoments:
    """The moments of a field or a region of one, slab by slab. Shapes: x (batch, C, *space)."""
    axes = tuple(range(2, x.ndim))
    counts, found = [], []
    for slab in _slabs(x):
        counts.append(slab[0, 0].numel())
        found.append(torch.var_mean(slab.to(_wide(x)), dim=axes, correction=0))
    known = torch.tensor(counts, dtype=torch.float64, device=x.device)
    variance, mean = (torch.stack(each, dim=1).double() for each in zip(*found, strict=True))
    return ChannelMoments(known, mean, variance * known[:, None])


def _slabs(x: Tensor) -> Iterator[Tensor]:
    """Views of the field that are it, one behind the other along the first axis of space."""
    of_a_row = x.numel() // x.shape[2]
    return iter(x.split(max(1, SLAB // of_a_row), dim=2))


def _wide(x: Tensor) -> torch.dtype:
    """Half precisions are summed and scaled in float32."""
    return torch.promote_types(x.dtype, torch.float32)
