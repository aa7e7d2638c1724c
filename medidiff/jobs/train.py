"""The verb `train`: from a configuration to a model folder, recorded in MLflow."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from medidiff import options
from medidiff.config import Config, Loaded, load_config
from medidiff.errors import OutputError, TrainingError
from medidiff.jobs.folder import (
    RunFolder,
    check_new,
    check_origin,
    close_interrupted,
    deliver_model,
    folder_to_resume,
    new_folder,
)
from medidiff.jobs.prepare import Prepared, prepare
from medidiff.jobs.reporting import Quiet, Reporter
from medidiff.model import Model
from medidiff.report.pictures import sheet
from medidiff.spec import ModelSpec
from medidiff.tracking import PrivacyError, Run, open_run
from medidiff.tracking.guard import Guard
from medidiff.training.loop import Job, Outcome, train
from medidiff.training.precision import choose_device
from medidiff.training.stop import StopSignal


def train_model(
    file: str | os.PathLike[str],
    *,
    changes: Sequence[str] = (),
    resume: bool = False,
    parent: Model | None = None,
    report: Reporter | None = None,
) -> Path:
    """Train as the configuration `file` says; gives the run's folder, whose model/ is the trained
    model.

    Errors: ConfigError, ManifestError, DataError, ModelError, OutputError before anything is
    written; TrainingError for a loss that is not finite; Stopped on SIGTERM, Ctrl-C or a spent
    time budget.
    """
    loaded = load_config(file, changes)
    report = report or Quiet()
    with StopSignal(loaded.config.train.minutes) as stop:
        place = Path(loaded.config.output)
        delivered = close_interrupted(place)
        if resume:
            folder = folder_to_resume(place, loaded)
            if folder.model.is_dir():
                if not delivered and not deliver_model(folder):
                    raise OutputError(
                        f"{place}: this run is finished; its model is in {place}/model"
                    )
                report.say("the training was done; its model is now logged with the run")
                return folder.path
        else:
            check_new(place)
            folder = RunFolder(place)
        choose_device(loaded.config.train.device)
        ready = prepare(loaded, parent, report)
        if resume:
            check_origin(folder, ready.spec)
        else:
            new_folder(folder, loaded, ready.spec)
        try:
            _run(loaded, folder, ready, resume, report, stop)
        except TrainingError as error:
            named = "; ".join(f"row {row}: {ready.files[row]}" for row in error.rows)
            error.private = f"{error} | {named}" if named else None
            raise
    return folder.path


def tag_of_notes(notes: Sequence[str], subjects: Collection[str]) -> dict[str, str]:
    """What was said of the scans, for the store; nothing where a subject is called by a number that
    stands in it, such as a row's, for then the store would refuse the run."""
    text = "\n".join(notes)
    try:
        Guard(subjects).check("tag 'notes'", text)
    except PrivacyError:
        return {}
    return {"notes": text} if text else {}


def _run(
    loaded: Loaded,
    folder: RunFolder,
    ready: Prepared,
    resume: bool,
    report: Reporter,
    stop: StopSignal,
) -> None:
    config = loaded.config
    device = choose_device(config.train.device)
    with open_run(
        folder.path,
        name=config.name,
        experiment=config.tracking.experiment,
        params=public_params(config, ready.spec),
        tags={
            "modality": config.modality,
            "manifest_digest": str(ready.spec.lineage.manifest_digest),
            **tag_of_notes(ready.notes, ready.subjects),
        },
        resume=resume,
        subjects=ready.subjects,
    ) as run:
        job = Job(
            ready.objective,
            ready.train,
            ready.validation,
            ready.augment,
            folder.checkpoints,
            folder.snapshots,
            run.log,
            lambda network, step: draw_samples(ready, network, step, config, folder, run),
            lambda step, steps, loss: report.progress("training", step, steps, f"loss {loss:.4f}"),
        )
        found = train(ready.network, job, config.train, device, stop)
        report.say(f"{found.reason} (step {found.step}, weights of step {found.best_step})")
        if found.losses:
            report.say(lengths_tried(found))
        finished(found, ready, folder, run)


def finished(outcome: Outcome, ready: Prepared, folder: RunFolder, run: Run) -> Model:
    """Save the model folder and log it with the run."""
    spec = ready.spec
    lineage = dataclasses.replace(spec.lineage, steps=outcome.best_step, run_id=run.run_id)
    loss = outcome.validation_loss
    metrics = {"validation_loss": loss} if math.isfinite(loss) else {}
    if outcome.std is not None:
        metrics["average_std"] = outcome.std
    spec = dataclasses.replace(spec, lineage=lineage, metrics=metrics)
    model = ready.model(spec, outcome.network)
    model.save(folder.model)
    run.artifact(folder.model, "model")
    run.tag({"model_digest": model.digest, "ended": outcome.reason})
    return model


def lengths_tried(outcome: Outcome) -> str:
    """The validation loss of each length of average, the chosen one marked."""
    lines = [
        f"  {std:<6g} {loss:.5f}{'  <- the model' if std == outcome.std else ''}"
        for std, loss in outcome.losses.items()
    ]
    return "\n".join(["length of average (relative std), validation loss", *lines])


def draw_samples(
    ready: Prepared, network: nn.Module, step: int, config: Config, folder: RunFolder, run: Run
) -> None:
    """A grid of samples, of the same seed at every step; of an autoencoder, validation images above
    their reconstructions; nothing where the model draws none.

    Only synthetic images are logged with the run: scans stay in its folder.
    """
    spec, count = ready.spec, config.train.sample_images
    if spec.role == "autoencoder":
        images = reconstructions(network, ready, count)
    elif spec.role == "prior":
        images = ready.model(spec, network).sample(count, seed=config.train.seed).images
    else:
        return
    folder.samples.mkdir(exist_ok=True)
    picture = folder.samples / f"step-{step:08d}.png"
    low, high = spec.intensity.typical.low[0], spec.intensity.typical.high[0]
    affine, title = spec.space.known_affine(), f"{spec.name}, step {step}"
    sheet(images[:, :1], picture, window=(low, high), title=title, affine=affine)
    if spec.role == "prior":
        run.picture(picture, "samples", step)


@torch.no_grad()
def reconstructions(network: nn.Module, ready: Prepared, count: int) -> Tensor:
    """Validation images, then what the autoencoder makes of them, in intensities."""
    clean = ready.validation.first(count).clean
    made = network(clean.to(next(network.parameters()).device)).image.cpu()
    return ready.spec.intensity.typical.inverse(torch.cat([clean, made]))


def public_params(config: Config, spec: ModelSpec) -> Mapping[str, object]:
    """The configuration without the paths of scans, for the server."""
    tree = options.tree(config)
    tree.pop("output")
    tree["data"].pop("manifest")
    tree["codec"].pop("model", None)
    tree["data"]["train_images"] = spec.lineage.train_images
    tree["config_digest"] = config.digest()
    return tree
