"""Files as they lie in folders and archives, of any depth, read without unpacking anything to disk.

A zip or tar is walked as if it were a folder; archives in archives are opened up to a small depth,
so that a hostile one cannot nest for ever.
"""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
DEEPEST = 3
LARGEST_MEMBER = 8 * 2**30  # bytes; a single scan is smaller
LARGEST_GROWTH = 1100  # deflate cannot grow by more than 1032; bzip2 and xz can: bombs


class ArchiveError(Exception):
    """An archive that cannot be walked; the text names nothing."""


@dataclass(frozen=True)
class Source:
    """A file on disk, or a member of an archive (of an archive ...) on disk."""

    path: str
    members: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The file's own name."""
        return Path(self.members[-1] if self.members else self.path).name


def is_archive(name: str) -> bool:
    """Whether a name is that of an archive which can be walked."""
    return name.lower().endswith(ARCHIVES)


def files_under(root: Path, unreadable: list[OSError] | None = None) -> list[str]:
    """Every file of a folder tree in a fixed order; hidden files and links to folders are left
    out. A file is its own tree.

    Errors: OSError for a folder that cannot be read, unless `unreadable` collects them.
    """
    if root.is_file():
        return [str(root)]

    def told(error: OSError) -> None:
        if unreadable is None:
            raise error
        unreadable.append(error)

    found: list[str] = []
    for folder, folders, files in os.walk(root, onerror=told):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [os.path.join(folder, name) for name in sorted(files) if not name.startswith(".")]
    return found


def members_of(path: str) -> Iterator[tuple[Source, bytes]]:
    """Every file in an archive with its content, in the archive's order, nested ones too.

    Errors: ArchiveError for one that is damaged, encrypted, too deep or too large.
    """
    with open(path, "rb") as file:
        budget = LARGEST_GROWTH * max(os.path.getsize(path), 2**20)
        for members, content in _walked(file, Path(path).name, (), budget):
            yield Source(path, members), content


def read(sources: Sequence[Source]) -> list[bytes]:
    """The contents of files, each archive walked once, in the order asked for.

    Errors: ArchiveError; FileNotFoundError for a file or member that is gone.
    """
    wanted: dict[str, set[tuple[str, ...]]] = {}
    for source in sources:
        if source.members:
            wanted.setdefault(source.path, set()).add(source.members)
    found = {
        source: content
        for path, members in wanted.items()
        for source, content in members_of(path)
        if source.members in members
    }
    gone = [source for source in sources if source.members and source not in found]
    if gone:
        raise FileNotFoundError(f"{gone[0].path}: no {'/'.join(gone[0].members)}")
    return [found[one] if one.members else Path(one.path).read_bytes() for one in sources]


Walked = Iterator[tuple[tuple[str, ...], bytes]]


def _walked(file: BinaryIO, name: str, way: tuple[str, ...], budget: int) -> Walked:
    if len(way) >= DEEPEST:
        raise ArchiveError(f"archives lie more than {DEEPEST} deep in each other")
    opened = _zip_members if name.lower().endswith(".zip") else _tar_members
    try:
        for member, size, content in opened(file):
            budget -= size
            if size > LARGEST_MEMBER or budget < 0:
                raise ArchiveError("the archive unpacks to more than it may (a zip bomb?)")
            inner = content()
            if is_archive(member):
                yield from _walked(io.BytesIO(inner), member, (*way, member), budget)
            else:
                yield (*way, member), inner
    except ArchiveError:
        raise
    except Exception as error:  # zlib, lzma and struct have errors of their own; texts name files
        raise ArchiveError(
            f"the archive is damaged or encrypted ({type(error).__name__})"
        ) from error


Members = Iterator[tuple[str, int, Callable[[], bytes]]]
"""Name, size and content of every file."""


def _zip_members(file: BinaryIO) -> Members:
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            if not info.is_dir():
                yield info.filename, info.file_size, partial(archive.read, info)


def _tar_members(file: BinaryIO) -> Members:
    with tarfile.open(fileobj=file, mode="r:*") as archive:
        for info in archive:
            if info.isfile():
                yield info.name, info.size, partial(_tar_content, archive, info)


def _tar_content(archive: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    stream = archive.extractfile(info)
    content = stream.read() if stream else b""
    if len(content) != info.size:
        raise ArchiveError("the archive is cut short")
    return content
