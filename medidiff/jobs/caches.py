"""What medidiff keeps on this machine to save time, how much it is, and its removal."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from medidiff.data.header_cache import HeaderCache
from medidiff.data.image_cache import cache_folder
from medidiff.data.known_files import KnownFiles
from medidiff.errors import ConfigError

CacheName = Literal["images", "files", "headers"]
SAID: dict[CacheName, str] = {
    "images": "prepared images (data.cache: disk)",
    "files": "digests and checks of files",
    "headers": "headers of DICOM files",
}
DAY_S = 86400.0


@dataclass(frozen=True)
class Kept:
    """One of the caches."""

    name: CacheName
    place: Path
    entries: int
    size: int
    """Bytes."""

    @property
    def text(self) -> str:
        """A line for a person to read."""
        files = f"{self.entries} files, " if self.name == "images" else ""
        return f"{self.name:8} {SAID[self.name]}: {files}{self.size / 1e6:.1f} MB in {self.place}"


def kept() -> list[Kept]:
    """All caches, their places and sizes. Models that were downloaded are not among them."""
    found: list[Kept] = []
    for name in get_args(CacheName):
        sizes = [size for _, size, _ in _entries(name)]
        found.append(Kept(name, _place(name), len(sizes), sum(sizes)))
    return found


def clear(name: CacheName, unused_days: float = 0.0) -> tuple[int, int]:
    """Removes a cache, or images not used for so many days; gives how many files and bytes.

    A training that goes on reads its scans again where it needs to.
    Errors: ConfigError for days of another cache: of its single file only the last writing is
    known.
    """
    if unused_days and name != "images":
        raise ConfigError(
            f"{name} are kept in one file, of whose parts no last use is known: only images can be "
            "cleared by unused days; clear the whole without them"
        )
    before = time.time() - unused_days * DAY_S
    count = size = 0
    for path, held, used in _entries(name):
        if used > before:
            continue
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
            count, size = count + 1, size + held
    return count, size


def _place(name: CacheName) -> Path:
    if name == "images":
        return cache_folder()
    return KnownFiles().path if name == "files" else HeaderCache().path


def _entries(name: CacheName) -> list[tuple[Path, int, float]]:
    """(file, bytes, time of the last use)."""
    place = _place(name)
    files = (
        [*place.glob("*/*.safetensors"), *place.glob("*/*.part")] if name == "images" else [place]
    )
    return [*_looked_at(files)]


def _looked_at(files: Iterable[Path]) -> Iterator[tuple[Path, int, float]]:
    for file in files:
        with contextlib.suppress(OSError):
            seen = file.stat()
            yield file, seen.st_size, seen.st_mtime
