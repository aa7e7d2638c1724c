"""Smooth random fields that drawn anatomy winds and wobbles by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from medidiff.data.boxes import Axes
from medidiff.data.shapes import Array, Points, along_axis

POINTS_AT_ONCE = 4096  # whose angles stay in a core's cache
FINE_ENOUGH = 0.35  # of a radian of a wave, or nearly, between two nodes: splines are true to 0.001


@dataclass(frozen=True)
class Waves:
    """A smooth random field of unit variance: cosines of one wavelength in random directions.

    Shapes: `directions` (count, 3), in radians a unit of length along x, y, z; `phases` (count,).
    """

    directions: NDArray[np.float64]
    phases: NDArray[np.float64]

    @property
    def frequency(self) -> float:
        """Radians a unit of length."""
        return math.sqrt(float((self.directions[0] ** 2).sum()))

    @property
    def scale(self) -> float:
        """What makes a sum of these cosines one of unit variance."""
        return math.sqrt(2 / len(self.phases))


def draw_waves(frequency: float, count: int, random: np.random.Generator) -> Waves:
    """`count` cosines of `frequency` radians a unit of length."""
    directions = random.normal(size=(count, 3))
    directions *= frequency / np.sqrt((directions * directions).sum(axis=1, keepdims=True))
    return Waves(directions, random.uniform(0, 2 * np.pi, count))


def waves(points: Points, frequency: float, count: int, random: np.random.Generator) -> Array:
    """One field, drawn and taken at points."""
    return waves_at(points, [draw_waves(frequency, count, random)])[0]


def waves_at(points: Points, fields: Sequence[Waves]) -> Array:
    """The fields at points.

    Shapes: (field, *space).
    """
    shape = np.broadcast_shapes(*(along.shape for along in points))
    flat = np.ones((4, math.prod(shape)), dtype=np.result_type(*points))
    for row, along in zip(flat, points, strict=False):
        row.reshape(shape)[...] = along
    ways = [np.column_stack([each.directions, each.phases]) for each in fields]
    ways = np.concatenate(ways).astype(flat.dtype)
    owner = np.repeat(np.arange(len(fields)), [len(each.phases) for each in fields])
    scales = np.array([[each.scale] for each in fields], dtype=flat.dtype)
    shares = scales * (owner == np.arange(len(fields))[:, None])
    found = np.empty((len(fields), flat.shape[1]), dtype=flat.dtype)
    for start in range(0, flat.shape[1], POINTS_AT_ONCE):
        some = slice(start, start + POINTS_AT_ONCE)
        angles = ways @ flat[:, some]
        found[:, some] = shares @ np.cos(angles, out=angles)
    return found.reshape(len(fields), *shape)


def smooth_waves(points: Points, fields: Sequence[Waves]) -> Array:
    """The fields at a picture's points, taken at every few of them and splined between.

    Shapes: points (*space), which follow each other evenly, or nearly so; (field, *space).
    """
    shape = np.broadcast_shapes(*(along.shape for along in points))
    x, y, z = (np.broadcast_to(along, shape) for along in points)
    strides = _strides((x, y, z), max(each.frequency for each in fields))
    coarse = np.ix_(*(_nodes(*each) for each in strides))
    found = waves_at((x[coarse], y[coarse], z[coarse]), fields)
    for axis, each in reversed(list(enumerate(strides, start=1))):
        found = along_axis(_splines(*each), found, axis)
    return found


def _strides(points: Points, frequency: float) -> list[tuple[int, int]]:
    """How many points each axis has, and how many of them a node may stand for."""
    found, dims = [], points[0].ndim
    for axis, size in enumerate(points[0].shape):
        first, second = (0,) * dims, tuple(int(other == axis) for other in range(dims))
        apart = math.sqrt(sum(float(each[second] - each[first]) ** 2 for each in points))
        found.append((size, max(1, min(round(FINE_ENOUGH / (frequency * apart)), size // 8))))
    return found


@lru_cache(maxsize=128)
def _nodes(size: int, stride: int) -> NDArray[np.int64]:
    return np.unique([*range(0, size, stride), size - 1])


@lru_cache(maxsize=128)
def _splines(size: int, stride: int) -> NDArray[np.float32]:
    """(size, nodes): cubic splines from values at nodes to values at all places."""
    from scipy.interpolate import CubicSpline

    nodes = _nodes(size, stride)
    shares = CubicSpline(nodes, np.eye(len(nodes)))(np.arange(size))
    shares[np.abs(shares) < 1e-7] = (
        0  # far nodes' shares become numbers that processors are slow at
    )
    return shares.astype(np.float32)


def waves_on(axes: Axes, frequency: float, count: int, random: np.random.Generator) -> Array:
    """One field, drawn and taken on a straight grid, where a cosine is a product over its axes."""
    field = draw_waves(frequency, count, random)
    x, y, z = (
        np.outer(along, each).astype(np.float32)
        for each, along in zip(field.directions.T, (axes.x, axes.y, axes.z), strict=True)
    )
    rows = (z + field.phases.astype(np.float32))[:, None] + y
    rows = rows.reshape(-1, len(field.phases))
    # cos(a + b) = cos a cos b - sin a sin b
    found = np.cos(rows) @ np.cos(x).T
    found -= np.sin(rows, out=rows) @ np.sin(x, out=x).T
    found *= np.float32(field.scale)
    return found.reshape(axes.shape)
