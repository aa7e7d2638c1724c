"""The cases of a plan along one order of axes, whole or as slices of volumes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medidiff.data.options import AS_STORED, AXES, PLANES, PlaneName, Slices, plane_of
from medidiff.data.rows import rows_listed
from medidiff.data.survey import Seen, Survey
from medidiff.errors import DataError

SAME = 0.01  # spacings that differ less are the same
ANISOTROPIC = 3.0  # nnU-Net's: from here on slices are planned where volumes were given
UNEVEN = 1.5  # more than this times as large is another size


@dataclass(frozen=True)
class Axes:
    """The cases along one order of axes: arrays (case, axis)."""

    orientation: str
    shape: np.ndarray
    body: np.ndarray
    spacing_mm: np.ndarray | None
    """None where some files do not state it."""
    volumes: Axes | None = None
    """What these are slices of, where they are."""

    @property
    def slices(self) -> Slices | None:
        """How they are cut of volumes."""
        return None if self.volumes is None else Slices(plane_of(self.orientation))

    @property
    def across(self) -> int:
        """The axis of the volumes that runs across these slices."""
        assert self.volumes is not None
        return _across(self.volumes.orientation, self.orientation)

    @property
    def depth(self) -> np.ndarray:
        """How many slices of each volume hold the body; 1 of what is not cut."""
        if self.volumes is None:
            return np.ones(len(self.shape))
        return self.volumes.body[:, self.across]


def axes_of(found: Survey) -> Axes:
    """The cases with their axes in one order, the commonest.

    Errors: DataError if slices and volumes, or planes, are mixed.
    """
    dims = _one_kind(found.cases)
    letters = {case.orientation for case in found.cases}
    if None in letters:
        return _stacked(found.cases, AS_STORED, [tuple(range(dims))] * len(found.cases))
    chosen = letters.pop() if len(letters) == 1 else "RAS" if dims == 3 else _commonest(found)
    assert chosen is not None
    orders = [_order(case, chosen) for case in found.cases]
    return _stacked(found.cases, chosen, orders)


def sliced(axes: Axes, dims: int | None) -> tuple[Axes, tuple[str, ...]]:
    """The cases as slices of the volumes, and what is to be told of it; as they are where the
    voxels are even enough, or `dims` asks for volumes.

    Errors: DataError if slices are asked for and the files do not say how the body lies.
    """
    if axes.shape.shape[1] == 2:
        return axes, ()
    known = axes.spacing_mm is not None and axes.orientation != AS_STORED
    if dims == 2 and not known:
        raise DataError("no slices can be cut: some files do not say how the body lies in them")
    if dims == 3 or not known or (dims is None and anisotropy(axes) < ANISOTROPIC):
        return axes, ()
    plane = _acquired_plane(axes)
    letters = PLANES[plane]
    order = [_along(axes.orientation, letter) for letter in letters]
    assert axes.spacing_mm is not None
    flat = Axes(letters, axes.shape[:, order], axes.body[:, order], axes.spacing_mm[:, order], axes)
    thickest = axes.spacing_mm.argmax(axis=1)
    uneven = axes.spacing_mm.max(axis=1) > UNEVEN * axes.spacing_mm.min(axis=1)
    others = int((uneven & (thickest != _across(axes.orientation, letters))).sum())
    if not others:
        return flat, ()
    return flat, (
        f"{others} of {len(axes.shape)} volumes are thick across another plane than {plane}: their "
        f"{plane} slices are coarse; make a manifest of each plane",
    )


def _acquired_plane(axes: Axes) -> PlaneName:
    """Across the coarsest spacing; axial where all spacings are the same."""
    assert axes.spacing_mm is not None
    step = np.median(axes.spacing_mm, axis=0)
    if step.max() <= step.min() * (1 + SAME):
        return "axial"
    thick = int(step.argmax())
    return plane_of("".join(c for axis, c in enumerate(axes.orientation) if axis != thick))


def anisotropy(axes: Axes) -> float:
    """The coarsest spacing over the next."""
    assert axes.spacing_mm is not None
    step = np.sort(np.median(axes.spacing_mm, axis=0))
    return float(step[-1] / step[-2])


def _along(orientation: str, letter: str) -> int:
    return [AXES[each][0] for each in orientation].index(AXES[letter][0])


def _across(orientation: str, plane: str) -> int:
    inner = [_along(orientation, letter) for letter in plane]
    return next(axis for axis in range(3) if axis not in inner)


def _one_kind(cases: Sequence[Seen]) -> int:
    by_dims = {dims: [case.row for case in cases if case.dims == dims] for dims in (2, 3)}
    if by_dims[2] and by_dims[3]:
        few, many = sorted(by_dims, key=lambda dims: len(by_dims[dims]))
        raise DataError(
            f"{len(by_dims[few])} images are {few}-D ({rows_listed(by_dims[few])}) and "
            f"{len(by_dims[many])} are {many}-D; a model is of one kind: make a manifest of each"
        )
    return cases[0].dims


def _commonest(found: Survey) -> str:
    return Counter(str(case.orientation) for case in found.cases).most_common(1)[0][0]


def _order(case: Seen, wanted: str) -> tuple[int, ...]:
    here = [AXES[letter][0] for letter in str(case.orientation)]
    there = [AXES[letter][0] for letter in wanted]
    if set(here) != set(there):
        raise DataError(
            f"row {case.row}: the slice lies along {case.orientation}, others along {wanted}; a "
            "2-D model is of one plane: make a manifest of each"
        )
    return tuple(here.index(axis) for axis in there)


def _stacked(cases: Sequence[Seen], orientation: str, orders: Sequence[tuple[int, ...]]) -> Axes:
    def along(values: Sequence[Sequence[float]]) -> np.ndarray:
        pairs = zip(values, orders, strict=True)
        return np.array([[value[axis] for axis in order] for value, order in pairs])

    spacings = [case.spacing_mm for case in cases if case.spacing_mm is not None]
    return Axes(
        orientation,
        along([case.shape for case in cases]),
        along([case.body for case in cases]),
        along(spacings) if len(spacings) == len(cases) else None,
    )
