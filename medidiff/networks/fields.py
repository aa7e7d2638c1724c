"""Fields between the layers of a network, and what is done to them, in two ways.

A `Field` is `data + offset`: a convolution's bias and the time's shift are numbers per channel, and
whoever reads the field next can add them at no cost. The plain way (any device) settles them at
once, in torch's own layers. The fused way (a GPU with Triton) keeps them apart, takes a field's
statistics once, reads the two halves of a skip connection where they lie, and does not keep what
the way back can make again from the field. Both compute the same function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import nn

from medidiff.networks.group_statistics import (
    ChannelMoments,
    GroupStatistics,
    channel_moments,
    scaled,
)
from medidiff.networks.kernels import only_counted, usable
from medidiff.types import Tensor

if TYPE_CHECKING:
    from medidiff.networks.kernels.norm import Folded, Moments, Part

Conv = nn.Conv2d | nn.Conv3d
Result = TypeVar("Result")
Resampling = Literal["keep", "down", "up"]
Filter = Literal["box", "fir"]


_CHECKPOINTED: ContextVar[bool] = ContextVar("checkpointed", default=False)


@dataclass(eq=False)
class Field:
    """data + offset.

    Shapes: data (batch, C, *space); offset (batch or 1, C), None for nothing.
    """

    data: Tensor
    offset: Tensor | None = None
    moments: Moments | None = None

    @property
    def channels(self) -> int:
        """Channels of the field."""
        return self.data.shape[1]

    def shifted(self, shift: Tensor) -> Field:
        """The field plus a number per channel. Shapes: shift (batch, C)."""
        if usable(self.data):
            return Field(self.data, _sum_of_offsets(self.offset, shift), self.moments)
        return Field(self.data + _spread(shift, self.data).to(self.data.dtype))

    def settled(self) -> Tensor:
        """The field as one tensor."""
        return self.data if self.offset is None else _Settle.apply(self.data, self.offset)


Statistics = Callable[[Sequence[Field], nn.GroupNorm], GroupStatistics | None]
"""The statistics that a normalisation of the parts' concatenation uses; None for their own."""

_STATISTICS: ContextVar[Statistics | None] = ContextVar("statistics", default=None)


def checkpointed(call: Callable[..., Result]) -> Callable[..., Result]:
    """`call` for a checkpoint, which makes all again: a layer that kept how to make its own input
    would hold fields that the checkpoint lets go of."""

    def without_own(*inputs: object) -> Result:
        token = _CHECKPOINTED.set(True)
        try:
            return call(*inputs)
        finally:
            _CHECKPOINTED.reset(token)

    return without_own


@contextmanager
def with_statistics(statistics: Statistics) -> Iterator[None]:
    """Within the block, every group normalisation asks this function for its statistics.

    A gradient takes them as given.
    """
    token = _STATISTICS.set(statistics)
    try:
        yield
    finally:
        _STATISTICS.reset(token)


def moments_of_region(x: Tensor) -> ChannelMoments:
    """The moments of a field's channels, or of those of a region of it."""
    if not usable(x):
        return channel_moments(x)
    from medidiff.networks.kernels.norm import moments_of

    return moments_of(x).of_channels(x[0, 0].numel())


def convolve(x: Tensor, layer: Conv) -> Field:
    """The convolution of a tensor."""
    if not usable(x):
        return Field(layer(x))
    if _is_thin(x, layer, layer.in_channels):
        from medidiff.networks.kernels.thin import widen

        data, moments = widen(x, layer.weight.to(x.dtype))
        return Field(data, _bias(layer), moments)
    return Field(_bare_convolution(x, layer), _bias(layer))


def norm_silu(
    parts: Sequence[Field],
    norm: nn.GroupNorm,
    scale_shift: Tensor | None = None,
    *,
    act: bool = True,
) -> Tensor:
    """silu(norm(x) * (1 + scale) + shift) of the parts' concatenation; without silu if not `act`.

    Shapes: parts (batch, C_i, *space); scale_shift (batch, 2 sum C_i), scales first.
    Source: adaptive group normalisation, Dhariwal and Nichol 2021 (arXiv:2105.05233), section 3.1.
    """
    if usable(parts[0].data):
        return _fused_norm(parts, norm, scale_shift, act)[0]
    given = _given(parts, norm)
    data = [part.settled() for part in parts]
    x = data[0] if len(data) == 1 else torch.cat(data, dim=1)
    if given is not None:
        x = scaled(x, *given.gain_and_bias(norm, scale_shift))
        return F.silu(x) if act else x
    x = _group_norm(x, norm)
    if scale_shift is not None:
        scale, shift = _spread(scale_shift, x).to(x.dtype).chunk(2, dim=1)
        x = torch.addcmul(shift, x, 1 + scale)
    return F.silu(x) if act else x


