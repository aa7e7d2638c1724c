"""Arrays laid out as DICOM keeps them: planes one after another, rows, columns; no resampling.

On a source's axes where the array has them; else in the planes and the directions that a
radiologist is shown: axial from below, coronal from the front, sagittal from the left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.data.dicom import to_ras
from medidiff.data.dicom_out_source import SourceFrame, SourceSeries
from medidiff.data.frames import Frame
from medidiff.data.stacking import normal_of
from medidiff.errors import DataError

Matrix = NDArray[np.float64]
SAME_DIRECTION = 1e-4  # 1 - cosine
SAME_PLACE_MM = 0.01
RIGHT_ANGLE = 1e-3  # cosine; DICOM says where each plane lies, but not how skew its rows are
ANISOTROPIC = 1.2
SHOWN: dict[int, tuple[tuple[int, int, int], ...]] = {
    # LPS axis across the planes -> directions across, down and along them
    0: ((-1, 0, 0), (0, 0, -1), (0, 1, 0)),
    1: ((0, 1, 0), (0, 0, -1), (1, 0, 0)),
    2: ((0, 0, 1), (0, 1, 0), (1, 0, 0)),
}


@dataclass(frozen=True)
class Planes:
    """An array of (planes, rows, columns), in the order of their heights along the normal.

    Units: `affine` maps (plane, row, column) to LPS mm; None where nothing says where it lies.
    """

    array: NDArray[Any]
    affine: Matrix | None
    on_source: bool = False
    """Whether it lies voxel for voxel on the source's grid."""

    @property
    def placed(self) -> Matrix:
        """The affine of an array whose place is known."""
        assert self.affine is not None
        return self.affine

    def corner(self, plane: int) -> Matrix:
        """The position of a plane's first pixel, LPS mm."""
        return self.placed[:3, 3] + plane * self.placed[:3, 0]

    @property
    def spacing(self) -> tuple[float, float]:
        """Between rows and between columns, in mm."""
        lengths = np.linalg.norm(self.placed[:3, 1:3], axis=0)
        return float(lengths[0]), float(lengths[1])

    @property
    def orientation(self) -> list[float]:
        """Six numbers: the directions along a row and down a column."""
        unit = self.placed[:3, 1:3] / np.array(self.spacing)
        return [*unit[:, 1].tolist(), *unit[:, 0].tolist()]

    @property
    def normal(self) -> Matrix:
        """The unit vector across the planes, LPS."""
        along, down = np.array(self.orientation).reshape(2, 3)
        return np.cross(along, down)

    @property
    def gap(self) -> float:
        """Between planes along their normal, in mm."""
        return float(self.placed[:3, 0] @ self.normal)


def planes_of(array: NDArray[Any], affine: Matrix | None, source: SourceSeries | None) -> Planes:
    """An array of two or three space axes with its affine (RAS+, mm), as planes.

    Errors: DataError for rows and columns that are not at right angles.
    """
    volume = array if array.ndim == 3 else array[None]
    if source is not None and not source.placed:
        same = volume.shape == (len(source.frames), *source.first.frame.shape)
        return Planes(volume, None, same)
    if affine is None:
        return Planes(np.moveaxis(volume, -1, 0) if array.ndim == 3 else volume, None)
    # a slice's third column says what lies across it, which here comes first
    stated = affine if array.ndim == 3 else affine[:, [2, 0, 1, 3]]
    lps = to_ras(stated)  # the same two signs lead back
    wanted = None if source is None else _axes_of(source.first.frame)
    if wanted is None or not _has_axes(lps, wanted):
        wanted = _axes_shown(lps, volume.shape)
    planes = Planes(*_turned(volume, lps, wanted))
    _check_right_angles(planes)
    return Planes(planes.array, planes.affine, source is not None and _lies_on(planes, source))


def frames_under(planes: Planes, source: SourceSeries) -> list[list[SourceFrame]]:
    """For each plane the frames of the source that it was made from: the one that lies there, else
    those on both sides of it, else, for planes in another direction, all of them."""
    if planes.on_source:
        return [[one] for one in source.frames]
    every = [*source.frames]
    if planes.affine is None:
        return [every] * len(planes.array)
    parallel = 1 - abs(float(normal_of(source.first.frame) @ planes.normal)) < SAME_DIRECTION
    if not source.placed or not parallel:
        return [every] * len(planes.array)
    heights = np.array([np.array(one.frame.corner) @ planes.normal for one in every])
    gaps = np.diff(np.sort(heights))
    between = float(np.median(gaps)) if len(gaps) else 0.0
    reach = max(abs(planes.gap), between)
    return [
        _near(every, np.abs(heights - planes.corner(index) @ planes.normal), reach)
        for index in range(len(planes.array))
    ]


