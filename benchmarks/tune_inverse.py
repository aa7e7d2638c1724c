"""Which posterior sampler, with which numbers, for which measurement? Chosen on validation scans.

    python benchmarks/tune_inverse.py MODEL --manifest M --minutes 6 --rounds mean spread methods

Each setting of the heads `reconstruct`, `super_resolution` and `inpaint` is simulated on validation
subjects, once, and solved by a grid of samplers, all within 100 forward-equivalent calls a result
(but for the round `samples`: eight of at most 50 calls each).
Told are, in the head: PSNR of the mean of as many samples as that allows and of one sample, spread
over error, coverage of the central 90 %, the residual, cost and seconds. Settings take turns, the
likeliest samplers first, so that a short budget leaves a row of each. The result is
benchmarks/results/tune_inverse.json, or in the folder that --out names, written anew with each row.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

import torch
from record import Measured, write_result
from torch import Tensor
from validation import parser_of, validation_cases

from medidiff import api, options
from medidiff.data.datasets import Case
from medidiff.errors import TaskError
from medidiff.evaluation.calibration import coverage, spread_and_error
from medidiff.evaluation.distortion import psnr
from medidiff.evaluation.regions import head_region
from medidiff.inverse import DAPS, DDNM, DDRM, DPS, DiffPIR, MomentMatching, PiGDM, REDDiff
from medidiff.model import Model, evaluating
from medidiff.tasks.base import Bench, Problem
from medidiff.tasks.defaults import Posterior, chosen_for
from medidiff.tasks.inpaint import Inpainting
from medidiff.tasks.measured import drawn, loosened, piloted, settled
from medidiff.tasks.reconstruct import MRI, SETTINGS, Reconstruction, setting_of
from medidiff.tasks.restoration import WINDOW
from medidiff.tasks.settings import Setting, as_the_truth, simulated
from medidiff.tasks.super_resolution import SuperResolution

CALLS = 100
"""Forward-equivalents a result."""
FEWEST = 4
"""Samples that spread and coverage are taken from, at least."""
KINDS = {"x4": "super-resolution", "hole": "inpaint"}
"""What the measurement of a setting is called, where that is not the setting's name."""
ROUNDS = ("mean", "weights", "spread", "samples", "methods", "oracle")
"""The last: what the true phase would give."""
SAMPLES = 8
"""That stand for themselves, in the round of this name: more than 100 calls in all."""


@dataclass(frozen=True)
class Trial:
    """A setting as its samplers find it."""

    setting: Setting
    cases: Sequence[Case]
    given: Sequence[Case]
    problem: Problem
    clean: Tensor
    region: Tensor


@dataclass(frozen=True)
class Row:
    """What one sampler did in one setting, mean over subjects."""

    setting: str
    posterior: Posterior
    psnr_mean: float
    psnr_mean_worst: float
    psnr_one: float
    spread_over_error: float
    coverage: float
    residual: float
    cost: float
    """Forward-equivalent calls of a result: all of its samples, and pilots."""
    seconds: float


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--split", default="val")
    parser.add_argument("--subjects", type=int, default=8)
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--settings", nargs="*", help="beginnings of names; all unless told")
    parser.add_argument("--rounds", nargs="*", choices=ROUNDS, default=["mean", "spread"])
    args = parser.parse_args()

    model = api.load(args.model)
    cases = validation_cases(model, args.manifest, args.split, args.subjects)
    facts: dict[str, object] = {
        "subjects": f"{len(cases)} of the split {args.split}",
        "model_digest": model.digest,
        "estimate": "mean of as many samples as 100 forward-equivalent calls allow; spread and "
        f"coverage of {FEWEST} samples at least",
    }
    chosen = [
        each
        for each in settings(model, cases)
        if not args.settings or any(each.name.startswith(start) for start in args.settings)
    ]
    rows, end = [], time.monotonic() + 60 * args.minutes
    trials: dict[str, Trial] = {}
    for setting, how in turns(args.rounds, chosen):
        if time.monotonic() > end:
            break
        if setting.name not in trials:
            trials[setting.name] = trial(setting, cases, model)
        row = measured(trials[setting.name], how, model)
        if row is not None:
            rows.append(row)
            print(told(row), flush=True)
            write_result(
                "tune_inverse", [kept(each) for each in rows], facts=facts, folder=args.out
            )


def turns(rounds: Sequence[str], chosen: Sequence[Setting]) -> Iterator[tuple[Setting, Posterior]]:
    """Setting after setting, the first sampler of each, then the second; round after round."""
    for turn in rounds:
        asked = phase_given(chosen) if turn == "oracle" else chosen
        plan = [[(each, how) for how in grid(turn, each.name)] for each in asked]
        yield from (item for row in zip_longest(*plan) for item in row if item)


def settings(model: Model, cases: Sequence[Case]) -> list[Setting]:
    """All that the heads are judged in, but for their baselines."""
    bench = Bench(model, [], cases, cases)
    found = [setting_of(name, Reconstruction()) for name in SETTINGS]
    for head in (SuperResolution(), Inpainting()):
        found += head.settings_of(bench)
    return found


