"""The verbs that say how good a model is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from medidiff.api.calls import ModelLike, PathLike, Progress, reporting, splits_of
from medidiff.errors import TaskError
from medidiff.jobs.benchmark import Table, benchmark_head
from medidiff.jobs.cases import Mismatch
from medidiff.jobs.evaluate import Evaluation, evaluate_model
from medidiff.jobs.likelihood import LikelihoodOptions, Method
from medidiff.jobs.models import load_model
from medidiff.tasks import head
from medidiff.tasks.base import Peer


def benchmark(
    task: str,
    model: ModelLike,
    *,
    manifest: PathLike,
    split: str = "test",
    validation_split: str | None = None,
    holdout: float | None = None,
    out: PathLike | None = None,
    n: int = 1,
    seed: int = 0,
    limit: int | None = None,
    mismatch: Mismatch = "refuse",
    baselines: Literal["tuned", "none"] = "tuned",
    peers: Sequence[Peer] = (),
    tile: int | None = None,
    tile_overlap: float = 0.25,
    progress: Progress = "none",
    **task_options: object,  # as in `run`
) -> Table:
    """A head against its baselines on one split, by subject; the baselines are tuned on
    `validation_split`.

    Split names and the held-out share are those of the training unless stated.
    With `out`, writes table.md, summary.json, rows.csv (a row a subject and method) and a picture
    there. `baselines` "none" measures the network alone: seconds instead of minutes. `peers` are
    methods of your own, such as a network trained for the task: each is given the same problems
    and compared by subject. `tile` as in `run`, on the model's own grid.
    Errors: TaskError, ManifestError, OutputError; DataError naming all rows whose scans do not fit
    the model (`mismatch="warn"` warns instead).
    """
    chosen, chosen_model = head(task, task_options), load_model(model)
    if tile is not None:
        chosen_model = chosen_model.tiled(tile, tile_overlap)
    with reporting(progress) as report:
        return benchmark_head(
            chosen,
            chosen_model,
            manifest,
            split=split,
            splits=splits_of(chosen_model, validation_split, holdout),
            out=None if out is None else Path(out),
            n=n,
            seed=seed,
            limit=limit,
            mismatch=mismatch,
            report=report,
            baselines=baselines,
            peers=peers,
        )


def evaluate(
    model: ModelLike,
    *,
    manifest: PathLike,
    split: str = "test",
    validation_split: str | None = None,
    holdout: float | None = None,
    n: int = 64,
    seed: int = 0,
    out: PathLike | None = None,
    limit: int | None = None,
    mismatch: Mismatch = "refuse",
    likelihood: Sequence[Method] = (),
    probes: int = 8,
    bound_steps: int = 1000,
    bit_depth: int | None = None,
    memorisation: bool = False,
    progress: Progress = "none",
) -> Evaluation:
    """How good the prior itself is: its loss by noise level on a split, and its samples beside
    real images.

    `likelihood` adds the negative log-likelihood of the split's scans: "flow" (the probability
    flow's; above 4096 values an image estimated with `probes` random sign fields) and "bound" (the
    variational bound of `bound_steps` steps). Nats a value, in model and in intensity units; bits
    only where the scans hold whole intensities 0 .. 2^`bit_depth` - 1.
    `memorisation` asks the guard: the nearest training scan of each of the `n` samples (500 say
    something) beside unseen scans, and what the loss tells of who was trained on. Its verdict is
    left in the folder that the model was loaded from, where `register` reads it.
    `limit`: at most so many scans of each split, for a first look; the report says so. Not with
    `memorisation`, whose verdict is of all of them.
    Errors: ManifestError, OutputError; TaskError for options of no meaning; DataError as
    `benchmark`, and for intensities that are not those of the bit depth.
    """
    asked = LikelihoodOptions(tuple(likelihood), probes, bound_steps, bit_depth)
    if bit_depth is not None and not likelihood:
        raise TaskError("a bit depth says what a likelihood is of: ask for one (--likelihood)")
    with reporting(progress) as report:
        place = None if out is None else Path(out)
        # a likelihood needs the weights as they were saved, and derivatives of them
        chosen_model = load_model(model, acceleration="none" if likelihood else "auto")
        return evaluate_model(
            chosen_model,
            manifest,
            split=split,
            splits=splits_of(chosen_model, validation_split, holdout),
            n=n,
            seed=seed,
            out=place,
            mismatch=mismatch,
            report=report,
            limit=limit,
            likelihood=asked if likelihood else None,
            memorisation=memorisation,
        )
