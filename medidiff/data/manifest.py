"""Manifests: a table that says which files belong to which subject, and what is known of them.

CSV: one row an image or a set of images of one subject. `subject` is required; `split`, `session`,
`image` and `label` are known by name; other columns carry their type after a colon (`t1:image`,
`age:number`) or are text. JSON: {"format": 1, "columns": {name: type}, "rows": [{name: value}]}.
Paths are relative to the manifest. Reading a manifest opens no image; `check_manifest` does.
"""

from __future__ import annotations

import csv
import difflib
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from medidiff.data.checks import check_manifest
from medidiff.data.rows import (
    RESERVED,
    TYPES,
    Column,
    ColumnType,
    Manifest,
    Problem,
    Row,
    raise_problems,
)
from medidiff.errors import ManifestError

__all__ = ["Column", "Manifest", "Row", "check_manifest", "read_manifest"]

WORDS = ("modality", "study")  # known by name where they are there
MISSING = ("", "na", "n/a", "nan", "none", "null")


def read_manifest(path: str | Path) -> Manifest:
    """The manifest at `path` (.csv or .json), without opening the images it names.

    Errors: ManifestError with all problems of form at once: no subject column, unknown column
    types, repeated columns, rows with too many or too few cells, cells that are not numbers. What
    stands in cells is in `.private` only.
    """
    path = Path(path)
    table = read_table(path)
    problems = list(table.problems)
    rows = tuple(_read_row(path.parent, table.columns, *cells, problems) for cells in table.rows)
    if not any(column.name == "subject" for column in table.columns):
        # a table without a header has a patient's row in its place: no column is named aloud
        problems = [_no_subject(table.columns)]
    if not rows:
        problems.append(Problem("there are no rows"))
    raise_problems(path, problems)
    return Manifest(path, table.columns, rows)


def read_table(path: Path) -> Table:
    """The cells of a manifest as they stand, with what is wrong with their form.

    Errors: ManifestError for a file that cannot be read as a table.
    """
    if path.is_dir():
        raise ManifestError(
            f"{path} is a folder; a manifest is a .csv or a .json file ('medidiff manifest build' "
            "writes one of a folder of scans)"
        )
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".json"):
        raise ManifestError(f"{path}: a manifest is a .csv or a .json file")
    try:
        content = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ManifestError(f"{path}: there is no such manifest") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(
            f"{path}: the manifest cannot be read as UTF-8 text: {error}"
        ) from error
    return _json_table(path, content) if suffix == ".json" else _csv_table(path, content)


@dataclass(frozen=True)
class Table:
    """Columns, and each row's number and cells by column."""

    columns: tuple[Column, ...]
    rows: list[tuple[int, dict[str, str]]]
    problems: list[Problem]


def _csv_table(path: Path, content: str) -> Table:
    lines = csv.reader(io.StringIO(content, newline=""), strict=True)
    try:
        header = next(lines, [])
        cells = [(lines.line_num, line) for line in lines if any(cell.strip() for cell in line)]
    except csv.Error as error:
        raise ManifestError(f"{path}: line {lines.line_num} is not CSV: {error}") from None
    problems: list[Problem] = []
    columns = _columns([cell.strip().partition(":")[::2] for cell in header], problems)
    rows: list[tuple[int, dict[str, str]]] = []
    for number, line in cells:
        if len(line) != len(header):
            text = f"row {number}: {len(line)} cells, but the header has {len(header)}"
            problems.append(Problem(text))
            continue
        values = (cell.strip() for cell in line)
        rows.append((number, dict(zip((column.name for column in columns), values, strict=True))))
    return Table(columns, rows, problems)


