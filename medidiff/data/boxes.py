"""Where the voxels of a drawn picture lie, and the boxes in which its parts are drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from types import EllipsisType

import numpy as np
from numpy.typing import NDArray

from medidiff.data.shapes import SATURATED, Array, Points, blob

Box = tuple[EllipsisType | slice, ...]
"""Rows and columns of every slice, or of some."""


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
    def points(self) -> Points:
        """The coordinates x, y and z of the voxels, each along its own axis."""
        flat = (1,) * (len(self.shape) - 2)
        x, y = self.x.reshape(*flat, 1, -1), self.y.reshape(*flat, -1, 1)
        return x, y, self.z.reshape(-1, 1, *flat)


@dataclass(frozen=True)
class Region:
    """Points of a picture that lie in order, though not quite along its axes: a posed head's.

    It finds the box around a part, so that the part is drawn there alone.
    """

    points: Points

    @cached_property
    def _spans(self) -> list[tuple[Array, Array]]:
        """The least and the greatest z of each slice in 3-D, y of each row, x of each column."""
        dims = max(each.ndim for each in self.points)
        found = []
        for axis, along in enumerate(self.points[::-1][-dims:]):
            others = tuple(other for other in range(dims) if other != axis)
            found.append((along.min(axis=others), along.max(axis=others)))
        return found

    def box(self, middle: tuple[float, float, float], reach: Sequence[float]) -> Box:
        """A box that holds every point no further than `reach` from a place along each axis."""
        dims = len(self._spans)
        ends = zip(middle[::-1][-dims:], reach[::-1][-dims:], strict=True)
        sides = []
        for (low, high), (centre, far) in zip(self._spans, ends, strict=True):
            near = np.flatnonzero((high >= centre - far) & (low <= centre + far))
            sides.append(slice(near[0], near[-1] + 1) if len(near) else slice(0, 0))
        return tuple(sides)

    def cut(self, box: Box) -> Points:
        """The points of a box; a coordinate without an axis stays without it."""
        x, y, z = (
            along[
                tuple(
                    side if size > 1 else slice(None)
                    for side, size in zip(box, along.shape, strict=True)
                )
            ]
            for along in self.points
        )
        return x, y, z

    def ellipsoid(
        self,
        middle: tuple[float, float, float],
        radii: tuple[float, float, float],
        turn: float,
        width: float,
    ) -> tuple[Box, Array]:
        """The `blob` around a place: the box where there is any of it, and its share there."""
        grown = [radius * (1 + SATURATED * width / min(radii[0], radii[1])) for radius in radii]
        cosine, sine = math.cos(turn), math.sin(turn)
        wide = math.hypot(grown[0] * cosine, grown[1] * sine)
        high = math.hypot(grown[0] * sine, grown[1] * cosine)
        here = self.box(middle, (wide, high, grown[2]))
        x, y, z = self.cut(here)
        return here, blob((x - middle[0], y - middle[1], z - middle[2]), radii, turn, width)


def box_around(inside: NDArray[np.bool_]) -> tuple[slice, ...]:
    """The box of what is true, in sixteenths of the picture: few sizes, whose splines are kept."""
    sides = []
    for axis, size in enumerate(inside.shape):
        others = tuple(other for other in range(inside.ndim) if other != axis)
        found = np.flatnonzero(inside.any(axis=others))
        first, last = (int(found[0]), int(found[-1])) if len(found) else (0, 0)
        grain = max(1, size // 16)
        length = min(size, -(-(last + 1 - first) // grain) * grain)
        first = min(first, size - length)
        sides.append(slice(first, first + length))
    return tuple(sides)


def box(axes: Axes, x: tuple[float, float], y: tuple[float, float]) -> tuple[Box, Axes]:
    """Where a picture's voxels lie between these ends, in all its slices, and these voxels."""
    columns = slice(int(np.searchsorted(axes.x, x[0])), int(np.searchsorted(axes.x, x[1], "right")))
    rows = slice(*(int(np.searchsorted(-axes.y, -end)) for end in (y[1], y[0])))
    return (..., rows, columns), Axes(axes.x[columns], axes.y[rows], axes.z)


def boxed(axes: Axes, box: tuple[slice, ...]) -> tuple[Box, Axes]:
    """The rows and columns of a box in all slices, and their voxels."""
    *_, rows, columns = box
    return (..., rows, columns), Axes(axes.x[columns], axes.y[rows], axes.z)
