"""Random movements of a batch, made where the batch lies; the randomness comes in as numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from medidiff.data.options import Augment, Field, Space
from medidiff.types import Image


@dataclass(frozen=True)
class Surroundings:
    """Images on a grid that is wider than the model's on both sides, for movements to draw on.

    Shapes: images (batch, channel, *wide), where every axis of `wide` is that of the model's grid
    and twice a margin; field (batch, dims, 2).
    """

    images: Tensor
    field: Tensor
    """First and one past last voxel of each image's scan along each axis; the rest is padding."""
    size: tuple[int, ...]
    """Of the model's grid."""
    spacing: Tensor
    """Of each image's voxels, (batch, dims), in mm or another unit."""

    @property
    def on_grid(self) -> Image:
        """The images as they are on the model's grid."""
        return middle(self.images, self.size)

    def to(self, device: torch.device) -> Surroundings:
        """The same on a device."""
        images = self.images.to(device, non_blocking=True)
        field = self.field.to(device, non_blocking=True)
        return replace(self, images=images, field=field, spacing=self.spacing.to(device))


def surroundings(
    images: Sequence[Tensor],
    fields: Sequence[Field],
    size: Sequence[int],
    spacings: Sequence[Sequence[float]],
) -> Surroundings:
    """Images (channel, *wide) of one model's grid, brought to one width; new voxels lie in no
    field."""
    widest = [max(sizes) for sizes in zip(*(image.shape[1:] for image in images), strict=True)]
    padded, shifted = [], []
    for image, field in zip(images, fields, strict=True):
        margins = [(w - h) // 2 for w, h in zip(widest, image.shape[1:], strict=True)]
        sides = [margin for margin in reversed(margins) for _ in range(2)]
        padded.append(functional.pad(image, sides))
        shifted.append(torch.tensor(field) + torch.tensor(margins)[:, None])
    spacing = torch.tensor(spacings, dtype=torch.float64)
    return Surroundings(torch.stack(padded), torch.stack(shifted), tuple(size), spacing)


def middle(images: Tensor, size: Sequence[int]) -> Tensor:
    """What lies on the model's grid of images (..., *wide)."""
    for axis, want in enumerate(size, start=images.ndim - len(size)):
        images = images.narrow(axis, (images.shape[axis] - want) // 2, want)
    return images


def margin(options: Augment, space: Space) -> tuple[int, ...]:
    """How many voxels beyond a grid the movements reach, at most, along each axis.

    With a spacing "as stored" that is said for voxels as long as wide.
    """
    size = space.size
    if not _moves(options):
        return (0,) * len(size)
    stored = isinstance(space.spacing_mm, str)
    step = torch.tensor([1.0] * len(size) if stored else space.spacing_mm, dtype=torch.float64)
    half = torch.tensor([each / 2 for each in size], dtype=torch.float64) * step
    angle = math.radians(min(options.rotate_degrees, 90.0))
    mixed = torch.full((len(size), len(size)), math.sin(angle), dtype=torch.float64)
    mixed.fill_diagonal_(1.0)
    reach = half
    for _ in range(1 if len(size) == 2 else 3):  # each turn's entries are at most these
        reach = mixed @ reach
    reach = torch.minimum(reach, half.norm()) / (1 - options.scale)
    beyond = (reach - half).clamp_min(0) / step + options.shift_voxels
    return tuple(math.ceil(each) for each in beyond.tolist())


def augment(
    batch: Image,
    options: Augment,
    draws: Tensor,
    kind: Literal["image", "label"] = "image",
    *,
    field: Tensor | None = None,
    size: Sequence[int] | None = None,
    spacing: Tensor | None = None,
) -> Image:
    """The batch moved, turned, scaled, mirrored, changed in contrast: a function of `draws`.

    Shapes: `draws` is (batch, Augment.DRAWS), uniform in (0, 1): shifts 0-2, turns 3-5, size 6,
    contrast 7, mirrors 8-10. The same draws move a label with its image (`kind` "label": nearest
    voxel, values untouched). `size`: the middle of the grid that is given back, so that what moves
    in from its surroundings is what lies there. `field` (batch, dims, 2): first and one past last
    voxel of each scan along each axis. Only a scan moves, within its field: what would come from
    beyond it is its mirror image there, and padding stays where it is, so that no border is made
    or turned. `spacing` (batch, dims) of the voxels, so that turns keep lengths (not given: as long
    as wide). Range: model units; contrast changes about -1, the window's lower end.
    Errors: ValueError for draws of another shape or a mirror axis that the images do not have.
    """
    dims = batch.ndim - 2
    if draws.shape != (len(batch), Augment.DRAWS):
        raise ValueError(f"draws are {(len(batch), Augment.DRAWS)}, not {tuple(draws.shape)}")
    if any(axis >= dims for axis in options.flip_axes):
        raise ValueError(f"flip_axes {options.flip_axes} in images of {dims} axes")
    draws = draws.to(batch.device, torch.float64)
    shape = tuple(batch.shape[2:])
    size = shape if size is None else tuple(size)
    still = middle(batch, size)
    if _moves(options):
        whole = torch.tensor([[0, each] for each in shape]).repeat(len(batch), 1, 1)
        field = (whole if field is None else field).to(batch.device)
        step = torch.ones((len(batch), dims)) if spacing is None else spacing
        matrix = _matrix(options, draws, step.to(draws))
        turned = _moved(batch, matrix, field, size, kind)
        still = torch.where(_within(field, shape, size), turned, still)
    moved = _mirrored(still, options, draws)
    if kind == "label" or options.intensity == 0:
        return moved
    contrast = 1 + options.intensity * (2 * draws[:, 7] - 1)
    contrast = contrast.view(-1, *[1] * (batch.ndim - 1)).to(batch.dtype)
    return (moved + 1) * contrast - 1


def _moves(options: Augment) -> bool:
    """Whether voxels are interpolated, beyond mirroring."""
    return not options.shift_voxels == options.rotate_degrees == options.scale == 0


def _within(field: Tensor, shape: Sequence[int], size: Sequence[int]) -> Tensor:
    """Which voxels of the middle lie in a scan: (batch, 1, *size)."""
    inside = torch.ones((len(field), 1, *size), dtype=torch.bool, device=field.device)
    for axis, (have, want) in enumerate(zip(shape, size, strict=True)):
        places = torch.arange(want, device=field.device) + (have - want) // 2
        first, last = field[:, axis, :1], field[:, axis, 1:]
        there = (places >= first) & (places < last)
        inside &= there.view(len(field), 1, *[-1 if i == axis else 1 for i in range(len(size))])
    return inside


def _moved(
    batch: Image,
    matrix: Tensor,
    field: Tensor,
    size: Sequence[int],
    kind: Literal["image", "label"],
) -> Image:
    shape, dims = batch.shape[2:], len(size)
    half = torch.tensor(size, dtype=matrix.dtype, device=matrix.device) / 2
    # affine_grid's coordinates run from -1 to 1 over each axis, and name the last axis first
    theta = torch.cat([matrix[:, :, :-1] * half, matrix[:, :, -1:]], 2)
    order = list(reversed(range(dims)))
    theta = theta[:, order][:, :, [*order, dims]].to(batch.dtype)
    grid = functional.affine_grid(theta, [len(batch), 1, *size], align_corners=False)
    for place, axis in enumerate(order):  # in voxels from the centre, which both grids share
        have = shape[axis]
        voxel = _reflected(grid[..., place] + (have - 1) / 2, field[:, axis])
        grid[..., place] = (2 * voxel + 1) / have - 1
    mode = "bilinear" if kind == "image" else "nearest"
    return functional.grid_sample(
        batch, grid, mode=mode, padding_mode="border", align_corners=False
    )


def _reflected(voxel: Tensor, ends: Tensor) -> Tensor:
    """Places mirrored at the outer faces of a field, and at its outermost voxels' centres at most,
    so that no voxel outside it is read."""
    first, last = (
        ends[:, side].to(voxel.dtype).view(-1, *[1] * (voxel.ndim - 1)) for side in (0, 1)
    )
    length = (last - first).clamp_min(1)
    beyond = torch.remainder(voxel + 0.5 - first, 2 * length)
    inside = torch.minimum(beyond, 2 * length - beyond) + first - 0.5
    return torch.minimum(torch.maximum(inside, first), last - 1)


def _mirrored(batch: Image, options: Augment, draws: Tensor) -> Image:
    for axis in options.flip_axes:
        chosen = (draws[:, 8 + axis] < 0.5).view(-1, *[1] * (batch.ndim - 1))
        batch = torch.where(chosen, batch.flip(axis + 2), batch)
    return batch


def _matrix(options: Augment, draws: Tensor, spacing: Tensor) -> Tensor:
    """(batch, dims, dims + 1): voxels of the result to voxels of the source, about the centre."""
    signed, dims = 2 * draws - 1, spacing.shape[1]
    angles = signed[:, 3:6] * math.radians(options.rotate_degrees)
    linear = _turn(angles[:, 0], dims, (0, 1))
    if dims == 3:
        linear = linear @ _turn(angles[:, 1], dims, (0, 2)) @ _turn(angles[:, 2], dims, (1, 2))
    linear = linear * spacing[:, None] / spacing[:, :, None]  # a turn of lengths, not of voxels
    linear = linear / (1 + options.scale * signed[:, 6]).view(-1, 1, 1)
    return torch.cat([linear, options.shift_voxels * signed[:, :dims, None]], dim=2)


def _turn(angle: Tensor, dims: int, plane: tuple[int, int]) -> Tensor:
    matrix = torch.eye(dims, dtype=angle.dtype, device=angle.device).repeat(len(angle), 1, 1)
    first, second = plane
    matrix[:, first, first] = matrix[:, second, second] = angle.cos()
    matrix[:, first, second], matrix[:, second, first] = -angle.sin(), angle.sin()
    return matrix
