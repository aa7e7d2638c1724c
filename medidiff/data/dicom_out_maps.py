"""Maps as DICOM Parametric Map and label maps as DICOM Segmentation, one multi-frame object each.

highdicom makes the objects; what it is given, and the identity, are ours. It is imported when one
is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    MRImageStorage,
    ParametricMapStorage,
    SegmentationStorage,
)

from medidiff.data.dicom_out import (
    Origin,
    check_place,
    decimal,
    finished,
    series_number,
    whose_of,
)
from medidiff.data.dicom_out_classes import side_and_part
from medidiff.data.dicom_out_grid import Planes, frames_under, planes_of
from medidiff.data.dicom_out_modules import (
    LONG,
    MANUFACTURER,
    NEEDED,
    SCHEME,
    Making,
    clipped,
    contributors,
    derivation,
    description,
    lossy,
    made_of,
    put,
    series_uid,
    sources,
    version,
)
from medidiff.data.dicom_out_pixels import SHOWN_PERCENTILES
from medidiff.data.dicom_out_source import SourceSeries
from medidiff.data.dicom_out_uids import uid_of
from medidiff.errors import DataError

SHORT = 16  # characters of SH and of a code's value
HOUNSFIELD = Code("[hnsf'U]", "UCUM", "Hounsfield unit")
NO_UNIT = Code("1", "UCUM", "no units")
NO_UID = "2.25.0"  # what stands in until the content is complete
STRUCTURE = Code("123037004", "SCT", "Anatomical Structure")
ARTIFICIAL_INTELLIGENCE = Code("123110", "DCM", "Artificial Intelligence")
CONCEPTS = {"std": Code("113061", "DCM", "Standard Deviation")}
"""Maps of results whose quantity DICOM has a code for."""


@dataclass(frozen=True)
class Quantity:
    """What the values of a map are."""

    name: str
    unit: Code = NO_UNIT

    @property
    def concept(self) -> Code:
        """DICOM's own code, or one of ours."""
        known = CONCEPTS.get(self.name)
        return known or Code(self.name.replace(" ", "_")[:SHORT], SCHEME, self.name[:LONG])


@dataclass(frozen=True)
class Segment:
    """What one value of a label map stands for."""

    value: int
    name: str
    kind: Code | None = None
    """The structure in a coding scheme, such as SNOMED CT; None: a code of ours."""

    @property
    def concept(self) -> Code:
        return self.kind or Code(f"LABEL_{self.value}"[:SHORT], SCHEME, self.name[:LONG])


def unit_of(modality: str) -> Code:
    """The unit of an image's values, and so of their standard deviation."""
    return HOUNSFIELD if modality == "CT" else NO_UNIT


def parametric_map(
    values: NDArray[Any],
    affine: NDArray[np.float64] | None,
    origin: Origin,
    made: Making,
    quantity: Quantity,
    index: int = 1,
) -> Dataset:
    """A map of real numbers (32 bits) over the series `origin.source`.

    Shapes: `values` is (*space). Units: `affine` RAS+, mm; the values' in `quantity`.
    Errors: DataError as for `dicom_out.images`, and for a source without geometry.
    """
    from highdicom import VOILUTTransformation
    from highdicom.pm import ParametricMap, RealWorldValueMapping

    made = made_of(origin.source, made)
    planes, source = _over(values, affine, origin)
    array = np.ascontiguousarray(planes.array, np.float32)
    if not np.isfinite(array).all():
        raise DataError("the map holds values that are not finite numbers (nan or infinite)")
    low, high = (float(value) for value in np.percentile(array, SHOWN_PERCENTILES))
    mapping = RealWorldValueMapping(
        lut_label=quantity.name[:SHORT],
        lut_explanation=clipped(f"{quantity.name} in {quantity.unit.meaning}", LONG),
        unit=quantity.unit,
        value_range=(float(array.min()), float(array.max())),
        slope=1.0,
        intercept=0.0,
        quantity_definition=quantity.concept,
    )
    data = ParametricMap(
        source_images=_stand_ins(planes, source),
        pixel_array=array,
        real_world_value_mappings=[mapping],
        voi_lut_transformations=[
            VOILUTTransformation(
                window_center=_rounded((low + high) / 2),
                window_width=_rounded(max(high - low, 1e-6)),
                voi_lut_function="LINEAR_EXACT",  # the one that may be narrower than 1
            )
        ],
        contains_recognizable_visual_features=False,
        content_label=_label(quantity.name),
        content_description=clipped(made.what, LONG),
        series_instance_uid=NO_UID,
        series_number=series_number(origin, index),
        sop_instance_uid=NO_UID,
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=clipped(made.model, LONG),
        software_versions=version(),
        device_serial_number=clipped(made.model_digest, LONG),
        transfer_syntax_uid=ExplicitVRLittleEndian,
        specific_character_set="ISO_IR 192",
        content_date=made.when.date(),
        content_time=made.when.time(),
        derivation=quantity.concept,
        **_geometry(planes),
    )
    return _completed(data, ParametricMapStorage, planes, origin, made, index)


