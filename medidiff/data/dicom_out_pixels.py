"""Intensities as 16-bit whole numbers: the steps they are kept in, and the windows they are shown
by."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.valuerep import format_number_as_ds

from medidiff.data.dicom_out_source import SourceFrame
from medidiff.errors import DataError

LEVELS = 2**16 - 1
FINE = 4095  # steps that a scanner of 12 bits has: fewer whole steps than that are made finer
SMALLEST_SPAN = 1e-200  # below it values are all one: steps would leave the range of a float
CT_WINDOW = (40.0, 400.0)  # soft tissue, in HU
SHOWN_PERCENTILES = (0.5, 99.5)
WINDOWS = ("WindowCenter", "WindowWidth", "WindowCenterWidthExplanation", "VOILUTFunction")


@dataclass(frozen=True)
class Coded:
    """Values as they are stored: value = stored * slope + intercept, to half a slope."""

    stored: NDArray[Any]
    """int16 or uint16."""
    slope: float
    intercept: float

    @property
    def rescaled(self) -> bool:
        """Whether stored values are other than the values."""
        return (self.slope, self.intercept) != (1.0, 0.0)


def coded(values: NDArray[Any], modality: str) -> Coded:
    """Values in 16 bits, with one slope for the whole series.

    CT is kept in whole HU, as scanners do. Other values keep steps of 1 where they are whole or
    span a scanner's 12 bits; else the step is the finest of 1, 2, 5 times a power of ten that
    fits. The intercept is 0 wherever the range allows, because some viewers of MR ignore both.
    Errors: DataError for values that are no finite numbers.
    """
    if not np.isfinite(values).all():
        count = int((~np.isfinite(values)).sum())
        raise DataError(f"{count} values of the image are not finite numbers (nan or infinite)")
    low, high = float(values.min()), float(values.max())
    whole = values.dtype.kind in "biu" or bool((values == np.round(values)).all())
    by_one = modality == "CT" or whole or high - low >= FINE
    step = 1.0 if by_one and high - low <= LEVELS - 1 else _step(high - low)
    first, last = round(low / step), round(high / step)
    if first >= -(2**15) and last < 2**15:
        offset, kind = 0, np.dtype(np.int16 if first < 0 else np.uint16)
    else:
        offset, kind = (0 if first >= 0 and last <= LEVELS else first), np.dtype(np.uint16)
    stored = np.round(values.astype(np.float64) / step) - offset
    return Coded(stored.astype(kind), step, float(format_number_as_ds(offset * step)))


def _step(span: float) -> float:
    """The finest of 1, 2, 5 times a power of ten of which 16 bits span `span`; written exactly in
    a decimal string of 16 characters."""
    if span < SMALLEST_SPAN:
        return 1.0
    least = span / (LEVELS - 1)
    power = math.floor(math.log10(least))
    for factor, more in ((1, 0), (2, 0), (5, 0), (1, 1)):
        step = float(f"{factor}e{power + more}")
        if step >= least:
            return step
    raise AssertionError("a power of ten lies above every number")


def window_of(values: NDArray[Any], modality: str) -> dict[str, Any]:
    """The attributes that say how to show an image: soft tissue for CT, what holds 99 % of the
    values for all else."""
    centre, width = CT_WINDOW if modality == "CT" else _spread(values)
    found = {"WindowCenter": short(centre), "WindowWidth": short(width)}
    # a LINEAR window is never narrower than 1 (PS3.3, C.11.2.1.2.1)
    return found | ({"VOILUTFunction": "LINEAR_EXACT"} if width < 1 else {})


def source_windows(frame: SourceFrame) -> dict[str, Any]:
    """The source's own windows, for the values as the reader gives them; empty where it has
    none."""
    found = {name: frame.value(name, "FrameVOILUTSequence") for name in WINDOWS}
    found = {name: value for name, value in found.items() if value is not None}
    whole = "WindowCenter" in found and "WindowWidth" in found
    return _turned(found, frame) if whole else {}


def _spread(values: NDArray[Any]) -> tuple[float, float]:
    low, high = np.percentile(values, SHOWN_PERCENTILES)
    if high <= low:
        low, high = float(values.min()), float(values.max())
    return float(low + high) / 2, max(float(high - low), 1e-6)


def _turned(found: dict[str, Any], source: SourceFrame) -> dict[str, Any]:
    """The reader turns MONOCHROME1 so that more is brighter (pixels.pixels): windows follow."""
    if not turned(source):
        return found
    header = source.header
    top = -1 if header.get("PixelRepresentation") else 2 ** int(header.BitsStored) - 1
    slope, intercept = (
        float(source.value(name, "PixelValueTransformationSequence") or default)
        for name, default in (("RescaleSlope", 1), ("RescaleIntercept", 0))
    )
    mirror = slope * top + 2 * intercept
    # a LINEAR window lies about its centre less one half (PS3.3, C.11.2.1.2.1)
    more = 1.0 if found.get("VOILUTFunction", "LINEAR") == "LINEAR" else 0.0
    centres = np.atleast_1d(np.array(found["WindowCenter"], np.float64))
    return found | {"WindowCenter": [short(mirror - centre + more) for centre in centres]}


def turned(source: SourceFrame) -> bool:
    """Whether the reader turns this frame's values round."""
    from medidiff.data.pixels import WITH_UNITS

    inverted = source.header.get("PhotometricInterpretation") == "MONOCHROME1"
    return inverted and source.header.get("Modality") not in WITH_UNITS


def short(value: float) -> str:
    """A number as DICOM's decimal string, with six digits that matter."""
    return format_number_as_ds(float(f"{value:.6g}"))
