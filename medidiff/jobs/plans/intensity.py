"""The intensity window of a training, from the values that scans hold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medidiff.data.modality import is_ct
from medidiff.data.options import (
    CT_WINDOWS,
    AnyIntensity,
    CTWindow,
    CTWindowName,
    Percentile,
    Window,
)
from medidiff.data.survey import PERCENTILES, Survey
from medidiff.errors import DataError
from medidiff.jobs.plans.lines import Line

HOUNSFIELD = -500.0  # a median minimum below it, and no modality named, is taken for CT
STEADY = 0.25  # quartile distance of the scans' bright ends over their median: one scale for all
BYTE = 255.0


@dataclass(frozen=True)
class IntensityChoice:
    """An intensity window and why."""

    options: AnyIntensity
    line: Line

    @property
    def hounsfield(self) -> bool:
        """Whether values mean the same in all scans of the world, so that none may be changed."""
        return isinstance(self.options, CTWindow)


def modality_of(found: Survey, asked: str | None) -> tuple[str, str]:
    """The modality and why.

    Errors: DataError if the cases are of several.
    """
    if asked:
        return asked, "as asked"
    named = {case.modality.upper() for case in found.cases if case.modality}
    if len(named) > 1:
        raise DataError(
            f"the cases are of several modalities ({', '.join(sorted(named))}); a model is of one: "
            "make a manifest of each, or say with --modality what they are to be called together"
        )
    if named:
        return named.pop(), "as the files or the manifest say"
    if np.median([end for case in found.cases for end in _at(case.percentiles, 0.0)]) < HOUNSFIELD:
        return "CT", "not stated: values below -500 are taken for Hounsfield units"
    return "OT", "not stated (OT is DICOM's 'other'): write MR, CT, CR ..."


def intensity_choice(found: Survey, modality: str, window: CTWindowName | None) -> IntensityChoice:
    """The window that fits the modality and what its scans hold."""
    if is_ct(modality) or window is not None:
        return _ct(found, window)
    ends = np.array([_at(case.percentiles, 100.0) for case in found.cases])
    starts = np.array([_at(case.percentiles, 0.0) for case in found.cases])
    whole = all(case.whole for case in found.cases)
    if whole and starts.min() >= 0 and ends.max() <= BYTE and np.median(ends) > BYTE / 2:
        why = "8-bit images: all of their range, nothing is clipped"
        return _chosen(Window(low=0.0, high=BYTE), {"kind": "window", "low": 0, "high": 255}, why)
    bright = np.array([_at(case.percentiles, 99.5) for case in found.cases])
    quartiles = np.percentile(bright, [25, 50, 75], axis=0)
    spread = float(((quartiles[2] - quartiles[0]) / np.maximum(quartiles[1], 1e-12)).max())
    steady = spread <= STEADY
    scope = "train" if steady else "image"
    why = (
        f"the scans' bright ends differ by {spread:.0%} (quartiles over median): "
        + ("one scale for all" if steady else "each scan by its own percentiles")
        + "; nothing is clipped"
    )
    value = {"kind": "percentile", "low": 0.5, "high": 99.5, "scope": scope}
    return _chosen(Percentile(low=0.5, high=99.5, scope=scope), value, why)


def _ct(found: Survey, window: CTWindowName | None) -> IntensityChoice:
    lows = min(end for case in found.cases for end in _at(case.percentiles, 0.5))
    highs = max(end for case in found.cases for end in _at(case.percentiles, 99.5))
    name = window or "full"
    low, high = CT_WINDOWS[name]
    held = f"{low:g} to {high:g} HU; the scans hold {lows:.0f} to {highs:.0f} (0.5 to 99.5 %)"
    why = (
        f"as asked: {held}; what lies beyond is clipped"
        if window
        else (
            f"{held}; all tissues; for one of them a narrower window "
            f"({', '.join(list(CT_WINDOWS)[1:])})"
        )
    )
    options = CTWindow(window=name)
    return _chosen(options, {"kind": "ct-window", "window": name}, why)


def _chosen(options: AnyIntensity, value: dict[str, object], why: str) -> IntensityChoice:
    return IntensityChoice(options, Line("data.intensity", value, why))


def _at(percentiles: tuple[tuple[float, ...], ...], which: float) -> list[float]:
    """Of each channel."""
    place = PERCENTILES.index(which)
    return [channel[place] for channel in percentiles]
