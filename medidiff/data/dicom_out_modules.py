"""The modules that all objects share: whose they are, how and by what they were made."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib import metadata
from typing import Any, Literal

from pydicom import Dataset
from pydicom.uid import UID

from medidiff.data.dicom_out_source import SourceFrame, SourceSeries, lossy_of
from medidiff.data.dicom_out_uids import uid_of
from medidiff.data.mosaics import is_mosaic

Kind = Literal["AI-PROCESSED", "SYNTHETIC"]
MANUFACTURER = "medidiff"
CREATOR, PRIVATE_GROUP = "MEDIDIFF", 0x0077
SCHEME = "99MEDIDIFF"
"""Designator of our own codes, where DICOM has none."""
LONG, SHORT_TEXT = 64, 1024  # characters of LO and ST
NOT_FOR_DIAGNOSIS = "SYNTHETIC - not for diagnosis"


def now() -> datetime:
    """The time that objects are stamped with, in the machine's zone."""
    return datetime.now(UTC).astimezone()


@dataclass(frozen=True)
class Making:
    """How an object came about.

    `provenance` is what lies beside a NIfTI result; it holds no names.
    """

    kind: Kind
    what: str
    """The task, or what stands for it: denoise, sample, std."""
    provenance: Mapping[str, object] = field(default_factory=dict)
    when: datetime = field(default_factory=now)
    """Part of the content that UIDs are made from."""

    @property
    def model(self) -> str:
        return str(self.provenance.get("model", "not stated"))

    @property
    def model_digest(self) -> str:
        return str(self.provenance.get("model_digest", "not stated"))

    @property
    def text(self) -> str:
        """The provenance as JSON."""
        return json.dumps(self.provenance, sort_keys=True, default=str)

    @property
    def date(self) -> str:
        return f"{self.when:%Y%m%d}"

    @property
    def time(self) -> str:
        return f"{self.when:%H%M%S.%f}"


def made_of(source: SourceSeries | None, made: Making) -> Making:
    """How something was made of a source: of a synthetic image it is synthetic, whatever was done
    to it, and times are told in the source's zone where that is stated."""
    if source is None:
        return made
    header = source.first.header
    offset = str(header.get("TimezoneOffsetFromUTC") or "")
    if re.fullmatch(r"[+-]\d{4}", offset):
        made = replace(made, when=made.when.astimezone(datetime.strptime(offset, "%z").tzinfo))
    return replace(made, kind="SYNTHETIC") if header.get("SyntheticData") == "YES" else made


def version() -> str:
    """This package's version."""
    return metadata.version(MANUFACTURER)


def description(made: Making, of: str) -> str:
    """A series' description: what it is comes first, so that no list of a viewer cuts it off."""
    head = f"AI-PROCESSED {made.what}"
    if made.kind == "SYNTHETIC":
        head = f"{NOT_FOR_DIAGNOSIS}: {made.what}"
    return clipped(f"{head}: {of}" if of else head, LONG)


def described(source: SourceSeries) -> str:
    """What a source calls itself, without what we put before that."""
    text = str(source.first.value("SeriesDescription") or "")
    if text.startswith(NOT_FOR_DIAGNOSIS):
        return text.rpartition(": ")[2]
    return text.partition(": ")[2] if text.startswith("AI-PROCESSED") else text


def clipped(text: str, most: int) -> str:
    """Text without what DICOM gives a meaning, and no longer than a value may be."""
    plain = " ".join(text.replace("\\", "/").split())
    return plain[:most].rstrip()


