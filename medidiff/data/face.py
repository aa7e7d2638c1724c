"""The lower front of a drawn head: a skull base, eyes, a nose, a jaw, cavities with air.

Coordinates as in `anatomy`. It gives a volume a face that can be recognised and taken off.
"""

from __future__ import annotations

import numpy as np

from medidiff.data.anatomy import SOFT
from medidiff.data.boxes import Box, Region
from medidiff.data.shapes import SATURATED, Array, Points, over, step
from medidiff.data.waves import waves

MUSCLE, FAT, BONE, GLOBE, LENS, AIR = 0.42, 0.90, 0.08, 0.16, 0.5, 0.01
BASE = -0.30  # the height of the skull base over the eyes


Part = tuple[Box, Array, float]
"""Where something is, its share there, and its brightness."""


def with_face(
    brightness: Array, points: Points, random: np.random.Generator
) -> tuple[Array, Array]:
    """A head's brightness with a face instead of brain below the skull base; and the share that
    stays brain."""
    head, base = Region(points), BASE - float(random.normal(0, 0.02))
    # nothing of a face is higher than the skull base over the eyes
    here = head.box((0, 0, base - 2), (np.inf, np.inf, 2 + SATURATED * SOFT))
    face, above = _faced(brightness[here], Region(head.cut(here)), base, random)
    found, stays = brightness.copy(), np.ones_like(brightness)
    found[here], stays[here] = np.where(above > 0.999, found[here], face), above
    return found, stays


def _faced(
    skin: Array, region: Region, base: float, random: np.random.Generator
) -> tuple[Array, Array]:
    _, y, z = region.points
    # high over the eyes, low at the back of the head
    height = z - base + 0.40 * step(0.12 - y, 0.10)
    above = step(height, SOFT)
    inside = step(skin - 0.04, 0.02)
    tissue = MUSCLE + 0.12 * waves(region.points, 14.0, 12, random)
    face = over(skin, inside * (1 - above), tissue)
    face = over(face, np.exp(-((height / 0.02) ** 2)) * inside, BONE)
    face = over(face, _shell(region.points) * (1 - above), FAT)
    for here, part, value in _front(region, random):
        face[here] = over(face[here], part * (1 - above[here]), value)
    below = (1 - above) * step(face - 0.04, 0.02)
    for here, part, value in _cavities(region, random):
        face[here] = over(face[here], part * below[here], value)
    return face, above


def _shell(points: Points) -> Array:
    """Skin and the fat under it, where the head ends."""
    x, y, z = points
    radius = (np.abs(x / 0.765) ** 2.3 + np.abs(y / 0.945) ** 2.3 + np.abs(z / 0.95) ** 2.3) ** (
        1 / 2.3
    )
    return np.exp(-(((radius - 0.97) / 0.03) ** 2))


Place = tuple[float, float, float]


def _at(region: Region, middle: Place, radii: Place, value: float) -> Part:
    return (*region.ellipsoid(middle, radii, 0.0, SOFT), value)


def _front(region: Region, random: np.random.Generator) -> list[Part]:
    """The jaw and its bone, the lips, the nose and its bridge, which stand out of the head."""
    long, wide = random.normal((0.15, 0.085), (0.025, 0.01)).tolist()
    chin = 0.56 + float(random.normal(0.0, 0.02))
    return [
        _at(region, (0, chin, -0.82), (0.36, 0.34, 0.16), MUSCLE + 0.15),
        _at(region, (0, chin, -0.82), (0.20, 0.20, 0.07), BONE + 0.1),
        _at(region, (0, 0.78, -0.66), (0.20, 0.12, 0.07), MUSCLE + 0.1),
        _at(region, (0, 0.86, -0.47), (wide, long + 0.07, 0.15), MUSCLE),
        _at(region, (0, 0.86, -0.33), (0.05, 0.12, 0.12), MUSCLE),
    ]


def _cavities(region: Region, random: np.random.Generator) -> list[Part]:
    """Air in the nose, throat, mouth and sinuses; a vertebra; the eyes in their fat."""
    x, y, z = region.points
    parts = [
        _at(Region((np.abs(x), y, z)), (0.045, 0.66, -0.50), (0.03, 0.22, 0.14), AIR),
        _at(region, (0, 0.18, -0.75), (0.10, 0.07, 0.30), AIR),
        _at(region, (0, 0.50, -0.68), (0.20, 0.22, 0.05), AIR),
        _at(region, (0, -0.20, -0.90), (0.13, 0.13, 0.30), BONE + 0.25),
    ]
    wide = float(random.normal(0.30, 0.012))
    for side in (-1, 1):
        parts += [
            _at(region, (side * 0.24, 0.56, -0.50), (0.12, 0.15, 0.11), AIR),
            _at(region, (side * wide, 0.70, -0.36), (0.17, 0.20, 0.14), FAT - 0.1),
            _at(region, (side * wide, 0.74, -0.36), (0.12, 0.12, 0.12), GLOBE),
            _at(region, (side * wide, 0.84, -0.36), (0.05, 0.03, 0.05), LENS),
        ]
    return parts
