"""Results as derived DICOM series: one single-frame object a plane, as the scanner's own were.

`images` makes the objects of a series from an array, `written` puts objects into files. Maps and
segmentations are in dicom_out_maps.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    SecondaryCaptureImageStorage,
)
from pydicom.valuerep import format_number_as_ds

from medidiff.data.dicom_out_classes import PLACED, class_of, facts_of, image_type
from medidiff.data.dicom_out_grid import Planes, frames_under, planes_of
from medidiff.data.dicom_out_modules import (
    Making,
    Patient,
    add_private,
    contributors,
    derivation,
    described,
    description,
    equipment,
    generated,
    inherited,
    lossy,
    made_of,
    own_scheme,
    put,
    series_uid,
    sources,
    version,
)
from medidiff.data.dicom_out_pixels import Coded, coded, source_windows, turned, window_of
from medidiff.data.dicom_out_source import SourceFrame, SourceSeries
from medidiff.data.dicom_out_uids import encoded, uid_of
from medidiff.errors import DataError, OutputError

IMPLEMENTATION = uid_of("medidiff")  # of the program, for the files' meta header
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


def images(
    array: NDArray[Any],
    affine: NDArray[np.float64] | None,
    origin: Origin,
    made: Making,
    index: int = 1,
) -> list[Dataset]:
    """The objects of one series, the `index`-th of its result.

    Shapes: `array` is (*space) with two or three axes. Units: `affine` 4 x 4, RAS+, mm; None where
    nothing is known of where it lies.
    Errors: DataError for values or a geometry that DICOM cannot hold, and for an image that does
    not lie on its source's voxels (see `Origin.place`).
    """
    source = origin.source
    made = made_of(source, made)
    planes = planes_of(array, affine, source)
    check_place(planes, origin)
    modality = origin.modality or (source.modality if source else "OT")
    kind = class_of(modality, source, len(planes.array), planes.affine is not None)
    pixels = coded(planes.array, modality)
    under = frames_under(planes, source) if source else [[] for _ in planes.array]
    whose = whose_of(origin, made, planes, pixels.stored)
    uid = series_uid(made, whose.StudyInstanceUID, index, _content(planes, pixels.stored))
    shared = _shared(origin, made, whose, planes)
    shared |= {"Modality": modality, "SeriesNumber": series_number(origin, index)}
    window = None
    objects = []
    for plane, number in enumerate(_numbers(under)):
        frame = under[plane][0] if under[plane] else None
        data = Dataset()
        put(data, facts_of(kind, frame, planes.on_source) | shared | {"InstanceNumber": number})
        data.ImageType = image_type(kind, frame)
        put(data, _place(planes, plane, under[plane], kind))
        put(data, _pixels(pixels, plane, kind, frame))
        shown = source_windows(frame) if frame else {}
        if not shown:
            window = shown = window or window_of(planes.array, modality)
        put(data, shown)
        if under[plane]:
            data.SourceImageSequence = sources(under[plane], planes.on_source)
        objects.append(finished(data, kind, uid, made))
    return objects


def channels(
    image: NDArray[Any], affine: NDArray[np.float64] | None, modality: str, made: Making
) -> dict[str, list[Dataset]]:
    """Series name -> objects, for an image that comes from no series: one patient, a series a
    channel.

    Shapes: `image` is (channel, *space).
    """
    found: dict[str, list[Dataset]] = {}
    origin = Origin(modality=modality)
    for number, channel in enumerate(image, start=1):
        objects = images(channel, affine, origin, made, number)
        found["image" if len(image) == 1 else f"image-{number}"] = objects
        origin = replace(origin, beside=origin.beside or objects[0])
    return found


def written(
    objects: Sequence[Dataset],
    folder: Path,
    protect: Callable[[Dataset], Dataset] = lambda data: data,
) -> list[Path]:
    """Objects as files 0001.dcm, 0002.dcm, ... in a new folder, all of them or none.

    `protect` is applied to each before it is written.
    Errors: OutputError if the folder is there already.
    """
    if folder.exists():
        raise OutputError(f"{folder} is there already and is not overwritten; name another")
    names = [f"{number:04d}.dcm" for number in range(1, len(objects) + 1)]
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        for name, data in zip(names, objects, strict=True):
            safe = protect(data)
            safe.file_meta.MediaStorageSOPInstanceUID = safe.SOPInstanceUID
            safe.save_as(part / name, enforce_file_format=True)
        part.replace(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return [folder / name for name in names]


def finished(data: Dataset, kind: UID, series: UID, made: Making) -> Dataset:
    """An object with its identity, which is that of everything else in it."""
    put(
        data,
        {
            "SpecificCharacterSet": "ISO_IR 192",
            "SOPClassUID": kind,
            "SeriesInstanceUID": series,
            "CodingSchemeIdentificationSequence": [own_scheme()],
            "InstanceCreationDate": made.date,
            "InstanceCreationTime": made.time,
        },
    )
    if made.kind == "SYNTHETIC":  # whether a processed image is all faithful, nobody can say
        data.SyntheticData = "YES"
    add_private(data, made)
    data.SOPInstanceUID = uid_of("instance", encoded(data))
    data.file_meta = FileMetaDataset()
    put(
        data.file_meta,
        {
            "MediaStorageSOPClassUID": kind,
            "MediaStorageSOPInstanceUID": data.SOPInstanceUID,
            "TransferSyntaxUID": ExplicitVRLittleEndian,
            "ImplementationClassUID": IMPLEMENTATION,
            "ImplementationVersionName": f"MEDIDIFF_{version()}"[:16],
        },
    )
    return data


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
            frame = source.first.header.get("FrameOfReferenceUID")
    else:
        found, frame = generated(origin.patient, made, _content(planes, stored)), None
    if planes.affine is not None:
        found.FrameOfReferenceUID = frame or uid_of(
            "frame", found.StudyInstanceUID, _content(planes, stored)
        )
        indicator = None if source is None else source.first.value("PositionReferenceIndicator")
        found.PositionReferenceIndicator = indicator or ""
    return found


def _shared(origin: Origin, made: Making, whose: Dataset, planes: Planes) -> dict[str, Any]:
    """What all objects of a series say alike."""
    source = origin.source
    of = "" if source is None else described(source)
    resampled = source is not None and not planes.on_source
    return {
        **{element.keyword: element.value for element in whose},
        "SeriesDescription": description(made, of),
        "SeriesDate": made.date,
        "SeriesTime": made.time,
        "ContentDate": made.date,
        "ContentTime": made.time,
        **equipment(made),
        **derivation(made, resampled),
        **lossy(source),
        "ContributingEquipmentSequence": contributors(made, source),
    }


def _content(planes: Planes, stored: NDArray[Any]) -> bytes:
    place = b"" if planes.affine is None else np.round(planes.affine, 6).tobytes()
    return place + repr(stored.shape).encode() + np.ascontiguousarray(stored).tobytes()


def _numbers(under: Sequence[Sequence[SourceFrame]]) -> list[int]:
    """Instance numbers in the direction of the source's own."""
    rising = list(range(1, len(under) + 1))
    ends = [frames[0].value("InstanceNumber") for frames in under if frames]
    if len(ends) < 2 or ends[0] is None or ends[-1] is None or int(ends[0]) <= int(ends[-1]):
        return rising
    return rising[::-1]


