"""The journal: what a run has to say, on disk first, so that no crash and no dead server loses it.

One JSON object a line in `journal.jsonl`; `journal.cursor` says how many bytes the store has.
Only the standard library is needed, so it works on a node without MLflow.
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Literal, get_args

Kind = Literal["params", "tags", "metrics", "picture", "artifact", "status"]


@dataclass(frozen=True)
class Event:
    """One line of a journal."""

    kind: Kind
    time_ms: int
    """Milliseconds since 1970, UTC."""
    body: Mapping[str, Any]
    end: int
    """Bytes of the journal up to and with this line: what `Journal.mark` takes."""


class Journal:
    """The append-only journal in `folder`.

    A line cut short by a crash is dropped when the next process appends; others never change.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "journal.jsonl"
        self._cursor = folder / "journal.cursor"
        self._lock = threading.Lock()
        self._stream: FileIO | None = None

    def append(self, kind: Kind, body: Mapping[str, Any], *, time_ms: int | None = None) -> None:
        """Write one event; it outlives the process, and a status outlives a loss of power."""
        moment = now_ms() if time_ms is None else time_ms
        line = json.dumps({"time": moment, "kind": kind, **_plain(body)}, allow_nan=False)
        with self._lock:
            if self._stream is None:
                self._stream = _open_whole(self.path)
            self._stream.write(line.encode() + b"\n")
            if kind == "status":
                os.fsync(self._stream.fileno())

    def pending(self, limit: int) -> list[Event]:
        """Up to `limit` events that the store does not have yet, oldest first."""
        return self._read(self._position(), limit)

    def events(self) -> list[Event]:
        """All events, oldest first."""
        return self._read(0, None)

    def is_delivered(self) -> bool:
        """Whether the store has every whole line."""
        return not self.pending(1)

    def mark(self, end: int) -> None:
        """Note that the store has the first `end` bytes; `mark(0)` makes all pending again."""
        part = self._cursor.with_suffix(".part")
        part.write_text(str(end), encoding="ascii")
        part.replace(self._cursor)

    def close(self) -> None:
        """Release the file; a later `append` opens it again."""
        with self._lock:
            if self._stream is not None:
                self._stream.close()
                self._stream = None

    def _position(self) -> int:
        try:
            return int(self._cursor.read_text(encoding="ascii"))
        except FileNotFoundError:
            return 0

    def _read(self, start: int, limit: int | None) -> list[Event]:
        if not self.path.exists():
            return []
        events: list[Event] = []
        with self.path.open("rb") as stream:
            stream.seek(start)
            for line in stream:
                # the last line may still be in the writing, or cut by a crash
                if not line.endswith(b"\n") or (limit is not None and len(events) >= limit):
                    break
                start += len(line)
                events.append(_event(line, start))
        return events


def now_ms() -> int:
    """Milliseconds since 1970, UTC."""
    return time.time_ns() // 1_000_000


def _event(line: bytes, end: int) -> Event:
    content = json.loads(line)
    kind = content.pop("kind")
    if kind not in get_args(Kind):
        raise ValueError(f"the journal has an event of kind {kind!r}: written by a newer medidiff?")
    return Event(kind, content.pop("time"), content, end)


def _open_whole(path: Path) -> FileIO:
    """Open for appending, without the torn line that a crash may have left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stream = FileIO(path, "a+")
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - (1 << 20)))  # no line is longer
    tail = stream.read()
    torn = len(tail) - (tail.rfind(b"\n") + 1)
    if torn:
        stream.truncate(size - torn)
    return stream


def _plain(value: Any) -> Any:
    """JSON has no nan and no infinity: they are written as text and read back by float()."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    return value
