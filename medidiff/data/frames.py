"""What the header of a DICOM file says of its frames: where each lies and what tells it apart.

Imports no pixel decoder: headers are read by the thousand when a folder is indexed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from pydicom import Dataset

from medidiff.data import decode
from medidiff.data.functional import group
from medidiff.data.mosaics import Mosaic, is_mosaic, mosaic_of
from medidiff.data.pixels import check_grey, frame_count

MARKS: dict[str, tuple[str, str]] = {
    # what tells frames apart: keyword in a functional group or else in the data set
    "echo time": ("MREchoSequence", "EffectiveEchoTime"),
    "image type": ("", "ImageType"),
    "component": ("", "ComplexImageComponent"),
    "b-value": ("MRDiffusionSequence", "DiffusionBValue"),
    "thickness": ("PixelMeasuresSequence", "SliceThickness"),
    "acquisition": ("FrameContentSequence", "FrameAcquisitionNumber"),
    "time point": ("FrameContentSequence", "TemporalPositionIndex"),
    "stack": ("FrameContentSequence", "StackID"),
    "trigger time": ("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"),
    "direction": ("MRDiffusionSequence", "DiffusionDirectionality"),
    "inversion time": ("", "InversionTime"),
    "kernel": ("", "ConvolutionKernel"),
    "acquisition time": ("FrameContentSequence", "FrameAcquisitionDateTime"),
}
CLASSIC = {
    "EffectiveEchoTime": "EchoTime",
    "FrameAcquisitionNumber": "AcquisitionNumber",
    "TemporalPositionIndex": "TemporalPositionIdentifier",
    "NominalCardiacTriggerDelayTime": "TriggerTime",
    "FrameAcquisitionDateTime": "AcquisitionTime",
}
FRAME_TYPES = ("MRImageFrameTypeSequence", "CTImageFrameTypeSequence", "PETFrameTypeSequence")
HEADER = (
    *("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "SeriesNumber", "InstanceNumber"),
    *("Modality", "PatientID", "PatientSex", "PatientAge", "StudyDate", "StudyTime"),
    *("InstitutionName", "ProtocolName", "SeriesDescription", "ScanningSequence"),
    *("MRAcquisitionType", "RepetitionTime", "EchoTime", "InversionTime", "ImageType"),
    *("ComplexImageComponent", "DiffusionBValue", "AcquisitionNumber", "AcquisitionTime"),
    *("TemporalPositionIdentifier", "TriggerTime", "ConvolutionKernel", "SliceThickness"),
    *("PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "Rows", "Columns"),
    "SpacingBetweenSlices",
    *("NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation"),
    *("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"),
)
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Frame:
    """One frame: where it lies (LPS mm; None where the header is silent) and its marks."""

    index: int
    shape: tuple[int, int]
    corner: Triple | None = None
    row_direction: Triple | None = None
    column_direction: Triple | None = None
    spacing: tuple[float, float] | None = None
    """Between rows and between columns."""
    thickness: float = 0.0
    marks: Mapping[str, str] = field(default_factory=dict)

    @property
    def placed(self) -> bool:
        """Whether position, orientation and pixel size are all known."""
        return self.corner is not None


@dataclass(frozen=True)
class Instance:
    """One DICOM file: whose and of which series it is, and its frames."""

    sop: str
    study: str
    series: str
    facts: Mapping[str, str]
    """Header values by keyword; may name the patient."""
    frames: tuple[Frame, ...] = ()
    problem: str = ""
    """Why there are no frames to use; names nothing."""


def instance_of(data: Dataset) -> Instance:
    """What a header says.

    Errors: decode.UnusableError, or anything pydicom raises, for headers that make no sense.
    """
    names = ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
    sop, study, series = (str(data.get(name, "")) for name in names)
    facts = {
        name: _text(data[name].value)
        for name in HEADER
        if name in data and not name.endswith("Sequence")
    }
    if "Rows" not in data or "Columns" not in data:
        return Instance(
            sop, study, series, facts, problem="the DICOM file holds no pixels, or is cut short"
        )
    try:
        check_grey(data)
        if is_mosaic(data):
            frames = _tiled(frame_of(data, 0), mosaic_of(data))
        else:
            frames = tuple(frame_of(data, index) for index in range(frame_count(data)))
    except decode.UnusableError as error:
        return Instance(sop, study, series, facts, problem=str(error))
    return Instance(sop, study, series, facts, frames)


def frame_of(data: Dataset, index: int) -> Frame:
    """One frame of a header.

    Errors: decode.UnusableError for axes that are no unit vectors at right angles, or pixels of no
    size.
    """
    shape = (int(data.Rows), int(data.Columns))
    measures = group(data, index, "PixelMeasuresSequence") or data
    marks = {name: text for name in MARKS if (text := _mark(data, index, name))}
    thickness = _number(measures.get("SliceThickness"))
    position = group(data, index, "PlanePositionSequence") or data
    orientation = group(data, index, "PlaneOrientationSequence") or data
    corner = position.get("ImagePositionPatient")
    directions = orientation.get("ImageOrientationPatient")
    spacing = measures.get("PixelSpacing")
    if not corner or not directions or not spacing:
        return Frame(index, shape, thickness=thickness, marks=marks)
    axes = np.array([float(value) for value in directions]).reshape(2, 3)
    place = [float(value) for value in corner]
    steps = [float(value) for value in spacing]
    _check_geometry(axes, place, steps)
    return Frame(
        index,
        shape,
        (place[0], place[1], place[2]),
        tuple(axes[0].tolist()),
        tuple(axes[1].tolist()),
        (steps[0], steps[1]),
        thickness or steps[0],
        marks,
    )


def _tiled(whole: Frame, mosaic: Mosaic) -> tuple[Frame, ...]:
    """The slices of a mosaic as frames of their own."""
    marks = {"b-value": mosaic.b_value} if mosaic.b_value else {}
    frames = []
    for index in range(mosaic.count):
        x, y, z = (mosaic.corner + index * mosaic.step).tolist()
        placed = replace(whole, index=index, shape=mosaic.shape, corner=(x, y, z))
        frames.append(replace(placed, marks={**marks, **whole.marks}))
    return tuple(frames)


def _check_geometry(axes: np.ndarray, place: list[float], steps: list[float]) -> None:
    square = axes @ axes.T
    if not np.isfinite(square).all() or np.abs(square - np.eye(2)).max() > 0.01:
        raise decode.UnusableError("the image's axes are no unit vectors at right angles")
    if len(place) != 3 or not np.isfinite(place).all():
        raise decode.UnusableError("the image's position is not three numbers")
    if len(steps) != 2 or not all(0 < step < 1000 for step in steps):
        raise decode.UnusableError("the pixel spacing is not two positive numbers of mm")


def _mark(data: Dataset, index: int, name: str) -> str:
    sequence, keyword = MARKS[name]
    if name in ("image type", "component"):
        return _frame_type(data, index, name, keyword)
    holder = group(data, index, sequence) if sequence else None
    if holder is not None and keyword in holder:
        return _text(holder[keyword].value)
    keyword = CLASSIC.get(keyword, keyword)
    return _text(data[keyword].value) if keyword in data else ""


def _frame_type(data: Dataset, index: int, name: str, keyword: str) -> str:
    found = (group(data, index, sequence) for sequence in FRAME_TYPES)
    holder = next((one for one in found if one is not None), None)
    if holder is not None:
        keyword = "FrameType" if name == "image type" else keyword
        if keyword in holder:
            return _text(holder[keyword].value)
    return _text(data[keyword].value) if keyword in data else ""


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, (list, tuple)) or type(value).__name__ == "MultiValue":
        return "\\".join(str(one).strip() for one in value)
    return str(value).strip()


def _number(value: Any) -> float:
    number = 0.0 if value in (None, "") else float(value)
    return number if np.isfinite(number) and number > 0 else 0.0
