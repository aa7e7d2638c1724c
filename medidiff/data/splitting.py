"""Subjects to splits: whole subjects, alike in what they are stratified by, whole sites apart."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medidiff.data.rows import Manifest, Row
from medidiff.errors import ConfigError, ManifestError

QUARTERS = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class SplitOptions:
    """How subjects are dealt to splits."""

    shares: tuple[tuple[str, float], ...] = (("train", 0.8), ("val", 0.1), ("test", 0.1))
    """Split and its share of the subjects; the shares add up to 1."""
    stratify: tuple[str, ...] = ()
    """Columns whose values every split has alike; numbers by quarters."""
    hold_out: tuple[str, ...] = ()
    """Sites whose subjects all go to `hold_out_split`."""
    site_column: str = "site"
    hold_out_split: str = "test"
    seed: int = 0

    def __post_init__(self) -> None:
        total = sum(share for _, share in self.shares)
        if not self.shares or min(share for _, share in self.shares) < 0 or abs(total - 1) > 1e-6:
            raise ConfigError(f"shares are 0 or more and add up to 1, not {total:g}")
        if len({name for name, _ in self.shares}) < len(self.shares):
            raise ConfigError("a split has two shares")


def assign_splits(manifest: Manifest, options: SplitOptions) -> dict[str, str]:
    """The split of every subject.

    Stratum by stratum, subjects are put in an order keyed by the seed, and each goes to the split
    that is then most short of its share; what is owed is carried to the next stratum, so that small
    strata do not add up to wrong shares.
    Errors: ManifestError for columns and sites that are not there.
    """
    subjects: dict[str, list[Row]] = {}
    for row in manifest.rows:
        subjects.setdefault(row.subject, []).append(row)
    apart = _held_out(manifest, subjects, options)
    strata: dict[tuple[str, ...], list[str]] = {}
    described = _strata(manifest, subjects, options.stratify)
    for subject in subjects:
        if subject not in apart:
            strata.setdefault(described[subject], []).append(subject)
    chosen = dict.fromkeys(apart, options.hold_out_split)
    shares = _remaining(options)
    owed = dict.fromkeys(shares, 0.0)
    for _, members in sorted(strata.items()):
        members.sort(key=lambda subject: _order(options.seed, subject))
        chosen.update(_dealt(members, shares, owed))
    return chosen


def _remaining(options: SplitOptions) -> dict[str, float]:
    """With sites held out, their split takes no others."""
    left = {
        name: share
        for name, share in options.shares
        if not (options.hold_out and name == options.hold_out_split)
    }
    total = sum(left.values())
    if total <= 0:
        raise ConfigError("no split is left for the sites that are not held out")
    return {name: share / total for name, share in left.items()}


def _dealt(
    members: Sequence[str], shares: Mapping[str, float], owed: dict[str, float]
) -> dict[str, str]:
    """`owed`: how many subjects each split is short of from the strata before."""
    chosen: dict[str, str] = {}
    for subject in members:
        for name, share in shares.items():
            owed[name] += share
        name = max(owed, key=lambda split: owed[split])
        owed[name] -= 1
        chosen[subject] = name
    return chosen


def _order(seed: int, subject: str) -> bytes:
    return hashlib.sha256(f"{seed}/split/{subject}".encode()).digest()


def _held_out(
    manifest: Manifest, subjects: Mapping[str, Sequence[Row]], options: SplitOptions
) -> set[str]:
    if not options.hold_out:
        return set()
    column = options.site_column
    if column not in manifest.names("text", "category"):
        raise ManifestError(f"{manifest.path}: there is no column {column!r} to hold sites out by")
    there = {_cell(row, column) for row in manifest.rows}
    gone = [site for site in options.hold_out if site not in there]
    if gone:
        raise ManifestError(
            f"{manifest.path}: {len(gone)} of the sites to hold out are in no row of column "
            f"{column!r}",
            private=f"not there: {', '.join(gone)}; there are: {', '.join(sorted(there))}",
        )
    sites = set(options.hold_out)
    return {
        subject
        for subject, rows in subjects.items()
        if any(_cell(row, column) in sites for row in rows)
    }


def _strata(
    manifest: Manifest, subjects: Mapping[str, Sequence[Row]], columns: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """What each subject is stratified by: its first row's cells, numbers as quarters."""
    known = manifest.names("text", "category", "number")
    for column in columns:
        if column not in known:
            listed = ", ".join(known) or "none"
            raise ManifestError(f"{manifest.path}: no column {column!r} to stratify by ({listed})")
    edges = {column: _edges(manifest, column) for column in columns}
    return {
        subject: tuple(_stratum(rows[0], column, edges[column]) for column in columns)
        for subject, rows in subjects.items()
    }


def _edges(manifest: Manifest, column: str) -> list[float]:
    values = sorted(row.numbers[column] for row in manifest.rows if column in row.numbers)
    return [values[int(quarter * len(values))] for quarter in QUARTERS] if values else []


def _stratum(row: Row, column: str, edges: Sequence[float]) -> str:
    if column in row.numbers:
        return f"quarter {sum(row.numbers[column] >= edge for edge in edges)}"
    return _cell(row, column)


def _cell(row: Row, column: str) -> str:
    return row.word(column) or ""
