"""A face taken off a head volume, by where the head begins and ends.

A simple geometric rule, no segmentation: it is written for adult heads that are upright in their
coordinates, with the vertex in the field of view. Look at every result. It leaves ears, the upper
orbits and the shape of the forehead, and what remains may still be recognised; tools that register
a template do better.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import nibabel
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu

from medidiff.errors import DataError

Array = NDArray[np.floating]
Mask = NDArray[np.bool_]
CUT_AT_FRONT, CUT_AT_MIDDLE = 0.62, 0.76
"""Depth of the cut below the vertex, in lengths of the head: between the orbits' roofs and the
nasion at the front, under the temporal lobes at mid-length. Taken from an adult head of about 205
mm whose frontal lobes end 117 mm, temporal poles 137 mm and nasion 130 mm below its vertex."""
AROUND_MM, LEAST_AIR, MOST_TURNED = 25.0, 0.12, 1.7
LEAST_MM = (80.0, 80.0, 60.0)  # across, from front to back, from top to bottom


@dataclass(frozen=True)
class Defacing:
    """How a face is taken off."""

    fill: Literal["air", "blur"] = "air"
    """Removed voxels take the value of air, or a blur of what was there (12 mm, which hides
    features and keeps a head's outline coarsely)."""
    margin_mm: float = 0.0
    """Moves the cut up (above 0, takes more) or down."""


@dataclass(frozen=True)
class Defaced:
    """The volume without its face, and the voxels that were taken."""

    image: Array
    mask: Mask
    share: float
    """The share of the head that was taken."""


def deface(image: NDArray[Any], affine: Array, options: Defacing = Defacing()) -> Defaced:
    """Take off what lies before and below the brain.

    Shapes: `image` has three axes in any order; `affine` (RAS+, mm) says which way they run.
    Errors: DataError for what is no head by its size, or whose vertex is cut off.
    """
    if image.ndim != 3:
        raise DataError(f"a volume has three axes, not {image.ndim}: a slice shows no face")
    to_ras = nibabel.orientations.io_orientation(affine)
    volume = nibabel.orientations.apply_orientation(np.asarray(image, dtype=np.float32), to_ras)
    spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
    spacing_mm = spacing_mm[np.argsort(to_ras[:, 0])]
    head = head_mask(volume)
    check_front(volume, head, spacing_mm)
    face = face_mask(head, spacing_mm, options.margin_mm)
    air = float(np.median(volume[~head])) if (~head).any() else float(volume.min())
    filled = volume.copy()
    if options.fill == "air":
        filled[face] = air
    else:
        blurred = ndimage.gaussian_filter(volume, 12 / spacing_mm)
        filled[face] = blurred[face]
    undone = _undone(to_ras)
    mask = nibabel.orientations.apply_orientation(face, undone)
    result = nibabel.orientations.apply_orientation(filled, undone)
    taken = float((face & head).sum() / max(int(head.sum()), 1))
    return Defaced(result.astype(np.result_type(image, np.float32)), mask, taken)


def _undone(orientation: NDArray[Any]) -> NDArray[Any]:
    """The orientation change that takes RAS back to where the axes were."""
    undone = np.empty_like(orientation)
    for axis, (target, flip) in enumerate(orientation):
        undone[int(target)] = (axis, flip)
    return undone


def head_mask(volume: Array) -> Mask:
    """The largest thing brighter than air, with its cavities filled. Axes run to RAS."""
    mask = volume > darkest_tissue(volume)
    mask = ndimage.binary_opening(mask, iterations=1)
    parts, count = ndimage.label(mask)  # pyright: ignore[reportGeneralTypeIssues]
    if count == 0:
        raise DataError("no head was found: nothing stands out from the air")
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    mask = parts == sizes.argmax()
    for index in range(mask.shape[2]):
        mask[..., index] = ndimage.binary_fill_holes(mask[..., index])
    return mask


def darkest_tissue(volume: Array) -> float:
    """The value between air and tissue. Skin is darker than brain on some sequences: half of Otsu's
    threshold finds it."""
    low, high = np.percentile(volume, (1, 99))
    if high <= low:
        raise DataError("the volume holds one value only")
    return float(low + 0.5 * (threshold_otsu(np.clip(volume, low, high)) - low))


def check_front(volume: Array, head: Mask, spacing_mm: Array) -> None:
    """Errors: DataError if the lower back of the head holds much more air than its lower front, as
    if the sinuses lay there: then the affine says the wrong way. It finds many such volumes, not
    all."""
    dark = volume <= darkest_tissue(volume)
    inner = np.asarray(ndimage.binary_erosion(head, iterations=2), dtype=bool)
    shares = []
    for way in (1, -1):
        where = np.logical_and(face_mask(head[:, ::way], spacing_mm, AROUND_MM), inner[:, ::way])
        shares.append(float((where & dark[:, ::way]).sum() / max(int(where.sum()), 1)))
    if shares[1] > LEAST_AIR and shares[1] > MOST_TURNED * shares[0]:
        raise DataError(
            f"{100 * shares[1]:.0f} % of the lower back of the head is air, and "
            f"{100 * shares[0]:.0f} % of its lower front: the affine seems to call the back the "
            "front. Mend the affine; nothing was written"
        )


def face_mask(head: Mask, spacing_mm: Array, margin_mm: float = 0.0) -> Mask:
    """What lies before mid-length and below the plane through two depths under the vertex.

    Everything there counts, air too, so that no outline of the face stays in the noise.
    Errors: DataError for what is no head by its size, or whose vertex is cut off.
    """
    others = ((1, 2), (0, 2), (0, 1))
    extents = [np.flatnonzero(head.any(axis=axes)) for axes in others]
    lengths = [
        float(each[-1] - each[0]) * spacing
        for each, spacing in zip(extents, spacing_mm.tolist(), strict=True)
    ]
    if any(length < least for length, least in zip(lengths, LEAST_MM, strict=True)):
        shown = " x ".join(f"{length:.0f}" for length in lengths)
        raise DataError(
            f"what stands out from the air measures {shown} mm: no whole head, as a slab or a "
            "skull-stripped brain of a child; it has no face that this rule could find"
        )
    top = int(np.flatnonzero(head.any(axis=(0, 1))).max())
    largest = head.sum(axis=(0, 1)).max()
    if top == head.shape[2] - 1 and head[..., top].sum() > 0.25 * largest:
        raise DataError("the vertex is cut off: the field of view ends within the head")
    upper = head[..., max(0, top - int(90 / spacing_mm[2])) :].any(axis=(0, 2))
    rows = np.flatnonzero(upper)  # of the cranium alone: noses vary
    back, front = float(rows.min()), float(rows.max())
    length_mm = (front - back) * spacing_mm[1]
    middle = (front + back) / 2
    y = np.arange(head.shape[1])
    depth = CUT_AT_MIDDLE + (CUT_AT_FRONT - CUT_AT_MIDDLE) * (y - middle) / (front - middle)
    cut = top - (depth * length_mm - margin_mm) / spacing_mm[2]
    z = np.arange(head.shape[2])
    side = (z[None] < cut[:, None]) & (y[:, None] > middle)
    return np.broadcast_to(side[None], head.shape).copy()


def head_views(image: Array, affine: NDArray[np.float64]) -> Array:
    """A sagittal slice, and the brightest along the way from the left and from the front, side by
    side, superior up, with square pixels."""
    to_ras = nibabel.orientations.io_orientation(affine)
    volume = nibabel.orientations.apply_orientation(image, to_ras)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)[np.argsort(to_ras[:, 0])]
    cube = np.asarray(ndimage.zoom(volume, spacing / spacing.min(), order=1))
    views = [cube[cube.shape[0] // 2], cube.max(axis=0), cube[:, cube.shape[1] // 2 :].max(axis=1)]
    return np.concatenate([np.rot90(view) for view in views], axis=1)
