"""The rows of a manifest prepared once for all processes of a machine, each file read by one."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from functools import partial
from pathlib import Path

from medidiff.data.image_cache import Grid, ImageCache, entry_key
from medidiff.data.known_files import CONTENT, KnownFiles, state
from medidiff.data.placing import Placed, stated_modality
from medidiff.data.rows import Progress, Row
from medidiff.errors import DataError

Place = Callable[[Row], Placed]
Outcome = DataError | bool
"""What came of a row: an error, or whether it is there (else another process is at it)."""


class PreparedImages:
    """Placed images by row, from the cache of prepared images."""

    def __init__(
        self,
        rows: Sequence[Row],
        place: Place,
        images: Sequence[str],
        label: str | None,
        grid: Grid,
    ) -> None:
        self.rows, self.place = tuple(rows), place
        self.images, self.label, self.grid = tuple(images), label, grid
        self.cache, self.known = ImageCache(), KnownFiles()
        self.keys: dict[int, str] = {}
        """Of the entries, by the number of the row."""

    def of(self, row: Row) -> Placed:
        """The images of a row, made again if the entry was cleared in the meantime.

        Errors: DataError naming the row, also if its file is no longer the one prepared.
        """
        placed = self.cache.get(self.keys[row.number])
        return placed if placed is not None else self._again(row)

    def prepare(self, pool: Executor, progress: Progress | None) -> list[DataError]:
        """Makes every entry that is missing; gives why rows could not be.

        Of several processes each makes what no other is making, and waits for others at the end.
        """
        problems: list[DataError] = []
        rest = self._missing()

        def tell(left: int) -> None:
            if progress is not None:
                progress(len(self.rows) - left, len(self.rows))

        tell(len(rest))
        for wait in (False, True):
            later: list[Row] = []
            left = len(rest)
            for row, outcome in zip(rest, pool.map(partial(self._made, wait), rest), strict=True):
                if outcome is False:
                    later.append(row)
                    continue
                problems += [outcome] if isinstance(outcome, DataError) else []
                left -= 1
                tell(left)
            rest = later
        return problems

    def _missing(self) -> list[Row]:
        """Rows whose entry is not there, or whose content is not known."""
        states = {path: state(path) for row in self.rows for path in self._files(row)}
        known = self.known.facts(CONTENT, states)
        for row in self.rows:
            if all(path in known for path in self._files(row)):
                key = self._key(row, known)
                if self.cache.has(key):
                    self.keys[row.number] = key
        return [row for row in self.rows if row.number not in self.keys]

    def _made(self, wait: bool, row: Row) -> Outcome:
        files = self._files(row)
        with self.cache.lock("|".join(os.path.abspath(file) for file in files), wait=wait) as mine:
            if not mine:
                return False
            try:
                key = self._key(row, self.known.contents(files))
                if not self.cache.has(key):
                    self._kept(row, key)
            except DataError as error:
                return error
            except OSError as error:
                return DataError(
                    f"row {row.number}: a file cannot be read ({error.strerror})",
                    private=str(error),
                )
            self.keys[row.number] = key
            return True

    def _kept(self, row: Row, key: str) -> Placed:
        placed = self.place(row)
        if self._key(row, self.known.contents(self._files(row))) != key:
            raise DataError(
                f"row {row.number}: a file was changed after this run began; start it again",
                private=", ".join(map(str, self._files(row))),
            )
        self.cache.put(key, placed)
        return placed

    def _again(self, row: Row) -> Placed:
        try:
            return self._kept(row, self.keys[row.number])
        except OSError as error:
            raise DataError(
                f"row {row.number}: a file cannot be read ({error.strerror})", private=str(error)
            ) from error

    def _key(self, row: Row, contents: Mapping[Path, str]) -> str:
        images = [
            contents[row.images[name]] if name in row.images else None for name in self.images
        ]
        marked = self._label(row)
        label = None if marked is None else contents[marked]
        return entry_key(self.grid, images, label, stated_modality(row))

    def _files(self, row: Row) -> list[Path]:
        marked = self._label(row)
        found = [row.images[name] for name in self.images if name in row.images]
        return found if marked is None else [*found, marked]

    def _label(self, row: Row) -> Path | None:
        return None if self.label is None else row.labels.get(self.label)
