"""The anatomy of a drawn chest, as CT numbers at points in the patient's own coordinates.

Coordinates in mm: x to the patient's left, y to anterior, z to superior, 0 in the middle of the
chest. CT numbers in Hounsfield units: lung about -850, fat -100, soft tissue 40, bone 200 to 1000.
"""

from __future__ import annotations

import math

import numpy as np

from medidiff.data.boxes import Axes, box, box_around, boxed
from medidiff.data.shapes import SATURATED, Array, apart, blob, over, step
from medidiff.data.thorax_bones import bones
from medidiff.data.thorax_build import (
    AIR,
    BORDER_MM,
    FAT,
    MARGIN_MM,
    SOFT_TISSUE,
    Build,
    around,
)
from medidiff.data.vessels import Tubes, Vectors, drawn, grow, joined, reach
from medidiff.data.waves import waves_on

FIELD_OF_VIEW_MM = (400.0, 400.0, 320.0)  # along x, y, z
UNEVEN_MM, UNEVEN_WAVES = 3.0, 6  # of the skin
BREAST_MM, BREAST_AT_MM = (56.0, 34.0, 60.0), 6.0  # its radii, and how far in front of the chest


def grid(dims: int, size: int, level_mm: float) -> Axes:
    """The centres of `size` voxels along each axis; `level_mm` is the height of a slice."""
    x, y, z = (
        (((np.arange(size) + 0.5) / size - 0.5) * length).astype(np.float32)
        for length in FIELD_OF_VIEW_MM
    )
    return Axes(x, -y, np.array([level_mm], dtype=np.float32) if dims == 2 else z)


def thorax(axes: Axes, build: Build, random: np.random.Generator) -> tuple[Array, Array]:
    """CT numbers, and the share of lung, at each voxel."""
    shift = random.normal(0.0, 4.0, 2).tolist()
    moved = Axes(axes.x - np.float32(shift[0]), axes.y - np.float32(shift[1]), axes.z)
    hu = np.full(axes.shape, AIR, dtype=np.float32)
    lung = np.zeros_like(hu)
    here, body = box(moved, *_ends(build))
    hu[here], lung[here] = _body(body, build, random)
    return hu, lung


def _ends(build: Build) -> tuple[tuple[float, float], tuple[float, float]]:
    """Between which x and y a body lies."""
    thin = min(build.wide, build.deep) + build.fat
    spread = 1 + (MARGIN_MM + UNEVEN_MM * math.sqrt(2 * UNEVEN_WAVES)) / thin
    wide, deep = (build.wide + build.fat) * spread, (build.deep + build.fat) * spread
    front = build.deep + BREAST_AT_MM + BREAST_MM[1] + MARGIN_MM if build.female else deep
    return (-wide, wide), (-deep, max(deep, front))


def _body(axes: Axes, build: Build, random: np.random.Generator) -> tuple[Array, Array]:
    hu, cage = _wall(axes, build, random)
    lung, hu = _lungs(axes, cage, hu, build, random)
    hu, heart = _mediastinum(axes, lung, hu, build, random)
    lung = lung * (1 - heart)
    hu = bones(axes, cage, hu, build)
    airways, vessels = _trees(build, random)
    here, near = boxed(axes, box_around(lung > 0))
    tissue = drawn(vessels, near, 2 * BORDER_MM) * lung[here]
    hu[here] = over(hu[here], tissue, build.blood_hu)
    walls = Tubes(airways.start, airways.end, 1.25 * airways.radius)
    here, near = box(axes, *reach(walls, BORDER_MM))
    wall, lumen = (drawn(tubes, near, 2 * BORDER_MM) for tubes in (walls, airways))
    hu[here] = over(over(hu[here], wall, SOFT_TISSUE), lumen, AIR)
    lung[here] *= 1 - wall
    return hu, lung


def _ellipse(x: Array, y: Array, wide: float, deep: float) -> Array:
    """Depth in mm below the surface of a boxy ellipse, positive inside."""
    power = 2.4
    radius = (np.abs(x / wide) ** power + np.abs(y / deep) ** power) ** (1 / power)
    return (1 - radius) * min(wide, deep)


