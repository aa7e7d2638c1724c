"""An image onto a model's grid and back; all of a model's transforms can be imported here.

Every step keeps the 4 x 4 affine true, for slices as for volumes. The way back is one resampling
from the affine of the result to the affine of the original.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Literal, cast

import nibabel
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from medidiff.data.augment import augment
from medidiff.data.images import ORIGINAL, Original, Volume, original_of
from medidiff.data.intensity import FittedIntensity, Scale, fit
from medidiff.data.options import (
    AS_STORED,
    AXES,
    AnyIntensity,
    Augment,
    CTWindow,
    Field,
    Percentile,
    Space,
    Window,
)
from medidiff.errors import DataError

__all__ = [
    "AnyIntensity",
    "Augment",
    "CTWindow",
    "FittedIntensity",
    "Percentile",
    "Scale",
    "Space",
    "Window",
    "augment",
    "covers",
    "field_of",
    "fit",
    "from_space",
    "inside_space",
    "put_back",
    "to_space",
]

SAME_SPACING_MM = 1e-3
SAME_AXIS = 1e-6  # of a voxel, at the far end
SAME_VOXEL = 1e-2  # of a voxel, at the far corners: less is rounding of the file's affine
WELL_WITHIN = 0.1  # of a voxel beyond the last one's middle; half of it bounds the field
FIELD = "field"  # the key in MetaTensor.meta that holds the `Field`
Kind = Literal["image", "label"]
MODES = {"image": "bilinear", "label": "nearest"}


def to_space(
    image: Volume, space: Space, kind: Kind = "image", margin: Sequence[int] | None = None
) -> Volume:
    """The image on the model's grid: turned, resampled, then centred and cropped or padded.

    Shapes: (channel, *space.size), with the affine (4 x 4, RAS+, mm) of the new grid. With `margin`
    the grid is wider by up to so many voxels on both sides of each axis, as far as the scan reaches
    beyond it. Padding is the smallest value of each channel (0 for a label). Only a stated spacing
    that differs by more than 0.001 mm resamples, linearly (labels: nearest voxel) and without
    smoothing, so that a much coarser grid aliases.
    Errors: DataError if the image has other dims, or no geometry where an orientation is asked for.
    """
    original = original_of(image)
    _check_possible(original, space)
    if not (original.known or original.sized or isinstance(space.spacing_mm, str)):
        original = _declared(original, space.spacing_mm)
    x = _volume(image.as_tensor(), torch.from_numpy(original.affine))
    x = _resampled(_oriented(x, space), space, MODES[kind])
    padding = (0.0,) * len(image) if kind == "label" else original.background
    starts, stops = _cut(tuple(x.shape[1 : 1 + space.dims]), space.size, margin)
    values = torch.stack(
        [
            _placed(channel, starts, stops, value)
            for channel, value in zip(x.as_tensor(), padding, strict=True)
        ]
    )
    affine = x.affine.clone()
    affine[:3, 3] += affine[:3, : space.dims] @ torch.tensor(starts, dtype=affine.dtype)
    field = tuple(
        (max(-start, 0), min(there, stop) - start)
        for start, stop, there in zip(starts, stops, x.shape[1:], strict=False)
    )
    return _tensor(values.to(torch.float32), affine, original, field)


def field_of(image: Volume) -> Field:
    """Which voxels of the model's grid the scan fills, of an image that `to_space` gave."""
    found: Field = image.meta[FIELD]
    return found


def from_space(result: Tensor, like: Volume, kind: Kind = "image") -> tuple[Tensor, NDArray]:
    """A result (channel, *space) made on the grid of `like`, put back on the grid `like` came from.

    Gives the array and its affine. Outside the model's field of view stand the original's smallest
    values (0 for a label); `inside_space` says where that is.
    """
    return put_back(result, np.asarray(like.affine), original_of(like), kind)


def put_back(
    result: Tensor, affine: NDArray[np.float64], original: Original, kind: Kind = "image"
) -> tuple[Tensor, NDArray[np.float64]]:
    """As `from_space`, from the affine of the model's grid and the original's grid."""
    back = _onto(result, affine, original, MODES[kind], "border")
    inside = inside_space(tuple(result.shape[1:]), affine, original)
    fill = torch.zeros(len(result), dtype=back.dtype)
    if kind == "image" and len(original.background) == len(result):
        fill = torch.tensor(original.background, dtype=back.dtype)
    fill = fill.view(-1, *[1] * len(original.shape))
    return torch.where(inside, back, fill), original.affine


