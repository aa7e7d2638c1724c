"""The grid of a training, from where scans lie and what they hold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medidiff.data.fitness import SPACING_TOLERANCE
from medidiff.data.options import AS_STORED, Space
from medidiff.jobs.plans.axes import ANISOTROPIC, SAME, UNEVEN, Axes, anisotropy
from medidiff.jobs.plans.lines import Line

SLAB = 5  # slices; 3 make volumes agree less (docs/how-to/slices-of-volumes.md)
COVERED = 95.0  # percentile of the bodies that the grid covers
LARGEST_2D = 512  # a picture with a known pixel size is not planned larger
X_RAY = ("CR", "DX", "XR", "XA", "MG", "RF", "PX")


@dataclass(frozen=True)
class GridChoice:
    """A grid and its reasons; `levels` that halve it evenly."""

    space: Space
    levels: int
    lines: tuple[Line, ...]
    warnings: tuple[str, ...] = ()


def grid_choice(axes: Axes, modality: str, coarser: float = 1.0) -> GridChoice:
    """The grid that covers the scans, its voxels `coarser` times the scans'."""
    dims = axes.shape.shape[1]
    spacing, why_spacing, warnings = _spacing(axes, coarser)
    scale = 1.0 if spacing is None or axes.spacing_mm is None else axes.spacing_mm / spacing
    whole_picture = modality.upper() in X_RAY
    lengths = (axes.shape if whole_picture else axes.body) * scale
    wanted, uneven = _wanted(lengths)
    levels, size = _size(wanted)
    kind = "the images are" if whole_picture else "the body takes"
    low, high = (np.round(end(lengths, axis=0)).astype(int).tolist() for end in (np.min, np.max))
    shapes = np.round(np.median(axes.shape * scale, axis=0)).astype(int).tolist()
    spread = _times(high) if low == high else f"{_times(low)} to {_times(high)}"
    even = 2 ** (levels - 1)
    why_size = (
        f"{kind} {spread} voxels of {_times(shapes)} (median): covers 95 % of the cases"
        f"{'' if not uneven else ', but the median where these differ much'}, in multiples of "
        f"{even} for {levels} levels"
    )
    warnings = (*warnings, *_padding(lengths, size))
    if spacing is None and (axes.shape.max(axis=0) > UNEVEN * axes.shape.min(axis=0)).any():
        warnings = (*warnings, _mixed_sizes(axes))
    stated = AS_STORED if spacing is None else spacing
    space = Space(dims, size, stated, axes.orientation)  # type: ignore[arg-type]
    lines = (
        Line("data.space.dims", dims, _why_dims(axes, dims, spacing)),
        Line("data.space.size", list(size), why_size),
        Line("data.space.spacing_mm", stated if spacing is None else list(spacing), why_spacing),
        Line("data.space.orientation", axes.orientation, _why_orientation(axes)),
        *_slices_line(axes),
    )
    return GridChoice(space, levels, lines, warnings)


def _wanted(lengths: np.ndarray) -> tuple[np.ndarray, bool]:
    """What the grid covers along each axis, and whether that is only the median along some."""
    most, middle = np.percentile(lengths, COVERED, axis=0), np.median(lengths, axis=0)
    uneven = most > UNEVEN * middle
    return np.where(uneven, middle, most), bool(uneven.any())


def _padding(lengths: np.ndarray, size: Sequence[int]) -> tuple[str, ...]:
    """What is said where scans differ so much in size that many are cropped or padded."""
    low, high = lengths.min(axis=0), lengths.max(axis=0)
    if not (high > UNEVEN * low).any():
        return ()
    cropped = float((lengths > np.array(size) + 0.5).any(axis=1).mean())
    filled = float(np.minimum(lengths / np.array(size), 1).prod(axis=1).mean())
    return (
        f"the scans' sizes differ much ({_times(np.round(low).astype(int).tolist())} to "
        f"{_times(np.round(high).astype(int).tolist())} voxels): on this grid {cropped:.0%} of "
        f"them are cropped, and {1 - filled:.0%} of it is padding on average",
    )


def _mixed_sizes(axes: Axes) -> str:
    low, high = np.min(axes.shape, axis=0).tolist(), np.max(axes.shape, axis=0).tolist()
    return (
        f"sizes run from {_times(low)} to {_times(high)} and the files state no pixel size, so "
        "images are cropped or padded, not scaled: bring them to one scale first if they show the "
        "same part of the body"
    )


