"""A training planned from a manifest: look at its scans, choose, see that it fits, write it."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from medidiff.config import Config, parse_config
from medidiff.data.datasets import CaseSet
from medidiff.data.intensity import fit
from medidiff.data.manifest import read_manifest
from medidiff.data.options import AnyIntensity, CTWindowName
from medidiff.data.rows import Manifest, Row
from medidiff.data.survey import CASES, Survey, survey
from medidiff.errors import ConfigError, DataError, ManifestError, OutputError
from medidiff.jobs.codecs import codec_channels
from medidiff.jobs.fitting import training_of
from medidiff.jobs.memory import GIB, plan
from medidiff.jobs.plans.grid import Axes, GridChoice, axes_of, grid_choice, sliced
from medidiff.jobs.plans.intensity import IntensityChoice, intensity_choice, modality_of
from medidiff.jobs.plans.latents import (
    CoderAttempt,
    codec_lines,
    coder_attempts,
    coder_lines,
)
from medidiff.jobs.plans.lines import Line, to_yaml, tree_of
from medidiff.jobs.plans.network import (
    CODER,
    FEW,
    Attempt,
    Method,
    Scope,
    attempts,
    network_lines,
    space_lines,
    train_lines,
    working_grid,
)
from medidiff.jobs.plans.noise import augment_lines, diffusion_lines
from medidiff.jobs.reporting import Reporter
from medidiff.jobs.splits import Splits
from medidiff.networks import NetworkShape

MEASURED = 16  # cases whose root mean square is taken, on the grid
COARSER = (1.0, 1.5, 2.0, 3.0)  # voxels tried where nothing fits, in units of the scans'
HOLDOUTS = (0.15, 0.3, 0.5)
UNIT = 1.0  # what a wavelet's bands and latents are brought to


@dataclass(frozen=True)
class PlanOptions:
    """What may be asked of a plan."""

    gpu_memory: float = 24.0
    """GiB that the training must fit into."""
    images: tuple[str, ...] | None = None
    """Image columns that become channels; None takes those that no row lacks."""
    method: Method | None = None
    """Whole images, a wavelet's bands, patches or latents; None takes the first of these that
    fits."""
    modality: str | None = None
    """Where the files and the manifest do not say it."""
    window: CTWindowName | None = None
    """One of radiologists' CT windows."""
    dims: Literal[2, 3] | None = None
    """2: slices of volumes; 3: whole volumes; None: slices where they were acquired thick."""


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
class _Training:
    """A training that fits."""

    lines: list[Line]
    config: Config
    needed: float
    """GiB, predicted."""


@dataclass(frozen=True)
class _Proposal:
    """What is to be trained: a prior, after an autoencoder where it is one of latents."""

    prior: _Training
    coder: _Training | None
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Data:
    """What a plan knows of its scans."""

    rows: Sequence[Row]
    images: tuple[str, ...]
    found: Survey
    axes: Axes
    intensity: IntensityChoice
    lines: tuple[Line, ...]
    """What is planned already: name, modality, output, and the data section's beginning."""
    warnings: tuple[str, ...]


def plan_training(manifest: Path, out: Path, options: PlanOptions, report: Reporter) -> Planned:
    """Write the configuration of a training on the train split of a manifest.

    Errors: OutputError for a place that cannot be used; ManifestError, DataError for scans that no
    model can be trained on; ConfigError if nothing fits into the memory.
    """
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


