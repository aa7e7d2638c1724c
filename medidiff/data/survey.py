"""What scans are like: grids, voxels, directions, intensities and the room that the body takes.

A survey is numbers only, without names or files, and is what a training is planned from. Source:
the dataset fingerprint of nnU-Net (Isensee et al. 2021, Nature Methods 18, 203-211). Differs: the
foreground is found without labels, and what is measured is what an image model needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray

from medidiff.data.decode import Scan, decode, not_one
from medidiff.data.modality import is_ct
from medidiff.data.rows import Progress, Row, first_problems
from medidiff.errors import DataError

CASES = 400  # evenly spread over the rows; more change medians little and take long
VOXELS = 20_000  # of an image enter its percentiles, evenly spread
PERCENTILES = (0.0, 0.5, 1.0, 50.0, 99.0, 99.5, 100.0)
AIR_HU = -500.0  # less is air, where the scan is CT
FAINT = 0.1  # of the range between the lowest and the 99.5th percentile: less is background
SPECKS = 0.001  # a slice with a smaller share of foreground holds only specks of noise
GRID_MM = 0.01


@dataclass(frozen=True)
class Seen:
    """One case. Units: mm along each axis of the array; `body` in voxels.

    `body` is the length of the smallest piece about the middle of each axis that holds the
    foreground: what a centred crop must have.
    """

    row: int
    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...] | None
    orientation: str | None
    modality: str | None
    body: tuple[int, ...]
    percentiles: tuple[tuple[float, ...], ...]
    """Of each channel, at `PERCENTILES`."""
    whole: bool
    """Whether all values are whole numbers."""

    @property
    def dims(self) -> int:
        """2 for slices and pictures, 3 for volumes."""
        return len(self.shape)


@dataclass(frozen=True)
class Survey:
    """The cases that were looked at, of how many rows and subjects."""

    cases: tuple[Seen, ...]
    rows: int
    subjects: int


def survey(
    rows: Sequence[Row],
    images: Sequence[str],
    *,
    workers: int = 4,
    progress: Progress | None = None,
) -> Survey:
    """Look at the scans of some rows, at most 400 of them, evenly spread.

    Errors: DataError naming the rows that cannot be read; the files are in `.private` only.
    """
    there = [row for row in rows if all(name in row.images for name in images)]
    count = min(CASES, len(there))
    chosen = [there[place * len(there) // count] for place in range(count)]
    found: list[Seen | DataError] = []
    with ThreadPoolExecutor(workers) as pool:
        for seen in pool.map(lambda row: _tried(row, images), chosen):
            found.append(seen)
            if progress is not None:
                progress(len(found), count)
    problems = [each for each in found if isinstance(each, DataError)]
    if problems:
        named = "\n".join(each.private for each in problems if each.private)
        told = [f"{len(problems)} cases cannot be used", *first_problems([*map(str, problems)])]
        raise DataError("\n".join(told), private=named or None)
    return Survey(
        tuple(each for each in found if isinstance(each, Seen)),
        len(rows),
        len({row.subject for row in rows}),
    )


def _tried(row: Row, images: Sequence[str]) -> Seen | DataError:
    try:
        return _seen(row.number, [_read(row, name) for name in images], row.word("modality"))
    except DataError as error:
        where = ", ".join(str(row.images[name]) for name in images)
        text = str(error) if str(error).startswith("row") else f"row {row.number}: {error}"
        return DataError(text, private=error.private or f"{where}: {error}")


def _read(row: Row, name: str) -> Scan:
    path: Path = row.images[name]
    scan = decode(path)
    if len(scan.array) != 1:
        raise DataError(not_one(len(scan.array)))
    return scan


def _seen(row: int, scans: Sequence[Scan], modality: str | None) -> Seen:
    first = scans[0]
    for scan in scans[1:]:
        _check_same_grid(first, scan)
    arrays = [scan.array[0] for scan in scans]
    samples = [_sample(array) for array in arrays]
    known = next((scan.modality for scan in scans if scan.modality), modality) or None
    hounsfield = is_ct(known)
    bodies = [
        body(array, threshold(sample, hounsfield))
        for array, sample in zip(arrays, samples, strict=True)
    ]
    dims = arrays[0].ndim
    spacing, orientation = first.spacing_mm, None
    if first.affine is not None:
        lengths = np.linalg.norm(first.affine[:3, :3], axis=0)
        spacing = tuple(float(step) for step in lengths[:dims])
        orientation = "".join(map(str, nibabel.aff2axcodes(first.affine)))[:dims]
    return Seen(
        row,
        tuple(arrays[0].shape),
        spacing,
        orientation,
        known,
        tuple(max(sizes) for sizes in zip(*bodies, strict=True)),
        tuple(tuple(np.percentile(sample, PERCENTILES).tolist()) for sample in samples),
        all(bool((sample == np.round(sample)).all()) for sample in samples),
    )


def _check_same_grid(first: Scan, other: Scan) -> None:
    """Errors: DataError if two images of a case cannot be its channels."""
    same = first.array.shape == other.array.shape
    if same and first.affine is not None and other.affine is not None:
        same = bool(np.abs(first.affine - other.affine).max() <= GRID_MM)
    if not same:
        raise DataError(
            f"its images lie on different grids ({first.array.shape[1:]} and "
            f"{other.array.shape[1:]}); resample them to one grid first"
        )


def _sample(array: NDArray) -> NDArray[np.float64]:
    flat = array.reshape(-1)
    return flat[:: max(1, len(flat) // VOXELS)].astype(np.float64)


def threshold(sample: NDArray[np.float64], hounsfield: bool) -> float:
    """The intensity that parts the body from what lies around it."""
    if hounsfield:
        return AIR_HU
    low, high = np.percentile(sample, [0.5, 99.5])
    return float(low + FAINT * (high - low))


def body(array: NDArray, above: float) -> tuple[int, ...]:
    """Voxels along each axis of the smallest centred box that holds the foreground."""
    foreground = array > above
    lengths: list[int] = []
    for axis, length in enumerate(array.shape):
        others = tuple(other for other in range(array.ndim) if other != axis)
        places = np.flatnonzero(foreground.mean(axis=others) > SPECKS)
        if not len(places):
            lengths.append(length)
            continue
        lost = min(int(places[0]), length - 1 - int(places[-1]))
        lengths.append(length - 2 * lost)
    return tuple(lengths)
