"""The anatomy of a drawn head, as brightness at points in the head's own coordinates.

Coordinates: x to the patient's left, y to anterior, z to superior, 1 = `HEAD_MM`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medidiff.data.shapes import (
    SATURATED,
    Array,
    Axes,
    Points,
    apart,
    blob,
    smooth_waves,
    step,
    turned,
    waves,
)

HEAD_MM = 100.0  # half the length of an average head from front to back
FIELD_OF_VIEW_MM = 220.0
SOFT = 0.008  # the width of a border


@dataclass(frozen=True)
class Tissues:
    """Brightness of each tissue, 1 = subcutaneous fat."""

    scalp: float
    bone: float
    fluid: float
    grey: float
    white: float


def grid(dims: int, size: int, level: float) -> Axes:
    """The centres of `size` voxels along each axis; `level` is the height of a slice."""
    edge = FIELD_OF_VIEW_MM / 2 / HEAD_MM
    # single precision: a drawing needs no more, and the cosines take a third of the time
    centres = ((np.arange(size) + 0.5) / size * 2 * edge - edge).astype(np.float32)
    height = np.array([level], dtype=np.float32) if dims == 2 else centres
    return Axes(centres, -centres, height)


def posed(points: Points, dims: int, random: np.random.Generator) -> Points:
    """Head coordinates of the voxels: small tilts and shifts, as in a scanner."""
    x, y, z = points
    yaw, roll, pitch = random.normal(0.0, (0.06, 0.05, 0.05)).tolist()
    shift = random.normal(0.0, 0.02, 3).tolist()
    x, y = turned(x - shift[0], y - shift[1], yaw)
    if dims == 3:
        y, z = turned(y, z, pitch)
        x, z = turned(x, z, roll)
    return x, y, z


def head(
    points: Points, age: float, sex: str, random: np.random.Generator
) -> tuple[Array, Array, Array]:
    """Brightness, the share of white matter, and the share of brain at each point."""
    tissues = _draw_tissues(random)
    scale = (1.03 if sex == "M" else 0.96) * float(random.normal(1.0, 0.015))
    old = min(max((age - 20) / 65, 0.0), 1.0)
    x, y, z = (axis / scale for axis in points)
    ahead = np.clip(y, 0, 1)
    x = x / (1 - 0.10 * ahead * ahead)  # a narrower forehead

    wobble = 0.012 * smooth_waves((x, y, z), 3.0, 10, random)
    wide, long = random.normal((0.765, 0.945), (0.02, 0.015)).tolist()
    radius = _radius((x, y, z), (wide, long, 0.95)) + wobble
    brain_at, scalp_at = random.normal((0.845, 0.935), 0.008).tolist()
    skull_at = brain_at + 0.02
    depth = brain_at - radius - 0.010 * old

    # what lies further out than a border is wide is 0 there, and need not be drawn
    beyond = SATURATED * SOFT
    within = np.flatnonzero(depth > -beyond)
    at = (x.ravel()[within], y.ravel()[within], z.ravel()[within])
    white, grey = _cortex((x, y, z), within, depth.ravel()[within], old, random)
    brain = step(depth.ravel()[within], SOFT)
    inner = tissues.white * white + tissues.grey * grey + tissues.fluid * (1 - white - grey)
    for places, part, share in _deep_grey(at, random):
        value = tissues.grey + share * (tissues.white - tissues.grey)
        inner[places] += part * white[places] * (value - inner[places])
    ventricle = _ventricles(at, old, random)
    inner = inner + ventricle * (tissues.fluid * 0.8 - inner)

    whole = np.flatnonzero(radius < 1 + beyond)
    brightness = np.zeros_like(radius)
    brightness.ravel()[whole] = _layers(radius.ravel()[whole], skull_at, scalp_at, tissues)
    around = brightness.ravel()[within]
    brightness.ravel()[within] = around + (inner - around) * brain
    brightness.ravel()[whole] *= step(1.0 - radius.ravel()[whole], SOFT)
    shares = np.zeros((2, *radius.shape), dtype=np.float32)
    shares[0].ravel()[within] = white * (1 - ventricle) * brain
    shares[1].ravel()[within] = brain * (1 - ventricle)
    return brightness, shares[0], shares[1]


def _layers(radius: Array, skull_at: float, scalp_at: float, tissues: Tissues) -> Array:
    """Fluid around the brain, skull with its marrow, scalp."""
    marrow = 0.22 * np.exp(-(((radius - (skull_at + scalp_at) / 2) / 0.014) ** 2))
    layers = tissues.fluid + (tissues.bone + marrow - tissues.fluid) * step(radius - skull_at, SOFT)
    fat = tissues.scalp * (1 - 0.25 * step(radius - scalp_at - 0.035, SOFT))
    return layers + (fat - layers) * step(radius - scalp_at, SOFT)


def _draw_tissues(random: np.random.Generator) -> Tissues:
    scalp, bone, fluid, grey, white = random.normal(
        (0.92, 0.08, 0.17, 0.44, 0.73), (0.05, 0.015, 0.02, 0.02, 0.025)
    ).tolist()
    return Tissues(scalp, bone, fluid, grey, white)


def _cortex(
    points: Points,
    within: NDArray[np.int64],
    depth: Array,
    old: float,
    random: np.random.Generator,
) -> tuple[Array, Array]:
    """Shares of white and grey matter at the points `within`, which lie at `depth`: a ribbon that
    dips into winding sulci, wider with age."""

    def field(at: Points, frequency: float, count: int) -> Array:
        return smooth_waves(at, frequency, count, random)

    bent = [axis + 0.05 * field(points, 5.0, 8) for axis in points]
    folds = field((bent[0], bent[1], bent[2]), 16.0, 28).ravel()[within]
    reach = 0.16 + 0.05 * field(points, 4.0, 8).ravel()[within]  # how deep the sulci go
    fading = step(reach - depth, 0.03)
    sulcus = np.exp(-((folds / (0.22 + 0.16 * old)) ** 2)) * fading
    x, y, z = (axis.ravel()[within] for axis in points)
    midline = x - 0.012 * field(points, 3.0, 6).ravel()[within]
    off_centre = step(apart(y + 0.02, np.maximum(z, 0)) - 0.42, 0.03)
    sulcus = np.maximum(sulcus, off_centre * np.exp(-((midline / (0.012 + 0.01 * old)) ** 2)))
    ribbon = step(0.055 - depth, 0.010)
    lined = np.exp(-((folds / 0.75) ** 2)) * step(reach + 0.04 - depth, 0.03)
    lined = np.maximum(lined, off_centre * np.exp(-((midline / 0.05) ** 2)))
    grey = np.maximum(ribbon, np.minimum(1.25 * lined, 1))
    fluid = np.minimum(1.1 * sulcus, 1)
    return (1 - grey) * (1 - fluid), grey * (1 - fluid)


Part = tuple[NDArray[np.int64], Array]
"""Where something is, as places in a flat list of points, and the share of it there."""


def _part(offset: Points, radii: tuple[float, float, float], turn: float) -> Part:
    """A soft ellipsoid around the origin, where there is any of it."""
    x, y, _ = offset
    grown = [radius * (1 + SATURATED * SOFT / min(radii[0], radii[1])) for radius in radii]
    cosine, sine = math.cos(turn), math.sin(turn)
    wide = math.hypot(grown[0] * cosine, grown[1] * sine)
    high = math.hypot(grown[0] * sine, grown[1] * cosine)
    places = np.flatnonzero((np.abs(x) < wide) & (np.abs(y) < high))
    near = tuple(axis[places] for axis in offset)
    return places, blob((near[0], near[1], near[2]), radii, turn, SOFT)


def _ventricles(points: Points, old: float, random: np.random.Generator) -> Array:
    """The lateral ventricles' horns and the third ventricle; about twice as wide at 85 as at 20."""
    width = (0.75 + 0.75 * old) * float(random.normal(1.0, 0.08))
    x, y, z = points
    z = z - 0.06
    parts = [_part((x, y + 0.05, z + 0.10), (0.016 * width, 0.10, 0.14), 0.0)]
    for side in (-1, 1):
        across = side * x
        uneven = width * float(random.normal(1.0, 0.06))
        front = (across - 0.055 - 0.035 * uneven, y - 0.24, z)
        parts.append(_part(front, (0.050 * uneven, 0.155 + 0.02 * old, 0.20), -0.42))
        middle = (across - 0.045 - 0.03 * uneven, y - 0.02, z - 0.10)
        parts.append(_part(middle, (0.045 * uneven, 0.24, 0.12), 0.0))
        back = (across - 0.135 - 0.04 * uneven, y + 0.30, z)
        parts.append(_part(back, (0.052 * uneven, 0.17 + 0.02 * old, 0.20), 0.40))
    found = np.zeros_like(x)
    for places, share in parts:
        found[places] = np.maximum(found[places], share)
    return found


