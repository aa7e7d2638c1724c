"""The fused group normalisation: launches of its kernels, and its gradient.

Shapes: fields are (batch, C, *space), channels last in memory; what is known of a field's channels
is (batch, C) in the dtype of sums, float32 (float64 for float64 fields).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from medidiff.networks.group_statistics import ChannelMoments, GroupStatistics
from medidiff.networks.kernels.launches import Kernels, cdiv, next_power_of_2, sum_type
from medidiff.types import Tensor

kernels = Kernels("triton_norm")

_ROWS = 64  # rows of a tile in a pass that writes
_SUM_ROWS = 32  # rows of a tile in a pass that sums: its sums lie in registers
_PROGRAMS = 1024  # programs of a pass that sums: all of them at once on a large card


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and sum of squared deviations of each channel in chunks of rows: (batch, chunks, C)."""

    mean: Tensor
    square: Tensor
    chunk_rows: int

    def of_channels(self, rows: int) -> ChannelMoments:
        """The same in float64, each chunk with its count of the field's `rows`."""
        chunks = self.mean.shape[1]
        firsts = torch.arange(chunks, dtype=torch.float64, device=self.mean.device)
        counts = (rows - self.chunk_rows * firsts).clamp(max=self.chunk_rows)
        return ChannelMoments(counts, self.mean.double(), self.square.double())


@dataclass(frozen=True, eq=False)
class Part:
    """One of the one or two fields that a normalisation reads as if they were concatenated."""

    data: Tensor
    offset: Tensor | None
    moments: Moments

    @property
    def channels(self) -> int:
        return self.data.shape[1]


def moments_of(x: Tensor) -> Moments:
    """The moments of a field's channels, or of those of a box cut out of a field."""
    return _take_moments(x, None)[1]


def add_with_moments(x: Tensor, other: Tensor) -> tuple[Tensor, Moments]:
    """x + other and its moments, in one pass."""
    return _take_moments(x, other)


def repeat(x: Tensor, offset: Tensor | None) -> Tensor:
    """Every voxel of x + offset twice along each axis of space (nearest upsampling)."""
    shape = (*x.shape[:2], *(2 * size for size in x.shape[2:]))
    out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=last_of(x))
    _apply(x, None, offset, out, 0, act=False, up=True)
    return out


