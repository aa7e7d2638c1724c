"""Maps of real numbers as DICOM Parametric Map, one multi-frame object.

highdicom makes the object; what it is given, and its identity, are ours. It is imported when one is
made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import (
    ParametricMapStorage,
)

from medidiff.data.dicom_out_modules import (
    LONG,
    SCHEME,
    Making,
    clipped,
    made_of,
)
from medidiff.data.dicom_out_origin import Origin
from medidiff.data.dicom_out_over import (
    SHORT,
    completed,
    content_label,
    over,
    shared,
)
from medidiff.data.dicom_out_pixels import SHOWN_PERCENTILES
from medidiff.data.dicom_out_source import told_without_values
from medidiff.errors import DataError

HOUNSFIELD = Code("[hnsf'U]", "UCUM", "Hounsfield unit")
NO_UNIT = Code("1", "UCUM", "no units")
CONCEPTS = {
    "std": Code("113061", "DCM", "Standard Deviation"),
    "p05": Code("P05", SCHEME, "5th percentile of posterior samples"),
    "p95": Code("P95", SCHEME, "95th percentile of posterior samples"),
}
"""The quantities of the maps of results: DICOM's own code where there is one."""


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


def unit_of(modality: str) -> Code:
    """The unit of an image's values, and so of their standard deviation."""
    return HOUNSFIELD if modality == "CT" else NO_UNIT


@told_without_values()
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
    planes = over(values, affine, origin)
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
        content_label=content_label(quantity.name),
        derivation=quantity.concept,
        **shared(planes, origin, made, index),
    )
    return completed(data, ParametricMapStorage, planes, origin, made, index)


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
