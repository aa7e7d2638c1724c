"""Frames of one series to volumes: grouped by what tells them apart, sorted by where they lie.

A series may hold several volumes (echoes, acquisitions, orientations, time points). Marks that
always mean another image split it outright; others only where frames would else lie at one place
or unevenly.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from medidiff.data.frames import MARKS, Frame

Vector = NDArray[np.float64]
ALWAYS = ("echo time", "image type", "component", "b-value")
SOMETIMES = tuple(name for name in MARKS if name not in ALWAYS)
GAP_TOLERANCE = 0.02  # of a slice gap: scanners round positions to 0.001-0.01 mm
SAME_PLACE_MM = 1e-3
SAME_AXIS = 1e-3
SHEAR_LIMIT = 0.02  # as decode's: offset in the plane per mm along the normal


@dataclass(frozen=True)
class Located:
    """A frame and the file it is in, by its number."""

    file: int
    frame: Frame


@dataclass(frozen=True)
class Gaps:
    """How the slices of a volume follow each other along their normal. Units: mm."""

    kind: str
    """"even", "uneven", "missing" (whole slices), "doubled" (several at one place), "wandering"
    (sideways), or "unplaced"."""
    smallest: float = 0.0
    largest: float = 0.0
    missing: int = 0
    shear: float = 0.0
    """Offset in the plane per mm along the normal: the tangent of a gantry's tilt."""

    @property
    def problem(self) -> str:
        """Why the slices are no volume as they are; "" if they are one."""
        between = f"({self.smallest:.3f} to {self.largest:.3f} mm)"
        return {
            "even": "",
            "uneven": f"the gaps between slices are uneven {between}: slices are missing or the "
            "scan was made in parts",
            "missing": f"the gaps between slices are uneven {between}: {self.missing} slices are "
            "missing",
            "doubled": "several slices lie at one place, and nothing in their headers tells them "
            "apart",
            "wandering": "the slices do not lie along one line",
            "unplaced": "slices without position or orientation cannot be put in order",
        }[self.kind]


@dataclass(frozen=True)
class Part:
    """One volume of a series: its frames in order along their normal."""

    members: tuple[Located, ...]
    gaps: Gaps
    differs: Mapping[str, str] = field(default_factory=dict)
    """What tells it from the other volumes of the series: mark and value."""


def normal_of(frame: Frame) -> Vector:
    """The unit vector across a frame, in LPS."""
    across = np.cross(np.array(frame.row_direction), np.array(frame.column_direction))
    return across / np.linalg.norm(across)


def parts_of(members: Iterable[Located]) -> list[Part]:
    """The volumes that the frames of one series make, each with what tells it from the others."""
    parts: list[tuple[Located, ...]] = []
    for group in _by_shape_and_axes(list(members)):
        for one in _grouped(group, lambda m: tuple(m.frame.marks.get(k, "") for k in ALWAYS)):
            parts += _resolved(one)
    differing = _differing([part[0].frame for part in parts])
    made = [
        Part(part, gaps_of([member.frame for member in part]), said)
        for part, said in zip(parts, differing, strict=True)
    ]
    return sorted(made, key=lambda part: (part.members[0].file, part.members[0].frame.index))


def gaps_of(frames: Sequence[Frame]) -> Gaps:
    """How frames, in order, follow each other."""
    if len(frames) == 1:
        return Gaps("even")
    if not all(frame.placed for frame in frames):
        return Gaps("unplaced")
    heights = heights_of(frames)
    gaps = np.diff(heights)
    smallest, largest, gap = float(gaps.min()), float(gaps.max()), float(np.median(gaps))
    if smallest < SAME_PLACE_MM:
        return Gaps("doubled", smallest, largest)
    shear, apart = _line(frames, heights)
    if apart > max(GAP_TOLERANCE * gap, 0.02):
        return Gaps("wandering", smallest, largest)
    if np.abs(gaps - gap).max() <= max(GAP_TOLERANCE * gap, 0.02):
        return Gaps("even", smallest, largest, shear=shear)
    steps = gaps / gap
    whole = np.abs(steps - np.round(steps)).max() <= 2 * GAP_TOLERANCE and steps.min() > 0.5
    missing = int(np.round(steps).sum()) - len(gaps) if whole else 0
    return Gaps("missing" if whole else "uneven", smallest, largest, missing, shear)


def heights_of(frames: Sequence[Frame]) -> Vector:
    """Where frames lie along the first one's normal, in mm."""
    normal = normal_of(frames[0])
    return np.array([float(np.dot(np.array(frame.corner), normal)) for frame in frames])


