"""The verb `evaluate`: how good the prior itself is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from medidiff.diffusion import DenoisingLoss, UniformTimes
from medidiff.errors import TaskError
from medidiff.jobs.benchmark import Table, benchmark_head
from medidiff.jobs.cases import Mismatch, cases_of_split
from medidiff.jobs.likelihood import (
    LikelihoodOptions,
    Likelihoods,
    check_has_density,
    likelihoods_of,
    save_likelihoods,
)
from medidiff.jobs.memorisation import Memorisation, memorisation_of
from medidiff.jobs.reporting import Reporter
from medidiff.jobs.splits import Splits
from medidiff.model import Model
from medidiff.model_folder import write_json
from medidiff.tasks import head
from medidiff.training.batches import Batch
from medidiff.training.objective import PriorObjective

LEVELS = 8
PART = 16  # images at a time


@dataclass(frozen=True)
class Evaluation:
    """The prior's loss by noise level, its samples beside real images, and its likelihood."""

    losses: Sequence[float]
    """Mean squared error of the prediction at fixed levels, low noise first, on the split."""
    samples: Table
    text: str
    likelihood: Likelihoods | None = None
    """Of the split's scans, where it was asked for."""
    memorisation: Memorisation | None = None
    """What the memorisation guard found, where it was asked for."""


def evaluate_model(
    model: Model,
    manifest: str | os.PathLike[str],
    *,
    split: str,
    splits: Splits,
    n: int,
    seed: int,
    out: Path | None,
    mismatch: Mismatch,
    report: Reporter,
    limit: int | None = None,
    likelihood: LikelihoodOptions | None = None,
    memorisation: bool = False,
) -> Evaluation:
    """Losses, sample quality, likelihood and memorisation on `split`; with `out`, evaluation.json,
    likelihood.md, .json and .csv, memorisation.json and nearest.png beside what `benchmark` writes.
    `limit`: at most so many scans of a split, which the report says.

    Errors: as `benchmark_head`; TaskError for n < 2, for a likelihood of a student, and for a
    limit where the guard is asked, whose verdict stays with the model.
    """
    if memorisation and limit is not None:
        raise TaskError(
            "the memorisation guard looks for copies among all training scans, and its verdict "
            "stays with the model: leave out --limit, or --memorisation"
        )
    if likelihood is not None and model.spec.draws_only:
        raise TaskError(
            f"{model.spec.name} is a consistency student: it has no score and so no likelihood; "
            "ask its parent"
        )
    if likelihood is not None:
        check_has_density(model)
    table = benchmark_head(  # first: it checks the manifest and whether its scans fit
        head("synthesis", {"images": n}),
        model,
        manifest,
        split=split,
        splits=splits,
        out=out,
        n=1,
        seed=seed,
        limit=limit,
        mismatch=mismatch,
        report=report,
    )
    losses = losses_on_split(model, manifest, split, splits, seed, report, limit)
    line = " ".join(f"{x:.4f}" for x in losses) or "none (a student denoises to no mean)"
    parts = [f"loss by noise level, low noise first: {line}", table.text]
    found = None
    if likelihood is not None:
        cases = cases_of_split(model, manifest, split, splits, report, limit)
        found = likelihoods_of(model, cases, likelihood, split=split, seed=seed, report=report)
        if limit is not None:
            found = replace(found, protocol={**found.protocol, "limit": limit})
        parts += [found.text]
    if out is not None:
        told = {"losses_by_level": losses, "split": split, "limit": limit}
        write_json(out / "evaluation.json", told)
        if found is not None:
            save_likelihoods(found, out)
    guarded = None
    if memorisation:
        guarded = memorisation_of(
            model,
            manifest,
            split=split,
            splits=splits,
            n=n,
            seed=seed,
            report=report,
            out=out,
        )
        parts += [guarded.text]
    return Evaluation(losses, table, "\n\n".join(parts), found, guarded)


def losses_on_split(
    model: Model,
    manifest: str | os.PathLike[str],
    split: str,
    splits: Splits,
    seed: int,
    report: Reporter,
    limit: int | None = None,
) -> list[float]:
    """The unweighted error at levels evenly spaced in time, on a split (at most `limit` scans of
    it), conditions unknown.

    None for a consistency model, which has no error of its prediction to speak of.
    """
    if model.spec.draws_only:
        return []
    cases = cases_of_split(model, manifest, split, splits, report, limit)
    denoising = DenoisingLoss(model.spec.target, model.spec.schedule, UniformTimes())
    two_heads = model.spec.spread != "none"
    objective = PriorObjective(denoising, 0.0, two_heads=two_heads)
    total = torch.zeros(LEVELS)
    report.progress("loss by level", 0, len(cases))  # the first part may take minutes
    for first in range(0, len(cases), PART):
        part = cases[first : first + PART]
        clean = torch.stack([case.images for case in part]).to(model.device)
        with torch.no_grad():
            clean = model.codec.encode(clean)
        batch = Batch(clean, None, [case.row for case in part], first=first)
        total += len(part) * objective.loss_by_level(model.plain, batch, LEVELS, seed).cpu()
        report.progress("loss by level", first + len(part), len(cases))
    return [float(value) for value in total / len(cases)]
