"""Headers that were read before, kept for the user alone: a file is read again when it changed.

The cache names files and patients, so it lies in the user's own folder with mode 0600.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medidiff.data.frames import Frame, Instance
from medidiff.data.privacy import home
from medidiff.data.sources import Source

FORMAT = 2  # raise it when what is read from headers changes
Key = tuple[str, int, int]
"""Path, size in bytes, time of the last change in ns."""
Entry = tuple[Source, Instance | None, str]
"""A file, what its header says, and why it could not be read; neither for what is no DICOM."""


def key_of(path: str) -> Key:
    """The state of a file that its header is kept under."""
    state = os.stat(path)
    return (os.path.abspath(path), state.st_size, state.st_mtime_ns)


class HeaderCache:
    """Entries by the file on disk that they came from; an archive has many."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or home() / "cache" / f"dicom-headers-{FORMAT}.sqlite"

    def load(self, keys: Iterable[Key]) -> dict[Key, list[Entry]]:
        """What is kept of files that have not changed; nothing where the cache is damaged."""
        try:
            return self._load(keys)
        except (sqlite3.Error, ValueError, KeyError, TypeError):
            return {}

    def _load(self, keys: Iterable[Key]) -> dict[Key, list[Entry]]:
        if not self.path.exists():
            return {}
        found: dict[Key, list[Entry]] = {}
        connection = sqlite3.connect(self.path)
        try:
            for key in keys:
                query = "SELECT entries FROM headers WHERE path = ? AND size = ? AND changed = ?"
                row = connection.execute(query, key).fetchone()
                if row:
                    found[key] = [_entry(key[0], one) for one in json.loads(row[0])]
        finally:
            connection.close()
        return found

    def save(self, entries: Mapping[Key, list[Entry]]) -> None:
        """Keeps entries. A cache that cannot be written is gone without: it only saves time."""
        if not entries:
            return
        try:
            self._save(entries)
        except (OSError, sqlite3.Error):
            return

    def _save(self, entries: Mapping[Key, list[Entry]]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(self.path, os.O_CREAT | os.O_WRONLY, 0o600)
        os.fchmod(descriptor, 0o600)
        os.close(descriptor)
        connection = sqlite3.connect(self.path, timeout=30)
        try:
            with connection:
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS headers "
                    "(path TEXT PRIMARY KEY, size INTEGER, changed INTEGER, entries TEXT)"
                )
                rows = [
                    (*key, json.dumps([_kept(e) for e in held])) for key, held in entries.items()
                ]
                connection.executemany("INSERT OR REPLACE INTO headers VALUES (?, ?, ?, ?)", rows)
        finally:
            connection.close()


def _kept(entry: Entry) -> list[Any]:
    source, instance, problem = entry
    return [source.members, None if instance is None else asdict(instance), problem]


def _entry(path: str, kept: list[Any]) -> Entry:
    members, said, problem = kept
    if said is not None:
        said["frames"] = tuple(_frame(one) for one in said["frames"])
    return Source(path, tuple(members)), None if said is None else Instance(**said), problem


def _frame(kept: dict[str, Any]) -> Frame:
    names = ("shape", "corner", "row_direction", "column_direction", "spacing")
    return Frame(**{**kept, **{n: None if kept[n] is None else tuple(kept[n]) for n in names}})