def _deep_grey(
    points: Points, random: np.random.Generator
) -> list[tuple[NDArray[np.int64], Array, float]]:
    """Caudate, putamen, thalamus of both sides: where, how much of it, and its brightness between
    grey and white."""
    x, y, z = points
    parts: list[tuple[NDArray[np.int64], Array, float]] = []
    jitter = random.normal(0.0, 0.012, (3, 2)).tolist()
    shares = random.normal((0.10, 0.25, 0.45), 0.05).tolist()
    nuclei = (
        ((0.165, 0.20), (0.050, 0.115, 0.16), -0.35),
        ((0.300, 0.08), (0.065, 0.175, 0.17), -0.12),
        ((0.120, -0.12), (0.090, 0.130, 0.16), 0.35),
    )
    for ((cx, cy), radii, turn), shift, share in zip(nuclei, jitter, shares, strict=True):
        for side in (-1, 1):
            offset = (side * x - cx - shift[0], y - cy - shift[1], z)
            parts.append((*_part(offset, radii, turn), share))
    return parts


def with_lesions(
    brightness: Array,
    white: Array,
    brain: Array,
    points: Points,
    dims: int,
    random: np.random.Generator,
) -> tuple[Array, Array]:
    """One to three ragged, textured lesions, darker or brighter than what they replace."""
    lesion = np.zeros_like(brightness)
    for _ in range(random.integers(1, 4)):
        centre = _somewhere(brain * (brightness > 0.3), points, random)
        radius = random.uniform(0.08, 0.18) * (1.15 if dims == 3 else 1.0)
        squeeze = random.uniform(0.75, 1.25, 3).tolist()
        away = tuple((p - c) / s for p, c, s in zip(points, centre, squeeze, strict=True))
        distance = np.sqrt(away[0] ** 2 + away[1] ** 2 + away[2] ** 2)
        ragged = distance + 0.16 * radius * waves(points, 1.8 / radius, 10, random)
        share = step(radius - ragged, 0.014) * brain
        texture = 0.04 * waves(points, 16.0, 12, random)
        if (
            random.uniform() < 0.5
        ):  # like a necrotic or oedematous lesion on T1: dark, some with a rim
            inner = random.uniform(0.24, 0.40) + texture
            rim = random.uniform(0.0, 0.5) * np.exp(-(((radius - ragged) / (0.16 * radius)) ** 2))
        else:  # like blood or enhancement: brighter than white matter
            inner = random.uniform(0.86, 1.02) + texture
            rim = np.zeros_like(texture)
        brightness = brightness + share * (inner + rim - brightness)
        lesion = np.maximum(lesion, share)
    return brightness, lesion


def _somewhere(
    weight: Array, points: Points, random: np.random.Generator
) -> tuple[float, float, float]:
    cumulated = np.cumsum(weight.ravel() > 0.9)
    place = int(np.searchsorted(cumulated, random.uniform() * cumulated[-1], side="right"))
    x, y, z = (float(axis.ravel()[min(place, weight.size - 1)]) for axis in points)
    return x, y, z


def _radius(points: Points, radii: tuple[float, float, float]) -> Array:
    """Distance from the centre in units of the ellipsoid, slightly boxy as heads are."""
    power = 2.3
    total = sum(np.abs(axis / radius) ** power for axis, radius in zip(points, radii, strict=True))
    return np.asarray(total) ** (1 / power)
