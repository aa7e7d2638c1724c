"""The images of a row or a case brought to a model's grid, in their own intensities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medidiff.data.augment import middle
from medidiff.data.cropping import Cropped, cropped
from medidiff.data.decode import not_one
from medidiff.data.images import Original, Volume, load_image, original_of
from medidiff.data.modality import is_ct
from medidiff.data.options import Field, Space
from medidiff.data.rows import Row
from medidiff.data.slices import foreground, place_in_file, slice_of, stack_grid
from medidiff.data.transforms import field_of, to_space
from medidiff.errors import DataError

GRID_TOLERANCE_MM = 0.01


@dataclass(frozen=True)
class Placed:
    """The images of one subject at one time on a model's grid.

    Shapes: `wide` (channel, *wide) float32, the grid and as much around it as was asked for and is
    there; `label` (*space) int64. Units: `affine` of the grid, 4 x 4, RAS+, mm. A modality in
    `original` is what the file says.
    """

    wide: Tensor
    size: tuple[int, ...]
    """Of the grid."""
    label: Tensor | None
    affine: NDArray[np.float64]
    original: Original
    field: Field
    """Which voxels of `wide` the scan fills."""
    filled: tuple[int, ...] = ()
    """Of a volume that is there to be cut into slices along the first axis: the foreground of each,
    in pixels of the grid."""
    cropped: Cropped = Cropped()
    """What of the scan lies beyond the grid; of a slice, of its volume."""

    @property
    def images(self) -> Tensor:
        """What lies on the grid: (channel, *space)."""
        return middle(self.wide, self.size)


def place(
    channels: Sequence[Volume],
    label: Volume | None,
    space: Space,
    margin: Sequence[int] | None = None,
    modality: str = "",
    known: Cropped | None = None,
) -> Placed:
    """Channels and label brought to the grid, with up to `margin` voxels of the scan around it.

    `modality`: of scans that do not say it. `known`: what lies beyond the grid, if that was looked
    at before.
    Errors: DataError for images on different grids, or ones that cannot be brought there.
    """
    _check_grids([*channels, *([label] if label is not None else [])])
    placed = [to_space(image, space, margin=margin) for image in channels]
    background = tuple(original_of(image).background[0] for image in placed)
    mask = None
    if label is not None:
        mask = to_space(label, space, "label").as_tensor()[0].round().to(torch.int64)
    wide = torch.cat([image.as_tensor() for image in placed])
    affine = np.array(placed[0].affine, np.float64)
    beyond = [(w - h) // 2 for w, h in zip(wide.shape[1:], space.size, strict=True)]
    affine[:3, 3] += affine[:3, : space.dims] @ beyond
    original = replace(original_of(placed[0]), background=background)
    if known is None:
        values = [image.as_tensor()[0] for image in channels]
        hounsfield = is_ct(original.modality or modality)
        known = cropped(values, space.size, affine, original, hounsfield)
    return Placed(wide, space.size, mask, affine, original, field_of(placed[0]), cropped=known)


def place_row(
    row: Row,
    columns: Sequence[str],
    label: str | None,
    space: Space,
    margin: Sequence[int] | None = None,
    stacked: bool = False,
    known: Cropped | None = None,
) -> Placed:
    """The images of a manifest's row brought to the grid, as `place` does.

    If `stacked`, they are volumes for a grid of slices, all of which are kept, one behind the
    other along the first axis: `cut` takes one.
    Errors: DataError naming row and column; the files are in `.private` only.
    """
    mask = None if label is None else row.labels.get(label)
    channels = [_read(row, name, row.images.get(name)) for name in columns]
    marked = None if mask is None else _read(row, str(label), mask)
    where = ", ".join(str(row.images[name]) for name in columns)
    try:
        if stacked:
            return _place_stack(channels, marked, space, margin, stated_modality(row), known)
        return place(channels, marked, space, margin, stated_modality(row), known)
    except DataError as error:
        raise DataError(f"row {row.number}: {error}", private=f"{where}: {error}") from error
    except Exception as error:  # no memory, a resampling that fails: the row must be known
        said = f"row {row.number}: the image cannot be prepared ({type(error).__name__})"
        raise DataError(said, private=f"{where}: {error!r}") from error


def stated_modality(row: Row) -> str:
    """What the manifest says in capitals, nothing where it does not: what a scan's foreground
    depends on where the file says no modality."""
    return (row.word("modality") or "").upper()


def _place_stack(
    channels: Sequence[Volume],
    label: Volume | None,
    space: Space,
    margin: Sequence[int] | None,
    modality: str,
    known: Cropped | None,
) -> Placed:
    grid = stack_grid(space, original_of(channels[0]))
    beyond = None if margin is None else (0, *margin)
    placed = place(channels, label, grid, beyond, modality, known)
    hounsfield = is_ct(placed.original.modality or modality)
    return replace(placed, filled=foreground(placed.images, hounsfield))


def cut(stack: Placed, letters: str, place: int, thickness: int = 1) -> tuple[Placed, int]:
    """A slice of a volume that was placed to be cut, and which one of the volume's own it is.

    `letters`: how its rows and columns count up. `thickness`: slices of the slab about it, which
    are its channels. Voxels of one are shared with the volume's.
    """
    number = place_in_file(stack.original, letters, place)
    affine = stack.affine[:, [1, 2, 0, 3]].copy()
    affine[:3, 3] += stack.affine[:3, 0] * place
    label = None if stack.label is None else stack.label[place]
    original = slice_of(stack.original, letters, number)
    background = [value for value in original.background for _ in range(thickness)]
    original = replace(original, background=tuple(background))
    size = stack.size[1:]
    wide = stack.wide.narrow(1, place - thickness // 2, thickness).flatten(0, 1)
    field, lost = stack.field[1:], stack.cropped
    return Placed(wide, size, label, affine, original, field, cropped=lost), number


def _read(row: Row, column: str, path: Path | None) -> Volume:
    if path is None:
        raise DataError(f"row {row.number}: there is no image in column {column!r}")
    try:
        return load_image(path)
    except DataError as error:
        where = f"row {row.number}, column {column!r}"
        raise DataError(f"{where}: {error}", private=error.private) from error


def _check_grids(images: Sequence[Volume]) -> None:
    first = original_of(images[0])
    for image in images:
        if image.shape[0] != 1:
            raise DataError(not_one(image.shape[0]))
        grid = original_of(image)
        both = grid.known and first.known
        if grid.shape != first.shape or (
            both and np.abs(grid.affine - first.affine).max() > GRID_TOLERANCE_MM
        ):
            raise DataError(
                f"the images of a case lie on different grids ({first.shape} and {grid.shape}); "
                "resample them to one grid first"
            )