def _line(frames: Sequence[Frame], heights: Vector) -> tuple[float, float]:
    """The shear of a stack, and how far a corner lies from the line through first and last."""
    corners = np.array([frame.corner for frame in frames])
    step = (corners[-1] - corners[0]) / (heights[-1] - heights[0])
    apart = corners - corners[0] - np.outer(heights - heights[0], step)
    shear = float(np.linalg.norm(step - normal_of(frames[0])))
    return shear, float(np.abs(apart).max())


def _by_shape_and_axes(members: list[Located]) -> list[list[Located]]:
    """Frames that lie parallel and are of one size, in pixels and mm."""
    found: list[list[Located]] = []
    for member in members:
        for group in reversed(found):
            if _alike(group[0].frame, member.frame):
                group.append(member)
                break
        else:
            found.append([member])
    return found


def _alike(one: Frame, other: Frame) -> bool:
    if one.shape != other.shape or one.placed != other.placed:
        return False
    if not one.placed:
        return True
    pairs = (
        (one.row_direction, other.row_direction),
        (one.column_direction, other.column_direction),
        (one.spacing, other.spacing),
    )
    return all(np.allclose(np.array(a), np.array(b), atol=SAME_AXIS) for a, b in pairs)


def _resolved(members: Sequence[Located]) -> list[tuple[Located, ...]]:
    """Even volumes by the first mark that makes them, else all frames together."""
    whole = _sorted(members)
    kind = gaps_of([member.frame for member in whole]).kind
    if kind == "unplaced":  # pictures without geometry, such as x-rays: a file each
        return [tuple(group) for group in _grouped(whole, lambda member: member.file)]
    if kind in ("even", "wandering"):
        return [whole]
    most = _most_at_one_place(whole)
    for mark in SOMETIMES:
        groups = _by_mark(whole, mark)
        if len(groups) > 1 and all(_is_even(group) for group in groups):
            several = all(len(group) > 1 for group in groups)
            if several or (kind == "doubled" and len(groups) <= most):
                return [_sorted(group) for group in groups]
    return _resolved_by_two(whole, most) if kind == "doubled" else [whole]


def _resolved_by_two(whole: tuple[Located, ...], most: int) -> list[tuple[Located, ...]]:
    """By one mark and then another, such as a direction and its repetition."""
    for mark in SOMETIMES:
        groups = _by_mark(whole, mark)
        if 1 < len(groups) <= most:
            inner = [part for group in groups for part in _resolved(group)]
            if all(_is_even(part) for part in inner):
                return inner
    return [whole]


def _by_mark(members: Sequence[Located], mark: str) -> list[list[Located]]:
    return _grouped(members, lambda member: member.frame.marks.get(mark, ""))


def _most_at_one_place(members: Sequence[Located]) -> int:
    heights = np.round(heights_of([member.frame for member in members]) / SAME_PLACE_MM)
    return int(np.unique(heights, return_counts=True)[1].max())


def _is_even(group: Sequence[Located]) -> bool:
    return gaps_of([member.frame for member in _sorted(group)]).kind == "even"


def _sorted(members: Sequence[Located]) -> tuple[Located, ...]:
    if not all(member.frame.placed for member in members):
        return tuple(members)
    order = np.argsort(heights_of([member.frame for member in members]), kind="stable")
    return tuple(members[place] for place in order)


def _grouped(members: Sequence[Located], key: Callable[[Located], Hashable]) -> list[list[Located]]:
    groups: dict[Hashable, list[Located]] = {}
    for member in members:
        groups.setdefault(key(member), []).append(member)
    return list(groups.values())


def _differing(firsts: Sequence[Frame]) -> list[dict[str, str]]:
    """For each volume, the marks (and sizes, axes) that differ among all of them."""
    described = [_described(frame) for frame in firsts]
    names = [
        name
        for name in (*MARKS, "orientation", "matrix", "pixel size")
        if len({one.get(name, "") for one in described}) > 1
    ]
    return [{name: one[name] for name in names if one.get(name)} for one in described]


def _described(frame: Frame) -> dict[str, str]:
    found = dict(frame.marks)
    found["matrix"] = f"{frame.shape[0]} x {frame.shape[1]}"
    if frame.placed and frame.spacing is not None:
        axis = int(np.abs(normal_of(frame)).argmax())
        oblique = " ".join(f"{value:.2f}" for value in normal_of(frame))
        found["orientation"] = f"{('sagittal', 'coronal', 'axial')[axis]} ({oblique})"
        found["pixel size"] = f"{frame.spacing[0]:.4g} x {frame.spacing[1]:.4g} mm"
    return found
