"""The verbs around a training: plan it, check it, do it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medidiff.api.calls import ModelLike, PathLike, Progress, reporting
from medidiff.config import Loaded, load_config
from medidiff.data.options import CTWindowName, Slices
from medidiff.jobs.cropping import cropping_notes, scans_cropped
from medidiff.jobs.fitting import Fit, check_gpu_memory, fit_config
from medidiff.jobs.models import load_model
from medidiff.jobs.parents import parent_notes
from medidiff.jobs.plans.planning import Planned, plan_training
from medidiff.jobs.plans.scheme import PlanOptions
from medidiff.jobs.prepare import check_data, shape_of
from medidiff.jobs.train import train_model


@dataclass(frozen=True)
class Checked:
    """What a checked configuration would do."""

    loaded: Loaded
    train_images: int
    """Rows of the manifest; with `data.slices` they are volumes."""
    validation_images: int
    parameters: int
    memory: Fit | None = None
    """Whether training fits into a GPU's memory, where one was stated."""
    slices: Slices | None = None
    """What is cut of volumes, in a named plane."""
    notes: tuple[str, ...] = ()
    """What the configuration and its scans leave open."""


def plan(
    manifest: PathLike,
    out: PathLike = "plan.yaml",
    *,
    gpu_memory: float = 24.0,
    images: Sequence[str] | None = None,
    method: Literal["whole", "wavelet", "patch", "latents"] | None = None,
    modality: str | None = None,
    window: CTWindowName | None = None,
    dims: Literal[2, 3] | None = None,
    progress: Progress = "none",
) -> Planned:
    """Propose a training for the train split of `manifest`, written to `out` with its reasons.

    What it proposes fits into `gpu_memory` GiB as `check` predicts it. `images`: columns that
    become channels (None: all that no row lacks). `method`: whole images, a wavelet's bands,
    patches or latents (None: the first that fits); latents take two trainings, the autoencoder's
    planned in `.first`. `modality`: where the scans do not say it. `window`: one of
    radiologists' CT windows. `dims`: slices of volumes or whole ones (None: slices where they were
    acquired thick).
    Errors: ManifestError, DataError, ConfigError, OutputError.
    """
    check_gpu_memory(gpu_memory)
    given = None if images is None else tuple(images)
    asked = PlanOptions(gpu_memory, given, method, modality, window, dims)
    with reporting(progress) as report:
        return plan_training(Path(manifest), Path(out), asked, report)


def check(
    config: PathLike,
    *,
    changes: Sequence[str] = (),
    gpu_memory: float | None = None,
    progress: Progress = "none",
) -> Checked:
    """Check a configuration and every scan that it names, without training.

    With `gpu_memory` (GiB) it says whether the training fits into a GPU of so much memory and, if
    not, which changes need how much: `.memory.text`, `.memory.fits`. No GPU is needed for that.
    Errors: ConfigError or ManifestError with every problem.
    """
    from medidiff.networks import parameter_count

    if gpu_memory is not None:
        check_gpu_memory(gpu_memory)
    with reporting(progress) as report:
        loaded = load_config(config, changes)
        data = check_data(loaded, None, report)
        asked = loaded.config.data
        cropped = scans_cropped(
            data.train, asked.images, data.space, data.slices, asked.workers, report
        )
    shape = shape_of(loaded.config, data)
    count = parameter_count(loaded.config.network, shape)
    found = None
    if gpu_memory is not None:
        with reporting(progress) as report:
            found = fit_config(loaded.config, shape, gpu_memory, report)
    train, validation = len(data.train), len(data.validation)
    notes = (*data.notes, *cropping_notes(cropped, train, data.space))
    notes = (*notes, *parent_notes(loaded.config))
    return Checked(loaded, train, validation, count, found, data.slices, notes)


def train(
    config: PathLike,
    *,
    changes: Sequence[str] = (),
    resume: bool = False,
    parent: ModelLike | None = None,
    progress: Progress = "none",
) -> Path:
    """Train as `config` says; gives the run's folder, whose `model/` is the trained model.

    `changes` are "key=value" strings such as "train.steps=500". `resume` goes on with an
    interrupted run in the same folder and under the same MLflow run. `parent` is a model to
    fine-tune; the objectives spread and alignment leave it as it is.
    Errors: ConfigError, ManifestError, DataError, OutputError, TrainingError;
    `training.stop.Stopped` when asked to stop (a checkpoint is saved).
    """
    start = None if parent is None else load_model(parent, "cpu")
    with reporting(progress) as report:
        return train_model(config, changes=changes, resume=resume, parent=start, report=report)
