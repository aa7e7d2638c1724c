"""What maps and segmentations have in common: they lie over a series, plane by plane."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage, ParametricMapStorage

from medidiff.data.dicom_out import decimal
from medidiff.data.dicom_out_classes import side_and_part
from medidiff.data.dicom_out_files import finished
from medidiff.data.dicom_out_grid import Planes, frames_under, planes_of
from medidiff.data.dicom_out_modules import (
    LONG,
    MANUFACTURER,
    Making,
    clipped,
    contributors,
    derivation,
    described,
    description,
    lossy,
    put,
    series_uid,
    sources,
    version,
)
from medidiff.data.dicom_out_origin import Origin, check_place, series_number, whose_of
from medidiff.data.dicom_out_patient import NEEDED
from medidiff.data.dicom_out_source import SourceSeries
from medidiff.data.dicom_out_uids import uid_of
from medidiff.errors import DataError

SHORT = 16  # characters of SH and of a code's value
NO_UID = "2.25.0"  # what stands in until the content is complete


def over(array: NDArray[Any], affine: NDArray[np.float64] | None, origin: Origin) -> Planes:
    """An array on the planes of the series that it lies over.

    Errors: DataError if there is none, if the array lies elsewhere, or if nobody knows where.
    """
    if origin.source is None:
        raise DataError("maps and segmentations lie over a DICOM series: name it")
    planes = planes_of(array, affine, origin.source)
    check_place(planes, origin)
    if planes.affine is None:
        raise DataError(
            "the series says nothing of where it lies, which maps and segmentations must; write "
            "the map as an image"
        )
    return planes


def _stand_ins(planes: Planes, source: SourceSeries) -> list[Dataset]:
    """Single-frame images on the planes themselves, numbered by their UIDs.

    highdicom looks for planes in its source images, refuses many that scanners write, and warns of
    unusual patients by their names: the true references and patient are put in afterwards.
    """
    found = []
    for plane in range(len(planes.array)):
        one = Dataset()
        put(one, dict.fromkeys(NEEDED, ""))
        put(one, {
            "SOPClassUID": MRImageStorage,
            "SOPInstanceUID": f"{NO_UID}.{plane + 1}",
            "StudyInstanceUID": source.first.header.StudyInstanceUID,
            "SeriesInstanceUID": source.first.header.SeriesInstanceUID,
            "FrameOfReferenceUID": NO_UID,
            "PositionReferenceIndicator": "",
            "Rows": planes.array.shape[1],
            "Columns": planes.array.shape[2],
            "PixelSpacing": [decimal(step) for step in planes.spacing],
            "ImageOrientationPatient": [decimal(value) for value in planes.orientation],
            "ImagePositionPatient": [decimal(value) for value in planes.corner(plane)],
            "SliceThickness": decimal(abs(planes.gap)),
        })  # fmt: skip
        found.append(one)
    return found


def _refer(data: Dataset, planes: Planes, source: SourceSeries) -> None:
    """The true sources in place of the stand-ins."""
    under = frames_under(planes, source)
    for frame in data.PerFrameFunctionalGroupsSequence:
        item = frame.DerivationImageSequence[0]
        number = int(item.SourceImageSequence[0].ReferencedSOPInstanceUID.split(".")[-1])
        item.SourceImageSequence = sources(under[number - 1], planes.on_source)
    series = Dataset()
    series.SeriesInstanceUID = source.first.header.SeriesInstanceUID
    series.ReferencedInstanceSequence = []
    for header in {id(one.header): one.header for frames in under for one in frames}.values():
        item = Dataset()
        item.ReferencedSOPClassUID = header.SOPClassUID
        item.ReferencedSOPInstanceUID = header.SOPInstanceUID
        series.ReferencedInstanceSequence.append(item)
    data.ReferencedSeriesSequence = [series]
    data.SourceImageSequence = sources(
        (one for frames in under for one in frames), planes.on_source
    )


def shared(planes: Planes, origin: Origin, made: Making, index: int) -> dict[str, Any]:
    """The arguments that highdicom's classes have in common."""
    from highdicom import PixelMeasuresSequence, PlaneOrientationSequence, PlanePositionSequence

    assert origin.source is not None
    return {
        "source_images": _stand_ins(planes, origin.source),
        "content_description": clipped(made.what, LONG),
        "content_date": made.when.date(),
        "content_time": made.when.time(),
        "series_instance_uid": NO_UID,
        "series_number": series_number(origin, index),
        "sop_instance_uid": NO_UID,
        "instance_number": 1,
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": clipped(made.model, LONG),
        "software_versions": version(),
        "device_serial_number": clipped(made.model_digest, LONG),
        "transfer_syntax_uid": ExplicitVRLittleEndian,
        "specific_character_set": "ISO_IR 192",
        "pixel_measures": PixelMeasuresSequence(
            pixel_spacing=planes.spacing,
            slice_thickness=abs(planes.gap),
            spacing_between_slices=abs(planes.gap) if len(planes.array) > 1 else None,
        ),
        "plane_orientation": PlaneOrientationSequence("PATIENT", planes.orientation),
        "plane_positions": [
            PlanePositionSequence("PATIENT", planes.corner(plane).tolist())
            for plane in range(len(planes.array))
        ],
    }


def completed(
    data: Dataset, kind: UID, planes: Planes, origin: Origin, made: Making, index: int
) -> Dataset:
    """What highdicom made, with its true references, patient, description and identity."""
    source = origin.source
    assert source is not None
    _refer(data, planes, source)
    data.update(whose_of(origin, made, planes, planes.array))
    put(data, side_and_part(source.first, asked=kind == ParametricMapStorage))
    put(
        data,
        {
            "SeriesDescription": description(made, described(source)),
            "SeriesDate": made.date,
            "SeriesTime": made.time,
            "ContributingEquipmentSequence": contributors(made, source),
            "DerivationDescription": derivation(made, False)["DerivationDescription"],
            **lossy(source),
        },
    )
    stored = data.get("PixelData") or data.get("FloatPixelData")
    uid = series_uid(made, data.StudyInstanceUID, index, bytes(stored or b""))
    dimensions = uid_of("dimensions", uid)
    data.DimensionOrganizationSequence[0].DimensionOrganizationUID = dimensions
    for item in data.DimensionIndexSequence:
        item.DimensionOrganizationUID = dimensions
    return finished(data, kind, uid, made)


def content_label(name: str) -> str:
    """A content label is a code string: capitals, digits, spaces and underscores (CS)."""
    plain = "".join(letter if letter.isalnum() else "_" for letter in name.upper())
    return plain.encode("ascii", "replace").decode().replace("?", "_")[:SHORT]
