"""Launches of the kernels of a network's thin layers, for half precision and without a gradient.

Shapes: a weight is (outputs, inputs, 3, 3) or (outputs, inputs, 3, 3, 3), stride 1, padding 1.
"""

from __future__ import annotations

import torch

from medidiff.networks.kernels.launches import Kernels, cdiv, next_power_of_2
from medidiff.networks.kernels.norm import Folded, Moments, channel_block, chunk_rows_of, last_of
from medidiff.types import Tensor

kernels = Kernels("triton_thin")

_MOST = 64  # numbers of a voxel's neighbourhood that are worth a matrix product of their own
_ROWS = 64
_VOXELS = 512


def is_thin(channels: int, weight: Tensor) -> bool:
    """Whether so few channels at one end make a layer thin."""
    return channels * weight[0, 0].numel() <= _MOST


def widen(x: Tensor, weight: Tensor) -> tuple[Tensor, Moments]:
    """The convolution of a field of a few channels, and the moments of the result.

    Shapes: x (batch, inputs, *space) in any layout -> (batch, outputs, *space), channels last.
    """
    batch, inputs, *space = x.shape
    channels, taps = len(weight), weight[0, 0].numel()
    out = torch.empty(
        (batch, channels, *space), dtype=x.dtype, device=x.device, memory_format=last_of(x)
    )
    rows = out[0, 0].numel()
    chunk_rows = chunk_rows_of(rows, batch)
    chunks = cdiv(rows, chunk_rows)
    mean, square = (
        torch.empty(batch, chunks, channels, dtype=torch.float32, device=x.device) for _ in range(2)
    )
    block = channel_block(channels)
    steps = x.stride() if x.ndim == 5 else (*x.stride()[:2], 0, *x.stride()[2:])
    kernels.widen_kernel[(chunks, cdiv(channels, block), batch)](
        x, weight.reshape(channels, -1).contiguous(), out, mean, square, rows, channels, chunk_rows,
        *_space(space), *steps, INPUTS=inputs, TAPS=taps,
        BLOCK_TAPS=max(16, next_power_of_2(inputs * taps)),
        BLOCK_ROWS=_ROWS, BLOCK_CHANNELS=block, num_warps=8,
    )  # fmt: skip
    return out, Moments(mean, square, chunk_rows)


def narrow(x: Tensor, folded: Folded, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The convolution of silu(gain * x + bias) to a few channels; `x` is read once.

    Shapes: x (batch, inputs, *space), channels last -> (batch, outputs, *space).
    """
    batch, channels, *space = x.shape
    outputs, taps = len(weight), weight[0, 0].numel()
    rows = x[0, 0].numel()
    parts = torch.empty(batch, outputs * taps, rows, dtype=torch.float32, device=x.device)
    product = weight.movedim(1, -1).reshape(-1, channels).contiguous()
    kernels.narrow_kernel[(cdiv(rows, _ROWS), batch)](
        x, folded.gain, folded.bias, product, parts,
        rows, channels, outputs * taps, BLOCK_ROWS=_ROWS, BLOCK_INNER=64,
        BLOCK_OUTPUTS=max(16, next_power_of_2(outputs * taps)), num_warps=4,
    )  # fmt: skip
    out = torch.empty((batch, outputs, *space), dtype=x.dtype, device=x.device)
    kernels.meet_kernel[(cdiv(rows, _VOXELS), outputs, batch)](
        parts, parts if bias is None else bias, out, rows, *_space(space),
        TAPS=taps, BIAS=bias is not None, BLOCK=_VOXELS, num_warps=4,
    )  # fmt: skip
    return out


def _space(space: list[int]) -> tuple[int, ...]:
    return (1, *space) if len(space) == 2 else tuple(space)