def norm_silu_convolve(
    parts: Sequence[Field],
    norm: nn.GroupNorm,
    layer: Conv,
    scale_shift: Tensor | None = None,
    dropout: float = 0.0,
) -> Field:
    """The convolution of `norm_silu`, with dropout between them.

    The fused way keeps nothing of what the convolution reads: the way back makes it again.
    """
    if not usable(parts[0].data):
        return convolve(F.dropout(norm_silu(parts, norm, scale_shift), dropout, dropout > 0), layer)
    y, again = _fused_norm(parts, norm, scale_shift, act=True)
    if dropout > 0:
        return convolve(F.dropout(y, dropout), layer)
    with _made_again(y, again):
        return convolve(y, layer)


def norm_silu_project(x: Field, norm: nn.GroupNorm, layer: Conv) -> Tensor:
    """The convolution of `norm_silu` to a few channels, as a tensor."""
    if not (usable(x.data) and _is_thin(x.data, layer, layer.out_channels)):
        return layer(norm_silu([x], norm))
    from medidiff.networks.kernels.thin import narrow

    return narrow(x.data, _folded([x], norm, None), layer.weight.to(x.data.dtype), layer.bias)


def added(x: Field, other: Field) -> Field:
    """x + other."""
    if not usable(x.data):
        return Field(x.data + other.data)
    data, *moments = _Add.apply(x.data, other.data)
    return Field(data, _sum_of_offsets(x.offset, other.offset), _moments(moments))


def pointwise(parts: Sequence[Field], layer: Conv, onto: Field) -> Field:
    """`onto`, which is used up, plus a 1 x 1 convolution of the parts' concatenation."""
    if not usable(onto.data):
        x = parts[0].data if len(parts) == 1 else torch.cat([part.data for part in parts], dim=1)
        return Field(layer(x) + onto.data)
    weight = layer.weight.flatten(1).to(onto.data.dtype)
    second = parts[1].data if len(parts) == 2 else None
    data, *moments = _AddProduct.apply(onto.data, parts[0].data, second, weight)
    offset = _offset_of_product(parts, weight, onto.offset, _bias(layer))
    return Field(data, offset, _moments(moments))


def resample(x: Tensor, how: Resampling, taps: Filter = "box") -> Tensor:
    """The tensor on the same grid, on half of it or on twice of it.

    "box" takes means and repeats; "fir" smooths by (1, 3, 3, 1) / 8 along each axis, against
    aliasing.
    Source: Karras et al. 2020 (arXiv:1912.04958), appendix B, as Song et al. 2021
    (arXiv:2011.13456), appendix H, for "fir".
    """
    if how == "keep":
        return x
    if taps == "fir":
        return _smoothed(x, how)
    if how == "up":
        return _Repeat.apply(x, None) if usable(x) else _repeat(x)
    return _mean_pool(x).contiguous(memory_format=last(x)) if usable(x) else _mean_pool(x)


def resampled(x: Field, how: Resampling, taps: Filter = "box") -> Field:
    """The field on another grid."""
    if how == "keep":
        return x
    if taps == "fir":  # beyond the border stands 0, which a number per channel is not
        return Field(resample(x.settled(), how, taps))
    return Field(resample(x.data, how), x.offset)


def _smoothed(x: Tensor, how: Resampling) -> Tensor:
    dims, channels = x.ndim - 2, x.shape[1]
    line = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=x.dtype, device=x.device) / 8
    kernel = line
    for _ in range(dims - 1):
        kernel = kernel[..., None] * line
    kernel = kernel.expand(channels, 1, *kernel.shape)
    if how == "down":
        down = F.conv2d if dims == 2 else F.conv3d
        y = down(x, kernel, stride=2, padding=1, groups=channels)
    else:
        up = F.conv_transpose2d if dims == 2 else F.conv_transpose3d
        y = up(x, kernel * 2**dims, stride=2, padding=1, groups=channels)
    return y.contiguous(memory_format=last(x)) if usable(x) else y


def repeated(x: Field) -> Tensor:
    """Every voxel twice along each axis, with the offset added on the way."""
    return _Repeat.apply(x.data, x.offset) if usable(x.data) else _repeat(x.data)


class _Settle(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, offset: Tensor) -> Tensor:
        from medidiff.networks.kernels.norm import settle

        ctx.offset = offset
        return settle(x, offset)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        return grads[0], _offset_gradient(grads[0], ctx.offset)