def grid(turn: str, setting: str) -> Iterator[Posterior]:
    """Samplers to try, the likeliest first; none asks for more than 100 calls a result."""
    match turn:
        case "mean":
            yield from (within(each) for each in nearest(setting))
        case "weights":
            yield from weighted(setting)
        case "spread":
            yield from (replace(each, draws=FEWEST) for each in well_spread(setting))
        case "samples":
            yield from (replace(each, draws=SAMPLES) for each in near_and_spread(setting))
        case "methods":
            yield from methods(setting)
        case "oracle":
            yield within(replace(plain(setting), antithetic=True))


def plain(setting: str) -> Posterior:
    """What the grids move away from."""
    weight = 3.0 if setting.startswith(("mri", "radon")) else 1.0
    ends = 0.05 if setting in MRI else None
    return Posterior(DiffPIR(weight=weight, fresh=1.0), last_ratio=ends)


def nearest(setting: str) -> Iterator[Posterior]:
    """For the mean: how many draws of how many steps, over which levels, how near to the data."""
    yield chosen_for(KINDS.get(setting.split()[0], setting))
    independent = plain(setting)
    base = replace(independent, antithetic=True)
    pair = replace(base, steps=50, first_ratio=4.0, last_ratio=0.05)
    assert isinstance(base.method, DiffPIR)
    yield pair
    yield replace(pair, last_ratio=0.1)
    yield replace(pair, first_ratio=10.0)
    yield replace(pair, first_ratio=10.0, last_ratio=0.1)
    yield replace(pair, last_ratio=0.02)
    for factor in (1 / 3, 2 / 3, 2.0):
        other = replace(base.method, weight=base.method.weight * factor)
        yield replace(pair, method=other)
    yield independent
    yield base
    yield replace(pair, steps=25)
    yield replace(pair, steps=25, first_ratio=None)
    yield replace(pair, steps=16)
    yield replace(pair, steps=12)
    yield replace(pair, first_ratio=20.0)
    yield replace(pair, first_ratio=2.0)
    yield replace(pair, steps=33, antithetic=False)
    yield replace(pair, steps=100, antithetic=False)
    yield replace(pair, method=replace(base.method, fresh=0.6))
    if setting in MRI:
        yield replace(pair, phase="fitted")
        yield replace(pair, slack=1.25)


def weighted(setting: str) -> Iterator[Posterior]:
    """How much the data count beside the estimate, for one result and for samples."""
    name = KINDS.get(setting.split()[0], setting)
    one, eight = chosen_for(name), replace(chosen_for(name, SAMPLES), draws=SAMPLES)
    assert isinstance(one.method, DiffPIR)
    assert isinstance(eight.method, DiffPIR)
    of_samples = replace(eight, steps=50, first_ratio=4.0)
    for weight in (1.0, 0.5, 0.7, 0.3):
        yield replace(one, method=replace(one.method, weight=weight))
        share = {1.0: 0.5, 0.5: 0.4, 0.7: 0.3, 0.3: 0.2}[weight]
        yield replace(of_samples, method=DiffPIR(weight=weight, fresh=share))
    for weight, last in ((1.0, 0.05), (0.5, 0.02), (0.5, 0.1), (1.5, 0.03)):
        yield replace(one, method=replace(one.method, weight=weight), last_ratio=last)


def well_spread(setting: str) -> Iterator[Posterior]:
    """For samples and maps: how much of the noise is fresh, where levels end."""
    yield chosen_for(KINDS.get(setting.split()[0], setting), FEWEST)
    base = plain(setting)
    assert isinstance(base.method, DiffPIR)
    spread = replace(base, method=replace(base.method, fresh=0.3), last_ratio=None)
    yield spread
    yield replace(spread, last_ratio=0.05)
    yield replace(spread, first_ratio=4.0)
    yield replace(spread, method=replace(base.method, fresh=0.1))
    yield replace(spread, method=DAPS())
    if setting in MRI:
        yield replace(spread, slack=1.5)
        yield replace(spread, slack=1.25, method=replace(base.method, fresh=0.1))
        yield replace(spread, slack=1.5, method=replace(base.method, fresh=0.1))
    yield replace(spread, last_ratio=0.02)
    yield replace(spread, method=replace(base.method, fresh=0.0))
    yield replace(spread, method=replace(base.method, fresh=0.6))
    yield replace(spread, steps=16, first_ratio=4.0)
    yield replace(spread, steps=50)


def near_and_spread(setting: str) -> Iterator[Posterior]:
    """For samples and maps: fifty levels from where the measurement has something to say, by how
    much of the noise is fresh, where the levels end and how much the data count."""
    name = KINDS.get(setting.split()[0], setting)
    yield chosen_for(name, SAMPLES)
    base = replace(plain(setting), steps=50, first_ratio=4.0, last_ratio=None)
    assert isinstance(base.method, DiffPIR)
    weight = base.method.weight
    for share, last, factor in (
        (1.0, None, 1.0),
        (0.7, None, 1.0),
        (1.0, 0.02, 1.0),
        (0.85, None, 1.0),
        (0.7, 0.02, 1.0),
        (1.0, None, 1 / 3),
        (0.5, None, 1.0),
        (0.85, 0.02, 1 / 3),
    ):
        method = replace(base.method, fresh=share, weight=weight * factor)
        yield replace(base, method=method, last_ratio=last)


