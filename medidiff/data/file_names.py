"""What the names of volumes and pictures say: BIDS, and the layouts that public sets come in.

Source: the BIDS specification 1.10, "Filename structure": entities `sub-`, `ses-`, ..., a suffix.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePath

VOLUMES = (".nii", ".nii.gz", ".hdr", ".hdr.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
KSPACE = (".h5", ".hdf5")
DATA_HALVES = (".img", ".img.gz", ".raw", ".raw.gz", ".zraw")  # a header beside them names them
THUMBNAIL = r"thumb(?:s|nails?)?|previews?|icons?"
SLICE = re.compile(r"(?:(?:slice|img|image|im|frame|z)[-_]?)?(\d+)", re.IGNORECASE)
MODALITIES = {  # BIDS' folder of a file -> DICOM's word
    "anat": "MR",
    "func": "MR",
    "dwi": "MR",
    "fmap": "MR",
    "perf": "MR",
    "pet": "PT",
    "ct": "CT",
}
OF_IMAGES = ("acq", "task", "ce", "trc", "rec", "dir", "run", "echo", "flip", "inv", "part")
"""Entities that tell a session's images apart: a label that states one is of those that do."""
OWN_SPACES = ("orig", "individual")
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
SEQUENCE_WORDS = "|".join(f"(?:{pattern})" for pattern in SEQUENCES.values())
LABEL_WORDS = r"seg(mentation)?|mask|labels?|dseg|gt"
NNUNET_IMAGES = re.compile(r"^images(tr|ts|va)$", re.IGNORECASE)
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
    """The same for the images and labels of one session."""
    entities: tuple[tuple[str, str], ...] = ()
    """BIDS' key-value pairs but for subject, session, space and what a label is of."""
    space: str = ""
    """The space that the image or label was brought into; "" for its own."""
    kind: str = ""
    """What a label is of, where the name says it: brain_mask, dseg."""


def is_volume(name: str) -> bool:
    """Whether a file is a volume that is no DICOM, by its name."""
    return name.lower().endswith(VOLUMES)


def is_picture(name: str) -> bool:
    """Whether a file is a picture, by its name."""
    return name.lower().endswith(PICTURES)


def is_kspace(name: str) -> bool:
    """Whether a file may be k-space in HDF5, by its name."""
    return name.lower().endswith(KSPACE)


def is_thumbnail(path: PurePath) -> bool:
    """Whether a picture, or a folder that it lies in, is called a small copy of another."""
    words = " ".join([*path.parts[:-1], _stem(path.name)]).replace("_", " ")
    return bool(re.search(BETWEEN.format(f"(?:{THUMBNAIL})"), words, re.IGNORECASE))


def is_data_half(name: str) -> bool:
    """Whether a file is one that a header beside it needs, by its name."""
    return name.lower().endswith(DATA_HALVES)


def sequence_in(text: str) -> str:
    """The sequence that free text names, as one of a fixed list of words; "" for none.

    Only words of the list come out, whatever else (a name, a date) the text holds.
    """
    for name, pattern in SEQUENCES.items():
        if re.search(BETWEEN.format(f"(?:{pattern})"), text.replace("_", " "), re.IGNORECASE):
            return name
    return ""


def named(path: PurePath) -> Named:
    """What the path of a volume or picture, relative to the tree's root, says of it."""
    stem = _stem(path.name)
    if stem.startswith("sub-") and "_" in stem:
        return _bids(path, stem)
    found = IXI.match(stem)
    if found:
        subject, site, _, sequence = found.groups()
        return Named(subject, sequence=sequence_in(sequence), modality="MR", site=site, case=stem)
    return _plain(path, stem)


def fits(label: Named, image: Named) -> bool:
    """Whether a label may be that of an image: one session, one space, and no stated sequence or
    entity of the label is another in the image."""
    theirs = dict(image.entities)
    return (
        label.case == image.case
        and (not image.sequence or label.sequence.lower() in ("", image.sequence.lower()))
        and (label.space == image.space or (label.space == image.sequence and not image.space))
        and all(
            value == theirs.get(key, "" if key in OF_IMAGES else value)
            for key, value in label.entities
        )
    )


