"""Results as derived DICOM series: one single-frame object a plane, as the scanner's own were.

`images` makes the objects of a series from an array, `written` puts objects into files. Maps and
segmentations are in dicom_out_maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    SecondaryCaptureImageStorage,
)
from pydicom.valuerep import format_number_as_ds

from medidiff.data.dicom_out_classes import PLACED, class_of, facts_of, image_type
from medidiff.data.dicom_out_files import finished
from medidiff.data.dicom_out_grid import Planes, frames_under, planes_of
from medidiff.data.dicom_out_modules import (
    Making,
    contributors,
    derivation,
    described,
    description,
    equipment,
    lossy,
    made_of,
    put,
    series_uid,
    sources,
)
from medidiff.data.dicom_out_origin import Origin, check_place, content_of, series_number, whose_of
from medidiff.data.dicom_out_pixels import Coded, coded, source_windows, turned, window_of
from medidiff.data.dicom_out_source import SourceFrame, told_without_values


@told_without_values()
def images(
    array: NDArray[Any],
    affine: NDArray[np.float64] | None,
    origin: Origin,
    made: Making,
    index: int = 1,
    sides_mm: NDArray[np.floating] | None = None,
) -> list[Dataset]:
    """The objects of one series, the `index`-th of its result.

    Shapes: `array` is (*space) with two or three axes. Units: `affine` 4 x 4, RAS+, mm; None where
    nothing is known of where it lies: then it is shown as it is, the third axis across the planes,
    and `sides_mm` may say how far its rows and columns lie apart.
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
    uid = series_uid(made, whose.StudyInstanceUID, index, content_of(planes, pixels.stored))
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
        if planes.affine is None and sides_mm is not None:
            data.PixelSpacing = [decimal(side) for side in sides_mm]
        put(data, _pixels(pixels, plane, kind, frame))
        same_units = source is not None and modality == source.modality
        shown = source_windows(frame) if frame and same_units else {}
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
