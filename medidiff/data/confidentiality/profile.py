"""The basic application confidentiality profile applied to one data set, attributes only.

Source: DICOM PS3.15 annex E, table E.1-1, with the options to retain device identity, patient
characteristics, modified dates, and private attributes that are known to be safe.
Differs: conditional actions take the variant that keeps objects of every type complete (X/Z is
empty, X/D and Z/D are a dummy); whole overlay groups go, not only their data and comments;
person names that the table does not list are emptied; texts of attributes that no dictionary knows
go, and so does any text but codes (CS) that repeats the patient's own name or identifiers. Dates
move by whole days: the time of day stays as it was. Pixels are not looked at: what is burnt into
them stays.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from pydicom import DataElement, Dataset
from pydicom.datadict import dictionary_has_tag
from pydicom.sr.codedict import codes
from pydicom.tag import BaseTag

from medidiff.data.confidentiality.table import EDITION, STEPS, Rule, Step, rules
from medidiff.data.dicom_out_modules import NOT_FOR_DIAGNOSIS
from medidiff.data.privacy import SiteKey

OLDEST_YEARS = 90  # ages above are told as this one
STANDARD_ROOT = "1.2.840.10008."  # UIDs of the standard itself name no instance
TEXTS = {"AE", "AS", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UN", "UR", "UT"}
TEXTS |= {"OB", "OW", "OD", "OF", "OL", "OV"}
TEMPORAL = {"DA", "DT", "TM"}
BIRTH = {0x00100030, 0x00100032, 0x00100033, 0x00100034, 0x00100035}
PATIENT_ID, AGE = 0x00100020, 0x00101010
IDENTIFIERS = (0x00100010, PATIENT_ID, 0x00100030, 0x00101000, 0x00101001, 0x00101005, 0x00101060)
LEAST_LETTERS, LONG_WORD = 3, 5
WHOLE = {
    "DA": r"\d{8}",
    "DT": r"\d{8}(\d{2}){0,3}(\.\d{1,6})?([+-]\d{4})?\s*",
    "TM": r"\d{2}:?(\d{2}:?(\d{2}(\.\d{1,6})?)?)?\s*",
}
PIXELS = {0x7FE00008, 0x7FE00009, 0x7FE00010}
DUMMIES: dict[str, Any] = {
    **dict.fromkeys(("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UT"), "ANONYMIZED"),
    **dict.fromkeys(("DS", "IS"), "0"),
    **dict.fromkeys(("FD", "FL"), 0.0),
    **dict.fromkeys(("SL", "SS", "SV", "UL", "US", "UV"), 0),
    **dict.fromkeys(("OB", "OD", "OF", "OL", "OV", "OW", "UN"), b"\0\0"),
    "AS": "000Y",
    "DA": "19000101",
    "DT": "19000101000000",
    "TM": "000000",
    "UR": "urn:anonymized",
    "AT": 0,
}


MARKS = (NOT_FOR_DIAGNOSIS, "AI-PROCESSED")


@dataclass(frozen=True)
class Confidentiality:
    """The options of the profile."""

    dates: Literal["remove", "shift"] = "remove"
    """Whether dates go, or move by a number of days that is one subject's own and keyed."""
    device: Literal["remove", "retain"] = "remove"
    """What identifies the scanner: station name, serial number, ..."""
    patient: Literal["remove", "retain"] = "remove"
    """Age, sex, size, weight and the like; ages above 90 become 90."""
    private: tuple[str, ...] = ()
    """Private attributes known to be safe, as group,element,creator: "0019,0c,SIEMENS MR HEADER"
    (the element's last two digits)."""