def _spacing(axes: Axes, coarser: float) -> tuple[tuple[float, ...] | None, str, tuple[str, ...]]:
    spacing = axes.spacing_mm
    if spacing is None:
        return None, "the files do not state it, so nothing is resampled", ()
    median = np.median(spacing, axis=0)
    low, high = spacing.min(axis=0), spacing.max(axis=0)
    same = bool((high <= low * (1 + SAME)).all())
    why = (
        "that of all cases: nothing is resampled"
        if same
        else (f"median of the cases ({_listed(low)} to {_listed(high)} mm)")
    )
    warnings: tuple[str, ...] = ()
    if same and axes.orientation in ("RAS", "RA") and (median == 1).all():
        why += "; exactly 1 mm everywhere may mean that it was never recorded"
    longest = float(np.median(axes.shape, axis=0).max())
    if coarser > 1:
        why = (
            f"{coarser:g} times that of the scans ({_listed(median)} mm): finer does not fit into "
            "the GPU"
        )
    if len(median) == 2 and longest > LARGEST_2D:
        coarser *= longest / LARGEST_2D
        why = (
            f"{coarser:.3g} times that of the scans ({_listed(median)} mm), for {LARGEST_2D} "
            "pixels along the longer side at most"
        )
    if coarser > 1:
        finest = median.min() * coarser
        median = np.maximum(median, finest)
        warnings = ("coarser voxels are read without smoothing first, so that fine detail aliases",)
    return tuple(float(f"{step:.4g}") for step in median), why, warnings


def _size(wanted: np.ndarray) -> tuple[int, tuple[int, ...]]:
    """Levels until the coarsest grid is small, and the grid that they halve evenly."""
    stop = 24 if len(wanted) == 2 else 16
    axes = np.sort(wanted)
    measure = axes[-2] if len(wanted) == 3 else axes[0]
    levels = 1 + max(0, math.ceil(math.log2(measure / stop)))
    thin = max(1, 1 + int(math.log2(max(1.0, axes[0] / 2))))  # the thinnest axis keeps 2 voxels
    levels = max(1, min(levels, thin, 5))
    even = 2 ** (levels - 1)
    return levels, tuple(max(even, even * math.ceil(round(n) / even)) for n in wanted.tolist())


def _why_dims(axes: Axes, dims: int, spacing: tuple[float, ...] | None) -> str:
    if axes.volumes is not None:
        assert axes.volumes.spacing_mm is not None
        step = _listed(np.median(axes.volumes.spacing_mm, axis=0))
        if anisotropy(axes.volumes) < ANISOTROPIC:
            return f"as asked: slices of volumes of {step} mm, which know nothing of each other"
        return (
            f"volumes, anisotropic ({step} mm; slices from {ANISOTROPIC:g} times on, as nnU-Net "
            "judges): slices as they were acquired, which know nothing of each other "
            "(data.slices.thickness 3 or 5 shows the network their neighbours); for whole volumes "
            "plan with --dims 3"
        )
    if dims == 2:
        return "the images are slices or pictures"
    step = np.array(spacing) if spacing is not None else np.ones(3)
    if step.max() / step.min() > ANISOTROPIC:
        return (
            f"volumes, anisotropic ({_listed(step)} mm): kept as they are, no slices are invented "
            "between; the grid has few slices and is halved along them as along rows and columns"
        )
    depth = int(np.median(axes.shape.min(axis=1)))
    if depth <= 16:
        return f"volumes, {depth} voxels deep: too few to see through, but one network sees all"
    return "volumes with nearly even voxels: planes alone would not agree with each other"


def _slices_line(axes: Axes) -> tuple[Line, ...]:
    if axes.slices is None:
        return ()
    found = np.round([np.median(axes.depth), axes.depth.min(), axes.depth.max()]).astype(int)
    why = (
        f"{found[0]} slices a volume hold the body (median; {found[1]} to {found[2]}), each a case "
        "of its subject; those with less than a tenth of the fullest one's foreground are left out"
    )
    value = {"plane": axes.slices.plane}
    return (Line("data.slices", value, why, instead=_slabs(axes)),)


def _slabs(axes: Axes) -> tuple[dict[str, object], str] | None:
    """Slabs of neighbouring slices in the place of single ones, where the volumes allow them: all
    have enough slices, and those lie as far apart as a model of slabs takes."""
    assert axes.slices is not None
    assert axes.volumes is not None
    assert axes.volumes.spacing_mm is not None
    steps = axes.volumes.spacing_mm[:, axes.across]
    if axes.depth.min() < SLAB or steps.max() > (1 + SPACING_TOLERANCE) * steps.min():
        return None
    why = (
        "instead, for volumes whose slices must agree with each other: the network sees each slice "
        "with its neighbours (2.5-D); harder to learn, so give it more channels and more steps"
    )
    return {"plane": axes.slices.plane, "thickness": SLAB}, why


def _why_orientation(axes: Axes) -> str:
    if axes.volumes is not None:
        return "rows and columns as radiologists look at them"
    if axes.orientation == AS_STORED:
        return "some files do not say how the body lies in them"
    return "as most scans lie; others are turned to it"


def _listed(values: Sequence[float] | np.ndarray) -> str:
    return " x ".join(f"{value:.3g}" for value in values)


def _times(values: Sequence[int]) -> str:
    return " x ".join(map(str, values))