def _wall(axes: Axes, build: Build, random: np.random.Generator) -> tuple[Array, Array]:
    """Skin, fat and muscle; and the depth below the rib cage's outer surface."""
    x, y, _ = axes.points
    uneven = UNEVEN_MM * waves_on(axes, 0.02, UNEVEN_WAVES, random)
    depth = _ellipse(x, y, build.wide + build.fat, build.deep + build.fat) + uneven
    if build.female:
        for side in (-1, 1):
            middle = (side * 0.42 * build.wide, build.deep + BREAST_AT_MM)
            here, near = around(axes, middle, BREAST_MM[0] * (1 + MARGIN_MM / BREAST_MM[1]))
            breast = (side * near[0] - 0.42 * build.wide, near[1] - middle[1], near[2] - 10)
            bulge = blob(breast, BREAST_MM, side * 0.1, BORDER_MM)
            depth[here] = np.maximum(depth[here], (2 * bulge - 1) * 4)
        depth = np.maximum(depth, -4)
    cage = _ellipse(x, y, build.wide - 26, build.deep - 20) + 0.3 * uneven
    hu = AIR + (SOFT_TISSUE - 10 - AIR) * step(depth, BORDER_MM)  # skin
    hu = over(hu, step(depth - 2.5, BORDER_MM), FAT)
    streaks = step(waves_on(axes, 0.16, 12, random) - 1.2, 0.2)
    # muscle lies between the ribs and the fat, thicker at the back
    beside = cage + np.where(y < 0, np.float32(22), np.float32(16))
    muscle = step(np.minimum(depth - build.fat, beside), BORDER_MM)
    hu = over(hu, muscle * (1 - 0.6 * streaks), SOFT_TISSUE + 12)
    return hu, cage


def _lungs(
    axes: Axes, cage: Array, hu: Array, build: Build, random: np.random.Generator
) -> tuple[Array, Array]:
    """Two lungs between the cage, the mediastinum and the diaphragm; liver and stomach below."""
    here, near = boxed(axes, box_around(cage > 9 - MARGIN_MM))
    x, y, z = near.points
    inward = cage[here] - 9
    apex = 132 + float(random.normal(0, 6))
    taper = 34.0 * np.clip((z - 20) / (apex - 20), 0, None) ** 2.2
    middle = 24 + 10 * np.exp(-(((y + 55) / 32) ** 2)) + 6 * np.exp(-(((y - 60) / 30) ** 2))
    across = 4.0 * waves_on(near, 0.03, 6, random)
    across += np.abs(x) - middle
    right, left = (-96 + float(random.normal(0, 7)), -106 + float(random.normal(0, 7)))
    dome = (
        np.where(x < 0, np.float32(right), np.float32(left))
        + 46 * np.exp(-(((np.abs(x) - 68) / 58) ** 2)) * np.exp(-(((y - 8) / 62) ** 2))
        - 30 * step(-y - 40, 20.0)
    )
    lung = step(np.minimum(np.minimum(inward - taper, across), z - dome), BORDER_MM)
    caged = step(inward, BORDER_MM)
    organs = np.where(
        x < 25, np.float32(58), 20.0 + 30 * step(waves_on(near, 0.05, 6, random), 0.1)
    )
    part = over(hu[here], caged, SOFT_TISSUE - 30)
    part = over(part, caged * step(dome - 3 - z, BORDER_MM), organs)
    parenchyma = 16 * waves_on(near, 0.14, 14, random)
    parenchyma += build.lung_hu - 22 * (y / build.deep)  # blood sinks to the back
    hu[here] = over(part, lung, parenchyma)
    whole = np.zeros_like(hu)
    whole[here] = lung
    return whole, hu