def inside_space(size: tuple[int, ...], affine: NDArray[np.float64], original: Original) -> Tensor:
    """Which voxels of the original grid (*space) lie within the model's field of view: those that
    linear interpolation gives more of it than of what lies around it."""
    along = _along_axes(size, np.array(affine), original)
    if along is None:
        share = _onto(torch.ones((1, *size)), affine, original, "bilinear", "zeros")[0]
    else:
        share = functools.reduce(lambda a, b: a[..., None] * b, along)
    return share > 0.5 - 1e-6


def _along_axes(
    size: tuple[int, ...], affine: NDArray[np.float64], original: Original
) -> list[Tensor] | None:
    """The share of the field in each voxel along each axis of the original; None where its axes are
    not those of the field, and the share in a voxel is not a product of these."""
    dims = len(size)
    between = (np.linalg.inv(affine) @ original.affine)[:3]
    axes = np.abs(between[:dims, :dims]).argmax(0)
    rest = between.copy()
    rest[axes, range(dims)] = rest[:dims, 3] = rest[:, dims:3] = 0
    off = np.abs(rest[:, :dims]) * original.shape
    if len({*axes}) < dims or max(off.max(), np.abs(rest[:, 3]).max()) > SAME_AXIS:
        return None
    shares = []
    for column, (axis, count) in enumerate(zip(axes, original.shape, strict=True)):
        steps = torch.arange(count, dtype=torch.float64)
        places = between[axis, 3] + between[axis, column] * steps
        beyond = torch.maximum(-places, places - (size[axis] - 1)).clamp(0, 1)
        shares.append(1 - beyond)
    return shares


def covers(size: tuple[int, ...], affine: NDArray[np.float64], original: Original) -> bool:
    """Whether a grid reaches over all voxels of the original, so that `inside_space` is all
    true."""
    ends = [*np.ndindex(*(2,) * len(size))]
    corners = np.zeros((4, len(ends)))
    corners[: len(size)] = (np.array(ends) * (np.array(original.shape) - 1)).T
    corners[3] = 1
    places = (np.linalg.inv(np.array(affine)) @ original.affine @ corners)[: len(size)]
    last = np.array(size)[:, None] - 1
    return bool((places >= -WELL_WITHIN).all() and (places <= last + WELL_WITHIN).all())


def plane(affine: NDArray[np.float64], dims: int) -> str:
    """The body directions in which an image's axes count up, to the nearest, such as PL or RAS."""
    return "".join(str(code) for code in nibabel.aff2axcodes(affine))[:dims]


def _check_possible(original: Original, space: Space) -> None:
    dims = len(original.shape)
    if dims != space.dims:
        hint = "; slices of k-space are rows with `manifest build --kspace slices`"
        raise DataError(
            f"the image is {dims}-D, but the model's grid is {space.dims}-D"
            f"{hint if original.sized and dims == 3 else ''}"
        )
    if space.orientation == AS_STORED:
        return
    if not original.known:
        raise DataError(
            "the file does not say how the body lies in it, so it cannot be turned to "
            f'{space.orientation}; use orientation "as stored" or a format with geometry, such as '
            "NIfTI or DICOM"
        )
    here = plane(original.affine, dims)
    if {AXES[letter][0] for letter in here} != {AXES[letter][0] for letter in space.orientation}:
        raise DataError(f"the slice lies along {here}, another plane than {space.orientation}")


def _declared(original: Original, spacing_mm: tuple[float, ...]) -> Original:
    affine = np.diag([*spacing_mm, *[1.0] * (4 - len(spacing_mm))])
    return Original(original.shape, affine, False, original.modality, original.background)


def _volume(x: Tensor, affine: Tensor) -> Volume:
    from monai.data.meta_tensor import MetaTensor

    return MetaTensor(x[..., None] if x.ndim == 3 else x, affine=affine.to(torch.float64))


def _tensor(values: Tensor, affine: Tensor, original: Original, field: Field) -> Volume:
    from monai.data.meta_tensor import MetaTensor

    return MetaTensor(values, affine=affine, meta={ORIGINAL: original, FIELD: field})


def _cut(
    there: tuple[int, ...], size: tuple[int, ...], margin: Sequence[int] | None
) -> tuple[list[int], list[int]]:
    """First and one past last voxel of the grid along each axis, as the image counts them.

    The middle of the image becomes the middle of the grid, as MONAI's ResizeWithPadOrCrop has it.
    """
    starts, stops = [], []
    for have, want, most in zip(there, size, margin or (0,) * len(size), strict=True):
        start = have // 2 - want // 2 if have > want else -((want - have) // 2)
        beyond = min(most, max(start, have - want - start, 0))
        starts.append(start - beyond)
        stops.append(start + want + beyond)
    return starts, stops


