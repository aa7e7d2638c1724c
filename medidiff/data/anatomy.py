"""The anatomy of a drawn head, as brightness at points in the head's own coordinates.

Coordinates: x to the patient's left, y to anterior, z to superior, 1 = `HEAD_MM`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from medidiff.data.boxes import Axes, Box, Region, box_around
from medidiff.data.shapes import SATURATED, Array, Points, apart, step, turned
from medidiff.data.waves import draw_waves, smooth_waves, waves

HEAD_MM = 100.0  # half the length of an average head from front to back
FIELD_OF_VIEW_MM = 220.0
SOFT = 0.008  # the width of a border
CORTICAL_WAVES = ((5.0, 8), (5.0, 8), (5.0, 8), (16.0, 28), (4.0, 8), (3.0, 6))
BLURRED = 0.014  # that of a lesion
RAGGED_WAVES = 10
MOST_RAGGED = math.sqrt(2 * RAGGED_WAVES)  # so much a sum of waves of unit variance can be


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
    ahead *= ahead
    ahead *= -0.10
    ahead += 1
    x = x / ahead  # a narrower forehead

    wobble = 0.012 * smooth_waves((x, y, z), [draw_waves(3.0, 10, random)])[0]
    wide, long = random.normal((0.765, 0.945), (0.02, 0.015)).tolist()
    radius = _radius((x, y, z), (wide, long, 0.95)) + wobble
    brain_at, scalp_at = random.normal((0.845, 0.935), 0.008).tolist()
    skull_at = brain_at + 0.02
    brain_at -= 0.010 * old  # it shrinks

    # what lies further out than a border is wide is 0 there, and need not be drawn
    beyond = SATURATED * SOFT
    here = box_around(radius < brain_at + beyond)
    region = Region(Region((x, y, z)).cut(here))
    depth = brain_at - radius[here]
    white, grey = _cortex(region, depth, old, random)
    brain = step(depth, SOFT)
    fluid = 1 - white - grey
    fluid *= tissues.fluid
    inner = tissues.white * white + tissues.grey * grey
    inner += fluid
    for place, part, share in _deep_grey(region, random):
        value = tissues.grey + share * (tissues.white - tissues.grey)
        inner[place] += part * white[place] * (value - inner[place])
    ventricle = _ventricles(region, depth.shape, old, random)
    inner += ventricle * (tissues.fluid * 0.8 - inner)

    brightness, white_share, brain_share = (np.zeros(radius.shape, np.float32) for _ in range(3))
    ring = np.flatnonzero((radius > brain_at - beyond) & (radius < 1 + beyond))
    brightness.ravel()[ring] = _layers(radius.ravel()[ring], skull_at, scalp_at, tissues)
    brightness[here] += (inner - brightness[here]) * brain
    brain *= 1 - ventricle
    brain_share[here] = brain
    white_share[here] = white * brain
    return brightness, white_share, brain_share


def _layers(radius: Array, skull_at: float, scalp_at: float, tissues: Tissues) -> Array:
    """Fluid around the brain, skull with its marrow, scalp, air."""
    marrow = 0.22 * np.exp(-(((radius - (skull_at + scalp_at) / 2) / 0.014) ** 2))
    layers = tissues.fluid + (tissues.bone + marrow - tissues.fluid) * step(radius - skull_at, SOFT)
    fat = tissues.scalp * (1 - 0.25 * step(radius - scalp_at - 0.035, SOFT))
    layers += (fat - layers) * step(radius - scalp_at, SOFT)
    layers *= step(1.0 - radius, SOFT)
    return layers


def _draw_tissues(random: np.random.Generator) -> Tissues:
    scalp, bone, fluid, grey, white = random.normal(
        (0.92, 0.08, 0.17, 0.44, 0.73), (0.05, 0.015, 0.02, 0.02, 0.025)
    ).tolist()
    return Tissues(scalp, bone, fluid, grey, white)


def _cortex(
    region: Region, depth: Array, old: float, random: np.random.Generator
) -> tuple[Array, Array]:
    """Shares of white and grey matter at points that lie at `depth`: a ribbon that dips into
    winding sulci, wider with age."""
    *bends, winding, deep, aside = (draw_waves(*each, random) for each in CORTICAL_WAVES)
    *bent, depths, sides = smooth_waves(region.points, [*bends, deep, aside])
    x, y, z = (along + 0.05 * bend for along, bend in zip(region.points, bent, strict=True))
    folds = smooth_waves((x, y, z), [winding])[0]
    reach = 0.16 + 0.05 * depths  # how deep the sulci go
    sulcus = _bell(folds, 0.22 + 0.16 * old) * step(reach - depth, 0.03)
    lined = _bell(folds, 0.75) * step(reach + 0.04 - depth, 0.03)
    here = region.box((0.0, 0.0, 0.0), (0.25, np.inf, np.inf))  # the cleft between the halves
    x, y, z = region.cut(here)
    midline = x - 0.012 * sides[here]
    off_centre = step(apart(y + 0.02, np.maximum(z, 0)) - 0.42, 0.03)
    for part, width in ((sulcus, 0.012 + 0.01 * old), (lined, 0.05)):
        part[here] = np.maximum(part[here], off_centre * _bell(midline, width))
    grey = np.maximum(step(0.055 - depth, 0.010), np.minimum(1.25 * lined, 1))
    solid = 1 - np.minimum(1.1 * sulcus, 1)
    white = (1 - grey) * solid
    grey *= solid
    return white, grey


def _bell(value: Array, width: float) -> Array:
    """1 at 0, 1 / e at `width`."""
    share = value * (1 / width)
    share *= share
    np.negative(share, out=share)
    return np.exp(share, out=share)


def _ventricles(
    region: Region, shape: tuple[int, ...], old: float, random: np.random.Generator
) -> Array:
    """The lateral ventricles' horns and the third ventricle; about twice as wide at 85 as at 20."""
    width = (0.75 + 0.75 * old) * float(random.normal(1.0, 0.08))
    third = ((0.0, -0.05, -0.04), (0.016 * width, 0.10, 0.14), 0.0)
    parts = [region.ellipsoid(*third, SOFT)]
    for side in (-1, 1):
        uneven = width * float(random.normal(1.0, 0.06))
        horns = (
            ((0.055 + 0.035 * uneven, 0.24, 0.06), (0.050, 0.155 + 0.02 * old, 0.20), -0.42),
            ((0.045 + 0.03 * uneven, 0.02, 0.16), (0.045, 0.24, 0.12), 0.0),
            ((0.135 + 0.04 * uneven, -0.30, 0.06), (0.052, 0.17 + 0.02 * old, 0.20), 0.40),
        )
        for (across, ahead, up), (wide, long, high), turn in horns:
            middle, radii = (side * across, ahead, up), (wide * uneven, long, high)
            parts.append(region.ellipsoid(middle, radii, side * turn, SOFT))
    found = np.zeros(shape, dtype=np.float32)
    for here, share in parts:
        found[here] = np.maximum(found[here], share)
    return found


