"""What was found out about files before, kept for the user alone: asked again only where a file
changed.

The facts name files by their paths, so they lie in the user's own folder with mode 0600.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from medidiff.data.contents import file_digest, state_of
from medidiff.data.decode import UnusableError
from medidiff.data.privacy import home

FORMAT = 1
AT_ONCE = 500  # names in one question to the database
CONTENT = "content"


class KnownFiles:
    """Facts by the state of the file that they are of. Facts of a file that changed are gone.

    A store that cannot be read or written is gone without: it only saves time.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or home() / "cache" / f"known-files-{FORMAT}.sqlite"

    def contents(self, paths: Iterable[Path]) -> dict[Path, str]:
        """`file_digest` of cells, read only where it is not known.

        Errors: OSError, whose `filename` is the cell's path, for a file that cannot be read.
        """
        wanted, found = list(dict.fromkeys(paths)), dict[Path, str]()
        for first in range(0, len(wanted), AT_ONCE):  # kept as they come: a stop loses little
            states = {path: state(path) for path in wanted[first : first + AT_ONCE]}
            known = self.facts(CONTENT, states)
            fresh = {path: _digest(path) for path in states if path not in known}
            self.keep(CONTENT, states, fresh)
            found |= known | fresh
        return found

    def facts(self, kind: str, states: Mapping[Path, str]) -> dict[Path, str]:
        """What is known of files that are in the states they were in."""
        try:
            return dict(self._facts(kind, states)) if self.path.exists() else {}
        except sqlite3.Error:
            return {}

    def _facts(self, kind: str, states: Mapping[Path, str]) -> Iterator[tuple[Path, str]]:
        asked = {os.path.abspath(path): path for path, state in states.items() if state}
        names = list(asked)
        with self._open() as connection:
            for first in range(0, len(names), AT_ONCE):
                some = names[first : first + AT_ONCE]
                marks = ",".join("?" * len(some))
                query = f"SELECT path, state, fact FROM facts WHERE kind = ? AND path IN ({marks})"
                for name, state, fact in connection.execute(query, [kind, *some]):
                    if states[asked[name]] == state:
                        yield asked[name], fact

    def keep(self, kind: str, states: Mapping[Path, str], facts: Mapping[Path, str]) -> None:
        """Keeps facts of files that are still in the states they were in before they were read."""
        rows = [
            (os.path.abspath(path), kind, states[path], fact)
            for path, fact in facts.items()
            if states[path] and state(path) == states[path]
        ]
        if not rows:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(self.path, os.O_CREAT | os.O_WRONLY, 0o600))
            with self._open() as connection, connection:
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS facts (path TEXT, kind TEXT, state TEXT, "
                    "fact TEXT, PRIMARY KEY (path, kind))"
                )
                connection.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?, ?, ?)", rows)
        except (OSError, sqlite3.Error):
            return

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(self.path, timeout=30)
        try:
            connection.execute("PRAGMA synchronous = OFF")  # a lost fact is found out again
            yield connection
        finally:
            connection.close()


def state(path: Path) -> str:
    """`state_of`, or "" for what cannot be looked at: whoever reads it will say why."""
    try:
        return state_of(path)
    except (OSError, UnusableError):
        return ""


def _digest(path: Path) -> str:
    try:
        return file_digest(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
