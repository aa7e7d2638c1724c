"""Whether an input is of the kind a model was trained on; heads refuse what is not."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from medidiff.data.datasets import Case
from medidiff.data.images import Original
from medidiff.data.intensity import FittedIntensity
from medidiff.data.options import AS_STORED, Space
from medidiff.data.transforms import plane

View = tuple[tuple[float, float], ...]
"""(smallest, largest) along each axis of a grid, in voxels or mm as `field_of_view`."""

SPACING_TOLERANCE = 0.10
FIELD_OF_VIEW_TOLERANCE = 0.20
RANGE_FACTOR = 3.0
OUTSIDE_SHARE = 0.01
BY_TILES = "what is larger is taken whole by tiles: medidiff run --tile 96, tile=96"


def fits(
    case: Case,
    space: Space,
    intensity: FittedIntensity,
    modality: str | None,
    *,
    view: View | None = None,
) -> list[str]:
    """What speaks against running a model on this case; empty if nothing does.

    Looked at: the modality where both are known, the voxel size before resampling (10 %) and the
    field of view (20 %) along each axis of the model's grid, whether the body's orientation is
    known where the model needs it, and with scope "train" whether more than 1 % of the voxels lie
    beyond three times the normalised range [-1, 1].
    `view`: the fields of view that the model was trained on, from smallest to largest (`views`);
    without it the grid's own, which is larger where the train images were padded.
    """
    problems: list[str] = []
    theirs = case.original.modality
    if modality and theirs and modality.upper() != theirs.upper():
        problems.append(f"the modality is {theirs}, the model's {modality}")
    if space.orientation != AS_STORED and not case.original.known:
        problems.append(f"the orientation is unknown, the model's is {space.orientation}")
    problems += _spacing_problems(case, space)
    problems += _view_problems(case, space, view)
    if intensity.scope == "train":
        outside = float((case.images.abs() > RANGE_FACTOR).double().mean())
        if outside > OUTSIDE_SHARE:
            problems.append(
                f"{outside:.1%} of the voxels lie beyond {RANGE_FACTOR:g} times the range of the "
                "training images: other units, another contrast or another scanner"
            )
    return problems


def model_order(original: Original, space: Space) -> list[int]:
    """For each axis of the model's grid, the axis of the input that runs along it."""
    if space.orientation == AS_STORED or not original.known:
        return list(range(space.dims))
    pairs = ("LR", "PA", "IS")
    here = plane(original.affine, space.dims)
    kinds = [next(pair for pair in pairs if letter in pair) for letter in here]
    wanted = [next(pair for pair in pairs if letter in pair) for letter in space.orientation]
    return [kinds.index(kind) for kind in wanted]


def _spacing_problems(case: Case, space: Space) -> list[str]:
    if isinstance(space.spacing_mm, str) or not (case.original.known or case.original.sized):
        return []
    spacing = np.array(case.original.spacing_mm)[model_order(case.original, space)]
    ratio = spacing / np.array(space.spacing_mm)
    if np.abs(ratio - 1).max() <= SPACING_TOLERANCE:
        return []
    return [f"the voxels are {_shown(spacing)} mm, the model's {_shown(space.spacing_mm)} mm"]


def field_of_view(original: Original, space: Space) -> tuple[float, ...]:
    """How far an image reaches along each axis of the model's grid.

    Units: voxels where the grid's spacing is "as stored", mm otherwise.
    """
    order = model_order(original, space)
    found = np.array(original.shape, float)[order]
    if not isinstance(space.spacing_mm, str):
        found = found * np.array(original.spacing_mm)[order]
    return tuple(found.tolist())


def views(cases: Iterable[Case], space: Space) -> View:
    """The smallest and largest `field_of_view` along each axis of the model's grid.

    Errors: ValueError without cases.
    """
    extents = np.array([field_of_view(case.original, space) for case in cases])
    if len(extents) == 0:
        raise ValueError("there are no cases to take fields of view from")
    return tuple(zip(extents.min(0).tolist(), extents.max(0).tolist(), strict=True))


def _view_problems(case: Case, space: Space, view: View | None) -> list[str]:
    stored = isinstance(space.spacing_mm, str)
    step = (1.0,) * space.dims if isinstance(space.spacing_mm, str) else space.spacing_mm
    grid = tuple((n * mm, n * mm) for n, mm in zip(space.size, step, strict=True))
    low, high = np.array(view or grid).T
    seen = np.array(field_of_view(case.original, space))
    above = (seen <= high * (1 + FIELD_OF_VIEW_TOLERANCE)).all()
    if above and (seen >= low * (1 - FIELD_OF_VIEW_TOLERANCE)).all():
        return []
    unit = "voxels" if stored else "mm"
    larger = (seen >= low * (1 - FIELD_OF_VIEW_TOLERANCE)).all()
    told = f"the field of view is {_shown(seen)} {unit}, {_taken(low, high, unit)}"
    return [f"{told} ({BY_TILES})" if larger else told]


def _taken(low: np.ndarray, high: np.ndarray, unit: str) -> str:
    """In words, the fields of view from `low` to `high`, where an end may be open."""
    if (low == high).all():
        return f"the model's {_shown(low)} {unit}"
    if np.isfinite(high).all():
        return f"the model's {_shown(low)} to {_shown(high)} {unit}"
    *most, last = map(_length, low, high)
    return f"and the model takes {', '.join(most)} and {last} {unit} along its axes"


def _length(low: float, high: float) -> str:
    """Of one axis."""
    if math.isinf(high):
        return f"{low:.4g} or more" if low > 0 else "any number of"
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"


def _shown(values: np.ndarray | tuple[float, ...]) -> str:
    return " x ".join(f"{float(value):.4g}" for value in values)