class _Repeat(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, offset: Tensor | None) -> Tensor:
        from medidiff.networks.kernels.norm import repeat

        ctx.offset = offset
        return repeat(x, offset)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None]:
        from medidiff.networks.kernels.norm import gather

        grad = gather(grads[0].contiguous(memory_format=last(grads[0])))
        return grad, None if ctx.offset is None else _offset_gradient(grad, ctx.offset)


class _Add(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, other: Tensor) -> tuple[Tensor, Tensor, Tensor, int]:
        from medidiff.networks.kernels.norm import add_with_moments

        total, moments = add_with_moments(x, other)
        ctx.mark_non_differentiable(moments.mean, moments.square)
        return total, moments.mean, moments.square, moments.chunk_rows

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        return grads[0], grads[0]


class _AddProduct(torch.autograd.Function):
    """onto += [a, b] W^T in place; batch and space are the rows of a matrix product."""

    @staticmethod
    def forward(
        ctx: Any, onto: Tensor, a: Tensor, b: Tensor | None, weight: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, int]:
        from medidiff.networks.kernels.norm import add_product, moments_of

        ctx.mark_dirty(onto)
        ctx.save_for_backward(a, b, weight)
        if onto.dtype in (torch.float16, torch.bfloat16):
            moments = add_product(onto, a, b, weight)
        else:
            rows, width = _rows(onto), a.shape[1]
            rows.addmm_(_rows(a), weight[:, :width].t())
            if b is not None:
                rows.addmm_(_rows(b), weight[:, width:].t())
            moments = moments_of(onto)
        ctx.mark_non_differentiable(moments.mean, moments.square)
        return onto, moments.mean, moments.square, moments.chunk_rows

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        a, b, weight = ctx.saved_tensors
        grad = grads[0].contiguous(memory_format=last(a))
        rows, width = _rows(grad), a.shape[1]
        of_a = _field_of(rows @ weight[:, :width], a)
        if b is None:
            return grad, of_a, None, rows.t() @ _rows(a)
        of_weight = torch.cat([rows.t() @ _rows(a), rows.t() @ _rows(b)], dim=1)
        return grad, of_a, _field_of(rows @ weight[:, width:], b), of_weight


def _moments(known: Sequence[Any]) -> Moments:
    from medidiff.networks.kernels.norm import Moments

    return Moments(*known)


def _fused_norm(
    parts: Sequence[Field], norm: nn.GroupNorm, scale_shift: Tensor | None, act: bool
) -> tuple[Tensor, Callable[[], Tensor]]:
    """The normalised concatenation, and what makes it again without a gradient."""
    from medidiff.networks.kernels.norm import NormAct, apply

    with torch.no_grad():
        folded = _folded(parts, norm, scale_shift)
    read = [field.data.detach() for field in parts]
    a, b = parts[0], parts[1] if len(parts) == 2 else None
    if torch.is_grad_enabled():
        settings = (norm.num_groups, act, folded, [_part(field) for field in parts])
        of_b = (None, None) if b is None else (b.data, b.offset)
        given = (a.data, a.offset, *of_b, norm.weight, norm.bias, scale_shift, settings)
        y, a.data, passed = NormAct.apply(*given)
        if b is not None:
            b.data = passed  # who reads the fields later adds to their gradient here
    else:
        y = apply(read, folded, act)
    return cast(Tensor, y), lambda: apply(read, folded, act)


def _folded(parts: Sequence[Field], norm: nn.GroupNorm, scale_shift: Tensor | None) -> Folded:
    """The normalisation of the concatenation, by its own statistics or by given ones."""
    from medidiff.networks.kernels.norm import fold, fold_given

    given = _given(parts, norm)
    if given is not None:
        shapes = [(part.data, part.offset) for part in parts]
        return fold_given(shapes, norm, scale_shift, given)
    read = [_part(part) for part in parts]
    return fold(read, norm.weight, norm.bias, scale_shift, norm.num_groups, norm.eps)


def _given(parts: Sequence[Field], norm: nn.GroupNorm) -> GroupStatistics | None:
    statistics = _STATISTICS.get()
    return None if statistics is None else statistics(parts, norm)


def _part(field: Field) -> Part:
    from medidiff.networks.kernels.norm import Part, moments_of

    data = field.data.detach()
    if field.moments is None:
        field.moments = moments_of(data)
    offset = None if field.offset is None else field.offset.detach()
    return Part(data, offset, field.moments)


def _made_again(y: Tensor, again: Callable[[], Tensor]) -> AbstractContextManager[Any]:
    """Within the block, a layer that would keep `y` for its gradient keeps how to make it."""
    if _CHECKPOINTED.get() or not torch.is_grad_enabled():
        return nullcontext()
    place = _place(y)

    def pack(saved: Tensor) -> Tensor | Callable[[], Tensor]:
        return again if _place(saved) == place else saved

    def unpack(kept: Tensor | Callable[[], Tensor]) -> Tensor:
        return kept if isinstance(kept, Tensor) else kept()

    return torch.autograd.graph.saved_tensors_hooks(pack, unpack)


