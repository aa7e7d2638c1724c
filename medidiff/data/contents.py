"""What a manifest's cell stands for: the files behind it, their digest, and their state on disk.

The state tells without reading whether a file is still the one that was read before.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from medidiff.data.decode import selected

UNSETTLED_NS = 2 * 10**9
"""A file changed this lately may change again within one tick of its clock."""
DATA_FILE = re.compile(rb"^\s*(?:ElementDataFile\s*=|data ?file:)\s*(.+?)\s*$", re.I | re.M)
LONGEST_HEADER = 2**20


def file_digest(path: Path) -> str:
    """SHA-256 of what a cell names: a file with the data that its header names, all files of a
    folder whatever their names, the DICOM files of a series list, or one image of several."""
    path, channel = selected(path)
    if path.is_dir():
        parts = sorted(file_digest(part) for part in path.rglob("*") if part.is_file())
        return hashlib.sha256("".join(parts).encode()).hexdigest()
    if path.name.endswith(".series.json"):
        from medidiff.data.series_list import list_digest

        return list_digest(path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    for beside in _beside(path):
        with beside.open("rb") as file:
            other = hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha256(f"{digest} {other}".encode()).hexdigest()
    if channel is not None:
        digest = hashlib.sha256(f"{digest} {channel}".encode()).hexdigest()
    return digest


def state_of(path: Path) -> str:
    """The state of all files behind a cell; "" for files changed so lately that it says nothing.

    Size, number on the disk (inode), and the times of the last change of content and of entry: the
    last cannot be set back by a program that keeps dates.
    Errors: OSError for a file that is not there.
    """
    now, said = time.time_ns(), []
    for part in _parts(selected(path)[0]):
        seen = os.stat(part)
        if max(seen.st_mtime_ns, seen.st_ctime_ns) > now - UNSETTLED_NS:
            return ""
        said.append(
            f"{part}|{seen.st_size}|{seen.st_mtime_ns}|{seen.st_ctime_ns}|{seen.st_ino}|{seen.st_dev}"
        )
    return hashlib.sha256("\n".join(said).encode()).hexdigest()


def _parts(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from sorted(part for part in path.rglob("*") if part.is_file())
        return
    yield path
    if path.name.endswith(".series.json"):
        from medidiff.data.series_list import files_of

        yield from files_of(path)
        return
    yield from _beside(path)


def _beside(path: Path) -> list[Path]:
    """The other files that an image in one file needs: the half of an Analyze or NIfTI pair, the
    data of a detached NRRD or MetaImage header."""
    name = path.name.lower()
    if name.endswith((".hdr", ".hdr.gz", ".img", ".img.gz")):
        swapped = re.sub(r"\.(hdr|img)(?=(\.gz)?$)", _other_half, path.name, flags=re.I)
        twin = path.with_name(swapped)
        return [twin] if twin.exists() else []
    return _detached(path) if name.endswith((".mhd", ".nhdr")) else []


def _other_half(found: re.Match[str]) -> str:
    other = "img" if found[1].lower() == "hdr" else "hdr"
    return "." + (other.upper() if found[1].isupper() else other)


def _detached(path: Path) -> list[Path]:
    with path.open("rb") as file:
        names = [os.fsdecode(name) for name in DATA_FILE.findall(file.read(LONGEST_HEADER))]
    found: list[Path] = []
    for name in filter(None, (Path(name).name for name in names)):
        whole, numbered = path.with_name(name), glob.escape(name.split(" ")[0])
        pattern = re.sub(r"%0?\d*d", "*", numbered)  # name%03d.raw 1 20 1
        found += [whole] if whole.is_file() else sorted(path.parent.glob(pattern))
    return [file for file in found if file != path and file.is_file()]
