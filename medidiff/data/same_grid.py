"""Voxels that lie at the same places in another order of axes or directions: no interpolation."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

PART = 0.05  # of a voxel: how far apart the corners of two grids may lie that are the same


def onto_grid(
    values: NDArray[Any],
    affine: NDArray[np.float64],
    shape: tuple[int, ...],
    wanted: NDArray[np.float64],
) -> NDArray[Any] | None:
    """The voxels of (*space) in the order of another grid; None where that has other voxels.

    Units: both affines map voxels to mm, of slices too 4 x 4.
    """
    dims = values.ndim
    between = np.linalg.inv(affine) @ wanted  # the voxel of `values` at a voxel of the grid
    whole = np.round(between)
    corners = np.array([*np.ndindex(*(2,) * dims)]) * (np.array(shape) - 1)
    places = np.zeros((len(corners), 4))
    places[:, :dims], places[:, 3] = corners, 1
    turns = whole[:dims, :dims]
    if np.abs((between - whole) @ places.T)[:3].max() > PART or whole[dims:3, 3].any():
        return None
    if not (np.abs(turns).sum(0) == 1).all() or not (np.abs(turns).sum(1) == 1).all():
        return None
    order = np.abs(turns).argmax(0)
    backwards = turns[order, np.arange(dims)] < 0
    turned = values.transpose(order)
    starts = np.where(backwards, np.array(turned.shape) - 1, 0)
    if turned.shape != tuple(shape) or not np.array_equal(whole[order, 3], starts):
        return None
    return np.flip(turned, tuple(np.flatnonzero(backwards).tolist()))
