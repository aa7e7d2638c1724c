"""Manifests written: as CSV, whole or not at all, paths relative to the file."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from medidiff.data.manifest import Table
from medidiff.data.rows import RESERVED, Column
from medidiff.errors import OutputError


def check_place(out: Path) -> None:
    """Errors: OutputError unless `out` is a CSV file that is not there yet, in a folder that is."""
    if out.suffix.lower() != ".csv":
        raise OutputError(f"{out}: a manifest is written as .csv")
    if out.exists():
        raise OutputError(f"{out} is there already; choose another name, or remove it")
    if not out.absolute().parent.is_dir():
        raise OutputError(f"{out}: there is no such folder")


def write_csv(out: Path, columns: Sequence[str], rows: Iterable[Mapping[str, str]]) -> None:
    """Writes the table aside and then in place."""
    aside = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        with aside.open("x", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(columns), restval="", extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
        aside.replace(out)
    finally:
        aside.unlink(missing_ok=True)


def header_of(columns: Iterable[Column]) -> dict[str, str]:
    """Column name -> how it stands in a CSV's first line, with its type where it needs one."""
    return {
        column.name: column.name
        if column.type == RESERVED.get(column.name, "text")
        else f"{column.name}:{column.type}"
        for column in columns
    }


def moved(cell: str, old: Path, new: Path) -> str:
    """A path that was relative to the folder `old`, relative to the folder `new`."""
    if not cell or os.path.isabs(cell):
        return cell
    return os.path.relpath(old / cell, new.absolute())


def with_splits(table: Table, manifest: Path, out: Path, splits: Mapping[str, str]) -> None:
    """The table again with the split of each row's subject."""
    names = header_of(table.columns)
    names.setdefault("split", "split")
    paths = [column.name for column in table.columns if column.type in ("image", "label")]
    rows = []
    for _, cells in table.rows:
        cells = {**cells, "split": splits[cells["subject"]]}
        for name in paths:
            cells[name] = moved(cells.get(name, ""), manifest.parent.absolute(), out.parent)
        rows.append({names[name]: cell for name, cell in cells.items()})
    write_csv(out, list(names.values()), rows)