def segmentation(
    labels: NDArray[Any],
    affine: NDArray[np.float64] | None,
    origin: Origin,
    made: Making,
    segments: Sequence[Segment],
    index: int = 1,
) -> Dataset:
    """A label map over the series `origin.source`: a binary segment for each of `segments`.

    Shapes: `labels` is (*space), whole numbers, 0 for none. Units: `affine` RAS+, mm.
    Errors: DataError as for `dicom_out.images`; for values that no segment stands for.
    """
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.seg import Segmentation, SegmentDescription

    _check_labels(labels, segments)
    made = made_of(origin.source, made)
    planes, source = _over(labels, affine, origin)
    by = AlgorithmIdentificationSequence(
        name=clipped(made.model, LONG), family=ARTIFICIAL_INTELLIGENCE, version=version()
    )
    described = [
        SegmentDescription(
            segment_number=number,
            segment_label=clipped(segment.name, LONG),
            segmented_property_category=STRUCTURE,
            segmented_property_type=segment.concept,
            algorithm_type="AUTOMATIC",
            algorithm_identification=by,
        )
        for number, segment in enumerate(segments, start=1)
    ]
    masks = [planes.array == segment.value for segment in segments]
    data = Segmentation(
        source_images=_stand_ins(planes, source),
        pixel_array=np.stack(masks, -1).astype(np.uint8),
        segmentation_type="BINARY",
        segment_descriptions=described,
        content_label=_label(made.what),
        content_description=clipped(made.what, LONG),
        series_instance_uid=NO_UID,
        series_number=series_number(origin, index),
        sop_instance_uid=NO_UID,
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=clipped(made.model, LONG),
        software_versions=version(),
        device_serial_number=clipped(made.model_digest, LONG),
        transfer_syntax_uid=ExplicitVRLittleEndian,
        specific_character_set="ISO_IR 192",
        content_date=made.when.date(),
        content_time=made.when.time(),
        **_geometry(planes),
    )
    return _completed(data, SegmentationStorage, planes, origin, made, index)


def _over(
    array: NDArray[Any], affine: NDArray[np.float64] | None, origin: Origin
) -> tuple[Planes, SourceSeries]:
    if origin.source is None:
        raise DataError("maps and segmentations lie over a DICOM series: name it")
    planes = planes_of(array, affine, origin.source)
    check_place(planes, origin)
    if planes.affine is None:
        raise DataError(
            "the series says nothing of where it lies, which maps and segmentations must; write "
            "the map as an image"
        )
    return planes, origin.source


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


def _geometry(planes: Planes) -> dict[str, Any]:
    from highdicom import PixelMeasuresSequence, PlaneOrientationSequence, PlanePositionSequence

    return {
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


def _completed(
    data: Dataset, kind: UID, planes: Planes, origin: Origin, made: Making, index: int
) -> Dataset:
    source = origin.source
    assert source is not None
    _refer(data, planes, source)
    data.update(whose_of(origin, made, planes, planes.array))
    put(data, side_and_part(source.first, asked=kind == ParametricMapStorage))
    put(
        data,
        {
            "SeriesDescription": description(
                made, str(source.first.value("SeriesDescription") or "")
            ),
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


def _check_labels(labels: NDArray[Any], segments: Sequence[Segment]) -> None:
    if not segments:
        raise DataError("the label map has no segment: all its values are 0")
    found = np.unique(labels)
    if (found != np.round(found)).any():
        raise DataError("a label map holds whole numbers; these are a map or an image")
    known = {0, *(segment.value for segment in segments)}
    unknown = [int(value) for value in found if int(value) not in known]
    if unknown:
        raise DataError(f"no segment is named for the labels {unknown[:8]}")


def _label(name: str) -> str:
    """A content label is a code string: capitals, digits, spaces and underscores (CS)."""
    plain = "".join(letter if letter.isalnum() else "_" for letter in name.upper())
    return plain.encode("ascii", "replace").decode().replace("?", "_")[:SHORT]


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