def _looked_at(file: Path, out: Path, options: PlanOptions, report: Reporter) -> _Data:
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
    warnings = [*told]
    if found.subjects < FEW:
        warnings.append(
            f"{found.subjects} subjects in the train split are few: the network is small, and the "
            "model may draw training images again; ask `medidiff evaluate --memorisation` before "
            "samples leave the house"
        )
    return _Data(
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


def _fitting(data: _Data, options: PlanOptions, report: Reporter) -> _Proposal:
    """The first plan that fits, the finest voxels first.

    Errors: ConfigError if none does.
    """
    modality = str(_known(data, "modality"))
    tried, least = 0, math.inf
    factors = COARSER if data.axes.spacing_mm is not None and options.method is None else (1.0,)
    for coarser in factors:
        grid = grid_choice(data.axes, modality, coarser)
        images = round(len(data.rows) * float(data.axes.depth.mean()))
        scope = Scope(images, data.found.subjects, grid.space.size, grid.levels)
        coder: _Training | None = None
        for attempt in attempts(scope, options.method):
            report.progress("planning memory", tried, tried + 1)
            tried += 1
            lines = _lines(data, grid, scope, attempt, options, 1.0, 0.0)
            coded = attempt.method == "latents"
            needed = _needed(parse_config(tree_of(lines), "plan"), coded)
            least = min(least, needed)
            if needed > options.gpu_memory:
                continue
            if coded:
                coder = _coder(data, grid, scope, options)
                if coder is None:
                    break  # no autoencoder of so large a grid, whatever the prior
            report.progress("planning memory", tried, tried)
            standard = coded or attempt.method == "wavelet"
            rms = UNIT if standard else _rms(data, grid, report)
            lines = _lines(data, grid, scope, attempt, options, rms, needed)
            prior = _Training(lines, parse_config(tree_of(lines), "plan"), needed)
            return _Proposal(prior, coder, (*data.warnings, *grid.warnings))
    raise ConfigError(
        f"no training of these scans was found that fits into {options.gpu_memory:g} GiB (the "
        f"least needs {least:.1f}); give --gpu-memory more"
    )


def _lines(
    data: _Data,
    grid: GridChoice,
    scope: Scope,
    attempt: Attempt,
    options: PlanOptions,
    rms: float,
    needed: float,
) -> list[Line]:
    """Those of the prior."""
    moved = _augmented(data, scope)
    if attempt.method == "latents":
        whole = " x ".join(map(str, scope.grid))
        cause = "as asked" if options.method else f"neither whole nor patches of {whole} fit"
        codec = codec_lines(scope, f"runs/{_coder_name(data)}", moved, attempt.tile, cause)
    else:
        codec = [data.intensity.line, *moved, *space_lines(scope, attempt, options.method)]
    return [
        *data.lines,
        *grid.lines,
        *[line for line in codec if line.key.startswith("data.")],
        *[line for line in codec if not line.key.startswith("data.")],
        *network_lines(scope, attempt),
        *diffusion_lines(working_grid(scope, attempt), rms),
        *train_lines(scope, attempt, options.gpu_memory, needed),
        Line("sampling.spacing", {"kind": "karras"}, "steps as Karras et al. 2022"),
    ]


def _coder(data: _Data, grid: GridChoice, scope: Scope, options: PlanOptions) -> _Training | None:
    """The first training of an autoencoder that fits."""
    for attempt in coder_attempts(scope):
        needed = _needed(parse_config(tree_of(_coder_lines(data, grid, scope, attempt)), "plan"))
        if needed <= options.gpu_memory:
            lines = _coder_lines(data, grid, scope, attempt, options.gpu_memory, needed)
            return _Training(lines, parse_config(tree_of(lines), "plan"), needed)
    return None


def _coder_lines(
    data: _Data,
    grid: GridChoice,
    scope: Scope,
    attempt: CoderAttempt,
    gpu_memory: float = 0.0,
    needed: float = 0.0,
) -> list[Line]:
    name = _coder_name(data)
    named = {"name": name, "output": f"runs/{name}"}
    own, rest = coder_lines(scope, attempt, gpu_memory, needed)
    return [
        *[replace(line, value=named.get(line.key, line.value)) for line in data.lines],
        *grid.lines,
        data.intensity.line,
        *_augmented(data, scope),
        *own,
        *rest,
    ]


def _coder_name(data: _Data) -> str:
    return f"{_known(data, 'name')}-autoencoder"


def _known(data: _Data, key: str) -> object:
    return next(line.value for line in data.lines if line.key == key)


def _augmented(data: _Data, scope: Scope) -> list[Line]:
    modality = str(_known(data, "modality"))
    return augment_lines(scope.grid, modality, data.intensity.hounsfield, scope.images)


def _needed(config: Config, coded: bool = False) -> float:
    """GiB, as `medidiff check --gpu-memory` predicts them; of a prior of latents (`coded`) before
    its autoencoder is trained."""
    dims, images = config.data.space.dims, len(config.data.images)
    coder = (CODER, NetworkShape(dims=dims, in_channels=images, out_channels=images))
    channels = CODER.latent_channels if coded else codec_channels(config)
    told = config.data.patch is not None and config.network.kind == "unet"
    shape = NetworkShape(
        dims=dims, in_channels=channels, out_channels=channels, concat_channels=dims * told
    )
    return plan(training_of(config, shape, coder if coded else None)).needed / GIB


def _rms(data: _Data, grid: GridChoice, report: Reporter) -> float:
    """The root mean square of scans on the grid, in model units."""
    count = min(MEASURED, len(data.rows))
    rows = [data.rows[place * len(data.rows) // count] for place in range(count)]
    cases = CaseSet(
        rows,
        data.images,
        grid.space,
        progress=lambda done, total: report.progress("placing scans", done, total),
        slices=data.axes.slices,
    )
    options: AnyIntensity = data.intensity.options
    intensity = fit(options, (case.measured for case in cases.one_a_row()))
    squares = [
        cases.scale_of(case, intensity).normalise(case.images, axis=0).square().mean()
        for case in cases
    ]
    return float(torch.stack(squares).mean().sqrt())


def _head(
    data: _Data,
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
