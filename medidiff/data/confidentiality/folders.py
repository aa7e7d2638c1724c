"""A tree of DICOM files written again, de-identified, under names that say nothing."""

from __future__ import annotations

import io
import re
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset

from medidiff.data.confidentiality.finding_phi import burnt_in_risk
from medidiff.data.confidentiality.profile import Confidentiality
from medidiff.data.dicom import is_dicom_content
from medidiff.data.dicom_out_protect import deidentified
from medidiff.data.pixels import KINDS
from medidiff.data.privacy import SiteKey
from medidiff.data.sources import ArchiveError, Source, files_under, is_archive, members_of

DOCUMENTS = ("SR", "DOC", "PR", "KO", "RTRECORD", "PLAN", "REG", "FID", "HD", "ECG", "AU")
HEADS = ("HEAD", "BRAIN", "SKULL", "FACE", "HEADNECK", "NEURO", "CEREBRUM")
IN_WORDS = re.compile(  # of free text, where "surface coil" must not count
    r"\b(?:heads?|brain|skull|faces?|facial|neuro\w*|cerebr\w*|cranial|cranium|mp2?rage)\b", re.I
)
DESCRIPTIONS = ("SeriesDescription", "ProtocolName", "StudyDescription")
VOLUMES = ("MR", "CT", "PT", "NM")


@dataclass
class Done:
    """What was written, and why the rest was not; `names` is for the private log alone."""

    written: int = 0
    subjects: set[str] = field(default_factory=set)
    heads: set[str] = field(default_factory=set)
    """Series of volumes that show a head, and so a face."""
    at_risk: int = 0
    """Files whose pixels may hold text."""
    left_out: Counter[str] = field(default_factory=Counter)
    names: list[str] = field(default_factory=list)

    def leave_out(self, reason: str, name: str) -> None:
        self.left_out[reason] += 1
        self.names.append(f"  {name}: {reason}")


def deidentify_tree(
    root: Path,
    out: Path,
    options: Confidentiality,
    *,
    burnt_in: Literal["leave-out", "keep"],
    key: SiteKey,
    progress: Callable[[int, int], None],
) -> Done:
    """Every DICOM image under `root` (archives too), as out/SUBJECT/STUDY/SERIES/INSTANCE.dcm.

    The four names are pseudonyms; the same key gives the same ones. `burnt_in`: what to do with
    images that say that text is burnt into them, and with screenshots that do not deny it.
    """
    done = Done()
    files = files_under(root)
    for number, path in enumerate(files, start=1):
        try:
            for source, content in _contents(path):
                _one(source, content, out, options, burnt_in, key, done)
        except (OSError, ArchiveError) as error:
            done.leave_out(f"cannot be read ({type(error).__name__})", path)
        progress(number, len(files))
    return done


def _contents(path: str):
    if is_archive(path):
        yield from members_of(path)
    else:
        yield Source(path), Path(path).read_bytes()


def _one(
    source: Source,
    content: bytes,
    out: Path,
    options: Confidentiality,
    burnt_in: Literal["leave-out", "keep"],
    key: SiteKey,
    done: Done,
) -> None:
    name = "!".join((source.path, *source.members))
    if not is_dicom_content(content):
        return done.leave_out("no DICOM file", name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they quote values
            data = dcmread(io.BytesIO(content))
            reason = _unfit(data, burnt_in)
            if reason:
                return done.leave_out(reason, name)
            risky = bool(burnt_in_risk(data))
            head = shows_head(data)  # the words that say so are taken away
            data = deidentified(data, options, key)
            place = _place(out, data, key)
            if place.exists():
                return done.leave_out("another file has the same SOP instance UID", name)
            _write(data, place)
    except Exception as error:  # pydicom raises anything on damaged headers; texts quote them
        return done.leave_out(f"the header is damaged ({type(error).__name__})", name)
    done.written += 1
    done.at_risk += risky
    done.subjects.add(str(data.PatientID))
    if head:
        done.heads.add(str(data.SeriesInstanceUID))
    return None


def _unfit(data: Dataset, burnt_in: Literal["leave-out", "keep"]) -> str:
    if str(data.get("Modality", "")) in DOCUMENTS or not any(kind in data for kind in KINDS):
        return "no image: documents, plans and measurements are not handled"
    if burnt_in == "leave-out":
        return burnt_in_risk(data)
    return ""


def shows_head(data: Dataset) -> bool:
    """Whether an image is of a modality that makes volumes and says, in its body part or in words,
    that it shows a head."""
    regions = data.get("AnatomicRegionSequence") or []
    coded = [str(data.get("BodyPartExamined", ""))]
    coded += [str(item.get("CodeMeaning", "")) for item in regions]
    parts = " ".join(coded).upper()
    words = " ".join(str(data.get(name, "")) for name in DESCRIPTIONS).replace("_", " ")
    said = any(part in parts for part in HEADS) or bool(IN_WORDS.search(words))
    return said and str(data.get("Modality", "")) in VOLUMES


def _place(out: Path, data: Dataset, key: SiteKey) -> Path:
    study, series, instance = (
        key.pseudonym(str(data.get(word, "")))[2:]
        for word in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
    )
    return out / str(data.PatientID) / f"study-{study}" / f"series-{series}" / f"{instance}.dcm"


def _write(data: Dataset, place: Path) -> None:
    """With a new file header: the old one names stations and holds private information."""
    syntax = data.file_meta.TransferSyntaxUID
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    data.preamble = b"\0" * 128
    place.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(place, enforce_file_format=True)