def gather(x: Tensor) -> Tensor:
    """The sum of the voxels that `repeat` makes of one: its gradient."""
    shape = (*x.shape[:2], *(size // 2 for size in x.shape[2:]))
    out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=last_of(x))
    rows, block = out[0, 0].numel(), channel_block(x.shape[1])
    kernels.gather_kernel[(cdiv(rows, _ROWS), cdiv(x.shape[1], block), len(x))](
        x, out, rows, x.shape[1], *out.shape[-2:], DIMS=x.ndim - 2,
        BLOCK_ROWS=_ROWS, BLOCK_CHANNELS=block, SUM=_sum(_sums_of(x)), num_warps=8,
    )  # fmt: skip
    return out


def add_product(onto: Tensor, a: Tensor, b: Tensor | None, weight: Tensor) -> Moments:
    """onto += [a, b] W^T in place, with the moments of the result.

    Shapes: onto (batch, C, *space), a and b (batch, C_a, *space) and (batch, C_b, *space), weight
    (C, C_a + C_b), all of one half precision.
    """
    batch, channels = onto.shape[:2]
    rows = onto[0, 0].numel()
    chunk_rows = chunk_rows_of(rows, batch)
    chunks = cdiv(rows, chunk_rows)
    mean, square = (
        torch.empty(batch, chunks, channels, dtype=torch.float32, device=onto.device)
        for _ in range(2)
    )
    block = channel_block(channels)
    kernels.pointwise_kernel[(cdiv(channels, block), chunks, batch)](
        onto, a, a if b is None else b, weight, mean, square,
        rows, a.shape[1], 0 if b is None else b.shape[1], channels, chunk_rows,
        BLOCK_ROWS=128, BLOCK_CHANNELS=block, BLOCK_INNER=32 if block > 64 else 64,
        num_warps=4, num_stages=3,
    )  # fmt: skip
    return Moments(mean, square, chunk_rows)


def settle(x: Tensor, offset: Tensor) -> Tensor:
    """x + offset as a field."""
    out = torch.empty_like(x)
    _apply(x, None, offset, out, 0, act=False)
    return out


@dataclass(frozen=True, eq=False)
class Folded:
    """The normalisation of one call: y = gain * x + bias, and what its gradient needs."""

    gain: Tensor
    bias: Tensor
    centre: Tensor
    rstd: Tensor
    given: bool = False
    """Centre and rstd are not the parts' own: nothing flows back through them."""


def fold(
    parts: list[Part],
    weight: Tensor,
    shift: Tensor,
    modulation: Tensor | None,
    groups: int,
    eps: float,
) -> Folded:
    """Gain and bias of every channel, (batch, C), from the moments of the parts."""
    a, b = parts[0], parts[-1]
    batch, channels = len(a.data), sum(part.channels for part in parts)
    rows, sums = a.data[0, 0].numel(), a.moments.mean.dtype
    gain, bias = (torch.empty(batch, channels, dtype=sums, device=a.data.device) for _ in range(2))
    centre, rstd = (torch.empty(batch, groups, dtype=sums, device=a.data.device) for _ in range(2))
    kernels.fold_kernel[(groups, batch)](
        a.moments.mean, a.moments.square, *_offset(a), b.moments.mean, b.moments.square,
        *_offset(b), weight, shift, weight if modulation is None else modulation,
        gain, bias, centre, rstd,
        rows, a.moments.chunk_rows, a.moments.mean.shape[1], a.channels, channels,
        channels // groups, eps,
        MODULATED=modulation is not None, OFFSET_A=a.offset is not None,
        OFFSET_B=b is not a and b.offset is not None,
        **_group_blocks(channels // groups, a.moments), SUM=_sum(sums),
    )  # fmt: skip
    return Folded(gain, bias, centre, rstd)


def fold_given(
    parts: Sequence[tuple[Tensor, Tensor | None]],
    norm: nn.GroupNorm,
    modulation: Tensor | None,
    statistics: GroupStatistics,
) -> Folded:
    """Gain and bias of every channel with statistics that are given.

    Shapes: parts (batch, C_i, *space) with their offsets (batch or 1, C_i).
    """
    exact = _sums_of(parts[0][0])
    gain, bias = statistics.gain_and_bias(norm, modulation, _joined(parts))
    known = (gain, bias, statistics.mean, statistics.rstd)
    return Folded(*(each.to(exact) for each in known), given=True)


def _joined(parts: Sequence[tuple[Tensor, Tensor | None]]) -> Tensor | None:
    """The offsets of the concatenated parts. Shapes: (batch or 1, C)."""
    if all(offset is None for _, offset in parts):
        return None
    every = [x.new_zeros(1, x.shape[1]) if offset is None else offset for x, offset in parts]
    batch = max(len(offset) for offset in every)
    return torch.cat([offset.expand(batch, -1) for offset in every], dim=1)


def apply(parts: Sequence[Tensor], folded: Folded, act: bool) -> Tensor:
    """act(gain * x + bias) of the concatenated parts. Shapes: parts (batch, C_i, *space)."""
    first = parts[0]
    channels = sum(part.shape[1] for part in parts)
    shape = (first.shape[0], channels, *first.shape[2:])
    out = torch.empty(shape, dtype=first.dtype, device=first.device, memory_format=last_of(first))
    column = 0
    for part in parts:
        _apply(part, folded.gain, folded.bias, out, column, act=act)
        column += part.shape[1]
    return out


class NormAct(torch.autograd.Function):
    """The normalisation with its gradient; its output is not kept, for it can be made again.

    Gives the parts' fields as well: who reads a field after its normalisation reads it from here,
    and the gradients of all of them are added in the one pass that writes the field's gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_a: Tensor,
        offset_a: Tensor | None,
        x_b: Tensor | None,
        offset_b: Tensor | None,
        weight: Tensor,
        shift: Tensor,
        modulation: Tensor | None,
        settings: tuple[int, bool, Folded, list[Part]],
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        groups, act, folded, parts = settings
        ctx.settings = groups, act, folded, [part.moments for part in parts]
        ctx.save_for_backward(x_a, offset_a, x_b, offset_b, weight, shift, modulation)
        ctx.set_materialize_grads(False)
        passed_b = None if x_b is None else x_b.view_as(x_b)
        return apply([part.data for part in parts], folded, act), x_a.view_as(x_a), passed_b

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        groups, act, folded, moments = ctx.settings
        x_a, offset_a, x_b, offset_b, weight, shift, modulation = ctx.saved_tensors
        parts = [Part(x_a, offset_a, moments[0])]
        if x_b is not None:
            parts.append(Part(x_b, offset_b, moments[1]))
        if grads[0] is None:  # nobody used what was normalised
            return (grads[1], None, grads[2], None, None, None, None, None)
        grad = grads[0].contiguous(memory_format=last_of(x_a))
        passed = [
            None if each is None else each.contiguous(memory_format=last_of(x_a))
            for each in grads[1:]
        ]
        back = _gradients(parts, grad, passed, weight, shift, modulation, folded, groups, act)
        offsets = torch.split(back.offset, [part.channels for part in parts], dim=1)
        of_b = (back.fields[1], _like(offsets[1], offset_b)) if len(parts) == 2 else (None, None)
        return (
            back.fields[0],
            _like(offsets[0], offset_a),
            *of_b,
            back.weight.sum(0).to(weight.dtype),
            back.shift.sum(0).to(shift.dtype),
            None if modulation is None else back.modulation.to(modulation.dtype),
            None,
        )


@dataclass(frozen=True, eq=False)
class _Gradients:
    fields: list[Tensor]
    offset: Tensor
    weight: Tensor
    shift: Tensor
    modulation: Tensor


def _gradients(
    parts: list[Part],
    grad: Tensor,
    passed: list[Tensor | None],
    weight: Tensor,
    shift: Tensor,
    modulation: Tensor | None,
    folded: Folded,
    groups: int,
    act: bool,
) -> _Gradients:
    a, b = parts[0], parts[-1]
    batch, channels = grad.shape[:2]
    rows, sums, chunk_rows = grad[0, 0].numel(), folded.gain.dtype, a.moments.chunk_rows
    chunks = a.moments.mean.shape[1]
    plain, timed = (
        torch.empty(batch, chunks, channels, dtype=sums, device=grad.device) for _ in range(2)
    )
    column = 0
    for part in parts:
        block = channel_block(part.channels)
        kernels.grad_sums_kernel[(chunks, cdiv(part.channels, block), batch)](
            part.data, grad, folded.gain, folded.bias, plain, timed,
            rows, part.channels, channels, column, chunk_rows,
            ACT=act, BLOCK_ROWS=_SUM_ROWS, BLOCK_CHANNELS=block, SUM=_sum(sums), num_warps=4,
        )  # fmt: skip
        column += part.channels
    by_x, by_one, offset, of_weight, of_shift = (torch.empty_like(folded.gain) for _ in range(5))
    of_modulation = torch.empty(batch, 2 * channels, dtype=sums, device=grad.device)
    kernels.grad_fold_kernel[(groups, batch)](
        plain, timed, a.moments.mean, *_offset(a), b.moments.mean, *_offset(b),
        weight, shift, weight if modulation is None else modulation, folded.centre, folded.rstd,
        by_x, by_one, offset, of_weight, of_shift, of_modulation,
        rows, chunk_rows, chunks, a.channels, channels, channels // groups,
        GIVEN=folded.given, MODULATED=modulation is not None, OFFSET_A=a.offset is not None,
        OFFSET_B=b is not a and b.offset is not None,
        **_group_blocks(channels // groups, a.moments), SUM=_sum(sums),
    )  # fmt: skip
    fields, column = [], 0
    for part, more in zip(parts, passed, strict=False):
        block = channel_block(part.channels)
        out = torch.empty_like(part.data)
        grid = (cdiv(rows, _ROWS), cdiv(part.channels, block), batch)
        kernels.grad_apply_kernel[grid](
            part.data, grad, folded.gain, folded.bias, by_x, by_one,
            part.data if more is None else more, out, rows, part.channels, channels, column,
            ACT=act, PASSED=more is not None, BLOCK_ROWS=_ROWS, BLOCK_CHANNELS=block,
            SUM=_sum(sums), num_warps=8,
        )  # fmt: skip
        fields.append(out)
        column += part.channels
    return _Gradients(fields, offset, of_weight, of_shift, of_modulation)


def _take_moments(x: Tensor, other: Tensor | None) -> tuple[Tensor, Moments]:
    whole = x.is_contiguous(memory_format=last_of(x))
    box = not whole and other is None and 1 in (x.stride(1), x.shape[1])
    assert whole or box, "the kernels read channels last"
    batch, channels = x.shape[:2]
    rows = x[0, 0].numel()
    chunk_rows = chunk_rows_of(rows, batch)
    chunks = cdiv(rows, chunk_rows)
    sums = _sums_of(x)
    mean, square = (
        torch.empty(batch, chunks, channels, dtype=sums, device=x.device) for _ in range(2)
    )
    out = x if other is None else torch.empty_like(x)
    block = channel_block(channels)
    kernels.moments_kernel[(chunks, cdiv(channels, block), batch)](
        x, x if other is None else other, out, mean, square, rows, channels, chunk_rows,
        *(_box(x) if box else (0,) * 6), ADD=other is not None, BOX=box,
        BLOCK_ROWS=_SUM_ROWS, BLOCK_CHANNELS=block, SUM=_sum(sums), num_warps=4,
    )  # fmt: skip
    return out, Moments(mean, square, chunk_rows)


def _box(x: Tensor) -> tuple[int, ...]:
    """Height and width of a box, and the steps from image to image and along each axis."""
    image, _, *space = x.stride()
    return (*x.shape[-2:], image, *([0] if x.ndim == 4 else []), *space)


def _apply(
    x: Tensor,
    gain: Tensor | None,
    bias: Tensor | None,
    out: Tensor,
    column: int,
    *,
    act: bool,
    up: bool = False,
) -> None:
    assert x.is_contiguous(memory_format=last_of(x)), "the kernels read channels last"
    batch, channels = x.shape[:2]
    space = (1, *out.shape[2:]) if out.ndim == 4 else tuple(out.shape[2:])
    rows = out[0, 0].numel()
    block = channel_block(channels)
    known = next((each for each in (gain, bias) if each is not None), None)
    columns = 0 if known is None or len(known) == 1 else known.shape[1]
    kernels.apply_kernel[(cdiv(rows, _ROWS), cdiv(channels, block), batch)](
        x, x if gain is None else gain, x if bias is None else bias, out,
        rows, channels, columns, column, out.shape[1], *space,
        ACT=act, UP=x.ndim - 2 if up else 0, GAIN=gain is not None, BIAS=bias is not None,
        BLOCK_ROWS=_ROWS, BLOCK_CHANNELS=block, SUM=_sum(_sums_of(x)), num_warps=8,
    )  # fmt: skip


def chunk_rows_of(rows: int, batch: int) -> int:
    """Rows of a chunk: enough chunks for a busy card, none much smaller than a tile."""
    chunks = max(1, min(rows // _ROWS, _PROGRAMS // batch))
    return cdiv(rows, chunks)


def channel_block(channels: int) -> int:
    """Channels of a tile."""
    return max(16, min(128, next_power_of_2(channels)))


def _group_blocks(group_size: int, moments: Moments) -> dict[str, int]:
    block = next_power_of_2(group_size)
    chunks = next_power_of_2(moments.mean.shape[1])
    return {"BLOCK_GROUP": block, "BLOCK_CHUNKS": max(1, min(chunks, 2048 // block, 128))}


def _offset(part: Part) -> tuple[Tensor, int]:
    """Pointer and stride over images of a part's offset; any pointer where there is none."""
    if part.offset is None:
        return part.data, 0
    return part.offset, 0 if len(part.offset) == 1 else part.offset.shape[1]


def _like(grad: Tensor, offset: Tensor | None) -> Tensor | None:
    """The gradient of an offset in its own shape and dtype."""
    if offset is None:
        return None
    return (grad.sum(0, keepdim=True) if len(offset) == 1 else grad).to(offset.dtype)


def last_of(x: Tensor) -> torch.memory_format:
    """The layout with channels last for a field of this many dimensions."""
    return torch.channels_last if x.ndim == 4 else torch.channels_last_3d


def _sums_of(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _sum(dtype: torch.dtype) -> Any:
    return sum_type("float64" if dtype == torch.float64 else "float32")
