"""Telling a network where in the whole image a voxel lies, so that it can be trained on patches.

A network that has seen patches of half an image, each with the coordinates of its voxels, draws the
whole image in one pass, given the coordinates of all of it.
Source: Bieder et al. 2023 (PatchDDM, arXiv:2303.15288).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from medidiff.types import Image, Tensor


def coordinates(space: Sequence[int], like: Tensor, whole: Sequence[int] | None = None) -> Tensor:
    """Where each voxel lies along each axis, from -1 at the first to 1 at the last.

    `whole`: the grid that this is true for, `space` itself if None; on a larger or smaller one, of
    the same centre and voxels, they go on beyond or end before.
    Shapes: (dims, *space), in the dtype and on the device of `like`.
    """
    lines = [_line(size, of).to(like) for size, of in zip(space, whole or space, strict=True)]
    return torch.stack(torch.meshgrid(*lines, indexing="ij"))


def _line(size: int, whole: int) -> Tensor:
    if size == whole:
        return torch.linspace(-1, 1, size) if size > 1 else torch.zeros(1)
    return (2 * torch.arange(size) - (size - 1)) / max(1, whole - 1)


def patches(x: Image, size: Sequence[int], draws: Tensor) -> tuple[Image, Tensor]:
    """A patch of each image at a place drawn for it, and the coordinates of its voxels.

    Shapes: `x` (batch, channel, *space); `draws` (batch, dims), uniform in [0, 1), one number for
    each axis -> (batch, channel, *size) and (batch, dims, *size). An axis that is no longer than
    the patch is taken whole.
    """
    space = x.shape[2:]
    where = coordinates(space, x)
    lengths = [min(wanted, found) for wanted, found in zip(size, space, strict=True)]
    cut, told = [], []
    for image, row in zip(x, draws.tolist(), strict=True):
        place = where
        for axis, (draw, length) in enumerate(zip(row, lengths, strict=True), start=1):
            start = int(draw * (space[axis - 1] - length + 1))
            image, place = image.narrow(axis, start, length), place.narrow(axis, start, length)
        cut.append(image)
        told.append(place)
    return torch.stack(cut), torch.stack(told)


class WithCoordinates(nn.Module):
    """A network that is told the coordinates of a whole image beside it; `whole` as there."""

    def __init__(self, network: nn.Module, whole: Sequence[int] | None = None) -> None:
        super().__init__()
        self.network = network
        self.whole = whole

    def forward(
        self,
        x: Image,
        label: Tensor,
        condition: Tensor | None = None,
        concat: Tensor | None = None,
    ) -> Image:
        """As the network's own call, with the coordinates behind what is given beside."""
        place = coordinates(x.shape[2:], x, self.whole).expand(len(x), -1, *x.shape[2:])
        beside = place if concat is None else torch.cat([concat, place], dim=1)
        return self.network(x, label, condition, beside)
