"""The benchmark that measured heads share: simulate, tune the baselines, solve, compare by subject.

A setting says how a scan is measured and by which classical methods it is solved besides. Nothing
is chosen on the split that is reported: baselines are tuned on validation scans that are simulated
alike, our own sampler by `benchmarks/tune_inverse.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor

from medidiff.data.datasets import Case
from medidiff.diffusion import KeyedNoise
from medidiff.evaluation.distortion import psnr
from medidiff.evaluation.regions import head_region
from medidiff.evaluation.tuning import best_strength, trials
from medidiff.tasks.accounts import Spent, account_of, solved_at_cost
from medidiff.tasks.base import (
    OURS,
    Account,
    Bench,
    Benchmarked,
    Calibrated,
    Head,
    Peer,
    Problem,
    Row,
    Solution,
    Target,
    noise_key,
)
from medidiff.tasks.calibrated import Judged, spread
from medidiff.tasks.measured import misfit
from medidiff.tasks.restoration import (
    EXAMPLES,
    SPREAD,
    TRUTH,
    TUNING_CASES,
    WINDOW,
    measured,
    shown_spread,
    tuning_told,
)

Simulate = Callable[[Sequence[Case], KeyedNoise], list[Case]]
"""Clean cases -> what the head is given of each; noise is keyed by the case."""


@dataclass(frozen=True)
class Rival:
    """A classical method: (problem, its parameter) -> images in model units."""

    name: str
    solve: Callable[[Problem, float], Tensor]
    grid: tuple[float, ...] = (0.0,)
    """Parameters to choose from; one where there is nothing to choose."""

    @property
    def tunable(self) -> bool:
        """Whether there is something to choose."""
        return len(self.grid) > 1


@dataclass(frozen=True)
class Setting:
    """One way of measuring that a head is judged in."""

    name: str
    head: Head
    simulate: Simulate
    rivals: tuple[Rival, ...]
    targets: tuple[Target, ...] = ()
    region: Callable[[Problem], Tensor] | None = None
    """Where else it is judged (`psnr_region`), such as a hole: boolean, (batch, 1, *space)."""


def judged(settings: Sequence[Setting], bench: Bench) -> Benchmarked:
    """One row a test subject, setting and method, and the first cases as examples; where samples
    are asked for, what their spread is worth."""
    rows: list[Row] = []
    examples: list[Mapping[str, Tensor]] = []
    calibrated: list[Calibrated] = []
    labels: list[str] = []
    notes: list[str] = []
    accounts: list[Account] = []
    for setting in settings:
        tuned = [] if bench.baselines == "none" else tune(setting, bench)
        drawn: list[_Solved] = []
        for first in range(0, len(bench.test), bench.batch):
            cases = bench.test[first : first + bench.batch]
            solved = _solved(setting, cases, bench)
            peers = [peer for peer in bench.peers if peer.takes_part(setting.name)]
            found, shown = _compared(setting, tuned, peers, cases, solved)
            rows += found
            kept = shown[: EXAMPLES if first == 0 else 0]
            examples += kept
            labels += [setting.name] * len(kept)
            drawn.append(solved)
            done = min(first + bench.batch, len(bench.test))
            bench.progress(setting.name, done, len(bench.test))
        if bench.samples > 1:
            calibrated.append(spread(setting.name, [*map(_judged, drawn)]))
        spent = [each.spent for each in drawn]
        chosen = {each.rival.name: each.described() for each in tuned if each.rival.tunable}
        tuned_on = min(TUNING_CASES, len(bench.validation))
        accounts.append(account_of(setting.name, spent, bench, chosen, tuned_on))
        said = misfit(_told(drawn))
        notes += [] if said is None else [f"{setting.name}, {said}"]
    targets = [target for setting in settings for target in setting.targets]
    return Benchmarked(
        rows,
        examples,
        TRUTH,
        targets,
        accounts=accounts,
        calibrated=calibrated,
        labels=labels,
        maps=(SPREAD,),
        notes=notes,
    )


@dataclass(frozen=True)
class Tuned:
    """A rival at its best."""

    rival: Rival
    parameter: float

    def described(self) -> str:
        """What was chosen, in words."""
        return f"strength {self.parameter:.3g}"


def simulated(setting: Setting, cases: Sequence[Case], seed: int) -> list[Case]:
    """What is measured of clean cases; the same of a case in any batch."""
    noise = KeyedNoise(seed, [(f"measured {noise_key(case)}", 0) for case in cases])
    return setting.simulate(cases, noise)


def as_the_truth(images: Tensor, problem: Problem, given: Sequence[Case]) -> Tensor:
    """Images in the problem's model units, whose line may be estimated, in those of the truth.

    The line of a problem's case leads to the units of the signal, that of what it was given from
    there to the truth.
    """
    back = [
        known.scale.normalise(case.scale.inverse(image, axis=0), axis=0)
        for image, case, known in zip(images.cpu(), problem.cases, given, strict=True)
    ]
    return torch.stack(back)


def tune(setting: Setting, bench: Bench) -> list[Tuned]:
    """Each rival at the parameter of the highest mean PSNR in the head on the first validation
    scans; a best parameter at an end of the grid is followed outwards."""
    cases = bench.validation[:TUNING_CASES]
    given = simulated(setting, cases, bench.seed)
    problem = setting.head.prepare(given, bench.model)
    clean = torch.stack([case.images for case in cases])
    region = _region(setting, problem, clean)

    count = sum(trials(rival.grid) for rival in setting.rivals)
    with tuning_told(bench, setting.name, count) as tried:

        def score(rival: Rival, parameter: float) -> float:
            estimate = as_the_truth(rival.solve(problem, parameter), problem, given)
            tried()
            return float(psnr(estimate, clean, data_range=WINDOW, region=region).mean())

        return [
            Tuned(rival, best_strength(partial(score, rival), rival.grid))
            for rival in setting.rivals
        ]


@dataclass(frozen=True, eq=False)
class _Solved:
    """A batch of test cases after the head."""

    given: Sequence[Case]
    problem: Problem
    solution: Solution
    clean: Tensor
    region: Tensor
    """Where it is judged."""
    spent: Spent
    samples: Tensor | None
    """In the units of the truth."""


def _solved(setting: Setting, cases: Sequence[Case], bench: Bench) -> _Solved:
    given = simulated(setting, cases, bench.seed)
    problem, solution, spent = solved_at_cost(setting.head, given, bench)
    clean = torch.stack([case.images for case in cases])
    samples = solution.samples
    if samples is not None:
        samples = torch.stack([as_the_truth(each, problem, given) for each in samples])
    region = _region(setting, problem, clean)
    return _Solved(given, problem, solution, clean, region, spent, samples)


def _compared(
    setting: Setting,
    tuned: Sequence[Tuned],
    peers: Sequence[Peer],
    cases: Sequence[Case],
    solved: _Solved,
) -> tuple[list[Row], list[Mapping[str, Tensor]]]:
    problem, given, clean = solved.problem, solved.given, solved.clean
    estimates = {
        each.rival.name: as_the_truth(each.rival.solve(problem, each.parameter), problem, given)
        for each in tuned
    }
    for peer in peers:
        estimates[peer.name] = as_the_truth(peer.solve(problem), problem, given)
    estimates[OURS] = as_the_truth(solved.solution.point, problem, given)
    rows: list[Row] = []
    for method, estimate in estimates.items():
        found = measured(estimate, clean, cases, setting.name, method)
        if setting.region is not None:
            values = psnr(estimate, clean, data_range=WINDOW, region=solved.region)
            for row, value in zip(found, values, strict=True):
                row["psnr_region"] = float(value)
        rows += found
    shown = estimates | {TRUTH: clean}
    if solved.samples is not None:
        shown[SPREAD] = shown_spread(solved.samples)
    return rows, [
        {name: images[index] for name, images in shown.items()} for index in range(len(cases))
    ]


def _judged(each: _Solved) -> Judged:
    assert each.samples is not None
    measurement, levels = each.problem.measurement, each.problem.levels
    assert measurement is not None
    how = cast(Mapping[str, object], each.solution.facts["posterior"])
    return Judged(each.samples, each.clean, each.region, levels, measurement.kinds, how)


def _told(drawn: Sequence[_Solved]) -> Mapping[str, object]:
    """What is known of all cases' measurements."""
    facts = [each.solution.facts for each in drawn]
    residuals = [cast(Sequence[float], each.get("residual", ())) for each in facts]
    return {**facts[0], "residual": [value for part in residuals for value in part]}


def _region(setting: Setting, problem: Problem, clean: Tensor) -> Tensor:
    return head_region(clean) if setting.region is None else setting.region(problem).cpu()
