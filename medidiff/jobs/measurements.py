"""Cases from what a scanner measured: slices of k-space or of sinograms, on the model's grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medidiff.data.cropping import Cropped, beyond, not_air
from medidiff.data.datasets import Case
from medidiff.data.images import Original
from medidiff.data.intensity import unscaled
from medidiff.data.options import Space
from medidiff.data.privacy import SiteKey
from medidiff.data.raw import Raw, read_array, read_raw
from medidiff.data.raw_checks import (
    Kind,
    check_belonging,
    check_coils,
    check_finite,
    check_mask,
    check_places,
    check_values,
    laid_out,
)
from medidiff.data.transforms import covers, put_back
from medidiff.errors import DataError
from medidiff.jobs.centring import holding, offset_of, power_of, rolled
from medidiff.model import Model
from medidiff.physics import from_kspace, to_kspace
from medidiff.physics.window import centred_on

SAME_SPACING = 0.02  # voxels of this relative size are the model's
NARROWEST, WIDEST = 1 / 8, 16  # times the model's grid along an axis: fields that can be meant
SAME_PIXELS = 1e-3  # of sinograms, whose detectors are measured in mm


@dataclass(frozen=True)
class Opened:
    """The slices of one measurement, and how their results lie in space."""

    cases: tuple[Case, ...]
    affine: NDArray[np.float64]
    """Of the first slice's grid, RAS+ mm; further slices follow along its third axis."""
    cropped: Cropped = Cropped()
    """What gives signal and lies beyond the model's grid, in voxels of the results."""


def open_measurement(
    given: object,
    beside: Mapping[str, object],
    model: Model,
    row: int,
    kind: Kind = "cartesian",
) -> Opened:
    """The cases of one file or array, with what belongs to it.

    Errors: DataError if it cannot be read, is of another kind, or does not go together.
    """
    try:
        return _opened(given, beside, model, kind)
    except DataError as error:
        raise DataError(f"measurement {row}: {error}", private=error.private) from None
    except (ValueError, RuntimeError) as error:
        raise DataError(f"measurement {row}: {error}") from None


def _opened(given: object, beside: Mapping[str, object], model: Model, kind: Kind) -> Opened:
    space = model.spec.space
    check_belonging(beside, kind)
    mine = {name: _beside(name, each) for name, each in beside.items()}
    raw = read_raw(given, space.dims, mine)
    check_values(raw.values, kind)
    check_places(raw.beside)
    more = dict(raw.beside)
    located = "affine" in more
    spacing = _spacing(raw, more, space)
    affine = _affine(more.pop("affine", None), spacing)
    values = torch.from_numpy(np.ascontiguousarray(raw.values))
    if kind == "cartesian":
        _check_one_size(affine, spacing, space)
        measured = tuple(values.shape[2:])
        grid = _grid(measured, spacing, model)
        slices = _kspace(values.to(torch.complex64), more, grid)
        powers = [power_of(each["kspace"], each["mask"]) for each in slices]
        signal = not_air(torch.stack(powers).sqrt().numpy())
        away = holding(signal, space.size, offset_of(powers, space.size))
        slices = [rolled(each, away) for each in slices]
        ratio = tuple(n / m for n, m in zip(measured, grid, strict=True))
        shape = raw.kept or measured
    else:
        _check_pixels(affine, spacing, space)
        slices = _sinograms(values.float(), more)
        shape, ratio, away = space.size, (1.0,) * space.dims, (0,) * space.dims
        grid, powers = shape, []
    grid_affine = _model_affine(affine, shape, ratio, space.size, away)
    cases = _cases(slices, shape, affine, grid_affine, model, raw.content, located)
    whole = _model_affine(affine, shape, ratio, grid, (0,) * space.dims)
    return Opened(cases, affine, _signal_cropped(powers, whole, cases[0], space.size))


def _beside(name: str, given: object) -> NDArray[Any]:
    try:
        return read_array(name, given)
    except DataError as error:
        raise DataError(f"{name} {error}", private=error.private) from None


def _spacing(raw: Raw, more: dict[str, NDArray[Any]], space: Space) -> tuple[float, ...]:
    """Voxel size in mm as it is stated, as the file has it, else the model's."""
    stated = more.pop("spacing_mm", None)
    if stated is not None:
        return tuple(float(mm) for mm in np.ravel(stated))
    if "affine" in more:
        return _lengths(more["affine"])
    return raw.spacing_mm or _lengths(space.affine())


