"""Stacks that lie on no straight even grid, brought onto one: tilted gantries, uneven gaps.

Both move values along one line by linear interpolation, so that a plane's own pixels are not
smoothed across it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Affine = NDArray[np.float64]
Volume = NDArray[Any]


def straightened(volume: Volume, affine: Affine) -> tuple[Volume, Affine]:
    """A sheared stack on the grid at right angles that holds all of it.

    Shapes: (slices, rows, columns); `affine` 4 x 4, mm. Each slice is shifted within its own plane
    by linear interpolation; outside stand the stack's smallest value. Slices keep their distance
    along the normal.
    """
    across, down, along = affine[:3, :3].T
    normal = np.cross(down, along)
    normal = normal / np.linalg.norm(normal)
    shifts = [float(across @ axis / (axis @ axis)) for axis in (down, along)]  # voxels a slice
    straight = affine.copy()
    straight[:3, 0] = normal * float(across @ normal)
    moved = volume.astype(np.float32)
    for axis, shift in enumerate(shifts, start=1):
        if abs(shift) * (len(volume) - 1) < 1e-3:
            continue
        moved, before = _shifted(moved, axis, shift)
        straight[:3, 3] -= straight[:3, axis] * before
    return moved, straight


def _shifted(volume: Volume, axis: int, shift: float) -> tuple[Volume, int]:
    """Slice k moved by k * shift voxels along `axis`; gives how many voxels were added before."""
    count = volume.shape[axis]
    last = shift * (len(volume) - 1)
    before, after = -int(np.floor(min(0.0, last))), int(np.ceil(max(0.0, last)))
    shape = [*volume.shape]
    shape[axis] = before + count + after
    out = np.full(shape, volume.min(), np.float32)
    for k, plane in enumerate(volume):
        at = np.arange(shape[axis]) - before - k * shift  # where each new voxel lies in the old
        at = np.where(np.abs(at - np.round(at)) < 1e-6, np.round(at), at)
        inside = (at >= 0) & (at <= count - 1)
        low = np.clip(np.floor(at[inside]).astype(int), 0, count - 1)
        high = np.minimum(low + 1, count - 1)
        part = (at[inside] - low).astype(np.float32)
        first, second = plane.take(low, axis - 1), plane.take(high, axis - 1)
        part = part.reshape([-1, 1] if axis == 1 else [1, -1])
        place: list[Any] = [k, slice(None), slice(None)]
        place[axis] = inside
        out[tuple(place)] = first + (second - first) * part
    return out, before


def evened(volume: Volume, heights: NDArray[np.float64]) -> tuple[Volume, float]:
    """Slices at uneven heights (mm, rising) interpolated at even ones; gives the step in mm.

    The step is the median gap, so that slices which are merely missing leave the others untouched.
    """
    step = float(np.median(np.diff(heights)))
    count = int(np.floor((heights[-1] - heights[0]) / step + 0.02)) + 1
    wanted = np.minimum(heights[0] + step * np.arange(count), heights[-1])
    high = np.clip(np.searchsorted(heights, wanted - 1e-6), 1, len(heights) - 1)
    low = high - 1
    part = (wanted - heights[low]) / (heights[high] - heights[low])
    part = np.where(np.abs(part - np.round(part)) < 0.02, np.round(part), part)
    blend = part.astype(np.float32).reshape(-1, 1, 1)
    values = volume.astype(np.float32, copy=False)
    return values[low] * (1 - blend) + values[high] * blend, step
