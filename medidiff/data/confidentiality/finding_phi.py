"""What in a file could say whose it is: attributes, private attributes, free text, burnt-in text.

A help for a person who decides, no proof: it knows patterns, not people. `Found.value` is for the
private log alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import DataElement, Dataset
from pydicom.datadict import keyword_for_tag

from medidiff.data.confidentiality.profile import (
    BIRTH,
    DUMMIES,
    PIXELS,
    TEMPORAL,
    TEXTS,
    own_identifiers,
    repeats,
    values_of,
)
from medidiff.data.confidentiality.table import rules

ATTRIBUTE = "attributes of the basic profile"
DATE = "dates and times"
UID = "UIDs of the original"
PRIVATE = "private attributes"
TEXT = "free text like a name, a date or a number"
FIELD = "free-text fields of the header"
PATH = "file or folder names like a name, a date or a number"
BURNT_IN = "text may be burnt into the pixels"
CATEGORIES = (ATTRIBUTE, DATE, UID, PRIVATE, TEXT, FIELD, PATH, BURNT_IN)

SECONDARY_CAPTURES = "1.2.840.10008.5.1.4.1.1.7"
WRITTEN = TEXTS - {"OB", "OW", "OD", "OF", "OL", "OV", "UN", "UR", "CS"}
OURS = {"DeidentificationMethod", "CodeValue", "CodeMeaning", "SoftwareVersions"}
WITH_TEXT = ("US", "IVUS", "ES", "XC", "GM", "OP", "OT", "DG", "RF", "XA")
PSEUDONYM = re.compile(r"S-[0-9a-f]{12}")
OUR_NAMES = re.compile(r"(?<![0-9A-Za-z])(S-|study-|series-)?[0-9a-f]{12}(?![0-9A-Za-z])")
PATTERNS = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?<!\d)(19|20)\d\d[-./_ ]?(0[1-9]|1[0-2])[-./_ ]?(0[1-9]|[12]\d|3[01])(?!\d)",
        r"(?<!\d)(0?[1-9]|[12]\d|3[01])[./-](0?[1-9]|1[0-2])[./-](19|20)?\d\d(?!\d)",
        r"(?<![\d.])\d{6,}(?![\d.])",
        r"[^\W\d_]{2,}\^[^\W\d_]+",
        r"\b[A-Z][a-z]+, ?(?!Inc|Ltd|Corp|Gmbh|Co\b)[A-Z][a-z]+\b",
        r"\b(Mr|Mrs|Ms|Dr|Prof|Frau|Herr)\b\.? ?[A-Z]",
        r"[\w.+-]+@[\w-]+\.\w+",
    )
)


@dataclass(frozen=True)
class Found:
    """One thing that identifies; `where` names an attribute or field, never a value."""

    category: str
    where: str
    value: str


def looks_identifying(text: str) -> bool:
    """Whether a text holds what looks like a date, a long number, a name or an address; pseudonyms
    do not count."""
    text = OUR_NAMES.sub("", text)
    return any(pattern.search(text) for pattern in PATTERNS)


def phi_of(data: Dataset) -> list[Found]:
    """What a DICOM header says of its patient, at all depths; what the profile leaves is not told:
    pseudonyms, dummies, UIDs under 2.25, dates of a file that says that they were moved."""
    moved = str(data.get("LongitudinalTemporalInformationModified", "")) == "MODIFIED"
    identifiers = {word for word in own_identifiers(data) if not _is_dummy(word)}
    found = list(_within(data, identifiers, moved))
    risk = burnt_in_risk(data)
    return [*found, Found(BURNT_IN, risk, "")] if risk else found


def _within(data: Dataset, identifiers: set[str], moved: bool) -> Iterator[Found]:
    for tag in list(data.keys()):
        if tag in PIXELS or tag.element == 0:
            continue
        element = data[tag]
        if tag.is_private:
            if not tag.is_private_creator:
                yield Found(PRIVATE, f"group {tag.group:04x}", str(element.value))
            continue
        if element.VR == "SQ":
            for item in element.value or []:
                yield from _within(item, identifiers, moved)
            continue
        yield from _told(element, identifiers, moved)


def _told(element: DataElement, identifiers: set[str], moved: bool) -> Iterator[Found]:
    where = keyword_for_tag(element.tag) or f"({element.tag.group:04x},{element.tag.element:04x})"
    values = [value for value in values_of(element) if value and not _is_dummy(value)]
    listed = int(element.tag) in rules()
    for value in values:
        if element.VR in TEMPORAL:
            if not moved or int(element.tag) in BIRTH:
                yield Found(DATE, where, value)
        elif listed and element.VR == "UI":
            if not value.startswith(("2.25.", "1.2.840.10008.")):
                yield Found(UID, where, value)
        elif listed:
            yield Found(ATTRIBUTE, where, value)
        elif element.VR not in WRITTEN or where in OURS:
            continue
        elif looks_identifying(value) or repeats(identifiers, element):
            yield Found(TEXT, where, value)


def _is_dummy(value: str) -> bool:
    plain = value.strip().rstrip("^")
    if PSEUDONYM.fullmatch(plain) or PSEUDONYM.fullmatch(plain.upper()[:1] + plain[1:]):
        return True
    return plain.upper() in {str(dummy).upper() for dummy in DUMMIES.values()} | {"REMOVED", "0.0"}


def burnt_in_risk(data: Dataset) -> str:
    """Why text may be burnt into an image, by its header; "" if nothing says so."""
    said = str(data.get("BurnedInAnnotation", "")).upper()
    if said == "YES":
        return "the header says that text is burnt in"
    if said == "NO":
        return ""
    if str(data.get("SOPClassUID", "")).startswith(SECONDARY_CAPTURES):
        return "a secondary capture (a screenshot) that does not deny burnt-in text"
    if str(data.get("Modality", "")) in WITH_TEXT:
        return "a modality that often writes text into its images (ultrasound and the like)"
    return ""


LINE, STROKES, LONGEST, MOST_INK, INK = 5, 8, 6, 0.1, 0.9


def text_like(image: NDArray[Any]) -> bool:
    """Whether a picture has rows or columns like lines of writing.

    Overlaid text is drawn near the brightest or the darkest value. A line of it is at least `LINE`
    neighbouring rows, or columns, in each of which such values come in `STROKES` short runs or
    more.
    Differs: this is a heuristic of ours; a test grid is taken for text, and text of few letters or
    in grey is overlooked.
    """
    if image.ndim != 2 or min(image.shape) < 2 * LINE:
        return False
    low, high = float(image.min()), float(image.max())
    share = (image - low) / max(high - low, 1e-12)
    for ink in (share > INK, share < 1 - INK):
        if 0 < ink.mean() < MOST_INK and (_lines(ink) or _lines(ink.T)):  # more is a background
            return True
    return False


def _lines(ink: NDArray[np.bool_]) -> bool:
    edges = np.diff(np.pad(ink, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    starts = (edges == 1).sum(axis=1)
    length = ink.sum(axis=1) / np.maximum(starts, 1)
    like = (starts >= STROKES) & (length <= LONGEST)
    windows = np.convolve(like, np.ones(LINE), mode="valid")
    return bool((windows >= LINE).any())