def methods(setting: str) -> Iterator[Posterior]:
    """Each method as its paper has it; `each`: forward-equivalents of a step."""
    base = Posterior()
    yield within(replace(base, method=DiffPIR(), steps=25))
    yield within(replace(base, method=DAPS(), steps=25))
    yield within(replace(base, method=PiGDM(), steps=16), 3)
    yield within(replace(base, method=DDNM(), steps=25))
    yield within(replace(base, method=DPS(), steps=33), 3)
    yield within(replace(base, method=REDDiff(), steps=50))
    yield within(replace(base, method=MomentMatching(), steps=7), 14)
    if not setting.startswith(("mri", "radon")):
        yield within(replace(base, method=DDRM(), steps=25))


def phase_given(chosen: Sequence[Setting]) -> list[Setting]:
    """Those of k-space, with the phase beside it."""
    return [
        replace(
            each, name=f"{each.name}, phase given", simulate=replace(MRI[each.name], phase="given")
        )
        for each in chosen
        if each.name in MRI
    ]


def within(how: Posterior, each: float = 1.0) -> Posterior:
    """With as many draws as the calls allow; `each`: forward-equivalents of a step."""
    left = CALLS - how.pilots * how.pilot_steps
    return replace(how, draws=max(1, int(left / (each * how.steps))))


def trial(setting: Setting, cases: Sequence[Case], model: Model) -> Trial:
    """The setting, simulated and made ready."""
    clean = torch.stack([case.images for case in cases])
    given = simulated(setting, cases, seed=0)
    problem = setting.head.prepare(given, model)
    region = head_region(clean) if setting.region is None else setting.region(problem).cpu()
    return Trial(setting, cases, given, problem, clean, region)


def measured(on: Trial, how: Posterior, model: Model) -> Row | None:
    """One row; None for a sampler that this operator is not for."""
    begin = time.monotonic()
    try:
        with torch.no_grad(), evaluating(model.network):
            problem, first = piloted(on.problem, model, how, 0)
            loose = loosened(problem, how)
            samples, each = drawn(loose, model, how, max(how.draws, FEWEST), 0)
    except (ValueError, RuntimeError, TaskError) as error:
        print(f"{on.setting.name} {how.method.kind}: {str(error).splitlines()[0]}", flush=True)
        return None
    if samples.device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.monotonic() - begin
    point = samples[: how.draws].mean(0)
    problem = settled(problem, how, point)
    assert problem.measurement is not None
    residual = problem.measurement.residual(point, range(len(on.cases)))
    back = torch.stack([as_the_truth(sample, problem, on.given) for sample in samples])
    mean, one = (
        psnr(x, on.clean, data_range=WINDOW, region=on.region)
        for x in (back[: how.draws].mean(0), back[0])
    )
    variance, error = spread_and_error(back, on.clean, on.region)
    return Row(
        on.setting.name,
        how,
        float(mean.mean()),
        float(mean.min()),
        float(one.mean()),
        float((variance.sum() / error.sum().clamp_min(1e-12)).sqrt()),
        float(coverage(back, on.clean, on.region).mean()),
        float(residual.mean()),
        each.equivalents * how.draws + first.equivalents,
        seconds,
    )


def name_of(how: Posterior) -> str:
    """What of the sampler is not as options have it by themselves."""
    method = {k: v for k, v in options.tree(how.method).items() if k not in ("kind", "sampler")}
    named = ", ".join(f"{name} {value}" for name, value in method.items())
    usual, tree = options.tree(Posterior()), options.tree(how)
    other = [
        f"{name} {tree[name]}"
        for name in tree
        if name not in ("method", "steps", "draws") and tree[name] != usual[name]
    ]
    return ", ".join([f"{how.method.kind} ({named})", f"{how.draws} x {how.steps} steps", *other])


def told(row: Row) -> str:
    """The row as a line."""
    return (
        f"{row.setting}: {name_of(row.posterior)}: mean {row.psnr_mean:.2f} "
        f"(worst {row.psnr_mean_worst:.2f}) one {row.psnr_one:.2f} "
        f"spread {row.spread_over_error:.2f} cover {row.coverage:.3f} resid {row.residual:.2f} "
        f"cost {row.cost:g} {row.seconds:.1f}s"
    )


def kept(row: Row) -> Measured:
    """The row as results are kept."""
    peers = {
        "one sample": row.psnr_one,
        "worst subject": row.psnr_mean_worst,
        "spread over error": row.spread_over_error,
        "coverage of 90 %": row.coverage,
        "residual": row.residual,
        "calls": row.cost,
        "seconds": row.seconds,
    }
    what = f"{row.setting}: {name_of(row.posterior)}"
    unit = f"dB in-head, mean of {row.posterior.draws}"
    return Measured(what, row.psnr_mean, unit, "higher", peers)


if __name__ == "__main__":
    main()
