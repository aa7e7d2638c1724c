"""The verbs for models that are trained: found, registered, copied, imported, averaged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from medidiff.api.calls import ModelLike, PathLike, Progress, reporting, splits_of
from medidiff.jobs.average import average_run
from medidiff.jobs.bundles.configs import read_bundle
from medidiff.jobs.bundles.describing import Stated
from medidiff.jobs.bundles.importing import Imported
from medidiff.jobs.bundles.importing import import_bundle as import_monai
from medidiff.jobs.cases import Mismatch
from medidiff.jobs.folder import close_interrupted
from medidiff.jobs.gamma import add_gamma
from medidiff.jobs.models import export_model, load_model, model_folder, register_model
from medidiff.jobs.pretrained import Shipped, shipped_models
from medidiff.model import Model
from medidiff.networks import Acceleration
from medidiff.tracking import sync as sync_runs


def load(
    name: ModelLike,
    device: str | torch.device | None = None,
    acceleration: Acceleration = "auto",
) -> Model:
    """The model that is called `name`: a shipped name such as "brain-t1-2d" (see `models`), a
    folder, a run's folder, an MLflow run id, `models:/NAME@ALIAS`, or a MONAI bundle that says all
    that a model must know, as those do that `export` writes (others: `import_bundle`).

    A shipped name comes first; a folder of the same name is given as a path ("./brain-t1-2d").

    On a GPU `acceleration` "auto" takes bfloat16 weights, fused kernels and CUDA graphs where the
    card has them; "none" is plain torch in the weights' own precision.

    Errors: ModelError for a folder that is missing, incomplete or altered; RegistryError for an
    unknown name.
    """
    return load_model(name, device, acceleration)


def models() -> list[Shipped]:
    """The models that come with this installation; `load` takes their names."""
    return shipped_models()


def register(
    source: PathLike,
    name: str,
    *,
    alias: str | None = None,
    force: bool = False,
    progress: Progress = "none",
) -> int:
    """Register a model folder or run in MLflow as a version of `name`; gives the version.

    With progress "bars" it says where the memorisation guard was not asked, or was overruled.
    Errors: ModelError for a model that the memorisation guard found over-trained, unless `force`.
    """
    with reporting(progress) as report:
        return register_model(source, name, alias, force=force, report=report)


def export(
    model: PathLike,
    out: PathLike,
    *,
    dtype: Literal["float32", "bfloat16"] = "float32",
    format: Literal["medidiff", "monai-bundle"] = "medidiff",
) -> Path:
    """A plain, self-contained copy of a model in the folder `out`, or a MONAI bundle of it.

    A bundle's network and scheduler are MONAI's own, its weights float32.
    Errors: ModelError naming what MONAI's network or schedulers do not have; OutputError.
    """
    return export_model(model, Path(out), dtype, format)


def import_bundle(
    bundle: PathLike,
    out: PathLike,
    *,
    modality: str | None = None,
    size: Sequence[int] | None = None,
    spacing_mm: Sequence[float] | Literal["as stored"] | None = None,
    orientation: str | None = None,
    intensity: tuple[float, float] | None = None,
    value_range: tuple[float, float] | None = None,
    images: Sequence[str] | None = None,
    name: str | None = None,
    weights: str | None = None,
    autoencoder_weights: str | None = None,
    changes: Sequence[str] = (),
) -> Imported:
    """A MONAI bundle as a model in the folder `out`; nothing in the bundle is run.

    Network, weights, schedule and target are the bundle's. What it does not say is stated:
    `intensity` are the scans' intensities that become the ends of `value_range`, the values between
    which the network's images lie. `weights` name files in models/, `changes` are values of the
    configurations such as "network_def.in_channels=4", for one that is an expression there.
    Errors: ModelError for what has no counterpart here and for all that is not said.
    """
    stated = Stated(
        modality=modality,
        size=None if size is None else tuple(size),
        spacing_mm=spacing_mm if spacing_mm is None or isinstance(spacing_mm, str)
        else tuple(spacing_mm),
        orientation=orientation,
        intensity=intensity,
        value_range=value_range,
        images=None if images is None else tuple(images),
        name=name,
        weights=weights,
        autoencoder_weights=autoencoder_weights,
    )  # fmt: skip
    imported = import_monai(read_bundle(Path(bundle), changes), stated, "cpu", "none")
    imported.model.save(out)
    return imported


def gamma(
    model: PathLike,
    out: PathLike,
    *,
    manifest: PathLike,
    levels: int = 100,
    seed: int = 0,
    mismatch: Mismatch = "refuse",
    progress: Progress = "none",
) -> Path:
    """A copy of a model in the folder `out` that can be sampled with optimal variances.

    Measures Gamma (Analytic-DPM's, arXiv:2201.06503) at `levels` noise levels in one pass over the
    manifest's train split.
    Errors: ModelError, ManifestError, OutputError; TaskError for a model that has learned its
    variance; DataError for scans that do not fit the model.
    """
    folder = model_folder(model)
    with reporting(progress) as report:
        chosen_model = load_model(folder, acceleration="none")
        return add_gamma(
            chosen_model,
            manifest,
            Path(out),
            splits=splits_of(chosen_model, None, None),
            levels=levels,
            seed=seed,
            card=(folder / "card.md").read_text(encoding="utf-8"),
            mismatch=mismatch,
            report=report,
        )


def average(run: PathLike, out: PathLike, *, std: float) -> Path:
    """The model of a finished run, its weights averaged over another length, in the folder `out`.

    `std` is the relative standard deviation of the average (Karras et al. 2024, arXiv:2312.02696).
    The run must have kept snapshots (`train.ema.kind=power`).
    Errors: ModelError, OutputError; TrainingError for a length that the snapshots do not span.
    """
    return average_run(Path(run), Path(out), std)


def sync(folder: PathLike) -> int:
    """Send to MLflow what runs in `folder` could not send before; gives the number of events.

    Runs whose process died are first given the end that it did not write.
    """
    for record in sorted(Path(folder).rglob("run.json")):
        close_interrupted(record.parent)
    return sync_runs(folder)
