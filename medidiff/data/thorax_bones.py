"""The bones of a drawn chest: ribs, sternum, shoulder blades, spine."""

from __future__ import annotations

import numpy as np

from medidiff.data.boxes import Axes
from medidiff.data.shapes import Array, Points, apart, over, step
from medidiff.data.thorax_build import (
    BORDER_MM,
    MARGIN_MM,
    SOFT_TISSUE,
    Build,
    around,
)

MARROW, CORTEX = 220.0, 900.0
RIB_PITCH_MM = 27.0
VERTEBRA_MM = 25.0


def bones(axes: Axes, cage: Array, hu: Array, build: Build) -> Array:
    """Ribs, sternum, shoulder blades and spine: a bright shell around marrow."""
    spine, points = around(axes, (0, 37 - build.deep), 42 + MARGIN_MM)
    hu[spine], shells = _spine(points, hu[spine], build)
    _add_ribs(axes, cage, hu)
    here, (x, y, z) = around(axes, (0, build.deep - 17), 20 + 3 * MARGIN_MM)
    sternum = (1 - apart(x / 20, (y - build.deep + 17) / 7)) * 7
    sternum = sternum - 0.15 * np.maximum(np.abs(z - 20) - 70, 0)
    hu[here] = over(hu[here], *_shell(sternum, 1.8))
    for side in (-1, 1):
        middle = (side * 0.66 * build.wide, -0.62 * build.deep)
        here, (x, y, z) = around(axes, middle, 38 + MARGIN_MM)
        blade_x, blade_y = side * x - 0.66 * build.wide, y + 0.62 * build.deep
        tilted = 0.8 * blade_x + 0.6 * blade_y
        along = -0.6 * blade_x + 0.8 * blade_y
        blade = np.minimum(
            np.minimum(3.6 - np.abs(along), 38 - np.abs(tilted)), 70 - np.abs(z - 60)
        )
        hu[here] = over(hu[here], *_shell(blade, 1.8))
    for shell in shells:
        hu[spine] = over(hu[spine], *shell)
    return hu


def _add_ribs(axes: Axes, cage: Array, hu: Array) -> None:
    """They lie in the cage's surface, and slope."""
    near = np.flatnonzero(np.abs(cage - 3.5) < 4.6 + MARGIN_MM)
    rows, columns = np.divmod(near, len(axes.x))
    slices, rows = np.divmod(rows, len(axes.y))
    x, y, z = axes.x[columns], axes.y[rows], axes.z[slices]
    phase = (z + 0.42 * y + 0.10 * np.abs(x)) / RIB_PITCH_MM
    off = (phase - np.round(phase)) * RIB_PITCH_MM
    depth = np.minimum(4.6 - np.abs(cage.ravel()[near] - 3.5), 6.5 - np.abs(off))
    flat = hu.reshape(-1)
    flat[near] = over(flat[near], *_shell(depth, 1.6))


def _spine(points: Points, hu: Array, build: Build) -> tuple[Array, list[tuple[Array, Array]]]:
    """CT numbers with the discs and the canal, and the bones still to be put over them."""
    x, y, z = points
    spine_y = y + build.deep - 57
    canal = 9 - apart(x, spine_y + 22)
    body = (1 - apart(x / 19, spine_y / 15)) * 15
    arch = np.minimum(15 - apart(x, spine_y + 22), -canal - 1)
    spinous = np.minimum(4 - np.abs(x), 16 - np.abs(spine_y + 44))
    wings = np.minimum(5 - np.abs(spine_y + 24), 32 - np.abs(x))
    disc = step(2.6 - np.abs((z / VERTEBRA_MM - np.round(z / VERTEBRA_MM)) * VERTEBRA_MM), 1.2)
    hu = over(hu, step(canal, BORDER_MM), SOFT_TISSUE - 10)
    hu = over(hu, step(body, BORDER_MM) * disc, SOFT_TISSUE + 45)
    parts = [_shell(body, 2.2, 1 - disc), _shell(arch, 2.0), _shell(spinous, 1.8)]
    parts.append(_shell(np.minimum(wings, -canal - 1), 1.8))
    return hu, parts


def _shell(depth: Array, thick: float, share: Array | float = 1.0) -> tuple[Array, Array]:
    """Where bone is, by depth below its surface, and its CT number: cortex, then marrow."""
    value = MARROW + (CORTEX - MARROW) * step(thick - depth, BORDER_MM)
    return step(depth, BORDER_MM) * share, value
