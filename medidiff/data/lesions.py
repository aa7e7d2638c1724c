"""Lesions put into an image whose truth is then known: brighter or darker, of the same intensities
but another texture, or invisible but for the tissue that they push aside.

They go into drawn phantoms and into real scans alike. A detector that is judged on them has been
judged on them: real disease looks otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medidiff.data.boxes import Axes
from medidiff.data.shapes import Array, apart
from medidiff.data.waves import waves_on
from medidiff.errors import DataError

Mask = NDArray[np.bool_]
REACH = 2.3  # radii of a lesion beyond which nothing changes: mass effect has fallen to 1e-5 there


@dataclass(frozen=True)
class Contrast:
    """A lesion brighter (hyperintense, `contrast` above 0) or darker (hypointense) than its place.

    Units: `contrast` in those of the image.
    """

    kind: Literal["contrast"] = "contrast"
    contrast: float = 0.3
    texture: float = 0.15
    """Standard deviation of the contrast within the lesion, as a share of it."""
    detail: float = 1.0
    """The share of what was there that shows through: 1 keeps a scan's noise."""


@dataclass(frozen=True)
class SameIntensity:
    """A lesion that holds exactly the intensities that were there, in another arrangement."""

    kind: Literal["same-intensity"] = "same-intensity"
    grain_mm: float = 3.0
    """Typical size of the new texture's grains."""


@dataclass(frozen=True)
class MassEffect:
    """A growth that shows only in how it pushes what lies around it outwards."""

    kind: Literal["mass-effect"] = "mass-effect"
    strength: float = 0.8
    """How much the centre is magnified, from 0 to below 1; no point is passed by another."""


AnyLesion = Contrast | SameIntensity | MassEffect


@dataclass(frozen=True)
class Inserted:
    """The image with its lesion, and the voxels that are the lesion."""

    image: Array
    mask: Mask


def insert_lesion(
    image: Array,
    where: Mask,
    lesion: AnyLesion,
    *,
    radius_mm: float,
    spacing_mm: Sequence[float],
    random: np.random.Generator,
) -> Inserted:
    """One lesion of about `radius_mm`, somewhere in `where`.

    Shapes: `image` and `where` are alike, of 2 or 3 axes with voxels of `spacing_mm`. The centre is
    drawn among voxels at least 0.7 `radius_mm` inside `where`, or is the deepest one; outside of
    `where` nothing becomes lesion, though mass effect moves what is near.
    Errors: DataError if `where` is empty or too small.
    """
    check_lesion(lesion)
    centre = _centre(where, 0.7 * radius_mm, spacing_mm, random)
    box = _box(where.shape, centre, REACH * radius_mm, spacing_mm)
    part, axes = image[box], _around(box, centre, spacing_mm)
    ragged = 0.16 * radius_mm * waves_on(axes, 1.8 / radius_mm, 10, random)
    ragged += apart(*axes.points)
    inside = (ragged < radius_mm) & where[box]
    if not inside.any():
        raise DataError(
            f"a lesion of {radius_mm:g} mm is smaller than a voxel of {max(spacing_mm):g} mm here"
        )
    if isinstance(lesion, Contrast):
        part = _with_contrast(part, inside, lesion, axes, spacing_mm, random)
    elif isinstance(lesion, SameIntensity):
        part = _rearranged(part, inside, waves_on(axes, 2 * np.pi / lesion.grain_mm, 32, random))
    else:
        part = _pushed(part, axes, spacing_mm, radius_mm, lesion.strength)
    changed = image.astype(np.result_type(image, np.float32))
    changed[box] = part
    mask = np.zeros(where.shape, dtype=bool)
    mask[box] = inside
    return Inserted(changed, mask)


def check_lesion(lesion: AnyLesion) -> None:
    """Errors: DataError for a grain or strength that makes no lesion."""
    if isinstance(lesion, MassEffect) and not 0 < lesion.strength < 1:
        raise DataError(f"mass effect of strength {lesion.strength:g}: it lies between 0 and 1")
    if isinstance(lesion, SameIntensity) and lesion.grain_mm <= 0:
        raise DataError(f"a texture of grain {lesion.grain_mm:g} mm: it is above 0")


