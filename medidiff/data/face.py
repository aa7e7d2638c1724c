"""The lower front of a drawn head: a skull base, eyes, a nose, a jaw, cavities with air.

Coordinates as in `anatomy`. It gives a volume a face that can be recognised and taken off.
"""

from __future__ import annotations

import numpy as np

from medidiff.data.anatomy import SOFT
from medidiff.data.shapes import Array, Points, blob, step
from medidiff.data.waves import waves

MUSCLE, FAT, BONE, GLOBE, LENS, AIR = 0.42, 0.90, 0.08, 0.16, 0.5, 0.01


def with_face(
    brightness: Array, points: Points, random: np.random.Generator
) -> tuple[Array, Array]:
    """A head's brightness with a face instead of brain below the skull base; and the share that
    stays brain."""
    y, z = points[1], points[2] + float(random.normal(0, 0.02))
    # high over the eyes, low at the back of the head
    base = z + 0.30 + 0.40 * step(0.12 - y, 0.10)
    above = step(base, SOFT)
    skin = brightness.copy()
    inside = step(brightness - 0.04, 0.02)
    tissue = MUSCLE + 0.12 * waves(points, 14.0, 12, random)
    face = _over(brightness, inside * (1 - above), tissue)
    face = _over(face, np.exp(-((base / 0.02) ** 2)) * inside, BONE)
    face = _over(face, _shell(points) * (1 - above), FAT)
    for part, value in _front(points, random):
        face = _over(face, part * (1 - above), value)
    below = (1 - above) * step(face - 0.04, 0.02)
    for part, value in _cavities(points, random):
        face = _over(face, part * below, value)
    return np.where(above > 0.999, skin, face), above


def _over(below: Array, share: Array, value: Array | float) -> Array:
    return below + share * (value - below)


def _shell(points: Points) -> Array:
    """Skin and the fat under it, where the head ends."""
    x, y, z = points
    radius = (np.abs(x / 0.765) ** 2.3 + np.abs(y / 0.945) ** 2.3 + np.abs(z / 0.95) ** 2.3) ** (
        1 / 2.3
    )
    return np.exp(-(((radius - 0.97) / 0.03) ** 2))


def _front(points: Points, random: np.random.Generator) -> list[tuple[Array, float]]:
    """The nose, the lips and the chin, which stand out of the head."""
    x, y, z = points
    long, wide = random.normal((0.15, 0.085), (0.025, 0.01)).tolist()
    chin = float(random.normal(0.0, 0.02))
    nose = blob((x, y - 0.86, z + 0.47), (wide, long + 0.07, 0.15), 0.0, SOFT)
    bridge = blob((x, y - 0.86, z + 0.33), (0.05, 0.12, 0.12), 0.0, SOFT)
    jaw = blob((x, y - 0.56 - chin, z + 0.82), (0.36, 0.34, 0.16), 0.0, SOFT)
    bone = blob((x, y - 0.56 - chin, z + 0.82), (0.20, 0.20, 0.07), 0.0, SOFT)
    lips = blob((x, y - 0.78, z + 0.66), (0.20, 0.12, 0.07), 0.0, SOFT)
    return [
        (jaw, MUSCLE + 0.15),
        (bone, BONE + 0.1),
        (lips, MUSCLE + 0.1),
        (nose, MUSCLE),
        (bridge, MUSCLE),
    ]


def _cavities(points: Points, random: np.random.Generator) -> list[tuple[Array, float]]:
    """Air in the nose, the sinuses, the mouth and the throat; the globes of the eyes."""
    x, y, z = points
    parts: list[tuple[Array, float]] = [
        (blob((np.abs(x) - 0.045, y - 0.66, z + 0.50), (0.03, 0.22, 0.14), 0.0, SOFT), AIR),
        (blob((x, y - 0.18, z + 0.75), (0.10, 0.07, 0.30), 0.0, SOFT), AIR),
        (blob((x, y - 0.50, z + 0.68), (0.20, 0.22, 0.05), 0.0, SOFT), AIR),
        (blob((x, y + 0.20, z + 0.90), (0.13, 0.13, 0.30), 0.0, SOFT), BONE + 0.25),
    ]
    wide = float(random.normal(0.30, 0.012))
    for side in (-1, 1):
        sinus = (side * x - 0.24, y - 0.56, z + 0.50)
        parts.append((blob(sinus, (0.12, 0.15, 0.11), 0.0, SOFT), AIR))
        eye = (side * x - wide, y - 0.70, z + 0.36)
        parts.append((blob(eye, (0.17, 0.20, 0.14), 0.0, SOFT), FAT - 0.1))
        parts.append((blob((eye[0], eye[1] - 0.04, eye[2]), (0.12, 0.12, 0.12), 0.0, SOFT), GLOBE))
        parts.append((blob((eye[0], eye[1] - 0.14, eye[2]), (0.05, 0.03, 0.05), 0.0, SOFT), LENS))
    return parts