def deidentify(data: Dataset, options: Confidentiality, key: SiteKey) -> None:
    """Apply the profile to `data` and everything nested in it, and state so in its header.

    Patient ID and name become the keyed pseudonym of the patient ID (of the study where there is
    none); UIDs become keyed ones that are the same wherever they are referred to.
    """
    subject = str(data.get("PatientID") or f"study {data.get('StudyInstanceUID', '')}")
    identifiers = own_identifiers(data)
    work = _Work(options, key, key.pseudonym(subject), key.days_back(subject), identifiers)
    mark = next((mark for mark in MARKS if _description(data).startswith(mark)), "")
    work.clean(data)
    if mark:  # of our own texts this one stays: what is made must say so
        data.SeriesDescription = mark
    data.PatientID = data.PatientName = work.pseudonym
    _state(data, options)


def own_identifiers(data: Dataset) -> frozenset[str]:
    """What a header calls its patient, in lower case: parts of names, identifiers, birth date.
    Parts of less than three letters would be found in any word."""
    found: set[str] = set()
    for tag in IDENTIFIERS:
        element = data.get(tag)
        for value in values_of(element):
            found.update(re.split(r"[\^=\s,;]+", value.lower()))
    return frozenset(word for word in found if len(word) >= LEAST_LETTERS)


def repeats(identifiers: Iterable[str], element: DataElement) -> bool:
    """Whether an element's text holds one of a patient's identifiers: short ones as words of their
    own, longer ones anywhere."""
    text = " ".join(values_of(element)).lower()
    words = set(re.split(r"[\W_]+", text))
    return any(word in (text if len(word) >= LONG_WORD else words) for word in identifiers)


def values_of(element: DataElement | None) -> list[str]:
    """An element's values as texts; none of a sequence."""
    if element is None or element.value is None or element.VR == "SQ":
        return []
    many = element.VM > 1 and not isinstance(element.value, str)
    return [str(one) for one in (element.value if many else [element.value])]


def _description(data: Dataset) -> str:
    return str(data.get("SeriesDescription", "") or "")


def _state(data: Dataset, options: Confidentiality) -> None:
    data.PatientIdentityRemoved = "YES"
    data.DeidentificationMethod = [f"medidiff: attributes of {EDITION}", "not the pixels"]
    data.LongitudinalTemporalInformationModified = (
        "MODIFIED" if options.dates == "shift" else "REMOVED"
    )
    names = ["BasicApplicationConfidentialityProfile"]
    if options.dates == "shift":
        names.append("RetainLongitudinalTemporalInformationModifiedDatesOption")
    if options.device == "retain":
        names.append("RetainDeviceIdentityOption")
    if options.patient == "retain":
        names.append("RetainPatientCharacteristicsOption")
    if options.private:
        names.append("RetainSafePrivateOption")
    data.DeidentificationMethodCodeSequence = [_coded(name) for name in names]


def _coded(name: str) -> Dataset:
    code = getattr(codes.DCM, name)
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator = code.value, code.scheme_designator
    item.CodeMeaning = code.meaning
    return item


