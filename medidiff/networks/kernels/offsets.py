"""Sums of offsets in one launch each, without a gradient: a call makes them some sixty times.

Shapes: an offset is (batch or 1, C), or None for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from medidiff.networks.kernels.launches import Kernels, cdiv
from medidiff.types import Tensor

kernels = Kernels("triton_offsets")


def sum_of_offsets(
    one: Tensor | None,
    other: Tensor | None,
    weight: Tensor | None = None,
    known: Sequence[Tensor | None] = (),
    widths: Sequence[int] = (),
) -> Tensor | None:
    """one + other + weight times the concatenated `known`, in float32.

    Shapes: weight (C, sum of widths), its columns those of `known`, one or two offsets.
    """
    given = [each for each in (one, other, *known) if each is not None]
    if not given:
        return None
    first = given[0]
    width = [*widths, 0, 0][:2]
    a, b = [*known, None, None][:2]
    channels = first.shape[1] if weight is None else len(weight)
    out = torch.empty(max(map(len, given)), channels, dtype=torch.float32, device=first.device)
    block = 16 if weight is not None else 128
    kernels.offset_kernel[(cdiv(channels, block), len(out))](
        *_at(one, first), *_at(other, first), first if weight is None else weight,
        *_at(a, first), *_at(b, first), out, channels, *width,
        ONE=one is not None, OTHER=other is not None, A=a is not None, B=b is not None,
        BLOCK_CHANNELS=block, BLOCK_INNER=128, num_warps=4,
    )  # fmt: skip
    return out


def _at(offset: Tensor | None, otherwise: Tensor) -> tuple[Tensor, int]:
    """Pointer and stride over images; any pointer where there is no offset."""
    if offset is None:
        return otherwise, 0
    offset = offset.contiguous()
    return offset, 0 if len(offset) == 1 else offset.shape[1]
