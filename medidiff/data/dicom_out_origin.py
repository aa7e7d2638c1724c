"""Where an image comes from, and what follows from it: its patient, study, space and number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from medidiff.data.dicom_out_grid import Planes
from medidiff.data.dicom_out_modules import Making
from medidiff.data.dicom_out_patient import Patient, generated, inherited
from medidiff.data.dicom_out_source import SourceSeries
from medidiff.data.dicom_out_uids import uid_of
from medidiff.errors import DataError

LARGEST_SERIES = 10**6  # a series number that still leaves room for ours


Place = Literal["grid", "source", "new"]


@dataclass(frozen=True)
class Origin:
    """Where an image comes from: a DICOM series, or none and a patient of its own."""

    source: SourceSeries | None = None
    patient: Patient = Patient()
    modality: str = ""
    """What the values are of, where no source says it."""
    place: Place = "grid"
    """"grid": on the source's voxels, or it is refused; "source": in its frame of reference;
    "new": in a frame of reference of its own, such as an atlas."""
    beside: Dataset | None = None
    """The first object of the same result: patient, study and frame of reference are its, and
    series numbers go on from it."""


def series_number(origin: Origin, index: int) -> int:
    """A series' number: those made of series 5 are 501, 502, ..."""
    if origin.beside is not None:
        return int(origin.beside.SeriesNumber) - 1 + index
    first = None if origin.source is None else origin.source.first.value("SeriesNumber")
    number = 0 if first is None else int(first)
    return index + (100 * number if 0 <= number < LARGEST_SERIES else 0)


def check_place(planes: Planes, origin: Origin) -> None:
    """Errors: DataError for an image that is not where its source is."""
    if origin.source is None or origin.place != "grid" or planes.on_source:
        return
    raise DataError(
        "the image does not lie on the voxels of the series that it is said to come from. Say how "
        "it lies to it: --place source (in the same space, but resampled or cropped) or --place "
        "new (in another, such as an atlas)"
    )


def whose_of(origin: Origin, made: Making, planes: Planes, stored: NDArray[Any]) -> Dataset:
    """Patient, study and frame of reference: that of the source only where its geometry is."""
    source = origin.source
    if origin.beside is not None:
        found = inherited(origin.beside)
        frame = origin.beside.get("FrameOfReferenceUID")
    elif source is not None:
        found, frame = inherited(source.first.header), None
        if origin.place != "new" and source.placed:
            header = source.first.header
            frame = header.get("FrameOfReferenceUID")
            frame = frame or uid_of("frame", str(header.get("SeriesInstanceUID", "")))
    else:
        found, frame = generated(origin.patient, made, content_of(planes, stored)), None
    if planes.affine is not None:
        found.FrameOfReferenceUID = frame or uid_of(
            "frame", found.StudyInstanceUID, content_of(planes, stored)
        )
        indicator = None if source is None else source.first.value("PositionReferenceIndicator")
        found.PositionReferenceIndicator = indicator or ""
    return found


def content_of(planes: Planes, stored: NDArray[Any]) -> bytes:
    place = b"" if planes.affine is None else np.round(planes.affine, 6).tobytes()
    return place + repr(stored.shape).encode() + np.ascontiguousarray(stored).tobytes()
