"""A training planned from a manifest: look at its scans, choose, see that it fits, write it."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medidiff.config import Config
from medidiff.data.manifest import read_manifest
from medidiff.data.modality import modality_notes
from medidiff.data.rows import Manifest, Row
from medidiff.data.survey import CASES, survey
from medidiff.errors import ConfigError, DataError, ManifestError, OutputError
from medidiff.jobs.plans.axes import axes_of, sliced
from medidiff.jobs.plans.grid import grid_choice
from medidiff.jobs.plans.intensity import intensity_choice, modality_of
from medidiff.jobs.plans.lines import Line, to_yaml
from medidiff.jobs.plans.network import FEW, attempts
from medidiff.jobs.plans.scheme import Data, Fitted, PlanOptions, Scheme
from medidiff.jobs.reporting import Reporter
from medidiff.jobs.splits import Splits

COARSER = (1.0, 1.5, 2.0, 3.0)  # voxels tried where nothing fits, in units of the scans'
HOLDOUTS = (0.15, 0.3, 0.5)


@dataclass(frozen=True)
class Planned:
    """A training that was planned and written. `text` names no file but the configuration."""

    file: Path
    config: Config
    needed: float
    """GiB, predicted."""
    warnings: tuple[str, ...]
    text: str
    first: Path | None = None
    """The configuration of the autoencoder that is to be trained before, where latents were
    planned."""


@dataclass(frozen=True)
class _Proposal:
    """What is to be trained: a prior, after an autoencoder where it is one of latents."""

    prior: Fitted
    coder: Fitted | None
    warnings: tuple[str, ...]


def plan_training(manifest: Path, out: Path, options: PlanOptions, report: Reporter) -> Planned:
    """Write the configuration of a training on the train split of a manifest.

    Errors: OutputError for a place that cannot be used; ManifestError, DataError for scans that no
    model can be trained on; ConfigError if nothing fits into the memory.
    """
    read_manifest(manifest)  # what is to be planned is asked for first
    _check_place(out)
    data = _looked_at(manifest, out, options, report)
    found = _fitting(data, options, report)
    prior, coder = found.prior, found.coder
    first = None if coder is None else out.with_name(f"{out.stem}-autoencoder{out.suffix}")
    if first is not None and coder is not None:
        _check_place(first)
        head = _head(data, options, (first, out), first, found.warnings)
        first.write_text(to_yaml(coder.lines, head), encoding="utf-8")
    files = (out,) if first is None else (first, out)
    head = _head(data, options, files, out, found.warnings)
    out.write_text(to_yaml(prior.lines, head), encoding="utf-8")
    told = [f"Plan: {out} (predicted need {prior.needed:.1f} of {options.gpu_memory:g} GiB)"]
    if coder is not None:
        told = [
            f"Plan of two trainings: {first} (an autoencoder, predicted need {coder.needed:.1f} of "
            f"{options.gpu_memory:g} GiB), then {out} (the prior of its latents, "
            f"{prior.needed:.1f} GiB)"
        ]
    told += [f"Note: {warning}" for warning in found.warnings]
    text = "\n".join(told)
    return Planned(out, prior.config, prior.needed, found.warnings, text, first)


def _check_place(out: Path) -> None:
    """Errors: OutputError for a place where no configuration can be written."""
    if out.suffix not in (".yaml", ".yml"):
        raise OutputError(f"{out}: a plan is written as .yaml")
    if out.exists():
        raise OutputError(f"{out} is there already; choose another name")
    if not out.absolute().parent.is_dir():
        raise OutputError(f"{out}: there is no such folder")


def _looked_at(file: Path, out: Path, options: PlanOptions, report: Reporter) -> Data:
    manifest = read_manifest(file)
    splits, split_line = _splits(manifest)
    rows = splits.rows(manifest, splits.train)
    images, image_line = _images(manifest, rows, options)
    found = survey(
        rows, images, progress=lambda done, total: report.progress("looking at scans", done, total)
    )
    modality, why = modality_of(found, options.modality)
    given = file if file.is_absolute() else Path(os.path.relpath(file, out.parent))
    lines = [
        Line("name", out.stem, "of the run and the model"),
        Line("modality", modality, why),
        Line("output", f"runs/{out.stem}", "relative to the working folder"),
        Line("data.manifest", str(given), "relative to this file"),
        *([] if image_line is None else [image_line]),
        *([] if split_line is None else [split_line]),
    ]
    axes, told = sliced(axes_of(found), options.dims)
    if options.dims == 3 and axes.shape.shape[1] == 2:
        raise DataError("the images are 2-D: no volumes can be planned (--dims 3)")
    stated = {case.row: case.modality for case in found.cases}
    warnings = [*told, *modality_notes(stated, modality)]
    if found.subjects < FEW:
        warnings.append(
            f"{found.subjects} subjects in the train split are few: the network is small, and the "
            "model may draw training images again; ask `medidiff evaluate --memorisation` before "
            "samples leave the house"
        )
    return Data(
        rows,
        images,
        found,
        axes,
        intensity_choice(found, modality, options.window),
        tuple(lines),
        tuple(warnings),
    )


def _splits(manifest: Manifest) -> tuple[Splits, Line | None]:
    """The splits, and what is held out where there is no validation split.

    Errors: ManifestError if there is no train split.
    """
    plain = Splits()
    if manifest.split(plain.validation):
        return plain, None
    for holdout in HOLDOUTS:
        splits = Splits(holdout=holdout)
        try:
            kept = [splits.rows(manifest, name) for name in (splits.train, splits.validation)]
        except ManifestError:
            continue
        subjects = len({row.subject for row in kept[1]})
        why = f"the manifest has no split 'val': {subjects} of the train subjects stand in"
        return splits, Line("data.holdout", holdout, why)
    plain.rows(manifest, plain.train)
    raise ManifestError(
        f"{manifest.path}: split {plain.train!r} has too few subjects to hold any out for "
        "validation; add a split 'val'"
    )


def _images(
    manifest: Manifest, rows: Sequence[Row], options: PlanOptions
) -> tuple[tuple[str, ...], Line | None]:
    there = manifest.names("image")
    wanted = options.images or there
    unknown = [name for name in wanted if name not in there]
    if unknown or not wanted:
        raise ConfigError(
            f"{manifest.path}: no image column {', '.join(map(repr, unknown)) or 'at all'} "
            f"(image columns: {', '.join(map(repr, there)) or 'none'})"
        )
    lacking = {name: sum(name not in row.images for row in manifest.rows) for name in wanted}
    full = tuple(name for name in wanted if not lacking[name])
    if (options.images is not None and len(full) < len(wanted)) or not full:
        listed = ", ".join(f"{name!r} in {count} rows" for name, count in lacking.items() if count)
        raise ConfigError(
            f"{manifest.path}: images are missing: {listed}; name complete columns with --image, "
            "or make a manifest of the complete rows"
        )
    left = [f"{name} (missing in {count} rows)" for name, count in lacking.items() if count]
    if full == ("image",) and not left:
        return full, None
    why = "a channel each" + (f"; left out: {', '.join(left)}" if left else "")
    return full, Line("data.images", list(full), why)


def _fitting(data: Data, options: PlanOptions, report: Reporter) -> _Proposal:
    """The first plan that fits, the finest voxels first.

    Errors: ConfigError if none does.
    """
    least = math.inf
    factors = COARSER if data.axes.spacing_mm is not None and options.method is None else (1.0,)
    for tried, coarser in enumerate(factors):
        report.progress("planning memory", tried, len(factors))
        scheme = Scheme(data, grid_choice(data.axes, data.line("modality"), coarser), options)
        for way in attempts(scheme.scope, options.method):
            least = min(least, scheme.need(way[-1]))
            if scheme.need(way[-1]) > options.gpu_memory:
                continue
            attempt = next(each for each in way if scheme.need(each) <= options.gpu_memory)
            coded = attempt.method == "latents"
            coder = scheme.coder() if coded else None
            if coded and coder is None:
                break  # no autoencoder of so large a grid, whatever the prior
            report.progress("planning memory", len(factors), len(factors))
            warnings = (*data.warnings, *scheme.grid.warnings)
            return _Proposal(scheme.prior(attempt, report), coder, warnings)
    raise ConfigError(
        f"no training of these scans was found that fits into {options.gpu_memory:g} GiB (the "
        f"least needs {least:.1f}); give --gpu-memory more"
    )


def _head(
    data: Data,
    options: PlanOptions,
    files: Sequence[Path],
    own: Path,
    warnings: Sequence[str],
) -> list[str]:
    """What stands above one of the files: what was looked at, and what to do in which order."""
    found = data.found
    looked = f"{len(found.cases)} of {found.rows}" if found.rows > CASES else f"all {found.rows}"
    order = []
    if len(files) > 1:
        first, second = (file.name for file in files)
        which = "first" if own == files[0] else "second"
        order = [
            f"This is the {which} of two trainings: {first} makes the autoencoder, {second} the "
            "prior of its latents. In this order:"
        ]
    return [
        f"Planned from {looked} cases ({found.subjects} subjects) of the train split, for a GPU "
        f"of {options.gpu_memory:g} GiB. Every line may be changed.",
        *order,
        *[
            line
            for file in files
            for line in (
                f"medidiff check {file.name} --gpu-memory {options.gpu_memory:g}",
                f"medidiff train {file.name}",
            )
        ],
        *[f"NOTE: {warning}." for warning in warnings],
    ]
