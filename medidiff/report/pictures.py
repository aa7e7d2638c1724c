"""Pictures of results: sheets and comparison strips, each with its grey window written on it.

Without an affine images are shown as stored, (rows, columns), and planes of a volume are named by
the axis that they lie across. With one, planes are shown as radiologists hang them: the patient's
right on the left, front or head up; each plane keeps its proportions.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.floating]

CELL_INCHES = 1.9
LABEL_INCHES = 0.3
DPI = 110
ERROR_SHARE = 0.25  # errors are shown over this share of the window's width, to both sides


@dataclass(frozen=True)
class Plane:
    """A picture to draw: rows from the top, its pixel height over its width, and what it shows."""

    pixels: Array
    aspect: float
    name: str


def planes(image: Tensor, affine: Array | None = None) -> list[Plane]:
    """The middle planes of an image: one of a picture, axial, coronal and sagittal of a volume.

    Shapes: (channel, *space); the first channel is shown. Affine: voxel index to RAS+ millimetres;
    of a volume without one nobody knows which plane is which: they are "across axis 2", 1 and 0 of
    the array, as stored, with cubic voxels.
    Errors: ValueError for other shapes or an affine that is not 4 x 4.
    """
    if image.ndim not in (3, 4):
        raise ValueError(f"a picture is (channel, *space) in 2-D or 3-D, not {(*image.shape,)}")
    pixels = image[0].detach().to("cpu").float().numpy()
    if affine is None:
        return _as_stored(pixels)
    matrix = np.asarray(affine, dtype=np.float64)
    if matrix.shape != (4, 4):
        raise ValueError(f"an affine is 4 x 4, not {matrix.shape}")
    world, flipped = _axes(matrix, pixels.ndim)
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)[: pixels.ndim]
    found = []
    for through in sorted(world, reverse=True) if pixels.ndim == 3 else [None]:
        found.append(_plane(pixels, world, flipped, spacing, through))
    return found


def sheet(
    images: Tensor | Sequence[Tensor],
    path: str | os.PathLike[str],
    *,
    window: tuple[float, float],
    columns: int | None = None,
    titles: Sequence[str] | None = None,
    title: str = "",
    affine: Array | None = None,
) -> Path:
    """A PNG of images side by side, all in one grey window, which is written below.

    Shapes: (batch, channel, *space) or a sequence of (channel, *space). Volumes take a row each,
    their three middle planes side by side, unless `columns` says otherwise.
    Errors: ValueError without images, for a window that does not rise, for too few titles.
    """
    if len(images) == 0:
        raise ValueError("a sheet needs at least one image")
    if titles is not None and len(titles) != len(images):
        raise ValueError(f"{len(images)} images but {len(titles)} titles")
    _check_window(window)
    cells: list[tuple[Plane, str]] = []
    for index, image in enumerate(images):
        label = titles[index] if titles is not None else ""
        views = planes(image, affine)
        for view in views:
            cells.append((view, f"{label} {view.name}".strip() if len(views) > 1 else label))
    per_image = len(cells) // len(images)
    wide = columns or (per_image if per_image > 1 else math.ceil(math.sqrt(len(cells))))
    label_inches = LABEL_INCHES if any(text for _, text in cells) else 0.05
    figure, axes = _figure(math.ceil(len(cells) / wide), wide, title, label_inches)
    for index, axis in enumerate(axes):
        axis.set_axis_off()
        if index < len(cells):
            _draw(axis, *cells[index], window, "gray")
    figure.supxlabel(_stated(window), fontsize=7)
    return _saved(figure, path)


def comparison(
    cases: Sequence[Mapping[str, Tensor]],
    path: str | os.PathLike[str],
    *,
    window: tuple[float, float],
    truth: str | None = None,
    labels: Sequence[str] | None = None,
    captions: Sequence[Mapping[str, str]] | None = None,
    title: str = "",
    affine: Array | None = None,
    maps: Sequence[str] = (),
) -> Path:
    """A PNG with a row a case: input, baselines, ours and truth as named, in the order given.

    Cases may have other names than each other: what a case lacks is left blank. Where `truth` names
    one of them, a second row shows the error of each other against it, over a quarter of the window
    to both sides; `maps` are no estimates and have no error. Of a volume the axial plane is shown,
    without an affine the one across the last axis.
    Shapes: each image (channel, *space). `captions` adds a line under names, such as a PSNR.
    Errors: ValueError without cases, for an unknown truth.
    """
    if not cases:
        raise ValueError("a comparison needs at least one case")
    names = merged([list(case) for case in cases])
    for case in cases if truth is not None else ():
        if truth not in case:
            raise ValueError(f"the truth {truth!r} is not among {list(case)}")
    _check_window(window)
    rows_a_case = 1 if truth is None else 2
    figure, axes = _figure(rows_a_case * len(cases), len(names), title)
    half = ERROR_SHARE * (window[1] - window[0])
    for axis in axes:
        axis.set_axis_off()
    for row, case in enumerate(cases):
        first = next(name for name in names if name in case)
        for column, name in enumerate(names):
            if name not in case:
                continue
            caption = captions[row].get(name, "") if captions is not None else ""
            label = f"{labels[row]}\n" if labels is not None and name == first else ""
            axis = axes[rows_a_case * row * len(names) + column]
            text = f"{label}{name}\n{caption}".strip()
            _draw(axis, planes(case[name], affine)[0], text, window, "gray")
            if truth is None or name == truth or name in maps:
                continue
            axis = axes[(rows_a_case * row + 1) * len(names) + column]
            error = planes(case[name] - case[truth], affine)[0]
            _draw(axis, error, f"{name} - {truth}", (-half, half), "RdBu_r")
    errors = "" if truth is None else f"; errors {_stated((-half, half))}, red too bright"
    figure.supxlabel(_stated(window) + errors, fontsize=7)
    return _saved(figure, path)


def merged(lists: Sequence[Sequence[str]]) -> list[str]:
    """All names once, each list's in its order where the lists allow: a new one comes before the
    next known one of its list."""
    found: list[str] = []
    for names in lists:
        for index, name in enumerate(names):
            if name not in found:
                known = [found.index(later) for later in names[index + 1 :] if later in found]
                found.insert(min(known, default=len(found)), name)
    return found


def _as_stored(pixels: Array) -> list[Plane]:
    if pixels.ndim == 2:
        return [Plane(pixels, 1.0, "as stored")]
    middles = {axis: pixels.shape[axis] // 2 for axis in (2, 1, 0)}
    return [
        Plane(np.take(pixels, middle, axis=axis), 1.0, f"across axis {axis}")
        for axis, middle in middles.items()
    ]


def _axes(affine: Array, dims: int) -> tuple[list[int], list[bool]]:
    """Of each array axis: its nearest world axis (0 right, 1 front, 2 up); if it is reversed."""
    free = np.abs(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0))
    world, flipped = [], []
    for axis in range(dims):
        best = int(free[:, axis].argmax())
        free[best] = -1  # each world axis is taken once
        world.append(best)
        flipped.append(bool(affine[best, axis] < 0))
    return world, flipped


def _plane(
    pixels: Array, world: list[int], flipped: list[bool], spacing: Array, through: int | None
) -> Plane:
    """The middle plane across the world axis `through`, hung as radiologists do."""
    shown = sorted(w for w in world if w != through)  # the lower one runs along the picture's rows
    missing = ({0, 1, 2} - set(shown)).pop()
    if through is not None:
        axis = world.index(through)
        pixels = np.take(pixels, pixels.shape[axis] // 2, axis=axis)
    kept = [axis for axis, w in enumerate(world) if w != through]
    across, down = (next(a for a in kept if world[a] == w) for w in shown)
    if kept.index(across) < kept.index(down):
        pixels = pixels.T
    # left of the picture: the patient's right or front; top: front or head; so both run downwards
    if not flipped[down]:
        pixels = pixels[::-1]
    if not flipped[across]:
        pixels = pixels[:, ::-1]
    name = ("sagittal", "coronal", "axial")[missing]
    return Plane(pixels, float(spacing[down] / spacing[across]), name)


def _figure(
    rows: int, columns: int, title: str, label_inches: float = LABEL_INCHES
) -> tuple[Figure, list[Axes]]:
    # the figure class and not pyplot: no global state, no display, safe in a thread
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    size = (CELL_INCHES * columns + 0.2, (CELL_INCHES + label_inches) * rows + 0.5)
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    if title:
        figure.suptitle(title, fontsize=9)
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def _draw(axis: Axes, plane: Plane, text: str, window: tuple[float, float], colours: str) -> None:
    axis.imshow(
        plane.pixels,
        cmap=colours,
        vmin=window[0],
        vmax=window[1],
        aspect=plane.aspect,
        interpolation="nearest",
    )
    if text:
        axis.set_title(text, fontsize=7)
    axis.set_axis_off()


def _check_window(window: tuple[float, float]) -> None:
    if not window[0] < window[1]:
        raise ValueError(f"a window rises; found {window}")


def _stated(window: tuple[float, float]) -> str:
    return f"window {window[0]:.4g} to {window[1]:.4g}"


def _saved(figure: Figure, path: str | os.PathLike[str]) -> Path:
    place = Path(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(place, format="png")
    return place