def _place(x: Tensor) -> tuple[object, ...]:
    """Which tensor it is, whatever object stands for it; also for one that holds no values."""
    return x.untyped_storage()._cdata, x.storage_offset(), x.shape


def _bare_convolution(x: Tensor, layer: Conv) -> Tensor:
    weight = layer.weight.to(dtype=x.dtype, memory_format=last(x))
    function = F.conv2d if x.ndim == 4 else F.conv3d
    y = function(x, weight, None, layer.stride, layer.padding)  # type: ignore[arg-type]
    return y.contiguous(memory_format=last(x))


def _is_thin(x: Tensor, layer: Conv, channels: int) -> bool:
    """Whether a layer from or to so few channels goes through a kernel of its own."""
    if not _in_inference(x):
        return False
    from medidiff.networks.kernels.thin import is_thin

    whole = layer.kernel_size[0] == 3 and layer.stride[0] == 1
    return whole and is_thin(channels, layer.weight)


def _bias(layer: Conv) -> Tensor | None:
    return None if layer.bias is None else layer.bias[None]


def _exact(vector: Tensor) -> Tensor:
    """A number per channel in float32 at least: half precision is for whole fields."""
    return vector.to(torch.promote_types(vector.dtype, torch.float32))


def _sum_of_offsets(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    if one is None or other is None:
        return one if other is None else other
    if _in_inference(other):
        from medidiff.networks.kernels.offsets import sum_of_offsets

        return sum_of_offsets(one, other)
    return _exact(one) + other


def _offset_of_product(
    parts: Sequence[Field], weight: Tensor, onto: Tensor | None, bias: Tensor | None
) -> Tensor | None:
    """onto + bias + weight times the parts' offsets. Shapes: weight (C, sum of the parts' C_i)."""
    widths = [part.channels for part in parts]
    if _in_inference(weight):
        from medidiff.networks.kernels.offsets import sum_of_offsets

        return sum_of_offsets(onto, bias, weight, [part.offset for part in parts], widths)
    offset = _sum_of_offsets(onto, bias)
    for part, columns in zip(parts, weight.split(widths, dim=1), strict=True):
        if part.offset is not None:
            known = _exact(part.offset)
            offset = _sum_of_offsets(offset, F.linear(known, columns.to(known.dtype)))
    return offset


def _in_inference(x: Tensor) -> bool:
    """Whether nothing is kept for a gradient and half precision is enough."""
    return not torch.is_grad_enabled() and x.dtype in (torch.float16, torch.bfloat16)


def _offset_gradient(grad: Tensor, offset: Tensor) -> Tensor:
    total = grad.flatten(2).sum(2, dtype=offset.dtype)
    return total.sum(0, keepdim=True) if len(offset) == 1 else total


def _rows(x: Tensor) -> Tensor:
    """A field with channels last as the matrix (batch * voxels, C), without a copy."""
    return x.movedim(1, -1).reshape(-1, x.shape[1])


def _field_of(rows: Tensor, like: Tensor) -> Tensor:
    """The matrix (batch * voxels, C) as a field again, without a copy."""
    return rows.reshape(len(like), *like.shape[2:], -1).movedim(-1, 1)


def _group_norm(x: Tensor, norm: nn.GroupNorm) -> Tensor:
    """Group normalisation in the dtype of `x`.

    Autocast would write the whole field in float32, although the kernel sums in float32 anyhow.
    """
    with torch.autocast(x.device.type, enabled=False):
        weight, bias = norm.weight.to(x.dtype), norm.bias.to(x.dtype)
        return F.group_norm(x, norm.num_groups, weight, bias, norm.eps)


def last(x: Tensor) -> torch.memory_format:
    """The layout with channels last for a field of this many dimensions."""
    return torch.channels_last if x.ndim == 4 else torch.channels_last_3d


def _spread(vector: Tensor, x: Tensor) -> Tensor:
    return vector.reshape(len(vector), -1, *[1] * (x.ndim - 2))


def _repeat(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def _mean_pool(x: Tensor) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):  # a CPU's would take float32 in 3-D
        if x.ndim == 4:
            return F.avg_pool2d(x, 2)
        if x.is_cpu and x.dtype in (torch.float16, torch.bfloat16) and not only_counted():
            return F.avg_pool3d(x.float(), 2).to(x.dtype)  # torch has no such kernel
        return F.avg_pool3d(x, 2)
