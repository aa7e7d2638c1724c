"""Files of any format looked through for what identifies: headers, sidecars, names, pixels."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread

from medidiff.data.confidentiality.finding_phi import (
    BURNT_IN,
    FIELD,
    PATH,
    Found,
    looks_identifying,
    phi_of,
    text_like,
)
from medidiff.data.confidentiality.phi_texts import (
    LARGEST_TEXT,
    TOO_LARGE,
    other_text,
    sidecar,
    table,
    text_of,
)
from medidiff.data.dicom import is_dicom_content
from medidiff.data.file_names import PICTURES
from medidiff.data.pixels import pixels as pixels_of
from medidiff.data.sources import ArchiveError, Source, files_under, is_archive, members_of

NIFTI = (".nii", ".nii.gz", ".hdr", ".hdr.gz")
NIFTI_TEXTS = ("descrip", "aux_file", "db_name", "data_type", "intent_name")
ITK = (".nrrd", ".nhdr", ".mha", ".mhd")
ITK_FIELDS = {
    *("type", "dimension", "space", "sizes", "space directions", "kinds", "endian", "encoding"),
    *("space origin", "spacings", "units", "space units", "thicknesses", "centers", "data file"),
    *("byte skip", "line skip", "min", "max", "block size", "measurement frame", "axis mins"),
    *("axis maxs", "labels", "old min", "old max", "space dimension", "sample units"),
    *("objecttype", "ndims", "binarydata", "binarydatabyteordermsb", "compresseddata"),
    *("compresseddatasize", "transformmatrix", "offset", "centerofrotation", "elementspacing"),
    *("anatomicalorientation", "dimsize", "elementtype", "elementdatafile", "headersize"),
    *("elementsize", "elementnumberofchannels", "elementbyteordermsb", "modality", "orientation"),
    *("position", "rotation", "hasminmax", "elementmin", "elementmax", "elementorigin"),
}
HEADER_BYTES = 2**16
UNKNOWN = "other"
"""The format of what is looked at by its name alone."""


@dataclass(frozen=True)
class Looked:
    """One file that was looked at; `name` is for the private log alone."""

    name: str
    format: str
    found: tuple[Found, ...]
    problem: str = ""


def look_through(
    root: Path, *, pixels: bool, progress: Callable[[int, int], None]
) -> Iterator[Looked]:
    """Every file under `root`, those in archives too. `pixels`: also look for writing in images."""
    files = files_under(root)
    base = root if root.is_dir() else root.parent
    for number, path in enumerate(files, start=1):
        try:
            for source, content in _contents(path):
                name = "/".join((str(Path(path).relative_to(base)), *source.members))
                yield looked(name, content, pixels=pixels)
        except (OSError, ArchiveError) as error:
            yield Looked(path, "unreadable", (), type(error).__name__)
        progress(number, len(files))


def _contents(path: str) -> Iterator[tuple[Source, bytes]]:
    if is_archive(path):
        yield from members_of(path)
    else:
        yield Source(path), Path(path).read_bytes()


def looked(name: str, content: bytes, *, pixels: bool) -> Looked:
    """What one file gives away."""
    found = [Found(PATH, "name", part) for part in Path(name).parts if looks_identifying(part)]
    lower = name.lower()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they quote values
            if is_dicom_content(content):
                data = dcmread(io.BytesIO(content))
                written, problem = _writing(data) if pixels else ([], "")
                return Looked(name, "DICOM", (*found, *phi_of(data), *written), problem)
            for endings, format, look in LOOKS:
                if lower.endswith(endings):
                    if look in (sidecar, table) and len(content) > LARGEST_TEXT:
                        return Looked(name, format, tuple(found), TOO_LARGE)
                    return Looked(name, format, (*found, *look(content, lower)))
    except Exception as error:  # decoders raise anything on damaged files; texts quote them
        return Looked(name, "damaged", tuple(found), type(error).__name__)
    return _unknown(name, content, found)


def _unknown(name: str, content: bytes, found: list[Found]) -> Looked:
    """A file of no known kind: what is text is looked through."""
    text = text_of(content)
    if text is None:
        return Looked(name, UNKNOWN, tuple(found))
    if len(content) > LARGEST_TEXT:
        return Looked(name, "text", tuple(found), TOO_LARGE)
    return Looked(name, "text", (*found, *other_text(text)))


def _writing(data: Dataset) -> tuple[list[Found], str]:
    """Whether the first, the middle or the last frame has lines like writing; or why they could not
    be looked at."""
    if "PixelData" not in data:
        return [], ""
    try:
        array = _array(data)
    except Exception as error:  # decoders raise anything; texts may quote values
        return [], f"pixels: {type(error).__name__}"
    frames = array[None] if array.ndim == 2 else array
    some = {0, len(frames) // 2, len(frames) - 1}
    if any(text_like(frames[index]) for index in some):
        return [Found(BURNT_IN, "lines like writing in the pixels", "")], ""
    return [], ""


def _array(data: Dataset) -> NDArray[Any]:
    """Grey values by the package's own decoders; the brightest channel of colour by pydicom's."""
    if int(data.get("SamplesPerPixel", 1)) == 1:
        return pixels_of(data)
    return np.asarray(data.pixel_array).max(axis=-1)


def _nifti(content: bytes, name: str) -> list[Found]:
    if name.endswith(".gz"):
        import gzip

        with gzip.open(io.BytesIO(content)) as packed:
            content = packed.read(HEADER_BYTES)
    first = int.from_bytes(content[:4], "little")
    kind = nibabel.Nifti2Header if first in (540, 469893120) else nibabel.Nifti1Header
    header = kind.from_fileobj(io.BytesIO(content[:HEADER_BYTES]), check=False)
    found = []
    for field in NIFTI_TEXTS:
        if field in header:
            text = bytes(header[field].tobytes()).rstrip(b"\0").decode("latin-1").strip()
            if text:
                found.append(Found(FIELD, field, text))
    for extension in getattr(header, "extensions", []):
        found.append(Found(FIELD, "extension", str(extension.get_content())[:1000]))
    return found


def _itk(content: bytes, name: str) -> list[Found]:
    """Keys that the format does not need, and comments."""
    found = []
    for line in content[:HEADER_BYTES].split(b"\n"):
        text = line.decode("latin-1").strip()
        if not text:
            break
        key, _, value = text.replace(":=", "=").replace(":", "=").partition("=")
        if text.startswith("#") and len(text) > 1 and "nrrd" not in text.lower():
            found.append(Found(FIELD, "comment", text))
        elif value and key.strip().lower() not in ITK_FIELDS and not text.startswith("#"):
            found.append(Found(FIELD, "key of its own", text))
        if key.strip().lower() == "elementdatafile":
            break
    return found


def _picture(content: bytes, name: str) -> list[Found]:
    from PIL import Image

    with Image.open(io.BytesIO(content)) as picture:
        texts = {str(key): str(value) for key, value in getattr(picture, "text", {}).items()}
        texts |= {f"EXIF {key}": str(value) for key, value in picture.getexif().items()}
        array = np.asarray(picture.convert("L"))
    found = [Found(FIELD, "text or EXIF entry", f"{key}: {value}") for key, value in texts.items()]
    if text_like(array):
        found.append(Found(BURNT_IN, "lines like writing in the pixels", ""))
    return found


Look = Callable[[bytes, str], list[Found]]
LOOKS: tuple[tuple[tuple[str, ...], str, Look], ...] = (
    (NIFTI, "NIfTI", _nifti),
    (ITK, "NRRD or MetaImage", _itk),
    (PICTURES, "picture", _picture),
    ((".json",), "JSON", sidecar),
    ((".csv", ".tsv", ".txt"), "table", table),
)