def _with_contrast(
    image: Array,
    mask: Mask,
    lesion: Contrast,
    axes: Axes,
    spacing_mm: Sequence[float],
    random: np.random.Generator,
) -> Array:
    """Blended over about a voxel at its border."""
    sigma = [0.5 * max(spacing_mm) / spacing for spacing in spacing_mm]
    share = ndimage.gaussian_filter(mask.astype(np.float32), sigma)
    uneven = 1 + lesion.texture * waves_on(axes, 2 * np.pi / 9.0, 16, random)
    mean = float(image[mask].mean())
    inside = mean + lesion.detail * (image - mean) + lesion.contrast * uneven
    return image + share * (inside - image)


def _rearranged(image: Array, mask: Mask, texture: Array) -> Array:
    """The values under the mask in the order of a texture's: the same histogram exactly."""
    values = np.sort(image[mask])
    changed, texture = image.copy(), texture.reshape(image.shape)
    changed[mask] = values[np.argsort(np.argsort(texture[mask], kind="stable"), kind="stable")]
    return changed


def _pushed(
    image: Array, axes: Axes, spacing_mm: Sequence[float], radius_mm: float, strength: float
) -> Array:
    """Every point shows what lay nearer to the centre: at r (1 - strength exp(-(r / scale)^2)).

    That grows with r for any strength below 1, so nothing folds. At `radius_mm` the shift has
    fallen to about a third of its largest value.
    """
    scale = radius_mm / 1.5
    pull = strength * np.exp(-((apart(*axes.points) / scale) ** 2))
    offsets = axes.points[::-1][-image.ndim :]
    indices = np.indices(image.shape, dtype=np.float32)
    source = [
        index - pull * offset / spacing
        for index, offset, spacing in zip(indices, offsets, spacing_mm, strict=True)
    ]
    return ndimage.map_coordinates(image, source, order=1, mode="nearest")


def _centre(
    where: Mask, depth_mm: float, spacing_mm: Sequence[float], random: np.random.Generator
) -> tuple[int, ...]:
    if not where.any():
        raise DataError("there is no place for a lesion: the mask of where it may lie is empty")
    stride = max(1, min(where.shape) // 64)  # a place need not be known to the voxel
    coarse = where[(slice(None, None, stride),) * where.ndim]
    if not coarse.any():
        stride, coarse = 1, where
    near = _bordered(coarse)
    coarse = coarse[near]
    sampling = [stride * each for each in spacing_mm]
    depth = np.asarray(ndimage.distance_transform_edt(coarse, sampling=sampling))
    places = np.flatnonzero(depth >= min(depth_mm, float(depth.max())))
    place = places[int(random.integers(len(places)))]
    indices = np.unravel_index(place, coarse.shape)
    return tuple(
        stride * (side.start + int(index)) for side, index in zip(near, indices, strict=True)
    )


def _bordered(where: Mask) -> tuple[slice, ...]:
    """The box of what is true and its neighbours: depths in it are those in the whole."""
    sides = []
    for axis in range(where.ndim):
        others = tuple(other for other in range(where.ndim) if other != axis)
        found = np.flatnonzero(where.any(axis=others))
        sides.append(slice(max(0, int(found[0]) - 1), int(found[-1]) + 2))
    return tuple(sides)


def _box(
    shape: tuple[int, ...], centre: Sequence[int], reach_mm: float, spacing_mm: Sequence[float]
) -> tuple[slice, ...]:
    reaches = [int(np.ceil(reach_mm / spacing)) + 2 for spacing in spacing_mm]
    return tuple(
        slice(max(0, middle - reach), min(size, middle + reach + 1))
        for middle, reach, size in zip(centre, reaches, shape, strict=True)
    )


def _around(box: tuple[slice, ...], centre: Sequence[int], spacing_mm: Sequence[float]) -> Axes:
    """Offsets in mm from the centre along the last, the last but one and the first of three axes;
    0 along an axis that a slice lacks."""
    axes = [
        ((np.arange(side.start, side.stop) - middle) * spacing).astype(np.float32)
        for side, middle, spacing in zip(box, centre, spacing_mm, strict=True)
    ]
    if len(axes) == 2:
        axes.insert(0, np.zeros(1, dtype=np.float32))
    return Axes(axes[2], axes[1], axes[0])
