"""baofff/Analytic-DPM with its own full tables: optimal steps, bounds and samplers.

The model is wrong by .1 sin(3 x) in its noise.
"""

from __future__ import annotations

import itertools

import torch

from medidiff.conformance.families.analytic import check_nelbo, sampler_of, steps_by_name
from medidiff.conformance.families.tables import (
    check_betas,
    gamma_of,
    levels_at,
    states_of,
    table_of,
    with_error,
)
from medidiff.conformance.recordings import Case, Unsupported, check_agrees, check_states
from medidiff.diffusion.denoiser import clipped
from medidiff.diffusion.levels import Denoise, NoiseLevel
from medidiff.diffusion.schedules import Discrete
from medidiff.diffusion.steps import hop_costs, optimal_steps, split_steps
from medidiff.diffusion.variance import AnyVariance, OptimalVariance, with_gamma

ERROR = 0.1


def replay(case: Case) -> None:
    """A table of optimal steps, a trajectory or a bound."""
    schedule = table_of(case.meta.get("table", "linear"), len(case["betas"]) - 1)
    check_betas(case, schedule)
    if case.kind == "table":
        _steps(case, schedule)
        return
    if case.kind == "trajectory":
        _trajectory(case, schedule)
        return
    if case.kind == "likelihood":
        _bound(case, schedule)
        return
    raise Unsupported(f"nothing of ours is a {case.kind!r} of {case.sampler!r}")


def _steps(case: Case, schedule: Discrete) -> None:
    gamma = case["ms_eps"]
    cost = hop_costs(schedule, gamma)
    for name, theirs in case.arrays.items():
        if not name.startswith("steps_"):
            continue
        count = int(name.removeprefix("steps_"))
        ours = optimal_steps(schedule, gamma, count)
        check_agrees(name, torch.tensor(ours).double(), theirs, 0)
        top, below, above = split_steps(gamma, count)
        split = torch.tensor([below, top, above, schedule.steps - top])
        check_agrees(f"split {count}", split.double(), case[f"split_{count}"], 0)
        path = ours[:below]
        spent = torch.stack([cost[s, r] for s, r in itertools.pairwise(path)]).sum()
        check_agrees(f"cost {count}", spent, case[f"cost_{count}"])
    pairs = case["F_probe_sr"].long()
    check_agrees("costs", cost[pairs[:, 0], pairs[:, 1]], case["F_probe"])


def _path(case: Case, schedule: Discrete) -> list[NoiseLevel]:
    gamma = case.arrays.get("ms_eps")
    steps = steps_by_name(case.meta["steps_type"], schedule, case.meta["K"], gamma)
    check_agrees("steps", torch.tensor(steps).double(), case["steps"], 0)
    return levels_at(schedule, steps)


def _model(case: Case, error: float) -> tuple[Denoise, AnyVariance]:
    model = clipped(with_error(case.mixture, error), -1, 1, eps="keep")
    if "ms_eps" in case:
        return with_gamma(model, gamma_of(case["ms_eps"])), OptimalVariance()
    return model, "small" if case.meta["small_sigma"] else "large"


def _trajectory(case: Case, schedule: Discrete) -> None:
    model, variance = _model(case, ERROR)
    ddim = "reverse_ddim" in case.source
    sampler = sampler_of("adp", ddim, case.meta, variance, case.meta["clip_pixel"])
    check_states(states_of(case, model, _path(case, schedule), sampler), case)


def _bound(case: Case, schedule: Discrete) -> None:
    model, variance = _model(case, ERROR)
    path = _path(case, schedule)
    check_nelbo(case, model, schedule, path, variance, case.draws(len(path) - 1))
