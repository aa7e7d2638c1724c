"""Scans made ready for a trained model: from a manifest's split, or from files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from medidiff.data.checks import check_manifest
from medidiff.data.contents import file_digest
from medidiff.data.datasets import Case, CaseSet, load_case
from medidiff.data.fitness import fits
from medidiff.data.images import Original, load_image, make_image, original_of
from medidiff.data.manifest import read_manifest
from medidiff.data.options import Space
from medidiff.data.raw import read_array
from medidiff.data.rows import first_problems, told_together
from medidiff.data.same_grid import onto_grid
from medidiff.data.transforms import to_space
from medidiff.errors import DataError
from medidiff.jobs.reporting import Reporter
from medidiff.jobs.splits import Splits
from medidiff.model import Model
from medidiff.spec import ModelSpec
from medidiff.tasks.base import Needs
from medidiff.tasks.super_resolution import axes_of, coarse_size, factors
from medidiff.warned import warn

Mismatch = Literal["refuse", "warn"]
SCAN = Needs()
ADVICE = (
    "Results on such input cannot be trusted; to go on all the same, ask for a warning "
    '(--mismatch warn, mismatch="warn").'
)


def cases_of_split(
    model: Model,
    manifest_file: str | os.PathLike[str],
    split: str,
    splits: Splits,
    report: Reporter,
    limit: int | None = None,
) -> list[Case]:
    """The cases of one split, on the model's grid and in its units; with `limit`, its first rows.

    Of a model that was trained on slices of volumes they are such slices of the split's volumes.

    Errors: ManifestError if rows cannot be used or the split is empty.
    """
    manifest = read_manifest(Path(manifest_file))
    rows = splits.rows(manifest, split)
    what = f"reading {split} scans"
    cases = CaseSet(
        rows[:limit],
        model.spec.columns,
        model.spec.space,
        model.spec.intensity,
        progress=lambda done, total: report.progress(what, done, total),
        slices=model.spec.slices,
    )
    return list(cases)


def check_splits(
    model: Model, manifest_file: str | os.PathLike[str], splits: Splits, *names: str
) -> None:
    """Errors: ManifestError with every problem of the manifest, before anything is computed."""
    manifest = read_manifest(Path(manifest_file))
    check_manifest(manifest, images=model.spec.columns, splits=splits.stored(*names))


def check_cases(
    model: Model, manifest_file: str | os.PathLike[str], cases: Iterable[Case], mismatch: Mismatch
) -> list[int]:
    """The manifest rows of the cases that do not fit the model, which `mismatch` "warn" lets pass.

    Errors: DataError naming every such row and its reasons, if `mismatch` is "refuse".
    """
    found: dict[int, list[str]] = {}
    for case in cases:
        told = found.setdefault(case.row, [])
        told += [problem for problem in not_fitting(model, case) if problem not in told]
    misfits = {row: problems for row, problems in sorted(found.items()) if problems}
    if not misfits:
        return []
    told = "\n".join(
        [
            f"{manifest_file}: {len(misfits)} of {len(found)} rows do not fit the model "
            f"{model.spec.name}",
            *first_problems(told_together(misfits)),
        ]
    )
    if mismatch == "refuse":
        raise DataError(f"{told}\n{ADVICE}")
    warn(told, stacklevel=3)
    return list(misfits)


def case_of_files(
    model: Model,
    files: Sequence[str | os.PathLike[str]],
    mismatch: Mismatch,
    row: int,
    needs: Needs = SCAN,
    beside: Mapping[str, object] | None = None,
    advice: str = ADVICE,
) -> Case:
    """One case from a file for each channel of the model, with what a head takes beside it.

    Errors: DataError if it cannot be read, or does not fit the model and `mismatch` is "refuse".
    """
    spec = coarser_spec(model.spec, needs.coarser, axes_of(model))
    if len(files) != len(spec.images):
        raise DataError(
            f"{spec.name} works on {len(spec.images)} image(s) a case ({', '.join(spec.images)}); "
            f"{len(files)} given"
        )
    paths = [Path(file) for file in files]
    try:
        case = load_case(paths, spec.space, spec.intensity, modality=spec.modality)
    except DataError as error:
        raise DataError(f"input {row}: {error}", private=error.private) from None
    problems = not_fitting(model, case, needs)
    if problems and mismatch == "refuse":
        raise DataError(
            f"input {row} does not fit the model {spec.name}: {'; '.join(problems)}. {advice}"
        )
    for problem in problems:
        warn(f"input {row} does not fit the model {spec.name}: {problem}", stacklevel=3)
    if not needs.beside:
        return case
    kept = {"scan": torch.cat([load_image(path).as_tensor() for path in paths])}
    for name, given in (beside or {}).items():
        kept |= _beside(case, spec.space, name, given, row)
    return replace(case, beside=kept)


def not_fitting(model: Model, case: Case, needs: Needs = SCAN) -> list[str]:
    """What speaks against a case for a head of these needs, a line each."""
    spec = coarser_spec(model.spec, needs.coarser, axes_of(model))
    return fits(case, spec.space, spec.intensity, spec.modality, view=spec.view)


def coarser_spec(
    spec: ModelSpec, coarser: int | tuple[int, ...], axes: int | None = None
) -> ModelSpec:
    """The specification with a grid whose voxels are so many times larger, along the first `axes`
    of it (all unless told)."""
    if coarser == 1:
        return spec
    space, factor = spec.space, factors(coarser, spec.space.dims, axes)
    spacing = space.spacing_mm
    if not isinstance(spacing, str):
        spacing = tuple(mm * f for mm, f in zip(spacing, factor, strict=True))
    size = coarse_size(space.size, factor)
    view = spec.view
    if view is not None and isinstance(space.spacing_mm, str):  # then it counts voxels
        view = tuple((low / f, high / f) for (low, high), f in zip(view, factor, strict=True))
    return replace(spec, space=replace(space, size=size, spacing_mm=spacing), view=view)


def _beside(
    case: Case, space: Space, name: str, given: object, row: int
) -> dict[str, torch.Tensor]:
    """A mask on the input's grid, as it is (`hole`) and on the model's grid (`mask`).

    Errors: DataError if it cannot be read or lies on another grid than the scan.
    """
    original = case.original
    try:
        values = _mask(name, given, original)
    except DataError as error:
        said = f"input {row}: the {name} {error}"
        raise DataError(said, private=error.private) from None
    image = make_image(values[None], original.affine if original.known else None)
    placed = to_space(image, space, "label").as_tensor()
    return {name: placed, "hole": values}


def _mask(name: str, given: object, original: Original) -> torch.Tensor:
    """1 where a mask is not 0, on the grid of a scan.

    Errors: DataError for a mask that names no voxel, is no numbers, or lies on another grid.
    """
    lies = None
    if isinstance(given, str | os.PathLike) and not str(given).lower().endswith((".npy", ".npz")):
        try:
            image = load_image(given)
        except DataError as error:
            raise DataError(f"cannot be read: {error}", private=error.private) from None
        lies = original_of(image)
        values = image.as_tensor().numpy()
    else:
        values = read_array(name, given)
    values = values.reshape([n for n in values.shape if n != 1] or [1])
    shape = tuple(n for n in original.shape if n != 1)
    if lies is not None and lies.known and original.known and values.ndim == len(original.shape):
        turned = onto_grid(values, lies.affine, original.shape, original.affine)
        if turned is None and values.shape == shape:
            raise DataError(
                "lies elsewhere than the scan: their affines differ. Resample it to the grid of "
                "the scan"
            )
        values = values if turned is None else turned
    if values.shape != shape:
        raise DataError(
            f"has {values.shape} voxels, the scan {original.shape}; give a {name} on the grid of "
            "the scan"
        )
    if not values.any():
        raise DataError("is 0 everywhere: it is not 0 where the scan is missing")
    if not np.isfinite(values).all():
        raise DataError("holds NaN or infinite numbers")
    return torch.from_numpy(values.reshape(original.shape) != 0).float()


def input_digest(files: Sequence[Path]) -> str:
    """SHA-256 over the content of the input files, for provenance.

    Errors: DataError if a file cannot be read.
    """
    try:
        return "-".join(file_digest(file) for file in files)
    except OSError as error:
        raise DataError(f"the input cannot be read: {error.strerror}", private=str(error)) from None