def _placed(channel: Tensor, starts: list[int], stops: list[int], value: float) -> Tensor:
    """(*space) from (x, y, z): voxels from `starts` to before `stops`, `value` where none are."""
    channel = channel[..., 0] if len(starts) == 2 else channel
    pads = [
        side
        for start, stop, have in zip(starts, stops, channel.shape, strict=True)
        for side in (stop - have, -start)
    ]
    return functional.pad(channel, pads[::-1], value=value)  # negative padding crops


def _oriented(x: Volume, space: Space) -> Volume:
    from monai.transforms.spatial.array import Orientation

    if space.orientation == AS_STORED:
        return x
    here = plane(np.asarray(x.affine), 3)
    rest = here[2] if space.dims == 2 else ""
    return cast(Volume, Orientation(axcodes=space.orientation + rest, labels=None)(x))


def _resampled(x: Volume, space: Space, mode: str) -> Volume:
    from monai.transforms.spatial.array import Spacing

    if isinstance(space.spacing_mm, str):
        return x
    here = torch.linalg.norm(x.affine[:3, :3], dim=0).tolist()
    wanted = (*space.spacing_mm, here[2]) if space.dims == 2 else space.spacing_mm
    if max(abs(a - b) for a, b in zip(here, wanted, strict=True)) <= SAME_SPACING_MM:
        return x
    spacing = Spacing(pixdim=wanted, mode=mode, padding_mode="border", dtype=np.float64)
    return cast(Volume, spacing(x))


def _onto(
    result: Tensor,
    affine: NDArray[np.float64],
    original: Original,
    mode: str,
    padding_mode: str,
) -> Tensor:
    shape = (*original.shape, 1) if len(original.shape) == 2 else original.shape
    affine = np.array(affine)
    x = result.detach().cpu().to(torch.float32)
    x = x[..., None] if x.ndim == 3 else x
    steps = _whole_steps(affine, original.affine, shape)
    if steps is not None:
        back = _picked(x, steps, shape, padding_mode)
    else:
        back = _interpolated(x, affine, original.affine, shape, mode, padding_mode)
    return back.reshape(-1, *original.shape)


def _interpolated(
    x: Tensor,
    affine: NDArray[np.float64],
    target: NDArray[np.float64],
    shape: tuple[int, ...],
    mode: str,
    padding_mode: str,
) -> Tensor:
    from monai.transforms.spatial.array import SpatialResample

    resample = SpatialResample(mode=mode, padding_mode=padding_mode, dtype=np.float64)
    source = _volume(x, torch.from_numpy(affine))
    there = torch.from_numpy(target.copy())
    return cast(Volume, resample(source, dst_affine=there, spatial_size=shape)).as_tensor()


def _whole_steps(
    affine: NDArray[np.float64], target: NDArray[np.float64], shape: tuple[int, ...]
) -> list[tuple[int, int, int]] | None:
    """For each target axis (axis, +1 or -1, offset) in the source, if voxels lie on voxels.

    Then nothing need be interpolated, and values come back bit by bit.
    """
    between = np.linalg.inv(affine) @ target
    whole = np.round(between)
    corners = np.array([*np.ndindex(2, 2, 2)]) * (np.array(shape) - 1)
    apart = (between - whole)[:3, :3] @ corners.T + (between - whole)[:3, 3:]
    turns = np.abs(whole[:3, :3])
    if np.abs(apart).max() > SAME_VOXEL or (turns.sum(0) != 1).any() or (turns.sum(1) != 1).any():
        return None
    axes = turns.argmax(0)
    return [(int(r), int(whole[r, axis]), int(whole[r, 3])) for axis, r in enumerate(axes)]


def _picked(
    x: Tensor, steps: list[tuple[int, int, int]], shape: tuple[int, ...], padding_mode: str
) -> Tensor:
    x = x.permute(0, *[axis + 1 for axis, _, _ in steps])
    for axis, ((_, sign, offset), count) in enumerate(zip(steps, shape, strict=True), start=1):
        places = sign * torch.arange(count) + offset
        there = (places >= 0) & (places < x.shape[axis])
        x = x.index_select(axis, places.clamp(0, x.shape[axis] - 1))
        if padding_mode == "zeros":
            x = x * there.view([-1 if other == axis else 1 for other in range(4)])
    return x
