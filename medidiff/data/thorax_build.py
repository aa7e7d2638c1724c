"""What the parts of a drawn chest share: CT numbers, borders, a patient's proportions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medidiff.data.boxes import Axes, Box, box
from medidiff.data.shapes import SATURATED, Points

AIR, LUNG, FAT, SOFT_TISSUE, BLOOD = -1000.0, -850.0, -100.0, 40.0, 45.0
BORDER_MM = 0.9
MARGIN_MM = SATURATED * BORDER_MM  # further from a border there is all of a thing or nothing


@dataclass(frozen=True)
class Build:
    """What varies between patients, in mm."""

    wide: float
    deep: float
    fat: float
    heart: float
    lung_hu: float
    blood_hu: float
    female: bool


def draw_build(age: float, sex: str, random: np.random.Generator) -> Build:
    """A patient's proportions: men are larger, the old have larger hearts and darker lungs; one in
    three was given contrast agent."""
    scale = (1.05 if sex == "M" else 0.95) * float(random.normal(1.0, 0.03))
    old = min(max((age - 20) / 65, 0.0), 1.0)
    enhanced = bool(random.uniform() < 1 / 3)
    return Build(
        wide=168 * scale * float(random.normal(1.0, 0.03)),
        deep=112 * scale * float(random.normal(1.0, 0.04)),
        fat=float(random.uniform(6, 24)),
        heart=scale * (1 + 0.10 * old) * float(random.normal(1.0, 0.05)),
        lung_hu=LUNG - 40 * old + float(random.normal(0, 15)),
        blood_hu=float(random.uniform(130, 260)) if enhanced else BLOOD,
        female=sex == "F",
    )


def around(axes: Axes, middle: tuple[float, float], reach: float) -> tuple[Box, Points]:
    """The voxels no further than that from a place along x or y."""
    x, y = middle
    here, near = box(axes, (x - reach, x + reach), (y - reach, y + reach))
    return here, near.points