def code(value: str, scheme: str, meaning: str) -> Dataset:
    """A coded entry (PS3.3, 8.8)."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator = value[:16], scheme[:16]
    item.CodeMeaning = clipped(meaning, LONG)
    return item


def own_scheme() -> Dataset:
    """Whose codes those of our own designator are."""
    item = Dataset()
    item.CodingSchemeDesignator, item.CodingSchemeName = SCHEME, "medidiff"
    item.CodingSchemeResponsibleOrganization = "The medidiff developers"
    return item


def derivation(made: Making, resampled: bool) -> dict[str, Any]:
    """In words and in codes."""
    said = made.provenance
    facts = [f"seed {said['seed']}"] if "seed" in said else []
    if said.get("network_calls") is not None:
        facts.append(f"{said['network_calls']} network calls")
    sampler = said.get("sampler")
    if isinstance(sampler, Mapping):
        facts.append(f"sampler {sampler.get('kind')}, {said.get('steps')} steps")
    known = f" by the diffusion prior {made.model} ({made.model_digest})" if "model" in said else ""
    words = f"{made.kind}: {made.what}{known}; medidiff {version()}; {', '.join(facts)}"
    notice = " Research only. Not for diagnosis."
    codes = [
        code(made.what.replace(" ", "_"), SCHEME, f"{made.what} by a diffusion prior"),
        code("123110", "DCM", "Artificial Intelligence"),
    ]
    if resampled:
        codes.append(code("113085", "DCM", "Spatial resampling"))
    room = SHORT_TEXT - len(notice)
    return {
        "DerivationDescription": clipped(words.rstrip("; ") + ".", room) + notice,
        "DerivationCodeSequence": codes,
    }


def sources(frames: Iterable[SourceFrame], preserved: bool) -> list[Dataset]:
    """Items of the Source Image Sequence; `preserved`: pixel for pixel at the same places."""
    by_file: dict[int, tuple[Dataset, list[int]]] = {}
    for one in frames:
        header, numbers = by_file.setdefault(id(one.header), (one.header, []))
        if one.enhanced or int(header.get("NumberOfFrames") or 1) > 1:
            numbers.append(one.frame.index + 1)
    items = []
    for header, numbers in by_file.values():
        item = Dataset()
        item.ReferencedSOPClassUID = header.SOPClassUID
        item.ReferencedSOPInstanceUID = header.SOPInstanceUID
        if numbers:
            item.ReferencedFrameNumber = numbers
        item.SpatialLocationsPreserved = "YES" if preserved and not is_mosaic(header) else "NO"
        item.PurposeOfReferenceCodeSequence = [
            code("121322", "DCM", "Source image for image processing operation")
        ]
        items.append(item)
    return items


def equipment(made: Making) -> dict[str, Any]:
    """What made the object. The model's digest stands for a serial number: it names the exact
    apparatus."""
    return {
        "Manufacturer": MANUFACTURER,
        "ManufacturerModelName": clipped(made.model, LONG),
        "DeviceSerialNumber": clipped(made.model_digest, LONG),
        "SoftwareVersions": version(),
    }


def contributors(made: Making, source: SourceSeries | None) -> list[Dataset]:
    """Items of the Contributing Equipment Sequence: the scanner, what had worked on the source
    before, and this program."""
    before: list[Dataset] = []
    if source is not None:
        header = source.first.header
        before = [*(header.get("ContributingEquipmentSequence") or [])]
        if str(header.get("Manufacturer", "")) not in ("", MANUFACTURER):
            before.append(_scanner(header))
    ours = Dataset()
    ours.Manufacturer, ours.ManufacturerModelName = MANUFACTURER, clipped(made.model, LONG)
    ours.SoftwareVersions, ours.DeviceSerialNumber = version(), clipped(made.model_digest, LONG)
    ours.ContributionDateTime = f"{made.when:%Y%m%d%H%M%S.%f%z}"
    ours.ContributionDescription = clipped(
        f"{made.kind}: {made.what}. Research only, not for diagnosis.", SHORT_TEXT
    )
    purpose = ("109102", "Processing Equipment")
    if made.kind == "SYNTHETIC":
        purpose = ("109100", "Synthesizing Equipment")
    ours.PurposeOfReferenceCodeSequence = [code(purpose[0], "DCM", purpose[1])]
    return [*before, ours]


def _scanner(header: Dataset) -> Dataset:
    item = Dataset()
    for keyword in ("Manufacturer", "ManufacturerModelName", "DeviceSerialNumber",
                    "SoftwareVersions", "StationName", "InstitutionName"):  # fmt: skip
        if keyword in header and header[keyword].value not in (None, ""):
            setattr(item, keyword, header[keyword].value)
    item.PurposeOfReferenceCodeSequence = [code("109101", "DCM", "Acquisition Equipment")]
    return item


def lossy(source: SourceSeries | None) -> dict[str, Any]:
    """Once lossy, always lossy (PS3.3, C.7.6.1.1.5)."""
    if source is None:
        return {"LossyImageCompression": "00"}
    found, ratios, methods = lossy_of(source)
    if found is None:
        return {}
    if not found:
        return {"LossyImageCompression": "00"}
    said: dict[str, Any] = {"LossyImageCompression": "01"}
    if ratios:
        said["LossyImageCompressionRatio"] = ratios
    if methods:
        said["LossyImageCompressionMethod"] = methods
    return said


def add_private(data: Dataset, made: Making) -> None:
    """The private block: 01 kind, 02 model, 03 digest of the model, 04 provenance as JSON."""
    block = data.private_block(PRIVATE_GROUP, CREATOR, create=True)
    block.add_new(0x01, "LO", made.kind)
    block.add_new(0x02, "LO", clipped(made.model, LONG))
    block.add_new(0x03, "LO", clipped(made.model_digest, LONG))
    block.add_new(0x04, "UT", made.text)


def put(data: Dataset, values: Mapping[str, Any]) -> None:
    """Sets attributes by keyword."""
    for keyword, value in values.items():
        setattr(data, keyword, value)


def series_uid(made: Making, study: str, index: int, content: bytes) -> UID:
    """The UID of a series: of its study, how and when it was made, and what is in it."""
    how = (made.kind, made.what, made.text, made.when.isoformat())
    return uid_of("series", study, *how, str(index), content)
