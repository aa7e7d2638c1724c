"""A manifest from a tree of scans: DICOM by series, other volumes and pictures by their names,
k-space by what its files say.

Every image is decoded once: what cannot be used is not in the manifest, and its reason is told.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Literal

import numpy as np

from medidiff.data.checks import content_digest
from medidiff.data.decode import Scan, decode, only, told_without_names
from medidiff.data.dicom import Stacking
from medidiff.data.dicom_rows import Subjects, facts_of, sessions_of
from medidiff.data.file_names import (
    Named,
    fits,
    is_data_half,
    is_kspace,
    is_picture,
    is_thumbnail,
    is_volume,
    named,
)
from medidiff.data.index import Index, index_tree
from medidiff.data.kspace_images import kspace_facts, slices_of
from medidiff.data.privacy import SiteKey
from medidiff.data.rows import Progress
from medidiff.data.series_list import SUFFIX, write_series_list
from medidiff.data.sources import is_archive
from medidiff.errors import DataError

COLUMNS = (
    *("subject", "session", "study", "series", "part", "modality", "sequence", "site", "coils"),
    *("size", "spacing_mm", "content", "sex:category", "age:number", "image", "label"),
)
NAME = "_name"  # of a row while the manifest is made: the file's path in the tree
FOLDER = "_folder"  # the same of a series that has a folder to itself
NO_IMAGE = "a label or mask with no image of its name and size"
THUMBNAIL = "a small copy of a picture (thumbnail, preview or icon), by its name"
ARCHIVE = "an archive without DICOM; unpack it if volumes or pictures lie in it"
SECOND = "a second label or mask of its kind for one image"


@dataclass(frozen=True)
class BuildOptions:
    """How a manifest is built."""

    subjects: Subjects = "pseudonym"
    """DICOM's patient identifiers and institutions: keyed pseudonyms, or as they stand."""
    stacking: Stacking = field(default_factory=Stacking)
    arrange: Literal["images", "cases"] = "images"
    """A row an image, or a row a session with a column for each sequence."""
    kspace: Literal["volumes", "slices"] = "volumes"
    """A row a file of k-space, or a row each of its slices, for models of slices."""


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
    dims: Counter[int] = field(default_factory=Counter)
    """How many images have two axes, and how many three."""
    others: int = 0
    """Files that are neither scans nor pictures."""


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
    files = _sorted_files(root, index, options, key)
    jobs = [*_dicom_jobs(root, index, lists, options, key), *files.jobs]
    rows: list[dict[str, str]] = []
    skipped = [
        Skipped(one.text, _shown(one.source.path, *one.source.members)) for one in index.unread
    ]
    skipped += files.skipped
    with ThreadPoolExecutor(workers) as pool:
        reading = told("reading images")
        for done, found in enumerate(pool.map(_tried, jobs), start=1):
            if isinstance(found, Skipped):
                skipped.append(found)
            else:
                rows += found
            reading(done, len(jobs))
    rows = _with_labels(rows, skipped)
    dims = Counter(len(row["size"].split(" x ")) for row in rows)
    if options.arrange == "cases":
        rows = as_cases(rows)
    duplicates = sum(series.duplicates for series in index.series)
    return Built(_columns(rows), tuple(rows), tuple(skipped), duplicates, dims, files.others)


@dataclass(frozen=True)
class _Job:
    """One image to decode, and what is known of it before."""

    place: Path
    facts: dict[str, str]
    names: str
    each: Literal["file", "volume", "slice"] = "file"
    """What gets a row of its own, in a file of several."""