def _deep_grey(region: Region, random: np.random.Generator) -> list[tuple[Box, Array, float]]:
    """Caudate, putamen, thalamus of both sides: where, how much of it, and its brightness between
    grey and white."""
    parts: list[tuple[Box, Array, float]] = []
    jitter = random.normal(0.0, 0.012, (3, 2)).tolist()
    shares = random.normal((0.10, 0.25, 0.45), 0.05).tolist()
    nuclei = (
        ((0.165, 0.20), (0.050, 0.115, 0.16), -0.35),
        ((0.300, 0.08), (0.065, 0.175, 0.17), -0.12),
        ((0.120, -0.12), (0.090, 0.130, 0.16), 0.35),
    )
    for ((cx, cy), radii, turn), shift, share in zip(nuclei, jitter, shares, strict=True):
        for side in (-1, 1):
            middle = (side * (cx + shift[0]), cy + shift[1], 0.0)
            parts.append((*region.ellipsoid(middle, radii, side * turn, SOFT), share))
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
    brightness = brightness.copy()
    for _ in range(random.integers(1, 4)):
        centre = _somewhere(brain * (brightness > 0.3), points, random)
        radius = random.uniform(0.08, 0.18) * (1.15 if dims == 3 else 1.0)
        squeeze = random.uniform(0.75, 1.25, 3).tolist()
        reach = radius * (1 + 0.16 * MOST_RAGGED) + SATURATED * BLURRED
        region = Region(points)
        here = region.box(centre, [each * reach for each in squeeze])
        near = region.cut(here)
        away = tuple((p - c) / s for p, c, s in zip(near, centre, squeeze, strict=True))
        ragged = apart(*away) + 0.16 * radius * waves(near, 1.8 / radius, RAGGED_WAVES, random)
        share = step(radius - ragged, BLURRED) * brain[here]
        texture = 0.04 * waves(near, 16.0, 12, random)
        if (
            random.uniform() < 0.5
        ):  # like a necrotic or oedematous lesion on T1: dark, some with a rim
            inner = random.uniform(0.24, 0.40) + texture
            inner += random.uniform(0.0, 0.5) * _bell(radius - ragged, 0.16 * radius)
        else:  # like blood or enhancement: brighter than white matter
            inner = random.uniform(0.86, 1.02) + texture
        brightness[here] += share * (inner - brightness[here])
        lesion[here] = np.maximum(lesion[here], share)
    return brightness, lesion


def _somewhere(
    weight: Array, points: Points, random: np.random.Generator
) -> tuple[float, float, float]:
    cumulated = np.cumsum(weight.ravel() > 0.9)
    place = int(np.searchsorted(cumulated, random.uniform() * cumulated[-1], side="right"))
    at = np.unravel_index(min(place, weight.size - 1), weight.shape)
    x, y, z = (float(each[at]) for each in np.broadcast_arrays(*points))
    return x, y, z


def _radius(points: Points, radii: tuple[float, float, float]) -> Array:
    """Distance from the centre in units of the ellipsoid, slightly boxy as heads are."""
    power = 2.3
    total = np.zeros((), dtype=np.float32)
    for along, radius in zip(points, radii, strict=True):
        share = along / radius
        np.abs(share, out=share)
        share **= power
        total = total + share
    total **= 1 / power
    return total