def _lengths(affine: NDArray[Any]) -> tuple[float, ...]:
    return tuple(np.linalg.norm(np.asarray(affine)[:3, :3], axis=0).tolist())


def _affine(given: NDArray[Any] | None, spacing: tuple[float, ...]) -> NDArray[np.float64]:
    """The stated one, or axes with the given size of voxels, voxel 0 at the origin."""
    if given is not None:
        return np.asarray(given, np.float64)
    steps = [*spacing, 1.0, 1.0, 1.0][:3]
    return np.diag([*steps, 1.0])


def _check_one_size(affine: NDArray[np.float64], spacing: tuple[float, ...], space: Space) -> None:
    """Errors: DataError where the affine's voxels are not those that are stated beside it."""
    if len(spacing) < space.dims:
        raise DataError(f"spacing_mm has {space.dims} sizes or more, found {_written(spacing)}")
    found = _lengths(affine)
    if not np.allclose(found[: len(spacing)], spacing[:3], rtol=SAME_SPACING):
        raise DataError(
            f"the affine's voxels are of {_written(found)} mm and spacing_mm says "
            f"{_written(spacing)}: leave one of them out"
        )


def _check_pixels(affine: NDArray[np.float64], spacing: tuple[float, ...], space: Space) -> None:
    """A sinogram is solved on the model's own pixels.

    Errors: DataError where others are stated.
    """
    if isinstance(space.spacing_mm, str):
        return
    for found in (spacing[: space.dims], _lengths(affine)[: space.dims]):
        if len(found) != space.dims or not np.allclose(found, space.spacing_mm, rtol=SAME_PIXELS):
            raise DataError(
                f"images of sinograms have the model's pixels of {_written(space.spacing_mm)} mm, "
                f"and the affine or spacing_mm says others: found {_written(found)} mm. Leave "
                "it out, or use a model of that spacing"
            )


def _written(sides: Sequence[float]) -> str:
    return " x ".join(f"{side:g}" for side in sides)


def _kspace(
    values: torch.Tensor,
    more: Mapping[str, NDArray[Any]],
    grid: tuple[int, ...],
) -> list[dict[str, torch.Tensor]]:
    """K-space, mask and what is given of coils and phase, for each slice, in the model's voxels."""
    space = tuple(values.shape[2:])
    shape = tuple(values.shape)
    if "mask" in more:
        mask = torch.from_numpy(laid_out("mask", more["mask"], shape) != 0)
        mask = torch.broadcast_to(mask, (len(values), 1, *space)).float()
    else:
        mask = (values != 0).any(1, keepdim=True).float()
    check_mask(mask.numpy())
    fields: dict[str, torch.Tensor] = {}
    for name in ("coils", "phase"):
        if name in more:
            each = torch.from_numpy(np.ascontiguousarray(laid_out(name, more[name], shape)))
            wanted = values.shape[1] if name == "coils" else 1
            fields[name] = torch.broadcast_to(each, (len(values), wanted, *space)).clone()
    if "coils" in fields:
        check_coils(fields["coils"].numpy())
    if "phase" in fields and fields["phase"].is_complex():
        raise DataError("the phase is complex: give its angle in radians")
    if grid != space:
        values, mask = (_resized(each, grid) for each in (values, mask))
        fields = {name: _regridded(each, grid) for name, each in fields.items()}
    if "phase" in fields:
        fields["phase"] = fields["phase"].float()
    found = []
    for index in range(len(values)):
        own = {name: each[index] for name, each in fields.items()}
        found.append({"kspace": values[index], "mask": mask[index], **own})
    return found


def _grid(space: tuple[int, ...], spacing: tuple[float, ...], model: Model) -> tuple[int, ...]:
    """How many of the model's voxels fill the measured field of view.

    Errors: DataError for a field of another order of size than the model's own.
    """
    wanted, found = model.spec.space.spacing_mm, space
    if not isinstance(wanted, str):
        found = tuple(
            n if abs(mm / own - 1) < SAME_SPACING else max(1, round(n * mm / own))
            for n, mm, own in zip(space, spacing, wanted, strict=False)
        )
    _check_field(found, spacing, model.spec.space)
    return found


