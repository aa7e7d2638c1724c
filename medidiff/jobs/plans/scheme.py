"""What would be trained on one grid: its lines and the memory that they need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from medidiff.config import Config, parse_config
from medidiff.data.datasets import CaseSet
from medidiff.data.intensity import fit
from medidiff.data.options import AnyIntensity, CTWindowName
from medidiff.data.rows import Row
from medidiff.data.survey import Survey
from medidiff.jobs.codecs import codec_channels
from medidiff.jobs.fitting import training_of
from medidiff.jobs.memory import GIB, plan
from medidiff.jobs.plans.axes import Axes
from medidiff.jobs.plans.grid import GridChoice
from medidiff.jobs.plans.intensity import IntensityChoice
from medidiff.jobs.plans.latents import CoderAttempt, codec_lines, coder_attempts, coder_lines
from medidiff.jobs.plans.lines import Line, tree_of
from medidiff.jobs.plans.network import (
    CODER,
    Attempt,
    Method,
    Scope,
    network_lines,
    space_lines,
    train_lines,
    working_grid,
)
from medidiff.jobs.plans.noise import SCANS, STANDARD, augment_lines, diffusion_lines
from medidiff.jobs.reporting import Reporter
from medidiff.networks import NetworkShape

MEASURED = 16  # cases whose root mean square is taken, on the grid
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
class Data:
    """What a plan knows of its scans."""

    rows: Sequence[Row]
    images: tuple[str, ...]
    found: Survey
    axes: Axes
    intensity: IntensityChoice
    lines: tuple[Line, ...]
    """What is planned already: name, modality, output, and the data section's beginning."""
    warnings: tuple[str, ...]

    def line(self, key: str) -> str:
        """The value of a line that is planned already."""
        return str(next(line.value for line in self.lines if line.key == key))


@dataclass(frozen=True)
class Fitted:
    """A training that fits."""

    lines: list[Line]
    config: Config
    needed: float
    """GiB, predicted."""


@dataclass(frozen=True)
class Scheme:
    """Trainings on one grid."""

    data: Data
    grid: GridChoice
    options: PlanOptions

    @property
    def scope(self) -> Scope:
        """What decides the network's size."""
        images = round(len(self.data.rows) * float(self.data.axes.depth.mean()))
        subjects = self.data.found.subjects
        return Scope(images, subjects, self.grid.space.size, self.grid.levels)

    def need(self, attempt: Attempt) -> float:
        """GiB that the prior needs."""
        config = parse_config(tree_of(self.lines(attempt)), "plan")
        return _needed(config, attempt.method == "latents")

    def prior(self, attempt: Attempt, report: Reporter) -> Fitted:
        """The training of the prior, its scans' root mean square measured."""
        standard, needed = _standard(attempt), self.need(attempt)
        rms = UNIT if standard else _rms(self.data, self.grid, report)
        lines = self.lines(attempt, rms, needed)
        return Fitted(lines, parse_config(tree_of(lines), "plan"), needed)

    def coder(self) -> Fitted | None:
        """The first training of an autoencoder that fits."""
        for attempt in coder_attempts(self.scope):
            needed = _needed(parse_config(tree_of(self._coder_lines(attempt)), "plan"))
            if needed <= self.options.gpu_memory:
                lines = self._coder_lines(attempt, needed)
                return Fitted(lines, parse_config(tree_of(lines), "plan"), needed)
        return None

    def lines(self, attempt: Attempt, rms: float = UNIT, needed: float = 0.0) -> list[Line]:
        """Those of the prior."""
        scope, asked = self.scope, self.options.method
        if attempt.method == "latents":
            whole = " x ".join(map(str, scope.grid))
            cause = "as asked" if asked else f"neither whole nor patches of {whole} fit"
            model = f"runs/{self._coder_name}"
            codec = codec_lines(scope, model, self._augmented, attempt.tile, cause)
        else:
            codec = [
                self.data.intensity.line,
                *self._augmented,
                *space_lines(scope, attempt, asked),
            ]
        measured = STANDARD if _standard(attempt) else SCANS
        # a model of slabs runs on volumes only where it works on the images themselves
        slabs = attempt.method == "whole"
        return [
            *self.data.lines,
            *[line if slabs else replace(line, instead=None) for line in self.grid.lines],
            *[line for line in codec if line.key.startswith("data.")],
            *[line for line in codec if not line.key.startswith("data.")],
            *network_lines(scope, attempt),
            *diffusion_lines(working_grid(scope, attempt), rms, measured),
            *train_lines(scope, attempt, self.options.gpu_memory, needed),
            Line("sampling.spacing", {"kind": "karras"}, "steps as Karras et al. 2022"),
        ]

    def _coder_lines(self, attempt: CoderAttempt, needed: float = 0.0) -> list[Line]:
        name = self._coder_name
        named = {"name": name, "output": f"runs/{name}"}
        own, rest = coder_lines(self.scope, attempt, self.options.gpu_memory, needed)
        return [
            *[replace(line, value=named.get(line.key, line.value)) for line in self.data.lines],
            *[replace(line, instead=None) for line in self.grid.lines],
            self.data.intensity.line,
            *self._augmented,
            *own,
            *rest,
        ]

    @property
    def _coder_name(self) -> str:
        return f"{self.data.line('name')}-autoencoder"

    @property
    def _augmented(self) -> list[Line]:
        scope, hounsfield = self.scope, self.data.intensity.hounsfield
        return augment_lines(scope.grid, self.data.line("modality"), hounsfield, scope.images)


def _standard(attempt: Attempt) -> bool:
    """Whether the network sees channels that a codec brought to unit variance."""
    return attempt.method in ("wavelet", "latents")


def _needed(config: Config, coded: bool = False) -> float:
    """GiB, as `medidiff check --gpu-memory` predicts them; of a prior of latents (`coded`) before
    its autoencoder is trained."""
    dims, images = config.data.space.dims, len(config.data.channels)
    coder = (CODER, NetworkShape(dims=dims, in_channels=images, out_channels=images))
    channels = CODER.latent_channels if coded else codec_channels(config)
    told = config.data.patch is not None and config.network.kind == "unet"
    shape = NetworkShape(
        dims=dims, in_channels=channels, out_channels=channels, concat_channels=dims * told
    )
    return plan(training_of(config, shape, coder if coded else None)).needed / GIB


def _rms(data: Data, grid: GridChoice, report: Reporter) -> float:
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
