"""The table behind a manifest: columns, rows, and its digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from medidiff.data.known_files import KnownFiles
from medidiff.errors import ManifestError

ColumnType = Literal["image", "label", "number", "category", "text"]
TYPES: tuple[str, ...] = get_args(ColumnType)
RESERVED: dict[str, ColumnType] = {
    "subject": "text",
    "split": "text",
    "session": "text",
    "image": "image",
    "label": "label",
}
SHOWN_PROBLEMS = 20
SHOWN_ROWS = 6
TOLD_APART = 3  # so many rows with one problem are told one by one; more of them together
SHOWN_SPLITS = 8  # a column of more is no list of splits, and its cells may name patients

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Column:
    """A column's name and what its cells mean."""

    name: str
    type: ColumnType


@dataclass(frozen=True)
class Row:
    """One row: the files and facts of one subject at one time. Cells that are empty are absent."""

    number: int
    """The line in a CSV file, or the place among a JSON file's rows, counted from 1."""
    subject: str
    split: str
    images: Mapping[str, Path]
    labels: Mapping[str, Path]
    numbers: Mapping[str, float]
    categories: Mapping[str, str]
    text: Mapping[str, str]

    def word(self, column: str) -> str | None:
        """What stands in a column of words, whether a model may be conditioned on it (category) or
        not (text); None where nothing does."""
        return self.text.get(column) or self.categories.get(column)

    @property
    def conditions(self) -> dict[str, str | float]:
        """Numbers and categories together, as a model is conditioned on them."""
        return {**self.numbers, **self.categories}


@dataclass(frozen=True)
class Manifest:
    """A table of rows, read and well-formed; its images are not yet looked at."""

    path: Path
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    def split(self, name: str) -> tuple[Row, ...]:
        """The rows of one split; empty if there are none."""
        return tuple(row for row in self.rows if row.split == name)

    def splits_shown(self) -> str:
        """The names of the splits there are, for messages."""
        there = sorted({row.split for row in self.rows if row.split})
        if len(there) > SHOWN_SPLITS:
            return f"{len(there)} different ones; is column 'split' what it says?"
        return ", ".join(repr(name) for name in there) or "none"

    def names(self, *types: ColumnType) -> tuple[str, ...]:
        """The names of the columns of these types."""
        return tuple(column.name for column in self.columns if column.type in types)

    def digest(self) -> str:
        """A SHA-256 of what the manifest holds: voxels, facts and grouping by subject.

        Names of subjects and files do not enter, nor does the order of rows or subjects, so that
        the digest may be shown and stays when files are renamed. Reads every file that changed.
        Errors: ManifestError naming rows whose files cannot be read.
        """
        files = [path for row in self.rows for path in _files(row).values()]
        try:
            contents = KnownFiles().contents(files)
        except OSError as error:
            raise self._unreadable(error) from error
        subjects: dict[str, list[str]] = {}
        for row in self.rows:
            subjects.setdefault(row.subject, []).append(_row_digest(row, contents))
        groups = sorted("".join(sorted(rows)) for rows in subjects.values())
        facts = sorted(f"{column.name}:{column.type}" for column in self.columns)
        return hashlib.sha256("\n".join([*facts, *groups]).encode()).hexdigest()

    def _unreadable(self, error: OSError) -> ManifestError:
        where = next(
            f"row {row.number}, column {name!r}"
            for row in self.rows
            for name, path in _files(row).items()
            if str(path) == error.filename
        )
        return ManifestError(
            f"{where}: the file cannot be read ({error.strerror})", private=str(error)
        )


@dataclass(frozen=True)
class Problem:
    """Something wrong with a manifest, in two texts: one for everyone, one for its owner."""

    text: str
    """Rows and columns; never a file, a subject or the content of a cell."""
    names: str = ""
    """The files, subjects or cells that are meant: for the private log only."""


def raise_problems(path: Path, problems: Sequence[Problem]) -> None:
    """Raises one ManifestError for all problems if there are any: the first 20 in its text, all of
    them with their names in `.private`."""
    if not problems:
        return
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    shown = first_problems([problem.text for problem in problems])
    named = [f"  {problem.text} | {problem.names}" for problem in problems if problem.names]
    raise ManifestError(
        "\n".join([f"{path}: {count}", *shown]),
        private="\n".join([f"{path}: {count}", *named]) if named else None,
    )


def first_problems(problems: Sequence[str]) -> list[str]:
    """The first 20, indented, and how many more there are."""
    shown = [f"  {problem}" for problem in problems[:SHOWN_PROBLEMS]]
    rest = len(problems) - len(shown)
    return [*shown, *([f"  and {rest} more"] if rest else [])]


def rows_listed(rows: Sequence[int]) -> str:
    """ "row 7", or "rows 1, 2, 3, 4, 5, 6 and 3 more"."""
    shown = ", ".join(map(str, rows[:SHOWN_ROWS]))
    more = f" and {len(rows) - SHOWN_ROWS} more" if len(rows) > SHOWN_ROWS else ""
    return f"row{'s' if len(rows) > 1 else ''} {shown}{more}"


def told_together(problems: Mapping[int, Sequence[str]]) -> list[str]:
    """A line for each row and its problems, but one for all rows of a problem that many share."""
    rows: dict[str, list[int]] = {}
    for row, told in problems.items():
        for problem in told:
            rows.setdefault(problem, []).append(row)
    many = {problem: where for problem, where in rows.items() if len(where) > TOLD_APART}
    lines = [
        f"{len(where)} rows: {problem} ({rows_listed(where)})" for problem, where in many.items()
    ]
    for row, told in problems.items():
        own = [problem for problem in told if problem not in many]
        lines += [f"row {row}: {'; '.join(own)}"] if own else []
    return lines


def _files(row: Row) -> dict[str, Path]:
    return {**row.images, **row.labels}


def _row_digest(row: Row, contents: Mapping[Path, str]) -> str:
    facts: dict[str, object] = {"split": row.split, **row.numbers, **row.categories}
    facts |= {name: contents[path] for name, path in _files(row).items()}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