@dataclass(frozen=True)
class _Work:
    """What stays the same while one file is gone through."""

    options: Confidentiality
    key: SiteKey
    pseudonym: str
    days_back: int
    identifiers: frozenset[str]

    def clean(self, data: Dataset, *, within_dummy: bool = False) -> None:
        for tag in list(data.keys()):
            if self._goes_unread(data, tag):
                del data[tag]
                continue
            element = data[tag]
            step = self._step(element, within_dummy)
            changed = self._done(element, step)
            if changed is None:
                del data[tag]

    def _goes_unread(self, data: Dataset, tag: BaseTag) -> bool:
        """Group lengths, padding, curves, overlays, and private attributes not listed as safe."""
        group = tag.group
        if tag.element == 0 or tag == 0xFFFCFFFC:
            return True
        if group & 0xFF00 in (0x5000, 0x6000) and group % 2 == 0:
            return True
        return tag.is_private and not self._is_safe(data, tag)

    def _is_safe(self, data: Dataset, tag: BaseTag) -> bool:
        if tag.is_private_creator:
            return any(self._is_safe(data, other) for other in _block(data, tag))
        creator = str(getattr(data.get(tag.private_creator), "value", "") or "").strip()
        name = f"{tag.group:04x},{tag.element & 0xFF:02x},{creator}"
        return name.lower() in {item.lower() for item in self.options.private}

    def _step(self, element: DataElement, within_dummy: bool) -> Step:
        rule = rules().get(int(element.tag))
        if element.tag in PIXELS or element.tag.is_private:  # private here: known to be safe
            return "keep"
        if self.options.dates == "shift" and _is_date(element):
            return "clean"
        if rule is not None:
            return self._listed(rule)
        if element.VR == "PN":
            return "empty"
        if element.VR == "UI" and not dictionary_has_tag(element.tag):
            return "uid"
        if element.VR in TEMPORAL:
            return "empty"
        unknown = not dictionary_has_tag(element.tag) and element.VR in TEXTS
        if unknown:
            return "remove"
        if within_dummy and element.VR in TEXTS - {"CS", "SH"}:
            return "dummy"
        return "keep"

    def _listed(self, rule: Rule) -> Step:
        if self.options.device == "retain" and rule.device:
            return STEPS[rule.device]
        if self.options.patient == "retain" and rule.patient:
            return STEPS[rule.patient]
        return STEPS[rule.basic]

    def _done(self, element: DataElement, step: Step) -> DataElement | None:
        """The element, changed; None if it goes."""
        if step == "remove":
            return None
        if element.VR == "SQ":
            return self._sequence(element, step)
        if step == "empty":
            element.value = None if element.VR not in ("OB", "OW", "UN") else b""
        elif step == "dummy":
            element.value = self._dummy(element)
        elif step == "uid":
            element.value = _each(element.value, self._uid)
        elif step == "clean":
            return self._cleaned(element)
        elif element.tag == AGE:
            element.value = _capped(str(element.value or ""))
        elif element.VR in TEXTS - {"CS"} and repeats(self.identifiers, element):
            element.value = self._dummy(element)
        return element

    def _sequence(self, element: DataElement, step: Step) -> DataElement:
        if step == "empty":
            element.value = []
        for item in element.value or []:
            self.clean(item, within_dummy=step == "dummy")
        return element

    def _dummy(self, element: DataElement) -> Any:
        if element.VR == "UI":
            return _each(element.value, self._uid)
        return DUMMIES.get(element.VR, "")

    def _uid(self, value: Any) -> str:
        return str(value) if str(value).startswith(STANDARD_ROOT) else self.key.uid(str(value))

    def _cleaned(self, element: DataElement) -> DataElement | None:
        """A date is moved; a text is cleaned by taking it away, which needs no reading."""
        if element.VR not in TEMPORAL:
            return None
        element.value = _each(element.value, lambda value: self._moved(str(value), element.VR))
        return element

    def _moved(self, text: str, kind: str) -> str:
        """A date (time) as many days earlier; a time as it is. What is neither goes."""
        if not re.fullmatch(WHOLE[kind], text):
            return ""
        if kind == "TM":
            return text
        try:
            date = datetime.strptime(text[:8], "%Y%m%d") - timedelta(days=self.days_back)
        except (ValueError, OverflowError):
            return ""
        return f"{date.year:04d}{date:%m%d}{text[8:]}"


def _is_date(element: DataElement) -> bool:
    return element.VR in TEMPORAL and int(element.tag) not in BIRTH


def _block(data: Dataset, creator: BaseTag) -> list[BaseTag]:
    """The private attributes that a creator reserved."""
    first = creator.element << 8
    return [
        tag
        for tag in data.keys()  # noqa: SIM118  (a data set's own iterator reads every element)
        if tag.group == creator.group and first <= tag.element <= first + 0xFF
    ]


def _each(value: Any, change: Any) -> Any:
    if value is None or value == "":
        return value
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        return change(value)
    return [change(one) for one in value]


def _capped(age: str) -> str:
    if len(age) == 4 and age[3] == "Y" and age[:3].isdigit():
        return f"{min(int(age[:3]), OLDEST_YEARS):03d}Y"
    return age
