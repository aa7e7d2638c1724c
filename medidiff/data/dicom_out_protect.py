"""De-identified objects of our own: without their patient, and still saying what made them.

The profile takes away descriptions, derivations and contributing equipment, because scanners and
people put names there. In our objects they say that an image is synthetic or processed, and that
must stay.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from typing import Any, Literal

from pydicom import Dataset

from medidiff.data.confidentiality.profile import Confidentiality, deidentify
from medidiff.data.dicom_out_modules import (
    CREATOR,
    MANUFACTURER,
    NOT_FOR_DIAGNOSIS,
    PRIVATE_GROUP,
    put,
)
from medidiff.data.privacy import SiteKey

Protect = Callable[[Dataset], Dataset]
Dates = Literal["none", "remove", "shift"]
"""Not de-identified; or it is, and dates go, or move by days that are the subject's own."""
KEPT = (
    *("DerivationDescription", "ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions"),
    *("ContentDescription", "SyntheticData"),
)
OURS = (
    *("ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions"),
    *("ContributionDescription", "PurposeOfReferenceCodeSequence"),
)
HANDLES = ("input_digest",)  # what would tell the source's file to whoever holds it
MADE = ("InstanceCreation", "Series", "Content")


def protection(dates: Dates) -> Protect:
    """What is done to each object before it is written.

    Errors: ConfigError if the site's key cannot be had.
    """
    if dates == "none":
        return lambda data: data
    options, key = Confidentiality(dates=dates), SiteKey.load()
    return lambda data: deidentified(data, options, key)


def deidentified(data: Dataset, options: Confidentiality, key: SiteKey) -> Dataset:
    """An object after the basic profile; one of ours keeps what it says of itself.

    UIDs are keyed ones: those of the source are the same as in a source that the same site
    de-identifies. `data` itself is changed unless it is one of ours.
    """
    if not is_ours(data):
        deidentify(data, options, key)
        return data
    safe = copy.deepcopy(data)  # objects of a series share items, which must change once
    _date_as_the_study(safe)
    deidentify(safe, options, key)
    put(safe, {word: data[word].value for word in KEPT if word in data})
    safe.SeriesDescription = _own_words(str(data.get("SeriesDescription", "")))
    _keep_ourselves(data, safe)
    _keep_block(data, safe)
    return safe


def is_ours(data: Dataset) -> bool:
    """Whether an object carries our private block."""
    return CREATOR in data.private_creators(PRIVATE_GROUP)


def _own_words(description: str) -> str:
    if description.startswith(NOT_FOR_DIAGNOSIS):
        return NOT_FOR_DIAGNOSIS
    return description.partition(":")[0]


def _date_as_the_study(data: Dataset) -> None:
    """When we made something is known, roughly, to whoever gets it: beside it, the same date moved
    would tell by how many days the patient's dates were."""
    date = str(data.get("StudyDate") or "")
    for what in MADE:
        for word, value in ((f"{what}Date", date), (f"{what}Time", "000000")):
            if word in data:
                setattr(data, word, value)


def _keep_ourselves(data: Dataset, safe: Dataset) -> None:
    """The items of the Contributing Equipment Sequence that are this program's."""
    before = data.get("ContributingEquipmentSequence") or []
    after = safe.get("ContributingEquipmentSequence") or []
    for item, cleaned in zip(before, after, strict=True):
        if item.get("Manufacturer") == MANUFACTURER:
            put(cleaned, {word: item[word].value for word in OURS if word in item})


def _keep_block(data: Dataset, safe: Dataset) -> None:
    before = data.private_block(PRIVATE_GROUP, CREATOR)
    after = safe.private_block(PRIVATE_GROUP, CREATOR, create=True)
    for number in (0x01, 0x02, 0x03):
        after.add_new(number, "LO", before[number].value)
    after.add_new(
        0x04, "UT", json.dumps(without_handles(_read(before[0x04].value)), sort_keys=True)
    )


def without_handles(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Provenance that leads to no file of the source."""
    return {key: value for key, value in provenance.items() if key not in HANDLES}


def _read(text: Any) -> dict[str, Any]:
    try:
        return json.loads(str(text))
    except ValueError:
        return {}
