"""An upper bound of the memory that calls of a U-Net take, from its options alone.

`networks.memory` counts it from the network itself, which takes seconds; who is about to draw
samples wants to know at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from medidiff.networks.unet import UNetOptions

WORKING = 8  # fields of every level that a call holds beside its skips
KEPT = 16  # fields of a block that wait for the way back to the image


def call_bytes(
    options: UNetOptions, space: Sequence[int], number_bytes: int, *, gradient: bool
) -> int:
    """Bytes that a call holds of each image at most, beside the weights.

    `number_bytes`: of a weight; `gradient`: whether the way back to the image is gone, too.
    """
    fields = sum(
        channels * math.prod(max(1, math.ceil(n / 2**level)) for n in space)
        for level, channels in enumerate(options.channels)
    )
    blocks = options.blocks
    held = KEPT * 2 * (blocks + 1) if gradient else WORKING + blocks
    return held * fields * number_bytes