def _near(frames: Sequence[SourceFrame], apart: Matrix, reach: float) -> list[SourceFrame]:
    for limit in (0.02 * reach, 0.999 * reach):
        found = [one for one, far in zip(frames, apart, strict=True) if far <= limit]
        if found:
            return found
    return [frames[int(apart.argmin())]]


def _axes_of(frame: Frame) -> Matrix | None:
    """Directions across, down and along, as rows."""
    if not frame.placed:
        return None
    return np.array([normal_of(frame), frame.column_direction, frame.row_direction], np.float64)


def _has_axes(lps: Matrix, wanted: Matrix) -> bool:
    cosines = np.abs(wanted @ (lps[:3, :3] / np.linalg.norm(lps[:3, :3], axis=0)))
    return bool((1 - cosines[1:].max(axis=1) < SAME_DIRECTION).all())


def _axes_shown(lps: Matrix, shape: tuple[int, ...]) -> Matrix:
    """As it is shown: planes across the coarsest axis, or for cubes across the body's."""
    lengths = np.linalg.norm(lps[:3, :3], axis=0)
    order = np.argsort(lengths)
    if shape[0] == 1:
        axis = 0
    elif lengths[order[2]] > ANISOTROPIC * lengths[order[1]]:
        axis = int(order[2])
    else:
        axis = int(np.abs(lps[2, :3] / lengths).argmax())
    return np.array(SHOWN[int(np.abs(lps[:3, axis]).argmax())], np.float64)


def _turned(
    volume: NDArray[Any], lps: Matrix, wanted: Matrix
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Axes exchanged and turned round until they lie nearest to the directions wanted."""
    cosines = wanted @ (lps[:3, :3] / np.linalg.norm(lps[:3, :3], axis=0))
    left, order, taken = cosines.copy(), [0, 0, 0], 0
    while taken < 3:  # the surest pair first, so that no axis is taken twice
        row, column = np.unravel_index(int(np.abs(left).argmax()), left.shape)
        order[int(row)] = int(column)
        left[row, :], left[:, column] = 0, 0
        taken += 1
    turned, affine = volume.transpose(order), lps[:, [*order, 3]].copy()
    for axis in range(3):
        if cosines[axis, order[axis]] < 0:
            turned = np.flip(turned, axis)
            affine[:3, 3] += affine[:3, axis] * (turned.shape[axis] - 1)
            affine[:3, axis] *= -1
    return turned, affine


def _lies_on(planes: Planes, source: SourceSeries) -> bool:
    frames = [one.frame for one in source.frames]
    if planes.array.shape != (len(frames), *frames[0].shape):
        return False
    first = frames[0]
    places = [planes.corner(index) - np.array(one.corner) for index, one in enumerate(frames)]
    apart = np.array(planes.orientation) - np.array([*_triple(first, 0), *_triple(first, 1)])
    extent = max(planes.array.shape[1:]) * max(planes.spacing)
    steps = np.array(planes.spacing) - np.array(first.spacing)
    return (
        float(np.abs(places).max()) < SAME_PLACE_MM
        and float(np.abs(apart).max()) * extent < 5 * SAME_PLACE_MM
        and float(np.abs(steps).max()) * max(planes.array.shape[1:]) < 5 * SAME_PLACE_MM
    )


def _triple(frame: Frame, which: int) -> tuple[float, ...]:
    found = (frame.row_direction, frame.column_direction)[which]
    assert found is not None
    return found


def _check_right_angles(planes: Planes) -> None:
    along, down = np.array(planes.orientation).reshape(2, 3)
    cosine = abs(float(along @ down))
    if cosine > RIGHT_ANGLE:
        raise DataError(
            f"rows and columns are not at right angles (cosine {cosine:.4f}), which DICOM cannot "
            "say; resample the image to a straight grid first"
        )