def _mediastinum(
    axes: Axes, lung: Array, hu: Array, build: Build, random: np.random.Generator
) -> tuple[Array, Array]:
    """Heart, aorta and fat between the lungs; and the share that the heart takes."""
    size = build.heart
    heart = 66 * size + 1.4 * MARGIN_MM
    wide, deep = 46 + SATURATED * 3.0, build.deep - 30 + SATURATED * 3.0
    here, near = box(
        axes,
        (min(-wide, 26 * size - heart), max(wide, 26 * size + heart)),
        (-max(deep, 2 * (24 + 12 * size + MARGIN_MM)), max(deep, 14 + heart)),
    )
    x, y, z = near.points
    middle = step(46 - np.abs(x), 3.0) * step(build.deep - 30 - np.abs(y), 3.0) * (1 - lung[here])
    lobules = step(waves_on(near, 0.09, 14, random) + 0.2, 0.25)
    part = over(hu[here], 0.8 * middle * lobules * step(z + 95, 6.0), FAT)
    lean = 0.6 + float(random.normal(0, 0.06))
    place = (x - 26 * size, y - 14, z + 48)
    sac = blob(place, (66 * size, 50 * size, 58 * size), lean, BORDER_MM)
    chambers = blob(place, (54 * size, 39 * size, 46 * size), lean, BORDER_MM)
    septum = np.exp(-(((x - 26 * size - 0.5 * (y - 14)) / 5.0) ** 2))
    part = over(part, sac, FAT)
    muscle = blob(place, (62 * size, 46 * size, 54 * size), lean, BORDER_MM)
    part = over(part, muscle, SOFT_TISSUE + 10)
    part = over(part, chambers * (1 - septum), build.blood_hu)
    back, front = (13 * size, 16 * size)
    below = step(62 - z, 3.0)
    descending = step(back - apart(x - 28, y + 0.28 * build.deep), BORDER_MM) * below
    ascending = step(front - apart(x + 6, y - 22), BORDER_MM) * below * step(z + 20, 3.0)
    arch = step(12 * size - apart(z - 62, apart(x - 9, 0.5 * y) - 24), BORDER_MM)
    arch = arch * step(16 - np.abs(x - 9 - 0.25 * (22 - y)), 3.0)
    for vessel in (descending, ascending, arch):
        part = over(part, vessel, build.blood_hu)
    hu[here] = part
    whole = np.zeros_like(hu)
    whole[here] = sac
    return hu, whole


def _trees(build: Build, random: np.random.Generator) -> tuple[Tubes, Tubes]:
    """The airways down to the lobes, and the vessels of both lungs."""
    carina = np.array([0.0, -12.0, 28.0]) + random.normal(0, 3, 3)
    radius = float(random.normal(8.5, 0.7))
    hila = [carina + np.array([side * 44, -2, -22]) for side in (-1, 1)]
    airways = [_tube(np.array([carina[0], -6.0, 170.0]), carina, radius)]
    airways += [_tube(carina, hilum, 0.75 * radius) for hilum in hila]
    roots, ways = _lobes(hila, random, turn=0.35, jitter=0.0)
    airways.append(grow(roots, ways, random, length=22, radius=0.42 * radius, generations=3))
    pairs = [_lobes(hila, random, turn=0.6, jitter=5.0) for _ in range(2)]
    roots, ways = (np.concatenate(each) for each in zip(*pairs, strict=True))
    vessels = grow(
        *(roots, ways, random), length=27, radius=4.6, generations=8, spread=0.5, shortening=0.85
    )
    return joined(airways), vessels


def _lobes(
    hila: list[Vectors], random: np.random.Generator, *, turn: float, jitter: float
) -> tuple[Vectors, Vectors]:
    """Where the trees of three lobes a side begin, and where they head."""
    roots, ways = [], []
    for side, hilum in zip((-1.0, 1.0), hila, strict=True):
        for slope in (0.9, -0.1, -1.0):
            roots.append(hilum + random.normal(0, jitter, 3))
            ways.append([side, random.normal(0, turn), slope + random.normal(0, 0.3 * turn)])
    return np.array(roots), np.array(ways)


def _tube(start: Vectors, end: Vectors, radius: float) -> Tubes:
    return Tubes(start[None], end[None], np.array([radius]))
