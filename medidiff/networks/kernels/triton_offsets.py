"""The Triton kernel that adds what is known of a field's channels without the field."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def offset_kernel(
    one, one_stride, other, other_stride, weight, of_a, of_a_stride, of_b, of_b_stride, out,
    channels, channels_a, channels_b,
    ONE: tl.constexpr, OTHER: tl.constexpr, A: tl.constexpr, B: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr, BLOCK_INNER: tl.constexpr,
):  # fmt: skip
    """one + other + weight [of_a, of_b] in float32; weight is (C, C_a + C_b)."""
    block, image = tl.program_id(0), tl.program_id(1)
    column = block * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    inside = column < channels
    total = tl.zeros([BLOCK_CHANNELS], tl.float32)
    if ONE:
        total += tl.load(one + image * one_stride + column, mask=inside, other=0.0).to(tl.float32)
    if OTHER:
        second = other + image * other_stride + column
        total += tl.load(second, mask=inside, other=0.0).to(tl.float32)
    row = weight + column[:, None] * (channels_a + channels_b)
    inner = tl.arange(0, BLOCK_INNER)
    if A:
        for k in range(0, channels_a, BLOCK_INNER):
            here = k + inner
            known = here < channels_a
            value = tl.load(of_a + image * of_a_stride + here, mask=known, other=0.0)
            share = tl.load(row + here[None, :], mask=inside[:, None] & known[None, :], other=0.0)
            total += tl.sum(share.to(tl.float32) * value.to(tl.float32)[None, :], 1)
    if B:
        for k in range(0, channels_b, BLOCK_INNER):
            here = k + inner
            known = here < channels_b
            value = tl.load(of_b + image * of_b_stride + here, mask=known, other=0.0)
            place = row + channels_a + here[None, :]
            share = tl.load(place, mask=inside[:, None] & known[None, :], other=0.0)
            total += tl.sum(share.to(tl.float32) * value.to(tl.float32)[None, :], 1)
    tl.store(out + image * channels + column, total, mask=inside)
