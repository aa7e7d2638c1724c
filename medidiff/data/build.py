"""A manifest from a tree of scans: DICOM by series, other volumes by their names.

Every image is decoded once: what cannot be used is not in the manifest, and its reason is told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from medidiff.data.checks import content_digest
from medidiff.data.decode import Scan, decode
from medidiff.data.dicom import Stacking
from medidiff.data.dicom_rows import Subjects, facts_of, sessions_of
from medidiff.data.file_names import Named, is_volume, named
from medidiff.data.index import Index, index_tree
from medidiff.data.privacy import SiteKey
from medidiff.data.rows import Progress
from medidiff.data.series_list import SUFFIX, write_series_list
from medidiff.errors import DataError

COLUMNS = (
    *("subject", "session", "study", "series", "part", "modality", "sequence", "site", "size"),
    *("spacing_mm", "content", "sex:category", "age:number", "image", "label"),
)


@dataclass(frozen=True)
class BuildOptions:
    """How a manifest is built."""

    subjects: Subjects = "pseudonym"
    """DICOM's patient identifiers and institutions: keyed pseudonyms, or as they stand."""
    stacking: Stacking = field(default_factory=Stacking)
    arrange: Literal["images", "cases"] = "images"
    """A row an image, or a row a session with a column for each sequence."""


@dataclass(frozen=True)
class Skipped:
    """What is not in the manifest; `text` names nothing, `names` is for the private log."""

    text: str
    names: str


@dataclass(frozen=True)
class Built:
    """The rows of a manifest, and what was left out of it."""

    columns: tuple[str, ...]
    rows: tuple[dict[str, str], ...]
    skipped: tuple[Skipped, ...]
    duplicates: int


def build_rows(
    root: Path,
    lists: Path,
    options: BuildOptions,
    *,
    key: SiteKey | None = None,
    workers: int = 4,
    progress: Callable[[str], Progress] | None = None,
) -> Built:
    """Rows for every image under `root`; DICOM series are listed in the folder `lists`.

    Image cells are absolute paths. `progress(what)` gives where each of the two parts, indexing
    and reading, reports to.
    Errors: DataError if there is no such folder.
    """
    key = key or SiteKey.load()
    told = progress or (lambda what: lambda done, total: None)
    index = index_tree(root, progress=told("reading headers"))
    jobs = [*_dicom_jobs(index, lists, options, key), *_file_jobs(root, index)]
    rows: list[dict[str, str]] = []
    skipped = [
        Skipped(one.text, _shown(one.source.path, *one.source.members)) for one in index.unread
    ]
    with ThreadPoolExecutor(workers) as pool:
        reading = told("reading images")
        for done, found in enumerate(pool.map(_tried, jobs), start=1):
            if isinstance(found, Skipped):
                skipped.append(found)
            else:
                rows += found
            reading(done, len(jobs))
    rows = _with_labels(rows, skipped)
    if options.arrange == "cases":
        rows = as_cases(rows)
    duplicates = sum(series.duplicates for series in index.series)
    return Built(_columns(rows), tuple(rows), tuple(skipped), duplicates)


@dataclass(frozen=True)
class _Job:
    """One image to decode, and what is known of it before."""

    place: Path
    facts: dict[str, str]
    names: str
    each_volume: bool = False
    """Whether a file of several volumes gives a row for each."""


def _tried(job: _Job) -> list[dict[str, str]] | Skipped:
    try:
        scan = decode(job.place)
    except DataError as error:
        _discard(job.place)
        return Skipped(str(error), job.names)
    if not job.each_volume or len(scan.array) == 1:
        return [_row(job, scan, str(job.place))]
    volumes = (Scan(scan.array[k : k + 1], scan.affine) for k in range(len(scan.array)))
    return [
        {**_row(job, volume, f"{job.place}[{k}]"), "part": f"volume {k}"}
        for k, volume in enumerate(volumes)
    ]


def _discard(place: Path) -> None:
    if place.name.endswith(SUFFIX):
        place.unlink(missing_ok=True)


