"""DICOM files and series to arrays: slices in the order they lie, their geometry checked.

Differs from MONAI's PydicomReader, which sorts by instance number, averages uneven gaps, gives a
single sagittal or coronal slice a singular affine, and multi-frame files the identity.
"""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.misc import is_dicom
from pydicom.pixels import apply_modality_lut

from medidiff.data import decode

# pydicom warns by quoting header values, which may be a patient's
warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")
logging.getLogger("pydicom").setLevel(logging.ERROR)

Vector = NDArray[np.float64]
GAP_TOLERANCE = 0.02  # of a slice gap: scanners round positions to 0.001-0.01 mm


@dataclass(frozen=True)
class Series:
    """An image of (rows, columns) or (slices, rows, columns); `affine` is 4 x 4, RAS+, mm."""

    array: NDArray[Any]
    affine: NDArray[np.float64] | None
    modality: str | None


@dataclass(frozen=True)
class _Place:
    """Where a frame lies, in LPS mm."""

    corner: Vector
    along_columns: Vector
    along_rows: Vector
    thickness_mm: float

    @property
    def normal(self) -> Vector:
        across = np.cross(self.along_columns, self.along_rows)
        return across / np.linalg.norm(across)


def load(path: Path) -> Series:
    """The image in a DICOM file, single or multi-frame, or in a folder with one series.

    Units: the rescaled values (HU for CT); MONOCHROME1 is turned so that more is brighter.
    Errors: decode.UnusableError for several series in a folder, uneven gaps, slices at one place,
    tilted gantries, colour.
    """
    datasets = [(file, dcmread(file)) for file in _files(path)]
    if len({str(data.get("SeriesInstanceUID", "")) for _, data in datasets}) > 1:
        raise decode.UnusableError("the folder holds more than one DICOM series; keep one a folder")
    frames: list[NDArray[Any]] = []
    places: list[_Place | None] = []
    for file, data in datasets:
        array = _pixels(file, data)
        frames.extend(array)
        places.extend(_place(data, index) for index in range(len(array)))
    modality = str(datasets[0][1].get("Modality", "")) or None
    shapes = {frame.shape for frame in frames}
    if len(shapes) > 1:
        raise decode.UnusableError(f"the slices differ in size: {sorted(shapes)}")
    known = [place for place in places if place is not None]
    if len(frames) == 1:
        return Series(frames[0], _slice_affine(known[0]) if known else None, modality)
    if len(known) < len(frames):
        raise decode.UnusableError("slices without position or orientation cannot be put in order")
    return _stacked(frames, known, modality)


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    files = [file for file in sorted(path.iterdir()) if file.is_file() and is_dicom(file)]
    if not files:
        raise decode.UnusableError("the folder holds no DICOM files")
    return files


def _pixels(file: Path, data: Dataset) -> NDArray[Any]:
    """(frame, rows, columns) in rescaled units."""
    if "PixelData" not in data:
        raise decode.UnusableError("the DICOM file holds no pixels")
    if int(data.get("SamplesPerPixel", 1)) != 1 or "PALETTE" in data.PhotometricInterpretation:
        raise decode.UnusableError("the DICOM image is in colour; grey values are expected")
    try:
        stored = data.pixel_array
        if data.PhotometricInterpretation == "MONOCHROME1":
            stored = _brighter_is_more(stored, data)
        array = apply_modality_lut(stored, data)
    except (RuntimeError, NotImplementedError):
        # the one permissively licensed decoder of lossless JPEG is GDCM, which SimpleITK brings
        array = _by_gdcm(file)
    if "RescaleSlope" not in data and "ModalityLUTSequence" not in data:
        array = _frame_rescaled(array, data)
    return array[None] if array.ndim == 2 else array


def _brighter_is_more(stored: NDArray[Any], data: Dataset) -> NDArray[Any]:
    top = -1 if data.PixelRepresentation else 2 ** int(data.BitsStored) - 1
    return top - stored.astype(np.int64)


