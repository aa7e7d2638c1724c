"""What the names of NIfTI files say: BIDS, and the layouts that public sets come in.

Source: the BIDS specification 1.10, "Filename structure": entities `sub-`, `ses-`, ..., a suffix.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePath

VOLUMES = (".nii", ".nii.gz", ".hdr", ".hdr.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
MODALITIES = {  # BIDS' folder of a file -> DICOM's word
    "anat": "MR",
    "func": "MR",
    "dwi": "MR",
    "fmap": "MR",
    "perf": "MR",
    "pet": "PT",
    "ct": "CT",
}
BIDS_LABELS = ("dseg", "probseg", "mask")
LABEL_FOLDERS = re.compile(r"^(labels?|masks?|segmentations?|seg)(tr|ts|va)?$", re.IGNORECASE)
IMAGE_FOLDERS = re.compile(r"^(images?|imgs?)(tr|ts|va)?$", re.IGNORECASE)
SEQUENCES = {  # words in names and in series descriptions; the first that is found counts
    "FLAIR": r"t2f|flair|tirm",
    "T1ce": r"t1ce|t1gd|t1c|t1km",
    "T1w": r"t1w?|mp2?rage|bravo|spgr|tfl",
    "T2w": r"t2w?|space|cube|haste",
    "PDw": r"pdw?",
    "ADC": r"adc",
    "DWI": r"dwi|dti|diff(usion)?|trace",
    "SWI": r"swi|swan",
    "MRA": r"mra|tof",
    "bold": r"bold|epi|rest|fmri",
    "asl": r"asl|pcasl",
    "T2starw": r"t2star|t2s",
}
LABEL_WORDS = r"seg(mentation)?|mask|labels?|dseg|gt"
IXI = re.compile(r"^(IXI\d+)-([A-Za-z]+)-(\d+)-(\w+)$")
BETWEEN = r"(?<![A-Za-z0-9]){}(?![A-Za-z0-9])"


@dataclass(frozen=True)
class Named:
    """What a name says of a file."""

    subject: str
    session: str = ""
    series: str = ""
    """What tells apart files of one sequence: acquisition, direction, run."""
    sequence: str = ""
    modality: str = ""
    site: str = ""
    is_label: bool = False
    case: str = ""
    """The same for an image and its label."""


def is_volume(name: str) -> bool:
    """Whether a file is a volume that is no DICOM, by its name."""
    return name.lower().endswith(VOLUMES)


def sequence_in(text: str) -> str:
    """The sequence that free text names, as one of a fixed list of words; "" for none.

    Only words of the list come out, whatever else (a name, a date) the text holds.
    """
    for name, pattern in SEQUENCES.items():
        if re.search(BETWEEN.format(f"(?:{pattern})"), text.replace("_", " "), re.IGNORECASE):
            return name
    return ""


def named(path: PurePath) -> Named:
    """What the path of a volume, relative to the tree's root, says of it."""
    stem = _stem(path.name)
    if stem.startswith("sub-"):
        return _bids(path, stem)
    found = IXI.match(stem)
    if found:
        subject, site, _, sequence = found.groups()
        return Named(subject, sequence=sequence_in(sequence), modality="MR", site=site, case=stem)
    return _plain(path, stem)


def _bids(path: PurePath, stem: str) -> Named:
    *parts, suffix = stem.split("_")
    entities = dict(part.split("-", 1) for part in parts if "-" in part)
    is_label = suffix in BIDS_LABELS
    series = "_".join(
        f"{key}-{value}"
        for key, value in entities.items()
        if key not in ("sub", "ses", "desc", "space", "label")
    )
    modality = next((MODALITIES[part] for part in path.parts[-2::-1] if part in MODALITIES), "")
    subject, session = entities["sub"], entities.get("ses", "")
    sequence = "" if is_label else suffix
    # a mask names its image by the entities that both have
    return Named(subject, session, series, sequence, modality, "", is_label, _key(subject, session))


def _plain(path: PurePath, stem: str) -> Named:
    folder = path.parent.name
    in_labels = bool(LABEL_FOLDERS.match(folder))
    tail = re.compile(rf"[-_.]({LABEL_WORDS})$", re.IGNORECASE)
    is_label = in_labels or bool(tail.search(stem))
    bare = re.sub(r"[-_.]0000$", "", tail.sub("", stem))  # nnU-Net numbers its channels
    sequence = sequence_in(bare.replace("-", " ").replace(".", " "))
    subject = _without_sequence(bare)
    if not subject:  # every subject has a folder, and files are called after their sequence
        subject = folder
    holder = path.parent.parent if in_labels or IMAGE_FOLDERS.match(folder) else path.parent
    return Named(subject, sequence=sequence, is_label=is_label, case=_key(str(holder), subject))


def _without_sequence(stem: str) -> str:
    words = "|".join(f"(?:{pattern})" for pattern in SEQUENCES.values())
    return re.sub(rf"(?:^|[-_.])(?:{words})$", "", stem, flags=re.IGNORECASE)


def _key(*parts: str) -> str:
    return "/".join(parts)


def _stem(name: str) -> str:
    lower = name.lower()
    suffix = max((one for one in VOLUMES if lower.endswith(one)), key=len, default="")
    return name[: len(name) - len(suffix)]
