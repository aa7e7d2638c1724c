"""The verb `to-dicom`: an image, label map or map in a file becomes DICOM."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Literal

import numpy as np
from pydicom import Dataset
from pydicom.sr.coding import Code

from medidiff.data.decode import Scan, decode, not_one
from medidiff.data.dicom_out import images
from medidiff.data.dicom_out_files import written
from medidiff.data.dicom_out_maps import Quantity, parametric_map
from medidiff.data.dicom_out_modules import Kind, Making, now
from medidiff.data.dicom_out_origin import Origin, Place
from medidiff.data.dicom_out_patient import Patient
from medidiff.data.dicom_out_segments import Segment, segmentation
from medidiff.data.dicom_out_source import SourceSeries, open_source
from medidiff.errors import ConfigError, DataError
from medidiff.model_folder import check_free, sidecar, stem
from medidiff.tasks.dicom_results import Protect

Content = Literal["image", "segmentation", "map"]
Made = Literal["processed", "synthetic"]
KINDS: Mapping[Made, Kind] = {"processed": "AI-PROCESSED", "synthetic": "SYNTHETIC"}
DATE_DIGITS = 8


@dataclass(frozen=True)
class Conversion:
    """What is in a file, and what it belongs to."""

    content: Content = "image"
    source: Path | None = None
    """The DICOM series that the image was made from, or that the labels or the map lie over."""
    made: Made | None = None
    """None: as the provenance beside the file says."""
    modality: str = ""
    place: Place = "grid"
    patient: Patient = Patient()
    labels: Mapping[int, Segment] | None = None
    """None: a segment for each value, named by it."""
    quantity: Quantity = Quantity("map")
    when: datetime | None = None


def convert(image: Path, out: Path, asked: Conversion, protect: Protect) -> list[Path]:
    """Files of one DICOM series in the new folder `out`.

    Errors: DataError for what cannot be read or DICOM cannot hold, without names in its text;
    ConfigError where it is not said how the image was made; OutputError if `out` is there.
    """
    check_free([out])
    scan = decode(image)
    if len(scan.array) != 1:
        raise DataError(not_one(len(scan.array)))
    source = None if asked.source is None else open_source(asked.source)
    made = _making(image, asked)
    origin = Origin(source, asked.patient, asked.modality or _modality(scan, source), asked.place)
    return written(_objects(scan, origin, made, asked), out, protect)


def provenance_of(image: Path) -> Mapping[str, object]:
    """What lies beside a result of ours; empty for other files."""
    base = stem(image)
    for name in (base, base.rpartition("-")[0], base.rpartition("-sample-")[0]):
        found = _read(sidecar(image.with_name(f"{name}.nii.gz"))) if name else {}
        files = found.get("files")
        listed = isinstance(files, list) and image.name in files
        if found.get("kind") in KINDS.values() and (name == base or listed):
            return found
    return {}


def patient_of(said: Mapping[str, str]) -> Patient:
    """A patient as `key=value` options tell it.

    Errors: ConfigError for unknown keys, and for dates and sexes that DICOM does not know.
    """
    known = [one.name for one in fields(Patient)]
    unknown = sorted(set(said) - set(known))
    if unknown:
        raise ConfigError(f"--patient {unknown[0]}=...: the keys are {', '.join(known)}")
    birth, sex = said.get("birth_date", ""), said.get("sex", "")
    if birth and (len(birth) != DATE_DIGITS or not birth.isdigit()):
        raise ConfigError("--patient birth_date: write it as YYYYMMDD")
    if sex not in ("", "F", "M", "O"):
        raise ConfigError("--patient sex: F, M or O (other)")
    return Patient(said.get("id", ""), said.get("name", ""), birth, sex)


def segments_of(said: Mapping[str, str]) -> Mapping[int, Segment] | None:
    """Segments as `value=NAME` or `value=SCHEME:CODE:NAME` options tell them.

    Errors: ConfigError for values that are no whole numbers above 0.
    """
    found: dict[int, Segment] = {}
    for value, text in said.items():
        if not value.isdigit() or int(value) < 1:
            raise ConfigError(f"--label {value}={text}: labels are whole numbers above 0")
        parts = text.split(":")
        code = Code(parts[1], parts[0], parts[2]) if len(parts) == 3 else None
        found[int(value)] = Segment(int(value), parts[2] if code else text, code)
    return found or None


def _making(image: Path, asked: Conversion) -> Making:
    provenance = provenance_of(image)
    kind = KINDS[asked.made] if asked.made else provenance.get("kind")
    if kind not in ("SYNTHETIC", "AI-PROCESSED"):
        raise ConfigError(
            "nothing says how the image was made: there is no provenance beside it. Say --kind "
            "processed (of a real scan) or --kind synthetic (generated)"
        )
    task = provenance.get("task")
    what = str(task.get("kind")) if isinstance(task, Mapping) else asked.content
    if asked.content == "map":
        what = asked.quantity.name
    certain: Kind = "SYNTHETIC" if kind == "SYNTHETIC" else "AI-PROCESSED"
    return Making(certain, what, provenance, asked.when or now())


def _modality(scan: Scan, source: SourceSeries | None) -> str:
    return (source.modality if source else scan.modality) or ""


def _objects(scan: Scan, origin: Origin, made: Making, asked: Conversion) -> list[Dataset]:
    array, affine = scan.array[0], scan.affine
    if asked.content == "image":
        return images(array, affine, origin, made)
    if asked.content == "map":
        return [parametric_map(array, affine, origin, made, asked.quantity)]
    values = [int(value) for value in np.unique(np.round(array)) if value != 0]
    segments = asked.labels or {value: Segment(value, f"label {value}") for value in values}
    return [segmentation(array, affine, origin, made, [*segments.values()])]


def _read(file: Path) -> Mapping[str, object]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
