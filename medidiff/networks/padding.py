"""Grids of any size for layers that halve them: padded evenly on both sides, and cropped again."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F

from medidiff.types import Tensor


def padding(space: Sequence[int], multiple: int) -> list[tuple[int, int]]:
    """Voxels to add before and behind each axis so that each has a multiple of `multiple`."""
    missing = [-size % multiple for size in space]
    return [(each // 2, each - each // 2) for each in missing]


def padded(x: Tensor, multiple: int) -> Tensor:
    """The field (batch, channel, *space) on a grid of multiples, mirrored where it is large enough
    and repeated at its border where it is not."""
    missing = padding(x.shape[2:], multiple)
    if not any(behind for _, behind in missing):
        return x
    mirrors = all(behind < size for (_, behind), size in zip(missing, x.shape[2:], strict=True))
    flat = [count for pair in reversed(missing) for count in pair]
    return F.pad(x, flat, mode="reflect" if mirrors else "replicate")


def cropped(x: Tensor, space: Sequence[int], multiple: int) -> Tensor:
    """The part of a padded field that lies on the grid `space`."""
    for axis, ((before, _), size) in enumerate(
        zip(padding(space, multiple), space, strict=True), start=2
    ):
        x = x.narrow(axis, before, size)
    return x