def _row(job: _Job, scan: Scan, cell: str) -> dict[str, str]:
    found = {
        **job.facts,
        "size": " x ".join(map(str, scan.array.shape[1:])),
        "content": content_digest(scan)[:32],
        "image": cell,
    }
    if scan.affine is not None:
        lengths = np.linalg.norm(scan.affine[:3, :3], axis=0)[: scan.dims]
        found["spacing_mm"] = " x ".join(f"{length:.4g}" for length in lengths)
    return found


def _dicom_jobs(index: Index, lists: Path, options: BuildOptions, key: SiteKey) -> Iterator[_Job]:
    sessions = sessions_of(index.series)
    number = 0
    for series in index.series:
        sources = [source for source, _ in series.files]
        for place, part in enumerate(series.parts, start=1):
            number += 1
            lists.mkdir(parents=True, exist_ok=True)
            used = list(dict.fromkeys(member.file for member in part.members))
            frames = [(used.index(m.file), m.frame.index) for m in part.members]
            path = lists / f"{number:06d}{SUFFIX}"
            write_series_list(path, [sources[n] for n in used], frames, options.stacking)
            facts = facts_of(series, part, options.subjects, key)
            facts["session"] = sessions[series.study]
            if len(series.parts) > 1:
                facts["series"] += f".{place}"
            yield _Job(path, facts, _shown(sources[used[0]].path, *sources[used[0]].members))


def _file_jobs(root: Path, index: Index) -> Iterator[_Job]:
    base = root if root.is_dir() else root.parent
    for path in map(Path, index.others):
        if is_volume(path.name):
            said = named(path.relative_to(base))
            yield _Job(path.absolute(), _named_facts(said), str(path), each_volume=True)


def _named_facts(said: Named) -> dict[str, str]:
    return {
        "subject": said.subject,
        "session": said.session,
        "series": said.series,
        "modality": said.modality,
        "sequence": said.sequence,
        "site": said.site,
        "_case": said.case,
        "_label": "yes" if said.is_label else "",
    }


def _with_labels(rows: list[dict[str, str]], skipped: list[Skipped]) -> list[dict[str, str]]:
    """Labels beside the images of their case; a label without one is told."""
    images = [row for row in rows if not row.get("_label")]
    for row in rows:
        if not row.get("_label"):
            continue
        theirs = [
            image
            for image in images
            if image.get("_case") == row["_case"] and image["size"] == row["size"]
        ]
        for image in theirs:
            image.setdefault("label", row["image"])
        if not theirs:
            text = "a label or mask with no image of its name and size"
            skipped.append(Skipped(text, row["image"]))
    return [{k: v for k, v in row.items() if not k.startswith("_")} for row in images]


def as_cases(rows: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """A row a session, with an image column for each sequence; a second image of one sequence goes
    to a column of its own."""
    cases: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        case = cases.setdefault(
            (row["subject"], row.get("session", "")),
            {k: row.get(k, "") for k in ("subject", "session", "study", "modality", "site")},
        )
        base = _column_name(row.get("sequence", ""))
        name, number = f"{base}:image", 2
        while name in case:
            name, number = f"{base}_{number}:image", number + 1
        case[name] = row["image"]
        for fact in ("label", "sex:category", "age:number"):
            if row.get(fact):
                case.setdefault(fact, row[fact])
    return list(cases.values())


def _column_name(sequence: str) -> str:
    kept = "".join(letter if letter.isalnum() else "_" for letter in sequence).strip("_").lower()
    return kept or "image"


def _columns(rows: Sequence[dict[str, str]]) -> tuple[str, ...]:
    """The columns that some row fills, in their usual order."""
    filled = {name for row in rows for name, cell in row.items() if cell}
    usual = [name for name in COLUMNS if name in filled or name == "subject"]
    return (*usual, *sorted(filled - set(usual)))


def _shown(*parts: str) -> str:
    return "!".join(parts)