def _check_field(grid: tuple[int, ...], spacing: tuple[float, ...], space: Space) -> None:
    """Before anything is brought to a grid that no memory may hold.

    Errors: DataError for a measured field of other orders of size than the model's.
    """
    if all(NARROWEST <= n / own <= WIDEST for n, own in zip(grid, space.size, strict=True)):
        return
    raise DataError(
        f"the measured field is {_written(grid)} of the model's voxels, and the model's own is "
        f"{_written(space.size)}: its images cannot be what was measured. Check the shape of the "
        f"k-space and the size of its voxels, {_written(spacing[: len(grid)])} mm"
    )


def _resized(kspace: torch.Tensor, grid: tuple[int, ...]) -> torch.Tensor:
    """K-space of the same field of view with another number of voxels: cut, or not sampled."""
    scale = float(np.sqrt(np.prod(grid) / np.prod(kspace.shape[2:])))
    placed = centred_on(kspace, grid)
    return placed * scale if kspace.is_complex() else placed


def _regridded(field: torch.Tensor, grid: tuple[int, ...]) -> torch.Tensor:
    """A smooth field over the same field of view on another number of voxels."""
    phasor = torch.polar(torch.ones_like(field), field) if not field.is_complex() else field
    ratio = float(np.prod(grid) / np.prod(field.shape[2:])) ** 0.5
    moved = from_kspace(centred_on(to_kspace(phasor.to(torch.complex64)), grid)) * ratio
    return moved if field.is_complex() else moved.angle()


def _sinograms(
    values: torch.Tensor, more: Mapping[str, NDArray[Any]]
) -> list[dict[str, torch.Tensor]]:
    """The sinogram of each slice, and its angles.

    Errors: DataError for sinograms where coils of k-space would be; for angles that are no numbers.
    """
    if values.shape[1] != 1:
        one = ("depth, " if values.ndim == 5 else "") + "views, detectors"
        raise DataError(
            f"a sinogram has the layout ({one}), several have (slices, 1, {one}); found "
            f"{tuple(values.shape[0 if len(values) > 1 else 1 :])}"
        )
    check_finite("the list of angles", more.get("angles", np.zeros(0)))
    found = []
    for each in values:
        own = {"sinogram": each}
        if "angles" in more:
            own["angles"] = torch.from_numpy(np.asarray(more["angles"], np.float64)).flatten()
        found.append(own)
    return found


def _cases(
    slices: Sequence[dict[str, torch.Tensor]],
    shape: tuple[int, ...],
    affine: NDArray[np.float64],
    grid_affine: NDArray[np.float64],
    model: Model,
    content: str,
    located: bool,
) -> tuple[Case, ...]:
    space, key = model.spec.space, SiteKey.load()
    original = Original(shape, affine, located, model.spec.modality, (0.0,), sized=not located)
    made = []
    for index, beside in enumerate(slices):
        made.append(
            Case(
                key.pseudonym(content),
                0,
                torch.zeros(1, *space.size),
                {},
                None,
                unscaled(1),
                grid_affine,
                original,
                f"{content} slice {index}",
                beside,
            )
        )
    return tuple(made)


def _signal_cropped(
    powers: Sequence[torch.Tensor],
    affine: NDArray[np.float64],
    case: Case,
    size: tuple[int, ...],
) -> Cropped:
    """Of the slices' powers on a grid of `affine`, in the model's voxels, over all of the measured
    field."""
    if covers(size, case.affine, case.original):
        return Cropped()
    seen = [put_back(each.sqrt()[None], affine, case.original)[0][0] for each in powers]
    return beyond(not_air(torch.stack(seen).numpy()), size, case.affine, case.original)


def _model_affine(
    affine: NDArray[np.float64],
    shape: tuple[int, ...],
    ratio: tuple[float, ...],
    size: tuple[int, ...],
    away: tuple[int, ...],
) -> NDArray[np.float64]:
    """Of the model's grid, whose voxels are `ratio` times those of the images that are shown; its
    voxel n // 2 lies `away` of its own voxels from theirs."""
    step = np.eye(4)
    for axis, (shown, times, n, off) in enumerate(zip(shape, ratio, size, away, strict=True)):
        step[axis, axis] = times
        step[axis, 3] = shown // 2 - times * (n // 2 - off)
    return affine @ step
