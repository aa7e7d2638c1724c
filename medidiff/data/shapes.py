"""What drawn anatomy is made of: soft borders, ellipsoids, smooth random fields, tubes.

Points are given as coordinate arrays (x, y, z) of one shape, in any unit of length.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from types import EllipsisType

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
Points = tuple[Array, Array, Array]
Box = tuple[EllipsisType, slice, slice]
"""Rows and columns of every slice."""
SATURATED = 9.1  # border widths from a border beyond which single precision knows 0 and 1 only
FINE_ENOUGH = 0.35  # of a radian of a wave between two nodes: splines are then true to 0.001


@dataclass(frozen=True)
class Axes:
    """Where the voxels of a picture lie: y falls along its rows, x rises along its columns; z rises
    along its slices, or is the height of its one slice."""

    x: Array
    y: Array
    z: Array

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, columns), or (slices, rows, columns)."""
        flat = (len(self.y), len(self.x))
        return flat if len(self.z) == 1 else (len(self.z), *flat)

    @property
    def points(self) -> tuple[Array, Array, Array]:
        """The coordinates x, y and z of every voxel."""
        z, y, x = (
            np.ascontiguousarray(axis.reshape(self.shape))
            for axis in np.meshgrid(self.z, self.y, self.x, indexing="ij")
        )
        return x, y, z


def box(axes: Axes, x: tuple[float, float], y: tuple[float, float]) -> tuple[Box, Axes]:
    """Where a picture's voxels lie between these ends, in all its slices, and these voxels."""
    columns = slice(int(np.searchsorted(axes.x, x[0])), int(np.searchsorted(axes.x, x[1], "right")))
    rows = slice(*(int(np.searchsorted(-axes.y, -end)) for end in (y[1], y[0])))
    return (..., rows, columns), Axes(axes.x[columns], axes.y[rows], axes.z)


def apart(*along: Array) -> Array:
    """The length of vectors given axis by axis; NumPy's hypot is ten times slower."""
    return np.sqrt(sum(each * each for each in along))


def step(value: Array, width: float) -> Array:
    """0 below, 1 above zero, with a border about `width` wide."""
    share = np.asarray(value / width)
    np.tanh(share, out=share)
    share += 1
    share *= 0.5
    return share


def turned(first: Array, second: Array, angle: float) -> tuple[Array, Array]:
    """Two coordinates after a rotation by `angle` radians in their plane."""
    cosine, sine = math.cos(angle), math.sin(angle)
    return first * cosine - second * sine, first * sine + second * cosine


def blob(points: Points, radii: tuple[float, float, float], turn: float, width: float) -> Array:
    """A soft ellipsoid around the origin, turned by `turn` radians in the axial plane."""
    x, y, z = points
    x, y = turned(x, y, turn)
    distance = np.sqrt((x / radii[0]) ** 2 + (y / radii[1]) ** 2 + (z / radii[2]) ** 2)
    return step((1 - distance) * min(radii[0], radii[1]), width)


def waves(points: Points, frequency: float, count: int, random: np.random.Generator) -> Array:
    """A smooth random field of unit variance: cosines of one wavelength in random directions."""
    directions, phases = _directions(frequency, count, random)
    x, y, z = points
    field, angle, part = np.zeros_like(x), np.empty_like(x), np.empty_like(x)
    for (kx, ky, kz), phase in zip(directions.tolist(), phases.tolist(), strict=True):
        np.multiply(x, kx, out=angle)
        angle += np.multiply(y, ky, out=part)
        angle += np.multiply(z, kz, out=part)
        angle += phase
        field += np.cos(angle, out=angle)
    return field * math.sqrt(2 / count)


def smooth_waves(
    points: Points, frequency: float, count: int, random: np.random.Generator
) -> Array:
    """The field of `waves` at a picture's points, taken at every few of them and splined between.

    Shapes: points (*space), which follow each other evenly, or nearly so.
    """
    strides = _strides(points, frequency)
    coarse = np.ix_(*(_nodes(*each) for each in strides))
    field = waves(
        (points[0][coarse], points[1][coarse], points[2][coarse]), frequency, count, random
    )
    for each in strides:  # each axis in turn is the first, and becomes the last
        field = np.tensordot(field, _splines(*each), (0, 1))
    return field


def _strides(points: Points, frequency: float) -> list[tuple[int, int]]:
    """How many points each axis has, and how many of them a node may stand for."""
    found, dims = [], points[0].ndim
    for axis, size in enumerate(points[0].shape):
        first, second = (0,) * dims, tuple(int(other == axis) for other in range(dims))
        apart = math.sqrt(sum(float(each[second] - each[first]) ** 2 for each in points))
        found.append((size, max(1, min(int(FINE_ENOUGH / (frequency * apart)), size // 8))))
    return found


@lru_cache(maxsize=32)
def _nodes(size: int, stride: int) -> NDArray[np.int64]:
    return np.unique([*range(0, size, stride), size - 1])


@lru_cache(maxsize=32)
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
    """The field of `waves` on a straight grid, where each cosine is a product over its axes."""
    directions, phases = _directions(frequency, count, random)
    x, y, z = (
        np.exp(1j * np.outer(each, along)).astype(np.complex64)
        for each, along in zip((axes.x, axes.y, axes.z), directions.T, strict=True)
    )
    z = z * np.exp(1j * phases).astype(np.complex64)
    rows = (z[:, None] * y).reshape(-1, count)
    # the real part alone: half the work
    field = rows.real @ x.real.T - rows.imag @ x.imag.T
    return (field * np.float32(math.sqrt(2 / count))).reshape(axes.shape)


def _directions(
    frequency: float, count: int, random: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    directions = random.normal(size=(count, 3))
    directions *= frequency / np.linalg.norm(directions, axis=1, keepdims=True)
    return directions, random.uniform(0, 2 * np.pi, count)
