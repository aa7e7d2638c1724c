"""The Triton kernel of keyed noise: Philox's words as numbers between 0 and 1."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def unit_kernel(keys, out, blocks, REAL: tl.constexpr, BLOCK: tl.constexpr):
    """(word + 1/2) / 2^32 for the four words of each counter; `keys` (rows, 2) are words in int64.

    Source: Salmon et al. 2011, section 3.3, as `medidiff.diffusion.noise.philox`, bit by bit.
    """
    tile, row = tl.program_id(0), tl.program_id(1)
    block = tile * BLOCK + tl.arange(0, BLOCK)
    key = tl.load(keys + 2 * row) + (tl.load(keys + 2 * row + 1) << 32)
    zero = block * 0
    one, two, three, four = tl.philox(key, block, zero, zero, zero)
    place = out + (row.to(tl.int64) * blocks + block) * 4
    mask = block < blocks
    tl.store(place, (one.to(REAL) + 0.5) * 2.3283064365386963e-10, mask=mask)
    tl.store(place + 1, (two.to(REAL) + 0.5) * 2.3283064365386963e-10, mask=mask)
    tl.store(place + 2, (three.to(REAL) + 0.5) * 2.3283064365386963e-10, mask=mask)
    tl.store(place + 3, (four.to(REAL) + 0.5) * 2.3283064365386963e-10, mask=mask)
