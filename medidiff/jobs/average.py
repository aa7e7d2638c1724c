"""The verb `average`: the model of a run with its weights averaged over another length."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from medidiff.errors import ModelError, OutputError
from medidiff.jobs.folder import RunFolder
from medidiff.jobs.objectives import load_trained
from medidiff.model import Model
from medidiff.outputs import check_new_folder
from medidiff.training.snapshots import reconstructed, snapshots_until


def average_run(place: Path, out: Path, std: float) -> Path:
    """The finished run's model in `out`, its weights averaged over a relative std; gives the
    folder.

    The step is the one of the run's model, and so is the specification but for the metrics of the
    average that is replaced. The card is written anew; what was said of the other weights (sample
    sheets, the memorisation guard's verdict) does not come along.
    Errors: OutputError if `out` holds something or the run kept no snapshots; ModelError if the
    run has no model; TrainingError if its snapshots do not span that length.
    """
    run = RunFolder(place)
    check_new_folder(out)
    if not 0 < std < 0.2886:
        raise ModelError(f"the relative std of an average lies between 0 and 0.2886, found {std}")
    if not run.model.is_dir():
        raise ModelError(f"{place} holds no finished run: it has no model/")
    model = Model.load(run.model, "cpu", acceleration="none")
    step = model.spec.lineage.steps
    found = snapshots_until(run.snapshots, step)
    if not found:
        raise OutputError(
            f"{place} kept no snapshots of averaged weights; train with train.ema.kind=power"
        )
    load_trained(model, reconstructed(found, step, std))
    metrics = {name: value for name, value in model.spec.metrics.items() if name not in MEASURED}
    spec = replace(model.spec, metrics={**metrics, "average_std": std})
    return Model(spec, model.network, heads=model.heads, autoencoder=model.autoencoder).save(out)


MEASURED = ("validation_loss", "average_std")
"""Metrics that belong to the average that was replaced."""
