"""Smooth random fields that drawn anatomy winds and wobbles by."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from medidiff.data.shapes import Array, Axes, Points

POINTS_AT_ONCE = 4096  # whose angles stay in a core's cache
FINE_ENOUGH = 0.35  # of a radian of a wave between two nodes: splines are then true to 0.001


def waves(points: Points, frequency: float, count: int, random: np.random.Generator) -> Array:
    """A smooth random field of unit variance: cosines of one wavelength in random directions."""
    directions, phases = _directions(frequency, count, random)
    every = np.broadcast_arrays(*points)
    flat = np.stack([axis.ravel() for axis in every])
    ways = (directions.astype(flat.dtype), phases.astype(flat.dtype)[:, None])
    field = np.empty(flat.shape[1], dtype=flat.dtype)
    for start in range(0, len(field), POINTS_AT_ONCE):
        angles = ways[0] @ flat[:, start : start + POINTS_AT_ONCE]
        angles += ways[1]
        np.cos(angles, out=angles).sum(axis=0, out=field[start : start + POINTS_AT_ONCE])
    field *= math.sqrt(2 / count)
    return field.reshape(every[0].shape)


def smooth_waves(
    points: Points, frequency: float, count: int, random: np.random.Generator
) -> Array:
    """The field of `waves` at a picture's points, taken at every few of them and splined between.

    Shapes: points (*space), which follow each other evenly, or nearly so.
    """
    x, y, z = np.broadcast_arrays(*points)
    points = (x, y, z)
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
    """The field of `waves` on a straight grid, where each cosine is a product over its axes."""
    directions, phases = _directions(frequency, count, random)
    x, y, z = (
        np.outer(along, each).astype(np.float32)
        for each, along in zip(directions.T, (axes.x, axes.y, axes.z), strict=True)
    )
    rows = ((z + phases.astype(np.float32))[:, None] + y).reshape(-1, count)
    # cos(a + b) = cos a cos b - sin a sin b
    field = np.cos(rows) @ np.cos(x).T
    field -= np.sin(rows, out=rows) @ np.sin(x, out=x).T
    field *= np.float32(math.sqrt(2 / count))
    return field.reshape(axes.shape)


def _directions(
    frequency: float, count: int, random: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    directions = random.normal(size=(count, 3))
    directions *= frequency / np.linalg.norm(directions, axis=1, keepdims=True)
    return directions, random.uniform(0, 2 * np.pi, count)