def _by_gdcm(file: Path) -> NDArray[Any]:
    import SimpleITK as sitk  # noqa: N813  (its usual name)

    array = sitk.GetArrayFromImage(sitk.ReadImage(str(file)))
    return array[0] if array.shape[0] == 1 else array


def _frame_rescaled(array: NDArray[Any], data: Dataset) -> NDArray[Any]:
    """Multi-frame files keep slope and intercept in their functional groups."""
    frames = array[None] if array.ndim == 2 else array
    if "PerFrameFunctionalGroupsSequence" not in data:
        return array
    done = []
    for index, frame in enumerate(frames):
        rescale = _group(data, index, "PixelValueTransformationSequence")
        if rescale is None:
            return array
        slope, intercept = float(rescale.RescaleSlope), float(rescale.RescaleIntercept)
        done.append(frame * slope + intercept)
    return np.stack(done)


def _group(data: Dataset, index: int, name: str) -> Dataset | None:
    """A functional group of one frame, else the shared one, else None."""
    frames = data.get("PerFrameFunctionalGroupsSequence") or []
    shared = data.get("SharedFunctionalGroupsSequence") or []
    for groups in (*frames[index : index + 1], *shared):
        found = groups.get(name)
        if found:
            return found[0]
    return None


def _place(data: Dataset, index: int) -> _Place | None:
    position = _group(data, index, "PlanePositionSequence") or data
    orientation = _group(data, index, "PlaneOrientationSequence") or data
    measures = _group(data, index, "PixelMeasuresSequence") or data
    corner = position.get("ImagePositionPatient")
    directions = orientation.get("ImageOrientationPatient")
    spacing = measures.get("PixelSpacing")
    if not corner or not directions or not spacing:
        return None
    row_step, column_step = (float(value) for value in spacing)
    axes = np.array([float(value) for value in directions])
    thickness = measures.get("SliceThickness") or row_step
    return _Place(
        np.array([float(value) for value in corner]),
        axes[:3] * column_step,
        axes[3:] * row_step,
        float(thickness),
    )


def _slice_affine(place: _Place) -> NDArray[np.float64]:
    return _ras(
        [place.along_rows, place.along_columns, place.normal * place.thickness_mm], place.corner
    )


def _stacked(frames: list[NDArray[Any]], places: list[_Place], modality: str | None) -> Series:
    first = places[0]
    for place in places:
        same = np.allclose(place.along_rows, first.along_rows, atol=1e-3)
        if not same or not np.allclose(place.along_columns, first.along_columns, atol=1e-3):
            raise decode.UnusableError("the slices differ in orientation or pixel size")
    heights = np.array([float(place.corner @ first.normal) for place in places])
    order = np.argsort(heights, kind="stable")
    gaps = np.diff(heights[order])
    gap = float(np.median(gaps))
    if gaps.min() < 1e-3:
        raise decode.UnusableError(
            "several slices lie at one place: more than one echo, time point or contrast; "
            "keep one a folder"
        )
    if np.abs(gaps - gap).max() > max(GAP_TOLERANCE * gap, 0.02):
        raise decode.UnusableError(
            f"the gaps between slices are uneven ({gaps.min():.3f} to {gaps.max():.3f} mm): "
            "slices are missing or the scan was made in parts"
        )
    start, stop = places[order[0]].corner, places[order[-1]].corner
    affine = _ras(
        [(stop - start) / (len(places) - 1), first.along_rows, first.along_columns], start
    )
    return Series(np.stack([frames[index] for index in order]), affine, modality)


def _ras(columns: list[Vector], corner: Vector) -> NDArray[np.float64]:
    affine = np.eye(4)
    affine[:3, :3] = np.stack(columns, axis=1)
    affine[:3, 3] = corner
    affine[:2] *= -1  # DICOM counts to left, posterior, superior
    return affine + 0.0  # no negative zeros
