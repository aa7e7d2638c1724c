"""Label maps as DICOM Segmentation: a binary segment for each label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import SegmentationStorage

from medidiff.data.dicom_out_modules import (
    LONG,
    SCHEME,
    Making,
    clipped,
    made_of,
    version,
)
from medidiff.data.dicom_out_origin import Origin
from medidiff.data.dicom_out_over import (
    SHORT,
    completed,
    content_label,
    over,
    shared,
)
from medidiff.data.dicom_out_source import told_without_values
from medidiff.errors import DataError

STRUCTURE = Code("123037004", "SCT", "Anatomical Structure")


ARTIFICIAL_INTELLIGENCE = Code("123110", "DCM", "Artificial Intelligence")


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


@told_without_values()
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
    planes = over(labels, affine, origin)
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
        pixel_array=np.stack(masks, -1).astype(np.uint8),
        segmentation_type="BINARY",
        segment_descriptions=described,
        content_label=content_label(made.what),
        **shared(planes, origin, made, index),
    )
    return completed(data, SegmentationStorage, planes, origin, made, index)


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
