"""What drawn anatomy is made of: soft borders, ellipsoids, one thing over another.

Points are given as coordinate arrays (x, y, z) that broadcast to one shape, in any unit of length.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
Points = tuple[Array, Array, Array]
SATURATED = 6.0  # border widths from a border beyond which a share is 0 or 1 to 1e-5


def apart(*along: Array) -> Array:
    """The length of vectors given axis by axis; NumPy's hypot is ten times slower."""
    first, *others = along
    total = first * first
    for each in others:
        total = total + each * each
    return np.sqrt(total)


def along_axis(matrix: Array, array: Array, axis: int) -> Array:
    """An array whose lines along one axis are multiplied by a matrix."""
    if axis == array.ndim - 1:
        return array @ matrix.T
    lines = array.reshape(*array.shape[: axis + 1], -1)
    return (matrix @ lines).reshape(*array.shape[:axis], -1, *array.shape[axis + 1 :])


def step(value: Array, width: float) -> Array:
    """0 below, 1 above zero, with a border about `width` wide."""
    share = np.asarray(value / width)
    np.tanh(share, out=share)
    share += 1
    share *= 0.5
    return share


def over(below: Array, share: Array, value: Array | float) -> Array:
    """What lies below, and over it a share of something of that value."""
    change = value - below
    change *= share
    change += below
    return change


def turned(first: Array, second: Array, angle: float) -> tuple[Array, Array]:
    """Two coordinates after a rotation by `angle` radians in their plane."""
    cosine, sine = math.cos(angle), math.sin(angle)
    return first * cosine - second * sine, first * sine + second * cosine


def blob(points: Points, radii: tuple[float, float, float], turn: float, width: float) -> Array:
    """A soft ellipsoid around the origin, turned by `turn` radians in the axial plane."""
    x, y, z = points
    x, y = turned(x, y, turn)
    distance = apart(x / radii[0], y / radii[1], z / radii[2])
    return step((1 - distance) * min(radii[0], radii[1]), width)
