"""Slices of volumes: which plane, how they lie in their volume, which of them are worth learning.

A volume is brought to the grid of a model of slices with its own slices kept, so that a slice of it
is exactly what the model sees when it is put to work on a volume slice by slice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medidiff.data.images import Original
from medidiff.data.options import (
    AS_STORED,
    AXES,
    PLANES,
    PlaneName,
    Slices,
    Space,
    letter_across,
    plane_of,
)
from medidiff.data.rows import rows_listed
from medidiff.data.survey import threshold
from medidiff.data.transforms import plane
from medidiff.errors import DataError

THICKER = 1.1  # a spacing that much larger than the next tells across which slices were acquired
VOXELS = 65536  # of a channel tell what is foreground

VolumeGrid = tuple[tuple[int, ...], NDArray[np.float64] | None]
"""Shape and affine of an image; None where its file states none."""


def resolved(space: Space, slices: Slices, grids: Mapping[int, VolumeGrid]) -> tuple[Space, Slices]:
    """The grid and the slices with the plane and its directions named, from the volumes by row.

    Errors: DataError naming rows that are no volumes, or for volumes of no one plane.
    """
    flat = [row for row, (shape, _) in grids.items() if len(shape) == 2]
    if flat:
        raise DataError(
            f"data.slices cuts slices out of volumes, but {_holding(flat)} 2-D images: leave "
            "data.slices out, or make a manifest of volumes"
        )
    unknown = [row for row, (_, affine) in grids.items() if affine is None]
    if unknown:
        raise DataError(
            f"data.slices: {_holding(unknown)} volumes that do not say how the body lies in them; "
            "use a format with geometry, such as NIfTI or DICOM"
        )
    found = slices.plane
    if found == "thick":
        found = thick_plane({row: affine for row, (_, affine) in grids.items()})
    letters = PLANES[found] if space.orientation == AS_STORED else space.orientation
    named = replace(slices, plane=found)
    try:
        named.check(replace(space, orientation=letters))
    except ValueError as error:
        raise DataError(
            f"data.slices: the volumes were acquired in {found} slices; {error}"
        ) from None
    return replace(space, orientation=letters), named


def thick_plane(affines: Mapping[int, NDArray[np.float64] | None]) -> PlaneName:
    """The plane across the coarsest spacing, the same for all volumes; even ones have no say.

    Errors: DataError if there is none or several.
    """
    planes: dict[PlaneName, list[int]] = {}
    for row, affine in affines.items():
        found = None if affine is None else _across_coarsest(affine)
        if found is not None:
            planes.setdefault(found, []).append(row)
    if len(planes) == 1:
        return next(iter(planes))
    if not planes:
        raise DataError(
            "data.slices.plane 'thick': no volume's voxels are longer along one axis than along "
            "the others; name the plane: axial, coronal or sagittal"
        )
    told = ", ".join(
        f"{plane} in {len(rows)} ({rows_listed(rows)})" for plane, rows in planes.items()
    )
    raise DataError(
        f"data.slices.plane 'thick': the volumes' thick slices lie in several planes: {told}; name "
        "one, or make a manifest of each"
    )


def _across_coarsest(affine: NDArray[np.float64]) -> PlaneName | None:
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    last, coarsest = np.argsort(spacing)[1:]
    if spacing[coarsest] < THICKER * spacing[last]:
        return None
    letters = plane(affine, 3)
    return plane_of("".join(letters[axis] for axis in range(3) if axis != coarsest))


def volume_of_slices(space: Space, original: Original, letters: str) -> Space:
    """The grid of slices with the axis across them behind: that of the volume, one voxel long.

    `letters`: how rows and columns count up. Spacing across the slices is the volume's own.
    """
    across = letter_across(letters)
    here = [AXES[letter][0] for letter in plane(original.affine, 3)]
    steps = [original.spacing_mm[here.index(direction)] for direction in range(3)]
    inner = [steps[AXES[letter][0]] for letter in letters]
    inner = inner if isinstance(space.spacing_mm, str) else [*space.spacing_mm]
    return Space(3, (*space.size, 1), (*inner, steps[AXES[across][0]]), letters + across)


def stack_grid(space: Space, original: Original) -> Space:
    """The grid of all slices of a volume, one behind the other along the first axis.

    Errors: DataError for an image that is no volume, or one that does not say how the body lies.
    """
    if len(original.shape) != 3:
        raise DataError("the image is 2-D: the model's slices are cut out of volumes")
    if not original.known:
        raise DataError(
            "the file does not say how the body lies in it, so no slices can be cut; use a format "
            "with geometry, such as NIfTI or DICOM"
        )
    behind = volume_of_slices(space, original, space.orientation)
    assert not isinstance(behind.spacing_mm, str)
    count = original.shape[slice_axis(original, space.orientation)]
    (rows, columns, step), letters = behind.spacing_mm, behind.orientation
    return Space(3, (count, *space.size), (step, rows, columns), letters[2] + letters[:2])


def slice_axis(original: Original, letters: str) -> int:
    """The axis of a volume that runs across slices with these directions."""
    inner = {AXES[letter][0] for letter in letters}
    here = [AXES[letter][0] for letter in plane(original.affine, 3)]
    return next(axis for axis, direction in enumerate(here) if direction not in inner)


def foreground(volume: Tensor, hounsfield: bool) -> tuple[int, ...]:
    """How many pixels of each slice of (channel, slice, *space) hold something, in any channel."""
    there = torch.zeros(volume.shape[1:], dtype=torch.bool)
    for channel in volume:
        flat = channel.flatten()
        sample = flat[:: -(-len(flat) // VOXELS)].double().numpy()
        there |= channel > threshold(sample, hounsfield)
    return tuple(there.flatten(1).sum(1).tolist())


def chosen(filled: Sequence[int], slices: Slices) -> list[int]:
    """Which slices of a volume are taken, from the foreground of each: those that have all of their
    neighbours.

    Errors: DataError if none has any foreground, or the volume has too few slices.
    """
    reach, fullest = slices.thickness // 2, max(filled)
    if len(filled) < slices.thickness:
        raise DataError(
            f"the volume has {len(filled)} slices, fewer than data.slices.thickness "
            f"({slices.thickness})"
        )
    if fullest == 0:
        raise DataError(
            "no slice of the volume has foreground (in CT: all is below -500 HU; else below a "
            "tenth of the range): is it a scan of a body?"
        )
    least = slices.foreground * fullest
    inner = range(reach, len(filled) - reach)
    kept = [place for place in inner if filled[place] >= least]
    if not kept:
        raise DataError(
            f"none of the volume's slices that have {reach} neighbours on either side has enough "
            "foreground; lower data.slices.thickness or foreground"
        )
    return kept[(len(kept) - 1) % slices.every // 2 :: slices.every]


def place_in_file(volume: Original, letters: str, place: int) -> int:
    """Which slice along its own axis a slice is that the model's grid has at `place`."""
    axis = slice_axis(volume, letters)
    along = AXES[plane(volume.affine, 3)[axis]][1]  # the grid counts to R, A or S
    return place if along > 0 else volume.shape[axis] - 1 - place


def slice_of(volume: Original, letters: str, place: int) -> Original:
    """The grid of one slice within the volume as it came: two axes of it, in their own order.

    `place` counts the slices along their own axis.
    """
    axis = slice_axis(volume, letters)
    inner = [other for other in range(3) if other != axis]
    affine = volume.affine[:, [*inner, axis, 3]].copy()
    affine[:3, 3] += volume.affine[:3, axis] * place
    return replace(volume, shape=tuple(volume.shape[other] for other in inner), affine=affine)


def _holding(rows: Sequence[int]) -> str:
    return f"{rows_listed(rows)} {'holds' if len(rows) == 1 else 'hold'}"
