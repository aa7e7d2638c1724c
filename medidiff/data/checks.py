"""The check of a manifest: every file is decoded, every problem is told at once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from medidiff.data.contents import file_digest
from medidiff.data.decode import Scan, decode, not_one
from medidiff.data.known_files import KnownFiles, state
from medidiff.data.rows import Manifest, Problem, Progress, Row, raise_problems
from medidiff.errors import DataError

if TYPE_CHECKING:
    from medidiff.data.fingerprints import Fingerprint

GRID_TOLERANCE_MM = 0.01
KEPT_TOGETHER = 256  # rows
PAIRS_APART, PAIRS_SHOWN = 3, 5  # so many pairs of a kind are told one by one; of more, these
CHECKED = f"checked with modality {version('medidiff')}"


@dataclass(frozen=True)
class _Found:
    """What a file turned out to hold; `problem` instead where it cannot be used."""

    problem: str = ""
    shape: tuple[int, ...] = ()
    affine: tuple[float, ...] | None = None
    content: str = ""
    file: str = ""
    constant: bool = False
    fingerprint: Fingerprint | None = None
    modality: str | None = None


Leakage = Literal["identical", "near"]


def check_manifest(
    manifest: Manifest,
    *,
    images: Sequence[str] | None = None,
    splits: Sequence[str] = (),
    missing: Literal["refused", "allowed"] = "refused",
    leakage: Leakage = "identical",
    workers: int = 4,
    progress: Progress | None = None,
) -> None:
    """Passes if every file can be used and no subject or image is in two splits.

    With `leakage` "identical", files that were sound and have not changed are not read again.

    `images`: the image columns that will be used, all of them if None; label columns are always
    checked. `splits`: splits that must have rows. `missing`: whether a row may lack some of
    `images`. `leakage`: "identical" finds the same voxels under two names; "near" looks also for
    images that are nearly the same, and for two pieces of one scan under two subjects, which takes
    longer. `progress(done, total)` is called for each row.
    Errors: ManifestError with all problems by row and column (the first 20, and how many more);
    which files and subjects these are is in `.private` only.
    """
    wanted = tuple(images) if images is not None else manifest.names("image")
    problems = _missing_columns(manifest, wanted)
    problems += _empty_splits(manifest, splits)
    problems += _split_subjects(manifest)
    names = [name for name in wanted if name in manifest.names("image")]
    found = _decode_all(manifest, names, leakage, workers, progress)
    by_row: list[_AtRow] = []
    for row in manifest.rows:
        by_row += _row_problems(manifest, row, names, found, missing)
    by_row += _mixed_dims(manifest, names, found)
    by_row += _same_content(manifest, names, found)
    if leakage == "near":
        by_row += _leaks(manifest, names, found)
    pairs = _many_pairs(by_row)
    many = {kind for kind, _ in pairs}
    problems += [
        Problem(f"row {item.row}{item.text}", item.names)
        for item in sorted(by_row, key=lambda item: item.row)
        if item.kind not in many
    ]
    problems += [problem for _, problem in pairs]
    raise_problems(manifest.path, problems)


def grids(
    rows: Iterable[Row], name: str
) -> dict[int, tuple[tuple[int, ...], NDArray[np.float64] | None]]:
    """Shape and affine (4 x 4, RAS+, mm; None where the file states none) of an image column, by
    row; of files that were checked before and have not changed, nothing is read.

    Errors: DataError for a file that cannot be read.
    """
    paths = {row.number: row.images[name] for row in rows}
    known = _Known(set(paths.values()))
    found: dict[int, tuple[tuple[int, ...], NDArray[np.float64] | None]] = {}
    for number, path in paths.items():
        looked = known.look(path, "identical")
        if looked.problem:
            raise DataError(f"row {number}: {looked.problem}", private=str(path))
        affine = None if looked.affine is None else np.reshape(looked.affine, (4, 4))
        found[number] = looked.shape[1:], affine
    return found


def modalities(rows: Sequence[Row], name: str) -> dict[int, str | None]:
    """What each row's image of a column says of its modality, else the manifest's column; read as
    `grids` reads.

    Errors: as `grids`.
    """
    known = _Known({row.images[name] for row in rows})
    found = {row.number: known.look(row.images[name], "identical").modality for row in rows}
    return {row.number: found[row.number] or row.word("modality") for row in rows}


@dataclass(frozen=True)
class _AtRow:
    """A problem of one row; `text` goes on after "row 7", `names` is for the private log."""

    row: int
    text: str
    names: str = ""
    kind: str = ""
    """Of a problem of two rows: what both hold."""
    twin: int = 0


def _many_pairs(problems: Sequence[_AtRow]) -> list[tuple[str, Problem]]:
    """One problem for all pairs of a kind of which there are many; each is in the private log."""
    kinds = dict.fromkeys(item.kind for item in problems if item.kind)
    found = []
    for kind in kinds:
        pairs = sorted((i for i in problems if i.kind == kind), key=lambda item: item.row)
        if len(pairs) <= PAIRS_APART:
            continue
        shown = ", ".join(f"{item.twin} and {item.row}" for item in pairs[:PAIRS_SHOWN])
        text = f"{len(pairs)} pairs of rows hold {kind}, e.g. {shown}; all are in the private log"
        names = "".join(f"\n    row {item.row}{item.text} | {item.names}" for item in pairs)
        found.append((kind, Problem(text, names)))
    return found


def _missing_columns(manifest: Manifest, wanted: Sequence[str]) -> list[Problem]:
    there = manifest.names("image")
    if not wanted:
        return [Problem("no column is of type 'image': name one 'image' or 't1:image'")]
    listed = ", ".join(repr(name) for name in there) or "none"
    return [
        Problem(f"there is no image column {name!r} (image columns: {listed})")
        for name in wanted
        if name not in there
    ]


def _empty_splits(manifest: Manifest, splits: Sequence[str]) -> list[Problem]:
    dealt = any(row.split for row in manifest.rows)
    shown = manifest.splits_shown() + ("" if dealt else "; 'medidiff manifest split' deals them")
    return [
        Problem(f"the split {split!r} has no rows (splits: {shown})")
        for split in splits
        if not manifest.split(split)
    ]


def _split_subjects(manifest: Manifest) -> list[Problem]:
    splits: dict[str, dict[str, int]] = {}
    for row in manifest.rows:
        splits.setdefault(row.subject, {}).setdefault(row.split, row.number)
    return [
        Problem(
            "one subject is in more than one split: "
            + ", ".join(f"{split!r} (row {number})" for split, number in where.items())
            + "; split by subject, not by image",
            f"subject {subject!r}",
        )
        for subject, where in splits.items()
        if len(where) > 1
    ]


def _decode_all(
    manifest: Manifest,
    names: Sequence[str],
    leakage: Leakage,
    workers: int,
    progress: Progress | None,
) -> dict[Path, _Found]:
    """Each file once, in threads: reading and unpacking happen outside Python's lock."""
    wanted = [[*_used(row, names).values(), *row.labels.values()] for row in manifest.rows]
    seen: set[Path] = set()
    fresh = [[path for path in paths if not (path in seen or seen.add(path))] for paths in wanted]
    found: dict[Path, _Found] = {}
    known = _Known(seen if leakage == "identical" else ())  # fingerprints are not kept
    with ThreadPoolExecutor(workers) as pool:
        for done, results in enumerate(
            pool.map(lambda paths: [known.look(path, leakage) for path in paths], fresh), start=1
        ):
            these = dict(zip(fresh[done - 1], results, strict=True))
            known.note(these)
            found |= these
            if done % KEPT_TOGETHER == 0 or done == len(fresh):
                known.keep()
            if progress is not None:
                progress(done, len(fresh))
    return found


