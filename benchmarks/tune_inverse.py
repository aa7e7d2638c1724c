"""Which posterior sampler, with which numbers, for which measurement? Chosen on validation scans.

    python benchmarks/tune_inverse.py MODEL --manifest M --out FILE.json --minutes 6

Each setting of the heads `reconstruct`, `super_resolution` and `inpaint` is simulated on validation
subjects and solved by a grid of samplers, all within 100 forward-equivalent calls an image. Told
are, in the head: PSNR of the mean and of one sample, spread over error, coverage of the central
90 %, the residual, cost and seconds. Settings take turns, the likeliest samplers first, so that a
short budget leaves a row of each.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

import torch

from medidiff import api, options
from medidiff.data.datasets import Case
from medidiff.evaluation.calibration import coverage, spread_and_error
from medidiff.evaluation.distortion import psnr
from medidiff.evaluation.regions import head_region
from medidiff.inverse import DAPS, DDNM, DDRM, DPS, DiffPIR, MomentMatching, PiGDM, REDDiff
from medidiff.jobs.cases import cases_of_split
from medidiff.jobs.reporting import Lines
from medidiff.jobs.splits import Splits
from medidiff.model import Model
from medidiff.tasks.base import Bench
from medidiff.tasks.defaults import Posterior
from medidiff.tasks.inpaint import Inpainting
from medidiff.tasks.measured import drawn, piloted, slackened
from medidiff.tasks.reconstruct import MRI, SETTINGS, Reconstruction, setting_of
from medidiff.tasks.restoration import WINDOW
from medidiff.tasks.settings import Setting, as_the_truth, simulated
from medidiff.tasks.super_resolution import SuperResolution

SAMPLES = 4
HEADER = ("setting", "sampler", "mean", "one", "spread", "cover", "resid", "cost", "s")


@dataclass(frozen=True)
class Row:
    """What one sampler did in one setting, mean over subjects."""

    setting: str
    posterior: object
    psnr_mean: float
    psnr_mean_worst: float
    psnr_one: float
    spread_over_error: float
    coverage: float
    residual: float
    cost: float
    """Forward-equivalent calls of one sample, pilots counted apart."""
    pilots: float
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--subjects", type=int, default=8)
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--settings", nargs="*", help="beginnings of names; all unless told")
    parser.add_argument(
        "--round", choices=("methods", "numbers", "fresh", "phase"), default="methods"
    )
    args = parser.parse_args()

    model = api.load(args.model)
    splits = Splits(model.spec.lineage.train_split, args.split, model.spec.lineage.holdout)
    cases = cases_of_split(model, args.manifest, args.split, splits, Lines(), args.subjects)
    chosen = [
        each
        for each in settings(model, cases)
        if not args.settings or any(each.name.startswith(start) for start in args.settings)
    ]
    rows, end = [], time.monotonic() + 60 * args.minutes
    plan = [[(each, how) for how in grid(args.round, each.name)] for each in chosen]
    print(" ".join(HEADER), flush=True)
    for setting, how in (item for turn in zip_longest(*plan) for item in turn if item):
        if time.monotonic() > end:
            break
        row = measured(setting, how, cases, model, args.samples)
        if row is not None:
            rows.append(row)
            print(told(row), flush=True)
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps([options.tree(each) for each in rows], indent=1))


def settings(model: Model, cases: Sequence[Case]) -> list[Setting]:
    """All that the heads are judged in, but for their baselines."""
    bench = Bench(model, [], cases, cases)
    found = [setting_of(name, Reconstruction()) for name in SETTINGS]
    for head in (SuperResolution(), Inpainting()):
        found += head.settings_of(bench)
    return found


def grid(turn: str, setting: str) -> Iterator[Posterior]:
    """Samplers to try, the likeliest first; none asks for more than 100 calls a result."""
    phased = setting in MRI
    base = Posterior()
    match turn:
        case "methods":
            yield replace(base, method=DiffPIR())
            yield replace(base, method=DAPS())
            yield replace(base, method=MomentMatching(), steps=8)
            yield replace(base, method=PiGDM(), steps=16)
            yield replace(base, method=DPS(), steps=33)
            yield replace(base, method=DDNM())
            yield replace(base, method=DiffPIR(fresh=1.0))
            yield replace(base, method=DiffPIR(), steps=50)
            yield replace(base, method=REDDiff(), steps=50)
            if not phased and not setting.startswith("radon"):
                yield replace(base, method=DDRM())
        case "numbers":
            for weight in (1.0, 3.0, 7.0, 15.0):
                for fresh in (0.1, 0.3, 0.6, 1.0):
                    yield replace(base, method=DiffPIR(weight=weight, fresh=fresh))
        case "fresh":
            for weight in (1.0, 3.0, 7.0):
                for fresh in (1.0, 0.6):
                    yield replace(base, method=DiffPIR(weight=weight, fresh=fresh))
            yield replace(base, method=DiffPIR(fresh=1.0), steps=50)
            yield replace(base, method=DiffPIR(fresh=1.0), steps=12)
        case "phase":
            for pilots, slack in ((5, 1.0), (5, 1.5), (5, 3.0), (3, 1.5), (8, 1.5), (0, 1.5)):
                yield replace(base, pilots=pilots, slack=slack)


def measured(
    setting: Setting, how: Posterior, cases: Sequence[Case], model: Model, n: int
) -> Row | None:
    """One row; None for a sampler that this operator is not for."""
    clean = torch.stack([case.images for case in cases])
    given = simulated(setting, cases, seed=0)
    problem = setting.head.prepare(given, model)
    region = head_region(clean) if setting.region is None else setting.region(problem).cpu()
    begin = time.monotonic()
    try:
        with torch.no_grad():
            problem, first = piloted(problem, model, how, 0)
            loose = slackened(problem, how.slack if first.calls else 1.0)
            samples, each = drawn(loose, model, how, n, 0)
    except (ValueError, RuntimeError) as error:
        print(f"{setting.name} {how.method.kind}: {str(error).splitlines()[0]}", flush=True)
        return None
    if samples.device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.monotonic() - begin
    assert problem.measurement is not None
    residual = problem.measurement.residual(samples[0], range(len(cases)))
    back = torch.stack([as_the_truth(sample, problem, given) for sample in samples])
    mean, one = (psnr(x, clean, data_range=WINDOW, region=region) for x in (back.mean(0), back[0]))
    variance, error = spread_and_error(back, clean, region)
    return Row(
        setting.name,
        options.tree(how),
        float(mean.mean()),
        float(mean.min()),
        float(one.mean()),
        float((variance.sum() / error.sum().clamp_min(1e-12)).sqrt()),
        float(coverage(back, clean, region).mean()),
        float(residual.mean()),
        each.equivalents,
        first.equivalents,
        seconds,
    )


def told(row: Row) -> str:
    """The row as a line."""
    how = dict(row.posterior)  # type: ignore[call-overload]
    method = dict(how["method"])
    numbers = ",".join(f"{k}={v}" for k, v in method.items() if k != "kind")
    return (
        f"{row.setting:18s} {method['kind']}({numbers}) steps={how['steps']} "
        f"pilots={how['pilots']} slack={how['slack']}: mean {row.psnr_mean:.2f} "
        f"(worst {row.psnr_mean_worst:.2f}) one {row.psnr_one:.2f} "
        f"spread {row.spread_over_error:.2f} cover {row.coverage:.3f} resid {row.residual:.2f} "
        f"cost {row.cost:g}+{row.pilots:g} {row.seconds:.1f}s"
    )


if __name__ == "__main__":
    main()