def _json_table(path: Path, content: str) -> Table:
    try:
        tree = json.loads(content)
    except json.JSONDecodeError as error:
        raise ManifestError(f"{path}: not JSON: {error}") from None
    expected = '{"format": 1, "columns": {name: type}, "rows": [{name: value}]}'
    if not isinstance(tree, dict) or tree.get("format") != 1:
        raise ManifestError(f"{path}: a JSON manifest is {expected}")
    declared, listed = tree.get("columns", {}), tree.get("rows")
    if not isinstance(declared, dict) or not isinstance(listed, list):
        raise ManifestError(f"{path}: a JSON manifest is {expected}")
    problems: list[Problem] = []
    names = dict.fromkeys(name for row in listed if isinstance(row, dict) for name in row)
    pairs = [(str(name), str(declared.get(name, ""))) for name in {**declared, **names}]
    columns = _columns(pairs, problems)
    rows: list[tuple[int, dict[str, str]]] = []
    for number, row in enumerate(listed, start=1):
        if not isinstance(row, dict):
            text = f"row {number}: {type(row).__name__} is not an object of names and values"
            problems.append(Problem(text, repr(row)))
            continue
        values = {name: "" if row.get(name) is None else str(row[name]) for name, _ in pairs}
        rows.append((number, values))
    return Table(columns, rows, problems)


def _columns(pairs: Iterable[Sequence[str]], problems: list[Problem]) -> tuple[Column, ...]:
    columns: list[Column] = []
    for name, stated in pairs:
        if not name:
            problems.append(Problem(f"column {len(columns) + 1} has no name"))
        if any(column.name == name for column in columns):
            problems.append(Problem(f"column {name!r} is there twice"))
        columns.append(Column(name, _column_type(name, stated.strip(), problems)))
    return tuple(columns)


def _column_type(name: str, stated: str, problems: list[Problem]) -> ColumnType:
    usual = RESERVED.get(name, "text")
    if not stated:
        return usual
    for known in get_args(ColumnType):
        if stated == known:
            if name in RESERVED and known != usual:
                text = f"column {name!r} is always of type {usual!r}, not {stated!r}"
                problems.append(Problem(text))
            if name in WORDS and known not in ("text", "category"):
                text = f"column {name!r} holds words: of type 'text' or 'category', not {stated!r}"
                problems.append(Problem(text))
            return known
    close = difflib.get_close_matches(stated, TYPES, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else f"types are {', '.join(TYPES)}"
    problems.append(Problem(f"column {name!r} has the unknown type {stated!r}; {hint}"))
    return usual


def _no_subject(columns: Sequence[Column]) -> Problem:
    names = [column.name for column in columns]
    close = difflib.get_close_matches("subject", names, n=1, cutoff=0.6)
    hint = f"; did you mean {close[0]!r}?" if close else f" among the {len(names)} columns"
    return Problem(
        f"there is no column 'subject'{hint} (needed so that no person is in two splits; "
        "give each image its own subject if nothing is known)",
        f"the first line is {', '.join(names)}",
    )


def _read_row(
    folder: Path,
    columns: Sequence[Column],
    number: int,
    cells: Mapping[str, str],
    problems: list[Problem],
) -> Row:
    paths: dict[str, dict[str, Path]] = {"image": {}, "label": {}}
    words: dict[str, dict[str, str]] = {"category": {}, "text": {}}
    numbers: dict[str, float] = {}
    for column in columns:
        cell = cells.get(column.name, "")
        if cell.lower() in MISSING:
            continue
        if column.type == "number":
            value = _number(cell)
            if value is None:
                text = f"row {number}, column {column.name!r}: not a number"
                problems.append(Problem(text, repr(cell)))
            else:
                numbers[column.name] = value
        elif column.type in paths:
            paths[column.type][column.name] = folder / cell
        elif column.name not in ("subject", "split"):
            words[column.type][column.name] = cell
    if "subject" in cells and not cells["subject"]:
        problems.append(Problem(f"row {number}: the subject is missing"))
    return Row(
        number,
        cells.get("subject", ""),
        cells.get("split", ""),
        paths["image"],
        paths["label"],
        numbers,
        words["category"],
        words["text"],
    )


def _number(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
