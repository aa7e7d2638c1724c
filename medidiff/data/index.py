"""A folder or archive tree by study and series: DICOM headers read once, in parallel.

Threads, not processes: on a hospital's network storage the wait is for the files, and threads can
be used from any script.
"""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pydicom import dcmread

from medidiff.data import decode
from medidiff.data.dicom import PREAMBLE, is_dicom_content, located
from medidiff.data.frames import HEADER, Instance, instance_of
from medidiff.data.header_cache import Entry, HeaderCache, Key, key_of
from medidiff.data.mosaics import is_mosaic
from medidiff.data.rows import Progress
from medidiff.data.sources import ArchiveError, Source, files_under, is_archive, members_of
from medidiff.data.stacking import Part, parts_of
from medidiff.errors import DataError

_Queue = deque[tuple[str, Future[list[Entry]] | None]]
AHEAD = 64  # files in flight: a tree of millions is not queued at once


@dataclass(frozen=True)
class SeriesFound:
    """One series of a tree: its files with their headers, and the volumes that they make."""

    study: str
    series: str
    files: tuple[tuple[Source, Instance], ...]
    parts: tuple[Part, ...]
    duplicates: int = 0
    """Files that are there more than once."""

    @property
    def facts(self) -> dict[str, str]:
        """Header values of the first file; may name the patient."""
        return dict(self.files[0][1].facts)


@dataclass(frozen=True)
class Unread:
    """A file that gives no image, and why; `text` names nothing."""

    source: Source
    text: str


@dataclass(frozen=True)
class Index:
    """What a tree holds."""

    series: tuple[SeriesFound, ...]
    unread: tuple[Unread, ...]
    others: tuple[str, ...]
    """Files on disk that are no DICOM: NIfTI, pictures, notes."""


def index_tree(
    root: str | Path,
    *,
    workers: int = 8,
    cache: HeaderCache | None = None,
    progress: Progress | None = None,
) -> Index:
    """The DICOM series of a folder or archive tree of any depth, in a fixed order.

    `cache`: where headers are kept (the user's own by default); changed files are read again.
    `progress(done, total)` is called for each file on disk.
    Errors: DataError if there is no such folder.
    """
    root = Path(root)
    if not root.exists():
        raise DataError("there is no such folder", private=str(root))
    cache = cache or HeaderCache()
    closed: list[OSError] = []
    keys, gone = _keys(files_under(root, closed))
    files = list(keys)
    kept = cache.load(keys.values())
    fresh: dict[Key, list[Entry]] = {}
    entries: list[Entry] = []
    others: list[str] = []
    for done, (path, found) in enumerate(_each(files, keys, kept, workers), start=1):
        if keys[path] not in kept:
            fresh[keys[path]] = found
        if not found or all(one is None and not problem for _, one, problem in found):
            others.append(path)
        entries += found
        if progress is not None:
            progress(done, len(files))
    cache.save(fresh)
    entries += gone
    for error in closed:
        text = f"a folder cannot be read ({error.strerror})"
        entries.append((Source(str(error.filename)), None, text))
    return _grouped(entries, others)


def _keys(files: list[str]) -> tuple[dict[str, Key], list[Entry]]:
    """The files that are there with their states, and those that are not, as broken links."""
    keys: dict[str, Key] = {}
    gone: list[Entry] = []
    for path in files:
        try:
            keys[path] = key_of(path)
        except OSError as error:
            gone.append((Source(path), None, f"the file cannot be read ({error.strerror})"))
    return keys, gone


def _each(
    files: list[str], keys: Mapping[str, Key], kept: Mapping[Key, list[Entry]], workers: int
) -> Iterator[tuple[str, list[Entry]]]:
    """Every file with its entries, in order, a bounded number of them read ahead."""
    queue: _Queue = deque()
    with ThreadPoolExecutor(workers) as pool:
        for path in files:
            here = None if keys[path] in kept else pool.submit(_entries, path)
            queue.append((path, here))
            if len(queue) >= AHEAD:
                yield _taken(queue, keys, kept)
        while queue:
            yield _taken(queue, keys, kept)


def _taken(
    queue: _Queue, keys: Mapping[str, Key], kept: Mapping[Key, list[Entry]]
) -> tuple[str, list[Entry]]:
    path, future = queue.popleft()
    return path, kept[keys[path]] if future is None else future.result()


def _entries(path: str) -> list[Entry]:
    if is_archive(path):
        return _archive_entries(path)
    source = Source(path)
    try:
        with open(path, "rb") as file:
            if not is_dicom_content(file.read(PREAMBLE + 4)):
                return [(source, None, "")]
            file.seek(0)
            return [_header(source, file)]
    except OSError as error:
        return [(source, None, f"the file cannot be read ({error.strerror})")]


def _archive_entries(path: str) -> list[Entry]:
    found: list[Entry] = []
    try:
        for source, content in members_of(path):
            if is_dicom_content(content):
                found.append(_header(source, io.BytesIO(content)))
    except ArchiveError as error:
        found.append((Source(path), None, str(error)))
    except OSError as error:
        found.append((Source(path), None, f"the archive cannot be read ({error.strerror})"))
    return found


def _header(source: Source, file: BinaryIO) -> Entry:
    try:
        data = dcmread(file, stop_before_pixels=True, specific_tags=list(HEADER))
        if is_mosaic(data):  # where its slices lie stands in private elements
            file.seek(0)
            data = dcmread(file, stop_before_pixels=True)
        return source, instance_of(data), ""
    except decode.UnusableError as error:
        return source, None, str(error)
    except Exception as error:  # pydicom raises anything on damaged headers; texts quote them
        return source, None, f"the DICOM header is damaged ({type(error).__name__})"


def _grouped(entries: Iterable[Entry], others: list[str]) -> Index:
    series: dict[tuple[str, str], list[tuple[Source, Instance]]] = {}
    unread: list[Unread] = []
    for source, instance, problem in entries:
        if problem:
            unread.append(Unread(source, problem))
        elif instance is not None and instance.problem:
            unread.append(Unread(source, instance.problem))
        elif instance is not None:
            series.setdefault((instance.study, instance.series), []).append((source, instance))
    found = [_series(*uids, tuple(files)) for uids, files in series.items()]
    return Index(tuple(found), tuple(unread), tuple(others))


def _series(study: str, uid: str, files: tuple[tuple[Source, Instance], ...]) -> SeriesFound:
    frames = located([instance for _, instance in files])
    doubles = len(files) - len({member.file for member in frames})
    return SeriesFound(study, uid, files, tuple(parts_of(frames)), doubles)
