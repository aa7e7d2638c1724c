"""The verb `gamma`: what a model's optimal variances need to know of it, measured once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from medidiff.diffusion import Denoiser, KeyedNoise, gamma_table
from medidiff.errors import TaskError
from medidiff.jobs.cases import Mismatch, cases_of_split, check_cases
from medidiff.jobs.reporting import Reporter
from medidiff.jobs.splits import Splits
from medidiff.jobs.verdict import carry_verdict
from medidiff.model import Model, evaluating
from medidiff.outputs import check_new_folder
from medidiff.spec import Gamma, check_prior
from medidiff.tasks import calibrated

PART = 16  # images at a time


def add_gamma(
    model: Model,
    manifest: str | os.PathLike[str],
    out: Path,
    *,
    splits: Splits,
    levels: int,
    seed: int,
    card: str | None,
    mismatch: Mismatch,
    report: Reporter,
) -> Path:
    """A copy of the model in `out` that knows its Gamma at `levels` times; gives the folder.

    One pass over the train split, conditions unknown, clean estimates not clipped. The weights are
    the same, so the memorisation guard's verdict on them stays, and so do those on maps.
    Errors: OutputError if `out` holds something; ModelError for a model that is no prior; TaskError
    for a model with a second head, which has its variance already; ManifestError; DataError for
    scans that do not fit the model.
    """
    check_new_folder(out)
    check_prior(model.spec)
    if model.spec.spread != "none":
        raise TaskError(f"{model.spec.name} has learned its variance; Gamma would not be used")
    if model.spec.draws_only:
        raise TaskError(
            f"{model.spec.name} is a consistency student; Gamma is of its parent's noise"
        )
    if levels < 2:
        raise TaskError(f"a Gamma table needs at least 2 levels, found {levels}")
    cases = cases_of_split(model, manifest, splits.train, splits, report)
    check_cases(model, manifest, cases, mismatch)
    schedule = model.spec.schedule
    times = torch.linspace(schedule.t_min, schedule.t_max, levels, dtype=torch.float64)

    def batches() -> Iterator[tuple[torch.Tensor, KeyedNoise]]:
        for first in range(0, len(cases), PART):
            part = cases[first : first + PART]
            report.progress("measuring Gamma", first, len(cases))
            clean = torch.stack([case.images for case in part]).to(model.device)
            yield (
                model.codec.encode(clean),
                KeyedNoise(seed, [case.member for case in part]),
            )
        report.progress("measuring Gamma", len(cases), len(cases))

    denoise = Denoiser(model.plain, model.spec.target)
    with torch.no_grad(), evaluating(model.network):
        table = gamma_table(denoise, batches(), [schedule(time) for time in times])
    gamma = Gamma(tuple(table.times.tolist()), tuple(table.values.tolist()))
    known = replace(model.spec, gamma=gamma)
    made = Model(known, model.network, heads=model.heads, autoencoder=model.autoencoder)
    copy = made.save(out, card)
    if model.folder is not None:
        carry_verdict(model.folder, copy)
        calibrated.carry(model.folder, copy)
    return copy
