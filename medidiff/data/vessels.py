"""Branching trees of vessels and airways, grown by rules and drawn as tubes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medidiff.data.boxes import Axes
from medidiff.data.shapes import Array, Points

Vectors = NDArray[np.float64]
MURRAY = 2 ** (-1 / 3)  # a daughter's radius where flow is halved and r^3 kept (Murray 1926)
VOXELS_AT_ONCE = 1_000_000


@dataclass(frozen=True)
class Tubes:
    """Straight tubes from `start` to `end`, all in the unit of length of the picture.

    Shapes: `start` and `end` (count, 3) as (x, y, z), `radius` (count,).
    """

    start: Vectors
    end: Vectors
    radius: NDArray[np.float64]


def grow(
    roots: Vectors,
    headings: Vectors,
    random: np.random.Generator,
    *,
    length: float,
    radius: float,
    generations: int,
    spread: float = 0.6,
    shortening: float = 0.82,
) -> Tubes:
    """Trees that fork at the end of every branch, `generations` branches from root to tip.

    Shapes: `roots` and `headings` (trees, 3). `spread` is the typical angle between a branch and
    the one it comes from, in radians; `shortening` the length of a daughter relative to hers.
    """
    start, way = roots, headings / np.linalg.norm(headings, axis=1, keepdims=True)
    found: list[Tubes] = []
    for generation in range(generations):
        end = start + way * (length * random.uniform(0.75, 1.25, (len(way), 1)))
        across = random.normal(size=way.shape)
        angle = spread * random.uniform(0.6, 1.4, (len(way), 1))
        found.append(Tubes(start, end, np.full(len(way), radius)))
        if generation + 1 < generations:
            start, way = np.concatenate([end, end]), _forks(way, across, angle)
            length, radius = length * shortening, radius * MURRAY
    return joined(found)


def _forks(way: Vectors, across: Vectors, angle: NDArray[np.float64]) -> Vectors:
    """Where two daughters of each branch head, in the plane of her way and a second one."""
    across = across - np.einsum("ij,ij->i", across, way)[:, None] * way
    aside = across * (np.sin(angle) / np.sqrt(np.einsum("ij,ij->i", across, across))[:, None])
    ahead = np.cos(angle) * way
    return np.concatenate([ahead + aside, ahead - aside])


def joined(parts: list[Tubes]) -> Tubes:
    """Several trees as one."""
    return Tubes(
        np.concatenate([part.start for part in parts]),
        np.concatenate([part.end for part in parts]),
        np.concatenate([part.radius for part in parts]),
    )


def drawn(tubes: Tubes, axes: Axes, width: float) -> Array:
    """The share of every voxel that lies in a tube, with a border about `width` wide."""
    picture = np.zeros(axes.shape, dtype=np.float32)
    tubes = _within(tubes, axes, width / 2)
    first, sizes = _boxes(tubes, axes, width / 2)
    counts = sizes.prod(axis=1)
    touched = np.flatnonzero(counts)
    chunks = np.cumsum(counts[touched]) // VOXELS_AT_ONCE
    for chunk in np.unique(chunks):
        some = touched[chunks == chunk]
        which, (iz, iy, ix) = _voxels(some, first[some], sizes[some])
        share = tubes.radius.astype(np.float32)[which]
        share -= _distance((axes.x[ix], axes.y[iy], axes.z[iz]), tubes, which)
        share *= np.float32(1 / width)
        share += np.float32(0.5)
        inside = np.flatnonzero(share > 0)
        flat = (iz[inside] * len(axes.y) + iy[inside]) * len(axes.x) + ix[inside]
        np.maximum.at(picture.reshape(-1), flat, np.minimum(share[inside], 1))
    return picture


def _voxels(
    numbers: NDArray[np.int64], first: NDArray[np.int64], sizes: NDArray[np.int64]
) -> tuple[NDArray[np.int64], list[NDArray[np.int64]]]:
    """Each voxel of boxes: the number of its box, and its place along each axis."""
    which = np.arange(len(numbers))
    places: list[NDArray[np.int64]] = []
    for axis in range(3):  # every slice of a box, every row of a slice, every voxel of a row
        counts = sizes[which, axis]
        ends = np.cumsum(counts)
        start = np.repeat(first[which, axis] - ends + counts, counts)
        places = [np.repeat(each, counts) for each in places]
        places.append(start + np.arange(len(start)))
        which = np.repeat(which, counts)
    return numbers[which], places


def reach(tubes: Tubes, margin: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """Between which x and y tubes lie, and no further from them than `margin`."""
    far = tubes.radius[:, None] + margin
    low = (np.minimum(tubes.start, tubes.end) - far).min(axis=0).tolist()
    high = (np.maximum(tubes.start, tubes.end) + far).max(axis=0).tolist()
    return (low[0], high[0]), (low[1], high[1])


def _within(tubes: Tubes, axes: Axes, margin: float) -> Tubes:
    """Those that reach the picture's slices: few of them where there is one."""
    low = np.minimum(tubes.start[:, 2], tubes.end[:, 2])
    high = np.maximum(tubes.start[:, 2], tubes.end[:, 2])
    reach = tubes.radius + margin
    near = (low - reach < axes.z[-1]) & (high + reach > axes.z[0])
    return Tubes(tubes.start[near], tubes.end[near], tubes.radius[near])


def _boxes(tubes: Tubes, axes: Axes, margin: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The first voxel, and the count of voxels, of the box along (z, y, x) of each tube's stretch
    near the picture's slices."""
    reach = tubes.radius[:, None] + margin
    way = tubes.end - tubes.start
    ends = [
        tubes.start + way * share[:, None]
        for share in _stretches(tubes.start[:, 2], way[:, 2], axes, reach[:, 0])
    ]
    low, high = np.minimum(*ends) - reach, np.maximum(*ends) + reach
    pairs = [
        (np.searchsorted(axes.z, low[:, 2]), np.searchsorted(axes.z, high[:, 2])),
        (np.searchsorted(-axes.y, -high[:, 1]), np.searchsorted(-axes.y, -low[:, 1])),
        (np.searchsorted(axes.x, low[:, 0]), np.searchsorted(axes.x, high[:, 0])),
    ]
    first = np.stack([start for start, _ in pairs], axis=1)
    return first, np.stack([end - start for start, end in pairs], axis=1)


def _stretches(
    start: NDArray[np.float64], rise: NDArray[np.float64], axes: Axes, reach: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """From where to where, as shares of their lengths, tubes are within reach of the slices."""
    slope = np.where(np.abs(rise) < 1e-9, 1e-9, rise)
    ends = [(level - start) / slope for level in (axes.z[0] - reach, axes.z[-1] + reach)]
    return np.minimum(*ends).clip(0, 1), np.maximum(*ends).clip(0, 1)


def _distance(points: Points, tubes: Tubes, which: NDArray[np.int64]) -> Array:
    """From points, axis by axis, to the middle lines of tubes of these numbers."""
    way = tubes.end - tubes.start
    way_at = [each.astype(np.float32)[which] for each in way.T]
    start_at = [each.astype(np.float32)[which] for each in tubes.start.T]
    length = np.maximum((way * way).sum(axis=1), 1e-12).astype(np.float32)
    off = [point - start for point, start in zip(points, start_at, strict=True)]
    along = off[0] * way_at[0] + off[1] * way_at[1] + off[2] * way_at[2]
    along = np.clip(along / length[which], 0, 1)
    for each, toward in zip(off, way_at, strict=True):
        each -= along * toward
    return np.sqrt(off[0] * off[0] + off[1] * off[1] + off[2] * off[2])