def _tried(job: _Job) -> list[dict[str, str]] | Skipped:
    try:
        scan = decode(job.place)
    except DataError as error:
        _discard(job.place)
        return Skipped(str(error), job.names)
    if job.each == "slice" and scan.dims == 3 and len(scan.array) == 1:
        parts = list(slices_of(scan))
    elif job.each == "file" or len(scan.array) == 1:
        return [_row(job, scan, str(job.place))]
    else:
        parts = [only(scan, k) for k in range(len(scan.array))]
    what = "slice" if parts[0].dims == 2 else "volume"
    return [
        {**_row(job, part, f"{job.place}[{k}]"), "part": f"{what} {k}"}
        for k, part in enumerate(parts)
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
        found["spacing_mm"] = _sides(lengths)
    elif scan.spacing_mm is not None:
        found["spacing_mm"] = _sides(scan.spacing_mm)
    return found


def _sides(lengths: Iterable[float]) -> str:
    return " x ".join(f"{length:.4g}" for length in lengths)


def _dicom_jobs(
    root: Path, index: Index, lists: Path, options: BuildOptions, key: SiteKey
) -> Iterator[_Job]:
    sessions, folders = sessions_of(index.series), _own_folders(root, index)
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
            facts[FOLDER] = folders.get(series.series, "")
            if len(series.parts) > 1:
                facts["series"] += f".{place}"
            yield _Job(path, facts, _shown(sources[used[0]].path, *sources[used[0]].members))


def _own_folders(root: Path, index: Index) -> dict[str, str]:
    """The folder in the tree of each series that fills one by itself and is one volume: a label may
    be called after it."""
    held: dict[Path, set[str]] = {}
    places: dict[str, set[Path]] = {}
    for series in index.series:
        for source, _ in series.files:
            place = Path(source.path) if source.members else Path(source.path).parent
            held.setdefault(place, set()).add(series.series)
            places.setdefault(series.series, set()).add(place)
    found: dict[str, str] = {}
    for series in index.series:
        place = min(places[series.series])
        alone = len(places[series.series]) == len(held[place]) == len(series.parts) == 1
        if alone and place != root and place.is_relative_to(root):
            found[series.series] = str(place.relative_to(root))
    return found


@dataclass
class _Files:
    """What a tree holds beside DICOM."""

    jobs: list[_Job] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    others: int = 0


def _sorted_files(root: Path, index: Index, options: BuildOptions, key: SiteKey) -> _Files:
    base = root if root.is_dir() else root.parent
    found = _Files()
    for path in map(Path, index.others):
        name = path.relative_to(base)
        if is_picture(path.name) and is_thumbnail(name):
            found.skipped.append(Skipped(THUMBNAIL, str(path)))
        elif is_volume(path.name) or is_picture(path.name):
            facts = {**_named_facts(named(name)), NAME: str(name)}
            found.jobs.append(_Job(path.absolute(), facts, str(path), "volume"))
        elif is_kspace(path.name):
            _add_kspace(found, path, named(name), options, key)
        elif is_archive(path.name):
            found.skipped.append(Skipped(ARCHIVE, str(path)))
        else:
            found.others += not is_data_half(path.name)
    return found


def _add_kspace(
    found: _Files, path: Path, name: Named, options: BuildOptions, key: SiteKey
) -> None:
    """A file's own words go before its name's; its patient is named as DICOM's are."""
    try:
        with told_without_names(path):
            said = kspace_facts(path)
    except DataError as error:
        found.skipped.append(Skipped(str(error), str(path)))
        return
    patient = said.patient if options.subjects == "raw" else key.pseudonym(said.patient)
    facts = _named_facts(name) | {
        "subject": patient if said.patient else name.subject,
        "modality": "MR",
        "sequence": said.sequence or name.sequence,
        "coils": str(said.coils),
    }
    each = "slice" if options.kspace == "slices" and said.dims == 2 else "volume"
    found.jobs.append(_Job(path.absolute(), facts, str(path), each))


def _named_facts(said: Named) -> dict[str, str]:
    return {
        "subject": said.subject,
        "session": said.session,
        "series": said.series,
        "modality": said.modality,
        "sequence": said.sequence,
        "site": said.site,
    }


def _with_labels(rows: list[dict[str, str]], skipped: list[Skipped]) -> list[dict[str, str]]:
    """Labels beside their images, in a column for each kind where there are several; a label
    without an image is told, and so is a second one of its kind for the same image."""
    said = [(row, named(PurePath(row[NAME]))) for row in rows if NAME in row]
    images: dict[str, list[tuple[dict[str, str], Named]]] = {}
    series = [(row, named(PurePath(row[FOLDER]))) for row in rows if row.get(FOLDER)]
    for row, name in [*(pair for pair in said if not pair[1].is_label), *series]:
        images.setdefault(name.case, []).append((row, name))
    labels = [(row, name) for row, name in said if name.is_label]
    kinds = {name.kind for _, name in labels}
    # what states more of its image goes before what would fit many
    for row, name in sorted(labels, key=lambda each: -_stated(each[1])):
        theirs = [
            image
            for image, its in images.get(name.case, [])
            if image["size"] == row["size"] and fits(name, its)
        ]
        several = len(kinds) > 1 and name.kind
        column = f"{_column_name(name.kind, 'label')}:label" if several else "label"
        free = [image for image in theirs if column not in image]
        for image in free:
            image[column] = row["image"]
        if not free:
            skipped.append(Skipped(SECOND if theirs else NO_IMAGE, row["image"]))
    of_labels = {id(row) for row, _ in labels}
    kept = [row for row in rows if id(row) not in of_labels]
    return [{k: v for k, v in row.items() if k not in (NAME, FOLDER)} for row in kept]


def _stated(name: Named) -> int:
    return len(name.entities) + bool(name.sequence) + bool(name.space)


def as_cases(rows: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """A row a session, with an image column for each sequence; a second image of one sequence, and
    a second label, go to columns of their own."""
    cases: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        case = cases.setdefault(
            (row["subject"], row.get("session", "")),
            {k: row.get(k, "") for k in ("subject", "session", "study", "modality", "site")},
        )
        base = _column_name(row.get("sequence", ""), "image")
        case[_free(case, f"{base}:image", "")] = row["image"]
        for column in [name for name in row if name == "label" or name.endswith(":label")]:
            case[_free(case, column, row[column])] = row[column]
        for fact in ("sex:category", "age:number"):
            if row.get(fact):
                case.setdefault(fact, row[fact])
    return list(cases.values())


def _free(case: dict[str, str], column: str, cell: str) -> str:
    """The column, with a number where it holds something other than the cell."""
    base, _, type_ = column.rpartition(":")
    name, number = column, 2
    while case.get(name, cell) != cell:
        name, number = f"{base or type_}_{number}:{type_}", number + 1
    return name


def _column_name(text: str, otherwise: str) -> str:
    kept = "".join(letter if letter.isalnum() else "_" for letter in text).strip("_").lower()
    return kept or otherwise


def _columns(rows: Sequence[dict[str, str]]) -> tuple[str, ...]:
    """The columns that some row fills, in their usual order."""
    filled = {name for row in rows for name, cell in row.items() if cell}
    usual = [name for name in COLUMNS if name in filled or name == "subject"]
    return (*usual, *sorted(filled - set(usual)))


def _shown(*parts: str) -> str:
    return "!".join(parts)