class _Known:
    """What sound files turned out to hold is known until they change; a file that could not be
    used is looked at again, for a decoder may have been installed since."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self.store = KnownFiles()
        self.states = {path: state(path) for path in paths}
        self.known = self.store.facts(CHECKED, self.states)
        self.fresh: dict[Path, str] = {}

    def look(self, path: Path, leakage: Leakage) -> _Found:
        if path in self.known:
            return _read_back(self.known[path])
        return _look(path, leakage)

    def note(self, found: Mapping[Path, _Found]) -> None:
        self.fresh |= {
            path: json.dumps(asdict(looked))
            for path, looked in found.items()
            if path in self.states and path not in self.known and not looked.problem
        }

    def keep(self) -> None:
        fresh, self.fresh = self.fresh, {}
        self.store.keep(CHECKED, self.states, fresh)


def _read_back(kept: str) -> _Found:
    said = json.loads(kept)
    affine = None if said["affine"] is None else tuple(said["affine"])
    return _Found(**{**said, "shape": tuple(said["shape"]), "affine": affine})


def _look(path: Path, leakage: Leakage) -> _Found:
    try:
        scan = decode(path)
    except DataError as error:
        return _Found(problem=str(error))
    first = scan.array.flat[0]
    affine = None if scan.affine is None else tuple(scan.affine.ravel().tolist())
    return _Found(
        shape=scan.array.shape,
        affine=affine,
        content=content_digest(scan),
        file=file_digest(path),
        constant=bool((scan.array == first).all()),
        fingerprint=_fingerprint(scan) if leakage == "near" else None,
        modality=scan.modality,
    )


def _fingerprint(scan: Scan) -> Fingerprint:
    from medidiff.data.fingerprints import fingerprint  # scipy is not needed before

    return fingerprint(scan.array)


def content_digest(scan: Scan) -> str:
    """A digest of the voxels that is the same for another file type or another number of bits."""
    values = np.ascontiguousarray(scan.array, np.float32)
    return hashlib.sha256(repr(values.shape).encode() + values.tobytes()).hexdigest()


def _used(row: Row, names: Sequence[str]) -> dict[str, Path]:
    return {name: row.images[name] for name in names if name in row.images}


def _written(manifest: Manifest, path: Path) -> str:
    """The path as it stands in the manifest."""
    folder = manifest.path.parent
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)


def _row_problems(
    manifest: Manifest,
    row: Row,
    names: Sequence[str],
    found: dict[Path, _Found],
    missing: Literal["refused", "allowed"],
) -> list[_AtRow]:
    used = _used(row, names)
    problems: list[_AtRow] = []
    if missing == "refused":
        absent = [name for name in names if name not in used]
        problems += [_AtRow(row.number, f", column {name!r}: no image") for name in absent]
    elif not used:
        listed = ", ".join(names)
        problems.append(_AtRow(row.number, f": no image in any of the columns {listed}"))
    for name, path in {**used, **row.labels}.items():
        wrong = _file_problem(found[path], name in used)
        if wrong:
            text = f", column {name!r}: {wrong}"
            problems.append(_AtRow(row.number, text, _written(manifest, path)))
    problems += [_AtRow(row.number, text) for text in _grid_problems(row, used, found)]
    return problems


def _file_problem(looked: _Found, is_image: bool) -> str:
    if looked.problem:
        return looked.problem
    if looked.shape[0] != 1:
        return not_one(looked.shape[0])
    return "every voxel has the same value" if looked.constant and is_image else ""


def _grid_problems(row: Row, used: dict[str, Path], found: dict[Path, _Found]) -> list[str]:
    """The images and labels of a row must lie voxel on voxel."""
    sound = {
        name: found[path]
        for name, path in {**used, **row.labels}.items()
        if not found[path].problem
    }
    if not sound:
        return []
    first_name, first = next(iter(sound.items()))
    problems: list[str] = []
    for name, other in sound.items():
        here = f", column {name!r}: "
        if other.shape[1:] != first.shape[1:]:
            shapes = f"{other.shape[1:]}, but {first_name!r} {first.shape[1:]}"
            problems.append(f"{here}the image has the shape {shapes}")
        elif other.affine is not None and first.affine is not None:
            apart = float(np.abs(np.subtract(other.affine, first.affine)).max())
            if apart > GRID_TOLERANCE_MM:
                problems.append(
                    f"{here}lies elsewhere than {first_name!r} (affines differ by {apart:.3g})"
                )
    return problems


def _mixed_dims(
    manifest: Manifest, names: Sequence[str], found: dict[Path, _Found]
) -> list[_AtRow]:
    rows: dict[int, list[int]] = {2: [], 3: []}
    for row in manifest.rows:
        for path in _used(row, names).values():
            if not found[path].problem:
                rows[len(found[path].shape) - 1].append(row.number)
    if not rows[2] or not rows[3]:
        return []
    few, many = sorted(rows, key=lambda dims: len(rows[dims]))
    return [
        _AtRow(number, f": the image is {few}-D, but most are {many}-D; a manifest holds one kind")
        for number in dict.fromkeys(rows[few])
    ]


def _leaks(manifest: Manifest, names: Sequence[str], found: dict[Path, _Found]) -> list[_AtRow]:
    from medidiff.data.leakage import Looked, leaks

    looked = [
        Looked(row, name, path, here.content, here.fingerprint)
        for row in manifest.rows
        for name, path in _used(row, names).items()
        if (here := found[path]).fingerprint is not None and not here.constant
    ]
    return [
        _AtRow(
            leak.row.number,
            leak.text,
            " and ".join(_written(manifest, path) for path in leak.paths),
            leak.kind,
            leak.other.number,
        )
        for leak in leaks(looked)
    ]


def _same_content(
    manifest: Manifest, names: Sequence[str], found: dict[Path, _Found]
) -> list[_AtRow]:
    """One picture under two names or two subjects: it would leak between splits."""
    first: dict[str, tuple[Row, Path]] = {}
    problems: list[_AtRow] = []
    for row in manifest.rows:
        for name, path in _used(row, names).items():
            looked = found[path]
            if looked.problem:
                continue
            twin = first.setdefault(looked.content, (row, path))
            earlier, other = twin
            if path == other and (row is earlier or row.subject == earlier.subject):
                continue
            what = "the same file" if looked.file == found[other].file else "the same voxels"
            text = f", column {name!r}: {what} as in row {earlier.number}; keep one of them"
            both = f"{_written(manifest, path)} and {_written(manifest, other)}"
            problems.append(_AtRow(row.number, text, both, what, earlier.number))
    return problems