def _place(planes: Planes, plane: int, frames: Sequence[SourceFrame], kind: UID) -> dict[str, Any]:
    if planes.affine is None:
        return {}
    spacing = [decimal(step) for step in planes.spacing]
    if kind not in PLACED.values():
        return {"PixelSpacing": spacing}
    thickness = abs(planes.gap)
    if planes.on_source:
        thickness = frames[0].frame.thickness
    found = {
        "PixelSpacing": spacing,
        "ImageOrientationPatient": [decimal(value) for value in planes.orientation],
        "ImagePositionPatient": [decimal(value) for value in planes.corner(plane)],
        "SliceThickness": decimal(thickness),
    }
    if kind == MRImageStorage and len(planes.array) > 1:
        found["SpacingBetweenSlices"] = decimal(abs(planes.gap))
    return found


def _pixels(pixels: Coded, plane: int, kind: UID, frame: SourceFrame | None) -> dict[str, Any]:
    little = pixels.stored.dtype.newbyteorder("<")
    stored = np.ascontiguousarray(pixels.stored[plane], little)
    inverted = False  # CT and PET: the reader leaves their values as they are
    if frame is not None and not turned(frame):
        inverted = frame.header.get("PhotometricInterpretation") == "MONOCHROME1"
    found: dict[str, Any] = {
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME1" if inverted else "MONOCHROME2",
        "Rows": stored.shape[0],
        "Columns": stored.shape[1],
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": int(stored.dtype.kind == "i"),
        "PixelData": stored.tobytes(),
    }
    if pixels.rescaled or kind not in (MRImageStorage, SecondaryCaptureImageStorage):
        found["RescaleSlope"] = decimal(pixels.slope)
        found["RescaleIntercept"] = decimal(pixels.intercept)
        found["RescaleType"] = "HU" if kind == CTImageStorage else "US"
    if kind == PositronEmissionTomographyImageStorage:
        del found["RescaleType"]
    return found


def decimal(value: float) -> str:
    """A number as DICOM's decimal string, as exactly as 16 characters allow."""
    return format_number_as_ds(float(value) + 0.0)
