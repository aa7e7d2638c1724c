"""A model fitted to an input that is larger than its grid, or a volume for a model of slices."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from medidiff.data.fitness import SPACING_TOLERANCE, View, model_order
from medidiff.data.images import Original, load_image, original_of
from medidiff.data.options import AS_STORED, AXES, Space
from medidiff.data.slices import volume_of_slices
from medidiff.errors import DataError, TaskError
from medidiff.model import Model
from medidiff.networks import Reach, Tiles
from medidiff.spec import ModelSpec

Across = Literal["one", "three"]
LIKE_PICTURES = "PL"  # how slices lie that do not say it: as `Space.affine` has it
ISOTROPIC = 0.10  # voxels that differ by less in their sides count as cubes


@dataclass(frozen=True)
class Reaching:
    """How a model is put to work on what is larger than its grid; the defaults change nothing."""

    tile: int | None = None
    """Voxels along each axis of a tile; the input is then taken whole, whatever its field of
    view."""
    overlap: float = 0.25
    """Share of a tile over which it is blended with the next."""
    plane: str | None = None
    """For a volume and a model of slices: directions in which their rows and columns count up, such
    as PL; the model's own where it has them, else PL."""
    across: Across = "one"
    """For a volume and a model of slices: the slices of its plane, or those of all three
    orientations averaged at each noise level."""

    def __post_init__(self) -> None:
        plane = self.plane
        if plane is not None and (
            len(plane) != 2 or not set(plane) <= set(AXES) or len({AXES[c][0] for c in plane}) != 2
        ):
            raise TaskError(
                f"a plane is two letters, one of two of the pairs R/L, A/P and S/I, such as PL: "
                f"{plane!r}"
            )


def fitted_to(
    model: Model, files: Sequence[str | os.PathLike[str]], how: Reaching, row: int
) -> Model:
    """The model on a grid for this input, its network called by tiles or slice by slice where that
    is needed; the model itself where it is not.

    Errors: TaskError for what the model or the input cannot be asked; ModelError for tiles without
    meaning; DataError for a volume that cannot be cut into the model's slices.
    """
    space = model.spec.space
    if space.dims == 3 and how == Reaching():
        return model
    try:
        original = original_of(load_image(files[0]))
    except DataError:
        return model  # what is wrong is said where the input is brought to the grid
    sliced = space.dims == 2 and len(original.shape) == 3
    thickness = 1 if model.spec.slices is None else model.spec.slices.thickness
    if not sliced and (how.plane is not None or how.across != "one"):
        raise TaskError("a plane and orientations are for a volume and a model of slices")
    if not sliced and how.tile is None:
        return model
    if sliced and not original.known:
        raise DataError(
            f"input {row}: the file does not say how the body lies in it, so no slices can be cut "
            "for a model of slices; use a format with geometry, such as NIfTI or DICOM"
        )
    if sliced:
        space = _of_slices(model.spec, original, how)
    if len(original.shape) != space.dims or (space.orientation != AS_STORED and not original.known):
        return model
    tiles = None if how.tile is None else model.tiles(how.tile, how.overlap)
    slices = () if not sliced else (2,) if how.across == "one" else (0, 1, 2)
    size = _size(space, original, model, tiles)
    if sliced and min(size[axis] for axis in slices) < thickness:
        raise DataError(
            f"input {row}: the volume is {' x '.join(map(str, size))} voxels on the model's grid, "
            f"and the model sees {thickness} neighbouring slices at once"
        )
    return model.reaching(
        replace(space, size=size),
        Reach(tiles, slices, thickness=thickness if sliced else 1),
        _view(model, space, tiles),
    )


def on_tiles(model: Model, how: Reaching) -> Model:
    """The model on its own grid, by tiles where they are asked for: for what is no image.

    Errors: TaskError for a plane or orientations.
    """
    if how.plane is not None or how.across != "one":
        raise TaskError("a plane and orientations are for a volume and a model of slices")
    return model if how.tile is None else model.tiled(how.tile, how.overlap)


def _of_slices(spec: ModelSpec, original: Original, how: Reaching) -> Space:
    """The grid of slices with the axis behind them: its size is still that of the slices, and 1."""
    space = spec.space
    letters = space.orientation
    if letters == AS_STORED:
        letters = how.plane or LIKE_PICTURES
    elif how.plane not in (None, letters):
        raise TaskError(f"the model's slices lie along {letters}; it knows no plane {how.plane}")
    grid = volume_of_slices(space, original, letters)
    assert not isinstance(grid.spacing_mm, str)
    *inner, step = grid.spacing_mm
    if how.across == "one":
        return replace(grid, spacing_mm=(*inner, _step(spec, step)))
    if max(inner) > min(inner) * (1 + ISOTROPIC):
        raise TaskError(
            f"slices across three orientations need pixels of equal sides, not {inner[0]:g} x "
            f"{inner[1]:g} mm"
        )
    return replace(grid, spacing_mm=(*inner, inner[0]))


def _step(spec: ModelSpec, here: float) -> float:
    """How far slices lie apart: as in the volume, but for a model that knows their neighbours as in
    its training, where the volume's are not like them; then it is told not to fit."""
    if spec.slices is None or spec.slices.thickness == 1 or spec.step_mm is None:
        return here
    least, usual, most = spec.step_mm
    like = least * (1 - SPACING_TOLERANCE) <= here <= most * (1 + SPACING_TOLERANCE)
    return here if like else usual


def _size(space: Space, original: Original, model: Model, tiles: Tiles | None) -> tuple[int, ...]:
    """Voxels of the grid: slices of the model's own size, or by tiles all of the input and no less
    than the model's own size."""
    own, order = model.spec.space.size, model_order(original, space)
    found = np.array(original.shape, float)[order]
    if not isinstance(space.spacing_mm, str):
        found = found * np.array(original.spacing_mm)[order] / np.array(space.spacing_mm)
    whole = [math.ceil(round(count, 3)) for count in found]
    if tiles is None:
        return (*own, *whole[len(own) :])
    if model.spec.codec.kind != "identity":
        whole = [count + count % 2 for count in whole]  # a wavelet mirrors what is odd
    least = (*own, *[1] * (space.dims - len(own)))
    return tuple(map(max, whole, least))


def _view(model: Model, space: Space, tiles: Tiles | None) -> View:
    """The fields of view that are taken: none is too large by tiles, unless the network is told
    where it is in the body; slices may be any number."""
    own = model.spec.space
    step = (1.0,) * own.dims if isinstance(own.spacing_mm, str) else own.spacing_mm
    known = model.spec.view or tuple(
        (count * mm, count * mm) for count, mm in zip(own.size, step, strict=True)
    )
    if isinstance(own.spacing_mm, str) and not isinstance(space.spacing_mm, str):  # voxels to mm
        known = tuple(
            (low * mm, high * mm)
            for (low, high), mm in zip(known, space.spacing_mm[: own.dims], strict=True)
        )
    if tiles is not None and not model.spec.coordinates:
        known = tuple((low, math.inf) for low, _ in known)
    return (*known, *[(0.0, math.inf)] * (space.dims - own.dims))