def _bids(path: PurePath, stem: str) -> Named:
    """An image is named by entities and a suffix, its sequence; a label by the entities of its
    images, with a suffix of its own, and at times with their sequence before that."""
    *parts, suffix = stem.split("_")
    stated = dict(part.split("-", 1) for part in parts if "-" in part)
    words = [part for part in parts if "-" not in part]
    is_label = suffix in BIDS_LABELS
    kept = ("sub", "ses", "desc", "space", "label")
    entities = tuple((key, value) for key, value in stated.items() if key not in kept)
    sequences = [word for word in words if sequence_in(word)]
    of = [word for word in words if word not in sequences]
    of += [stated[key] for key in ("label", "desc") if key in stated]
    subject, session = stated["sub"], stated.get("ses", "")
    return Named(
        subject,
        session,
        series="_".join(f"{key}-{value}" for key, value in entities),
        sequence="".join(sequences[-1:]) if is_label else suffix,
        modality=next((MODALITIES[part] for part in path.parts[-2::-1] if part in MODALITIES), ""),
        is_label=is_label,
        case=_key(subject, session),
        entities=entities,
        space="" if stated.get("space") in OWN_SPACES else stated.get("space", ""),
        kind="_".join([*of, suffix]) if is_label else "",
    )


def _plain(path: PurePath, stem: str) -> Named:
    folder = path.parent.name
    kinds = [n for n in path.parts[:-1] if LABEL_FOLDERS.match(n) or IMAGE_FOLDERS.match(n)]
    in_labels = bool(kinds and LABEL_FOLDERS.match(kinds[-1]))
    tail = re.compile(rf"[-_.]({LABEL_WORDS})$", re.IGNORECASE)
    is_label = in_labels or bool(tail.search(stem))
    bare = tail.sub("", stem)
    if is_volume(path.name) or NNUNET_IMAGES.match(folder):  # other pictures are counted from 0
        bare = re.sub(r"[-_.]0000$", "", bare)  # nnU-Net numbers its channels
    sequence = sequence_in(bare.replace("-", " ").replace(".", " "))
    subject = _without_sequence(bare).removeprefix("sub-")
    if not subject:  # every subject has a folder, and files are called after their sequence
        subject = folder
    holder = PurePath(*(n for n in path.parts[:-1] if n not in kinds))  # labels/train, images/train
    person = _person_above(holder) if is_picture(path.name) else ""
    number = _slice_of(holder.name, bare) if person else ""
    if number:
        subject = person.removeprefix("sub-")
    case = "/".join(filter(None, (str(holder), subject, number)))
    return Named(subject, series=number, sequence=sequence, is_label=is_label, case=case)


def _person_above(holder: PurePath) -> str:
    """The uppermost folder that may be a subject's; "" for none.

    It has a digit and is not called after a sequence: "NORMAL" is a class, "train" a split. The
    uppermost, so that visits and series of one person do not become several.
    """
    return next((n for n in holder.parts if re.search(r"\d", n) and _without_sequence(n)), "")


def _slice_of(folder: str, stem: str) -> str:
    """The number of a slice that is called 012, slice12, t1_012 or FOLDER_012; "" for others."""
    rest = stem.removeprefix(folder).lstrip("-_.")
    found = SLICE.fullmatch(re.sub(rf"^(?:{SEQUENCE_WORDS})[-_.]", "", rest, flags=re.IGNORECASE))
    return found[1] if found else ""


def _without_sequence(stem: str) -> str:
    return re.sub(rf"(?:^|[-_.])(?:{SEQUENCE_WORDS})$", "", stem, flags=re.IGNORECASE)


def _key(*parts: str) -> str:
    return "/".join(parts)


def _stem(name: str) -> str:
    lower = name.lower()
    suffix = max(
        (one for one in (*VOLUMES, *PICTURES, *KSPACE) if lower.endswith(one)), key=len, default=""
    )
    return name[: len(name) - len(suffix)]
