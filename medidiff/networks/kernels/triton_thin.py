"""Triton kernels of a network's two thin layers: 3-wide convolutions from or to a few channels.

A library's convolution of one channel takes four times what its memory traffic does. Here the first
layer is a matrix product of each voxel's neighbourhood, which is gathered on the fly, and the last
one a product that gives every voxel a number for each neighbour it reaches, summed afterwards.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def widen_kernel(
    x, weight, out, mean, square, rows, channels, chunk_rows, depth, height, width,
    image_stride, channel_stride, depth_stride, height_stride, width_stride,
    INPUTS: tl.constexpr, TAPS: tl.constexpr, BLOCK_TAPS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """The convolution of `INPUTS` channels over one chunk of rows, and the moments of the result.

    `weight` is (channels, INPUTS * TAPS); TAPS is 9 or 27. The sums are about zero, in float32.
    """
    chunk, block, image = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    chunks = tl.num_programs(0)
    column = block * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    inside = column < channels
    tap = tl.arange(0, BLOCK_TAPS)
    real = tap < INPUTS * TAPS
    place = tap % TAPS
    step_w = place % 3 - 1
    step_h = (place // 3) % 3 - 1
    step_d = place // 9 - (1 if TAPS == 27 else 0)
    reach = (tap // TAPS) * channel_stride + step_w * width_stride
    reach += step_h * height_stride + step_d * depth_stride
    kernel = tl.load(
        weight + column[None, :] * (INPUTS * TAPS) + tap[:, None],
        mask=real[:, None] & inside[None, :], other=0.0,
    )  # fmt: skip
    first = chunk * chunk_rows
    end = tl.minimum(first + chunk_rows, rows)
    source = x + image.to(tl.int64) * image_stride
    start = image.to(tl.int64) * rows
    plain = tl.zeros([BLOCK_CHANNELS], tl.float32)
    squared = tl.zeros([BLOCK_CHANNELS], tl.float32)
    for tile in range(first, end, BLOCK_ROWS):
        row = tile + tl.arange(0, BLOCK_ROWS)
        w, h, d = row % width, (row // width) % height, row // (width * height)
        at_w = w[:, None] + step_w[None, :]
        at_h = h[:, None] + step_h[None, :]
        at_d = d[:, None] + step_d[None, :]
        known = (row < end)[:, None] & real[None, :] & (at_w >= 0) & (at_w < width)
        known = known & (at_h >= 0) & (at_h < height) & (at_d >= 0) & (at_d < depth)
        here = w * width_stride + h * height_stride + d * depth_stride
        near = tl.load(source + here[:, None] + reach[None, :], mask=known, other=0.0)
        rounded = tl.dot(near, kernel).to(out.dtype.element_ty)
        mask = (row < end)[:, None] & inside[None, :]
        line = (start + row.to(tl.int64))[:, None]
        tl.store(out + line * channels + column[None, :], rounded, mask=mask)
        value = tl.where(mask, rounded.to(tl.float32), 0.0)
        plain += tl.sum(value, 0)
        squared += tl.sum(value * value, 0)
    centre = plain / (end - first).to(tl.float32)
    at = (image * chunks + chunk) * channels + column
    tl.store(mean + at, centre, mask=inside)
    tl.store(square + at, tl.maximum(squared - centre * plain, 0.0), mask=inside)


@triton.jit
def narrow_kernel(
    x, gain, bias, weight, out, rows, channels, outputs,
    BLOCK_ROWS: tl.constexpr, BLOCK_INNER: tl.constexpr, BLOCK_OUTPUTS: tl.constexpr,
):  # fmt: skip
    """silu(gain * x + bias) times `weight` (outputs, channels), as `out` (batch, outputs, rows)."""
    tile, image = tl.program_id(0), tl.program_id(1)
    row = tile * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    output = tl.arange(0, BLOCK_OUTPUTS)
    inner = tl.arange(0, BLOCK_INNER)
    line = (image.to(tl.int64) * rows + row.to(tl.int64))[:, None]
    total = tl.zeros([BLOCK_ROWS, BLOCK_OUTPUTS], tl.float32)
    for k in range(0, channels, BLOCK_INNER):
        here = k + inner
        known = here < channels
        mask = (row < rows)[:, None] & known[None, :]
        value = tl.load(x + line * channels + here[None, :], mask=mask, other=0.0).to(tl.float32)
        scale = tl.load(gain + image * channels + here, mask=known, other=0.0)
        add = tl.load(bias + image * channels + here, mask=known, other=0.0)
        value = value * scale[None, :] + add[None, :]
        value = value / (1.0 + tl.exp(-value))
        kernel = tl.load(
            weight + output[None, :] * channels + here[:, None],
            mask=known[:, None] & (output < outputs)[None, :], other=0.0,
        )  # fmt: skip
        total = tl.dot(value.to(x.dtype.element_ty), kernel, total)
    start = out + image.to(tl.int64) * outputs * rows
    place = start + output[None, :].to(tl.int64) * rows + row[:, None]
    tl.store(place, total, mask=(row < rows)[:, None] & (output < outputs)[None, :])


@triton.jit
def meet_kernel(
    parts, bias, out, rows, depth, height, width,
    TAPS: tl.constexpr, BIAS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """What the neighbours of each voxel of `out` have for it in `parts` (batch, C * TAPS, rows)."""
    tile, channel, image = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    row = tile * BLOCK + tl.arange(0, BLOCK)
    w, h, d = row % width, (row // width) % height, row // (width * height)
    field = (image * tl.num_programs(1) + channel).to(tl.int64)
    total = tl.zeros([BLOCK], tl.float32)
    for tap in tl.static_range(TAPS):  # pyright: ignore[reportGeneralTypeIssues]
        at_w = w + (tap % 3 - 1)
        at_h = h + ((tap // 3) % 3 - 1)
        at_d = d + (tap // 9 - (1 if TAPS == 27 else 0))
        known = (row < rows) & (at_w >= 0) & (at_w < width) & (at_h >= 0) & (at_h < height)
        known = known & (at_d >= 0) & (at_d < depth)
        place = (at_d * height + at_h) * width + at_w
        total += tl.load(parts + (field * TAPS + tap) * rows + place, mask=known, other=0.0)
    if BIAS:
        total += tl.load(bias + channel).to(tl.float32)
    tl.store(out + field * rows + row, total.to(out.dtype.element_ty), mask=row < rows)
