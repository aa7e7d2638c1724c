"""Images that would leak from one split into another although no two files are the same."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medidiff.data.fingerprints import LATTICE_RATIO, Fingerprint, detail_correlation
from medidiff.data.rows import Row

NEAR_BITS = 0.15  # of the hash; among 300 heads of one atlas space 1 pair in 1000 is this close
NEAR_CORRELATION = 0.85  # the same heads reach 0.79; re-scaled, blurred or re-compressed ones 0.96
MOST_OF_ONE_SCAN = 3  # subjects with one lattice: more share a convention, not a scan
CHUNK = 1024


@dataclass(frozen=True)
class Looked:
    """An image of a row, and what was seen in it."""

    row: Row
    column: str
    path: Path
    content: str
    fingerprint: Fingerprint


@dataclass(frozen=True)
class Leak:
    """What is wrong at `row`; `text` goes on after "row 7" and names nothing."""

    row: Row
    text: str
    paths: tuple[Path, Path]
    other: Row
    kind: str
    """What both rows hold."""


def leaks(images: Sequence[Looked]) -> list[Leak]:
    """Near-identical images of two subjects or splits, pieces of one scan under two subjects, and
    studies under two subjects (where a column `study` names them)."""
    return [*_near_identical(images), *_one_lattice(images), *_one_study(images)]


def _near_identical(images: Sequence[Looked]) -> Iterator[Leak]:
    """Each image's closest earlier one, if it is too close.

    Voxels that are the same are left to the check of identical content.
    """
    found: dict[int, tuple[float, int]] = {}
    for first, second in _close_hashes(images):
        one, other = images[first], images[second]
        apart = one.row.subject != other.row.subject or one.row.split != other.row.split
        if not apart or one.content == other.content or one.row is other.row:
            continue
        alike = detail_correlation(one.fingerprint.detail, other.fingerprint.detail)
        if alike >= NEAR_CORRELATION and alike > found.get(second, (0.0, 0))[0]:
            found[second] = (alike, first)
    for second, (alike, first) in sorted(found.items()):
        one, other = images[first], images[second]
        text = (
            f", column {other.column!r}: nearly the same image as in row {one.row.number} "
            f"{_where(one, other)} (fine detail correlates at {alike:.3f})"
        )
        yield Leak(
            other.row,
            text,
            (other.path, one.path),
            one.row,
            f"nearly the same image {_both(one, other)}",
        )


def _close_hashes(images: Sequence[Looked]) -> Iterator[tuple[int, int]]:
    """Pairs (earlier, later) whose hashes differ in few bits, by products of signs."""
    by_length: dict[int, list[int]] = {}
    for place, image in enumerate(images):
        by_length.setdefault(len(image.fingerprint.bits), []).append(place)
    for length, places in by_length.items():
        signs = np.array([images[p].fingerprint.bits for p in places], np.float32) * 2 - 1
        for start in range(0, len(places), CHUNK):
            differing = (length - signs[start : start + CHUNK] @ signs.T) / (2 * length)
            for later, earlier in zip(*np.nonzero(differing <= NEAR_BITS), strict=True):
                if earlier < later + start:
                    yield places[int(earlier)], places[int(later) + start]


def _one_lattice(images: Sequence[Looked]) -> Iterator[Leak]:
    for group in _lattice_groups(images):
        first = group[0]
        if len({image.row.subject for image in group}) > MOST_OF_ONE_SCAN:
            continue
        for image in group[1:]:
            if image.row.subject != first.row.subject:
                text = (
                    f", column {image.column!r}: a piece of the same scan as row "
                    f"{first.row.number} {_where(first, image)}: their values share one lattice of "
                    "steps, as two scans hardly do by chance; give both one subject"
                )
                both = (image.path, first.path)
                yield Leak(
                    image.row, text, both, first.row, f"pieces of one scan {_both(first, image)}"
                )


def _lattice_groups(images: Iterable[Looked]) -> Iterator[list[Looked]]:
    stepped = [
        (image.fingerprint.lattice, place, image)
        for place, image in enumerate(images)
        if image.fingerprint.lattice is not None
    ]
    group: list[tuple[float, int, Looked]] = []
    for step, place, image in sorted(stepped, key=lambda one: one[:2]):
        if group and step > group[-1][0] * (1 + LATTICE_RATIO):
            yield _in_order(group)
            group = []
        group.append((step, place, image))
    if group:
        yield _in_order(group)


def _in_order(group: list[tuple[float, int, Looked]]) -> list[Looked]:
    return [image for _, _, image in sorted(group, key=lambda one: one[1])]


def _one_study(images: Iterable[Looked]) -> Iterator[Leak]:
    first: dict[str, Looked] = {}
    told: set[int] = set()
    for image in images:
        study = image.row.word("study")
        if not study:
            continue
        earlier = first.setdefault(study, image)
        if earlier.row.subject != image.row.subject and image.row.number not in told:
            told.add(image.row.number)
            text = (
                f": the same study as row {earlier.row.number}, under another subject; give both "
                "one subject"
            )
            yield Leak(
                image.row,
                text,
                (image.path, earlier.path),
                earlier.row,
                "one study under two subjects",
            )


def _where(one: Looked, other: Looked) -> str:
    if one.row.split != other.row.split:
        return "in another split"
    return "under another subject"


def _both(one: Looked, other: Looked) -> str:
    return "in two splits" if one.row.split != other.row.split else "under two subjects"
