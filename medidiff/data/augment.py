"""Random movements of a batch, made where the batch lies; the randomness comes in as numbers."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from medidiff.data.options import Augment
from medidiff.types import Image


def augment(
    batch: Image,
    options: Augment,
    draws: Tensor,
    kind: Literal["image", "label"] = "image",
) -> Image:
    """The batch moved, turned, scaled, mirrored, changed in contrast: a function of `draws`.

    Shapes: `draws` is (batch, Augment.DRAWS), uniform in (0, 1): shifts 0-2, turns 3-5, size 6,
    contrast 7, mirrors 8-10. The same draws move a label with its image (`kind` "label": nearest
    voxel, values untouched). Range: model units; contrast changes about -1, the window's lower end.
    Outside the image its border goes on.
    Errors: ValueError for draws of another shape or a mirror axis that the images do not have.
    """
    dims = batch.ndim - 2
    if draws.shape != (len(batch), Augment.DRAWS):
        raise ValueError(f"draws are {(len(batch), Augment.DRAWS)}, not {tuple(draws.shape)}")
    if any(axis >= dims for axis in options.flip_axes):
        raise ValueError(f"flip_axes {options.flip_axes} in images of {dims} axes")
    draws = draws.to(batch.device, torch.float64)
    moved = _moved(batch, options, draws, "bilinear" if kind == "image" else "nearest")
    if kind == "label" or options.intensity == 0:
        return moved
    contrast = 1 + options.intensity * (2 * draws[:, 7] - 1)
    contrast = contrast.view(-1, *[1] * (batch.ndim - 1)).to(batch.dtype)
    return (moved + 1) * contrast - 1


def _moved(batch: Image, options: Augment, draws: Tensor, mode: str) -> Image:
    if options.shift_voxels == options.rotate_degrees == options.scale == 0:
        return _mirrored(batch, options, draws)  # mirrored voxel by voxel, not interpolated
    size = batch.shape[2:]
    matrix = _matrix(options, draws, len(size))
    # grid_sample's coordinates run from -1 to 1 over each axis, and name the last axis first
    half = torch.tensor(size, dtype=draws.dtype, device=draws.device) / 2
    theta = torch.cat(
        [matrix[:, :, :-1] * half / half[:, None], matrix[:, :, -1:] / half[:, None]], 2
    )
    order = list(reversed(range(len(size))))
    theta = theta[:, order][:, :, [*order, len(size)]].to(batch.dtype)
    grid = functional.affine_grid(theta, list(batch.shape), align_corners=False)
    moved = functional.grid_sample(
        batch, grid, mode=mode, padding_mode="border", align_corners=False
    )
    return _mirrored(moved, options, draws)


def _mirrored(batch: Image, options: Augment, draws: Tensor) -> Image:
    for axis in options.flip_axes:
        chosen = (draws[:, 8 + axis] < 0.5).view(-1, *[1] * (batch.ndim - 1))
        batch = torch.where(chosen, batch.flip(axis + 2), batch)
    return batch


def _matrix(options: Augment, draws: Tensor, dims: int) -> Tensor:
    """(batch, dims, dims + 1): voxels of the result to voxels of the source, about the centre."""
    signed = 2 * draws - 1
    angles = signed[:, 3:6] * math.radians(options.rotate_degrees)
    linear = _turn(angles[:, 0], dims, (0, 1))
    if dims == 3:
        linear = linear @ _turn(angles[:, 1], dims, (0, 2)) @ _turn(angles[:, 2], dims, (1, 2))
    linear = linear / (1 + options.scale * signed[:, 6]).view(-1, 1, 1)
    return torch.cat([linear, options.shift_voxels * signed[:, :dims, None]], dim=2)


def _turn(angle: Tensor, dims: int, plane: tuple[int, int]) -> Tensor:
    matrix = torch.eye(dims, dtype=angle.dtype, device=angle.device).repeat(len(angle), 1, 1)
    first, second = plane
    matrix[:, first, first] = matrix[:, second, second] = angle.cos()
    matrix[:, first, second], matrix[:, second, first] = -angle.sin(), angle.sin()
    return matrix
