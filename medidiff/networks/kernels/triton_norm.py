"""Triton kernels of the group normalisation, for fields with channels last.

A field is read as rows of voxels by columns of channels, (batch, rows, C). Its statistics are taken
once, in chunks of rows, as a mean and a sum of squared deviations for every channel (chunks are
merged by Chan, Golub and LeVeque 1983), so that any grouping of the channels, also across
the two halves of a skip connection, needs no second look at the field. All sums are
float32 (float64 for float64 fields).

    moments -> fold -> apply                    y = act(gain * x + bias), gain and bias (batch, C)
    grad_sums -> grad_fold -> grad_apply        the way back
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _line(row, channels, height, width, step_d, step_h, step_w, BOX: tl.constexpr):
    """Where the channels of a voxel begin, by its number in the field or in the box."""
    if BOX:
        line = (row // (height * width)).to(tl.int64) * step_d
        line += ((row // width) % height).to(tl.int64) * step_h
        line += (row % width).to(tl.int64) * step_w
    else:
        line = row.to(tl.int64) * channels
    return line


@triton.jit
def moments_kernel(
    x, other, out, mean, square, rows, channels, chunk_rows,
    height, width, step_image, step_d, step_h, step_w,
    ADD: tl.constexpr, BOX: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """Mean and squared deviation of each channel over one chunk of rows; with ADD, those of
    x + other, which is written to `out`; with BOX, of a box of so much height and width that lies
    within a field of these steps."""
    chunk, block, image = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    chunks = tl.num_programs(0)
    column = block * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    inside = column < channels
    first = chunk * chunk_rows
    end = tl.minimum(first + chunk_rows, rows)
    start = image.to(tl.int64) * rows * channels
    if BOX:
        start = image.to(tl.int64) * step_image
    # Sums about the chunk's first row: no cancellation where the mean is far above the spread.
    leading = start + _line(first, channels, height, width, step_d, step_h, step_w, BOX)
    pivot = tl.load(x + leading + column, mask=inside, other=0.0).to(SUM)
    if ADD:
        first_other = other + start + first.to(tl.int64) * channels + column
        pivot += tl.load(first_other, mask=inside, other=0.0).to(SUM)
    plain = tl.zeros([BLOCK_ROWS, BLOCK_CHANNELS], SUM)
    squared = tl.zeros([BLOCK_ROWS, BLOCK_CHANNELS], SUM)
    for tile in range(first, end, BLOCK_ROWS):
        row = tile + tl.arange(0, BLOCK_ROWS)
        mask = (row < end)[:, None] & inside[None, :]
        line = _line(row, channels, height, width, step_d, step_h, step_w, BOX)
        place = start + line[:, None] + column[None, :]
        value = tl.load(x + place, mask=mask, other=0.0)
        if ADD:
            more = tl.load(other + place, mask=mask, other=0.0)
            value = (value.to(SUM) + more.to(SUM)).to(out.dtype.element_ty)
            tl.store(out + place, value, mask=mask)
        away = tl.where(mask, value.to(SUM) - pivot[None, :], 0.0)
        plain += away
        squared += away * away
    count = (end - first).to(SUM)
    shift = tl.sum(plain, 0) / count
    deviation = tl.maximum(tl.sum(squared, 0) - shift * shift * count, 0.0)
    place = (image * chunks + chunk) * channels + column
    tl.store(mean + place, pivot + shift, mask=inside)
    tl.store(square + place, deviation, mask=inside)


@triton.jit
def fold_kernel(
    mean_a, square_a, offset_a, offset_a_stride, mean_b, square_b, offset_b, offset_b_stride,
    weight, shift, modulation, gain, bias, group_mean, group_rstd,
    rows, chunk_rows, chunks, channels_a, channels, group_size, eps,
    MODULATED: tl.constexpr, OFFSET_A: tl.constexpr, OFFSET_B: tl.constexpr,
    BLOCK_CHUNKS: tl.constexpr, BLOCK_GROUP: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """Gain and bias of every channel of one group of one image, from the moments of its parts."""
    group, image = tl.program_id(0), tl.program_id(1)
    groups = tl.num_programs(0)
    channels_b = channels - channels_a
    member = tl.arange(0, BLOCK_GROUP)
    channel = group * group_size + member
    inside = member < group_size
    of_a = inside & (channel < channels_a)
    of_b = inside & (channel >= channels_a)
    offset = tl.zeros([BLOCK_GROUP], SUM)
    if OFFSET_A:
        offset += tl.load(offset_a + image * offset_a_stride + channel, mask=of_a, other=0.0).to(
            SUM
        )
    if OFFSET_B:
        place = offset_b + image * offset_b_stride + channel - channels_a
        offset += tl.load(place, mask=of_b, other=0.0).to(SUM)
    summed = tl.zeros([BLOCK_GROUP], SUM)
    for first in range(0, chunks, BLOCK_CHUNKS):
        chunk = first + tl.arange(0, BLOCK_CHUNKS)
        count = tl.minimum(rows - chunk * chunk_rows, chunk_rows)
        count = tl.where(chunk < chunks, count, 0).to(SUM)
        row = image * chunks + chunk
        known = (chunk < chunks)[:, None]
        at_a = row[:, None] * channels_a + channel[None, :]
        at_b = row[:, None] * channels_b + channel[None, :] - channels_a
        value = tl.load(mean_a + at_a, mask=known & of_a[None, :], other=0.0)
        value += tl.load(mean_b + at_b, mask=known & of_b[None, :], other=0.0)
        summed += tl.sum(value * count[:, None], 0)
    size = rows.to(SUM) * group_size
    centre = tl.sum(tl.where(inside, summed + offset * rows, 0.0), 0) / size
    spread = tl.zeros([BLOCK_GROUP], SUM)
    for first in range(0, chunks, BLOCK_CHUNKS):
        chunk = first + tl.arange(0, BLOCK_CHUNKS)
        count = tl.minimum(rows - chunk * chunk_rows, chunk_rows)
        count = tl.where(chunk < chunks, count, 0).to(SUM)
        row = image * chunks + chunk
        known = (chunk < chunks)[:, None]
        at_a = row[:, None] * channels_a + channel[None, :]
        at_b = row[:, None] * channels_b + channel[None, :] - channels_a
        value = tl.load(mean_a + at_a, mask=known & of_a[None, :], other=0.0)
        value += tl.load(mean_b + at_b, mask=known & of_b[None, :], other=0.0)
        within = tl.load(square_a + at_a, mask=known & of_a[None, :], other=0.0)
        within += tl.load(square_b + at_b, mask=known & of_b[None, :], other=0.0)
        away = value + offset[None, :] - centre
        spread += tl.sum(within + count[:, None] * away * away, 0)
    variance = tl.sum(tl.where(inside, spread, 0.0), 0) / size
    rstd = 1.0 / tl.sqrt(variance + eps)
    scale = tl.load(weight + channel, mask=inside, other=0.0).to(SUM)
    add = tl.load(shift + channel, mask=inside, other=0.0).to(SUM)
    if MODULATED:
        place = modulation + image * 2 * channels + channel
        more = 1.0 + tl.load(place, mask=inside, other=0.0).to(SUM)
        scale = scale * more
        add = add * more + tl.load(place + channels, mask=inside, other=0.0).to(SUM)
    place = image * channels + channel
    tl.store(gain + place, scale * rstd, mask=inside)
    tl.store(bias + place, add + (offset - centre) * rstd * scale, mask=inside)
    tl.store(group_mean + image * groups + group, centre)
    tl.store(group_rstd + image * groups + group, rstd)


@triton.jit
def apply_kernel(
    x, gain, bias, out, rows, channels, columns, first_column, out_channels, depth, height, width,
    ACT: tl.constexpr, UP: tl.constexpr, GAIN: tl.constexpr, BIAS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """act(gain * x + bias) into the columns of `out` from `first_column`; UP repeats every voxel
    along each axis: `rows`, depth, height and width are those of `out`."""
    tile, block, image = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    column = block * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    inside = column < channels
    row = tile * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    mask = (row < rows)[:, None] & inside[None, :]
    source, source_rows = row, rows
    if UP > 0:
        w, h, d = row % width, (row // width) % height, row // (width * height)
        if UP == 3:
            d = d // 2
        source = (d * (height // 2) + h // 2) * (width // 2) + w // 2
        source_rows = rows // (4 if UP == 2 else 8)
    start = image.to(tl.int64) * source_rows * channels
    place = start + source[:, None].to(tl.int64) * channels + column[None, :]
    value = tl.load(x + place, mask=mask, other=0.0).to(SUM)
    here = image * columns + first_column + column
    if GAIN:
        value = value * tl.load(gain + here, mask=inside, other=0.0)[None, :]
    if BIAS:
        value = value + tl.load(bias + here, mask=inside, other=0.0).to(SUM)[None, :]
    if ACT:
        value = value / (1.0 + tl.exp(-value))
    start = image.to(tl.int64) * rows * out_channels + first_column
    place = start + row[:, None].to(tl.int64) * out_channels + column[None, :]
    tl.store(out + place, value.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _slope(value):
    """The derivative of silu."""
    gate = 1.0 / (1.0 + tl.exp(-value))
    return gate * (1.0 + value * (1.0 - gate))


@triton.jit
def grad_sums_kernel(
    x, grad, gain, bias, sum_grad, sum_grad_x,
    rows, channels, columns, first_column, chunk_rows,
    ACT: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """Sums over a chunk of rows of the gradient before the activation, and of it times x."""
    chunk, block, image = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    chunks = tl.num_programs(0)
    column = block * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    inside = column < channels
    first = chunk * chunk_rows
    end = tl.minimum(first + chunk_rows, rows)
    here = image * columns + first_column + column
    scale = tl.load(gain + here, mask=inside, other=0.0)
    add = tl.load(bias + here, mask=inside, other=0.0)
    plain = tl.zeros([BLOCK_ROWS, BLOCK_CHANNELS], SUM)
    timed = tl.zeros([BLOCK_ROWS, BLOCK_CHANNELS], SUM)
    start = image.to(tl.int64) * rows
    for tile in range(first, end, BLOCK_ROWS):
        row = tile + tl.arange(0, BLOCK_ROWS)
        mask = (row < end)[:, None] & inside[None, :]
        line = (start + row.to(tl.int64))[:, None]
        value = tl.load(x + line * channels + column[None, :], mask=mask, other=0.0).to(SUM)
        slope = tl.load(
            grad + line * columns + first_column + column[None, :], mask=mask, other=0.0
        ).to(SUM)
        if ACT:
            slope = slope * _slope(value * scale[None, :] + add[None, :])
        plain += slope
        timed += slope * value
    place = (image * chunks + chunk) * columns + first_column + column
    tl.store(sum_grad + place, tl.sum(plain, 0), mask=inside)
    tl.store(sum_grad_x + place, tl.sum(timed, 0), mask=inside)


@triton.jit
def grad_fold_kernel(
    sum_grad, sum_grad_x, mean_a, offset_a, offset_a_stride, mean_b, offset_b, offset_b_stride,
    weight, shift, modulation, group_mean, group_rstd,
    by_x, by_one, grad_offset, grad_weight, grad_shift, grad_modulation,
    rows, chunk_rows, chunks, channels_a, channels, group_size,
    MODULATED: tl.constexpr, OFFSET_A: tl.constexpr, OFFSET_B: tl.constexpr,
    BLOCK_CHUNKS: tl.constexpr, BLOCK_GROUP: tl.constexpr, SUM: tl.constexpr, GIVEN: tl.constexpr,
):  # fmt: skip
    """What the statistics give back: grad_x = gain * slope + by_x * x + by_one, and the gradients
    of offsets, weight, shift and modulation (weight and shift still to be summed over images);
    GIVEN statistics are constants and give nothing back."""
    group, image = tl.program_id(0), tl.program_id(1)
    groups = tl.num_programs(0)
    channels_b = channels - channels_a
    member = tl.arange(0, BLOCK_GROUP)
    channel = group * group_size + member
    inside = member < group_size
    of_a = inside & (channel < channels_a)
    of_b = inside & (channel >= channels_a)
    offset = tl.zeros([BLOCK_GROUP], SUM)
    if OFFSET_A:
        offset += tl.load(offset_a + image * offset_a_stride + channel, mask=of_a, other=0.0).to(
            SUM
        )
    if OFFSET_B:
        place = offset_b + image * offset_b_stride + channel - channels_a
        offset += tl.load(place, mask=of_b, other=0.0).to(SUM)
    slope = tl.zeros([BLOCK_GROUP], SUM)
    slope_x = tl.zeros([BLOCK_GROUP], SUM)
    total = tl.zeros([BLOCK_GROUP], SUM)
    for first in range(0, chunks, BLOCK_CHUNKS):
        chunk = first + tl.arange(0, BLOCK_CHUNKS)
        count = tl.minimum(rows - chunk * chunk_rows, chunk_rows)
        count = tl.where(chunk < chunks, count, 0).to(SUM)
        row = image * chunks + chunk
        known = (chunk < chunks)[:, None]
        at = row[:, None] * channels + channel[None, :]
        slope += tl.sum(tl.load(sum_grad + at, mask=known & inside[None, :], other=0.0), 0)
        slope_x += tl.sum(tl.load(sum_grad_x + at, mask=known & inside[None, :], other=0.0), 0)
        at_a = row[:, None] * channels_a + channel[None, :]
        at_b = row[:, None] * channels_b + channel[None, :] - channels_a
        value = tl.load(mean_a + at_a, mask=known & of_a[None, :], other=0.0)
        value += tl.load(mean_b + at_b, mask=known & of_b[None, :], other=0.0)
        total += tl.sum(value * count[:, None], 0)
    centre = tl.load(group_mean + image * groups + group)
    rstd = tl.load(group_rstd + image * groups + group)
    raw_weight = tl.load(weight + channel, mask=inside, other=0.0).to(SUM)
    more = tl.full([BLOCK_GROUP], 1.0, SUM)
    if MODULATED:
        place = modulation + image * 2 * channels + channel
        more += tl.load(place, mask=inside, other=0.0).to(SUM)
    scale = raw_weight * more
    slope_hat = rstd * (slope_x + (offset - centre) * slope)
    size = rows.to(SUM) * group_size
    first_sum = tl.sum(tl.where(inside, scale * slope, 0.0), 0) / size
    second_sum = tl.sum(tl.where(inside, scale * slope_hat, 0.0), 0) / size
    of_x = tl.zeros([BLOCK_GROUP], SUM) - rstd * rstd * second_sum
    of_one = of_x * (offset - centre) - rstd * first_sum
    if GIVEN:
        of_x = tl.zeros([BLOCK_GROUP], SUM)
        of_one = tl.zeros([BLOCK_GROUP], SUM)
    place = image * channels + channel
    tl.store(by_x + place, of_x, mask=inside)
    tl.store(by_one + place, of_one, mask=inside)
    back = scale * rstd * slope + of_x * total + of_one * rows
    tl.store(grad_offset + place, back, mask=inside)
    tl.store(grad_weight + place, more * slope_hat, mask=inside)
    tl.store(grad_shift + place, more * slope, mask=inside)
    if MODULATED:
        raw_shift = tl.load(shift + channel, mask=inside, other=0.0).to(SUM)
        place = grad_modulation + image * 2 * channels + channel
        tl.store(place, raw_weight * slope_hat + raw_shift * slope, mask=inside)
        tl.store(place + channels, slope, mask=inside)


@triton.jit
def grad_apply_kernel(
    x, grad, gain, bias, by_x, by_one, passed, out,
    rows, channels, columns, first_column,
    ACT: tl.constexpr, PASSED: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """grad_x = gain * slope + by_x * x + by_one, and what others who read x have passed."""
    tile, block, image = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    column = block * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    inside = column < channels
    row = tile * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    mask = (row < rows)[:, None] & inside[None, :]
    here = image * columns + first_column + column
    scale = tl.load(gain + here, mask=inside, other=0.0)[None, :]
    add = tl.load(bias + here, mask=inside, other=0.0)[None, :]
    of_x = tl.load(by_x + here, mask=inside, other=0.0)[None, :]
    of_one = tl.load(by_one + here, mask=inside, other=0.0)[None, :]
    line = (image.to(tl.int64) * rows + row.to(tl.int64))[:, None]
    value = tl.load(x + line * channels + column[None, :], mask=mask, other=0.0).to(SUM)
    slope = tl.load(
        grad + line * columns + first_column + column[None, :], mask=mask, other=0.0
    ).to(SUM)
    if ACT:
        slope = slope * _slope(value * scale + add)
    result = scale * slope + of_x * value + of_one
    if PASSED:
        place = passed + line * channels + column[None, :]
        result += tl.load(place, mask=mask, other=0.0).to(SUM)
    tl.store(out + line * channels + column[None, :], result.to(out.dtype.element_ty), mask=mask)


@triton.jit
def gather_kernel(
    x, out, rows, channels, height, width,
    DIMS: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """The sum of the 4 or 8 voxels that repeat one voxel of `out`; height and width are those of
    `out`, as is `rows`."""
    tile, block, image = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    column = block * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    row = tile * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    mask = (row < rows)[:, None] & (column < channels)[None, :]
    w, h, d = row % width, (row // width) % height, row // (width * height)
    start = image.to(tl.int64) * rows * 2**DIMS
    total = tl.zeros([BLOCK_ROWS, BLOCK_CHANNELS], SUM)
    for child in range(2**DIMS):
        deep = d * 2 + child // 4 if DIMS == 3 else d
        source = (deep * 2 * height + h * 2 + (child // 2) % 2) * 2 * width + w * 2 + child % 2
        line = (start + source.to(tl.int64))[:, None]
        total += tl.load(x + line * channels + column[None, :], mask=mask, other=0.0).to(SUM)
    line = (image.to(tl.int64) * rows + row.to(tl.int64))[:, None]
    tl.store(out + line * channels + column[None, :], total.to(out.dtype.element_ty), mask=mask)


@triton.jit
def pointwise_kernel(
    onto, a, b, weight, mean, square, rows, channels_a, channels_b, channels, chunk_rows,
    BLOCK_ROWS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr, BLOCK_INNER: tl.constexpr,
):  # fmt: skip
    """onto += a W_a + b W_b over one chunk of rows, and the moments of the result.

    For half precision only: the sums are about zero, in float32.
    """
    block, chunk, image = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    chunks = tl.num_programs(1)
    column = block * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    inside = column < channels
    inner = tl.arange(0, BLOCK_INNER)
    weight_row = weight + column[None, :] * (channels_a + channels_b)
    first = chunk * chunk_rows
    end = tl.minimum(first + chunk_rows, rows)
    start = image.to(tl.int64) * rows
    plain = tl.zeros([BLOCK_CHANNELS], tl.float32)
    squared = tl.zeros([BLOCK_CHANNELS], tl.float32)
    for tile in range(first, end, BLOCK_ROWS):
        row = tile + tl.arange(0, BLOCK_ROWS)
        line = (start + row.to(tl.int64))[:, None]
        known = (row < end)[:, None]
        mask = known & inside[None, :]
        total = tl.zeros([BLOCK_ROWS, BLOCK_CHANNELS], tl.float32)
        for k in range(0, channels_a, BLOCK_INNER):
            here = k + inner
            left = tl.load(
                a + line * channels_a + here[None, :],
                mask=known & (here < channels_a)[None, :], other=0.0,
            )  # fmt: skip
            right = tl.load(
                weight_row + here[:, None],
                mask=(here < channels_a)[:, None] & inside[None, :], other=0.0,
            )  # fmt: skip
            total = tl.dot(left, right, total)
        for k in range(0, channels_b, BLOCK_INNER):
            here = k + inner
            left = tl.load(
                b + line * channels_b + here[None, :],
                mask=known & (here < channels_b)[None, :], other=0.0,
            )  # fmt: skip
            right = tl.load(
                weight_row + channels_a + here[:, None],
                mask=(here < channels_b)[:, None] & inside[None, :], other=0.0,
            )  # fmt: skip
            total = tl.dot(left, right, total)
        before = tl.load(onto + line * channels + column[None, :], mask=mask, other=0.0)
        total += before.to(tl.float32)
        rounded = total.to(onto.dtype.element_ty)
        tl.store(onto + line * channels + column[None, :], rounded, mask=mask)
        value = tl.where(mask, rounded.to(tl.float32), 0.0)
        plain += tl.sum(value, 0)
        squared += tl.sum(value * value, 0)
    count = (end - first).to(tl.float32)
    centre = plain / count
    place = (image * chunks + chunk) * channels + column
    tl.store(mean + place, centre, mask=inside)
    tl.store(square + place, tl.maximum(squared - centre * plain, 0.0), mask=inside)
