"""How much better than classical methods does one frozen prior solve inverse problems, and is its
spread right?

    python benchmarks/inverse_problems.py MODEL --manifest ixi_t1_slices/manifest.csv --work W

Each part is `medidiff benchmark` on the test split, the mean of the samples beside baselines tuned
on validation scans, and again with eight samples for their coverage; parts that are in W already
are not run again (--parts chooses, so that several processes can share the work). The result is
benchmarks/results/inverse_problems.json and a sheet of each part. Everything is simulated from
8-bit magnitude slices: smooth random phases, sinograms from a finer grid, noise levels and coil
maps estimated from the measurement.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from record import ROOT, Measured, write_result

from medidiff import api
from medidiff.tasks.base import OURS

DRAWS = 8
RICIAN_GOALS = {"rician 0.05": 2.5, "rician 0.1": 4.0, "rician 0.2": 6.0}
"""Decibels above the best baseline, block matching with the variance stabilised."""
REGIONS = {"psnr_head": "in-head", "psnr_region": "in the hole"}


@dataclass(frozen=True)
class Part:
    """One call of `medidiff benchmark`."""

    name: str
    task: str
    options: dict[str, object] = field(default_factory=dict)
    calibrated: bool = True
    """Whether it is run with several samples, too."""


PARTS = (
    *(
        Part(f"mri-{coils}-{r}", "reconstruct", {"settings": [f"mri {coils} {c} R={r}"]})
        for coils, c in ((1, "coil"), (8, "coils"))
        for r in (4, 8)
    ),
    Part("radon-60", "reconstruct", {"settings": ["radon 60 views"]}),
    Part("radon-30", "reconstruct", {"settings": ["radon 30 views"]}),
    Part("radon-90-degrees", "reconstruct", {"settings": ["radon 90 degrees"]}),
    Part("super-resolution", "super_resolution"),
    Part("inpainting", "inpaint"),
    Part("rician", "denoise", {"noise": "rician"}, calibrated=False),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    names = [part.name for part in PARTS]
    parser.add_argument("--parts", nargs="*", choices=names, default=names)
    args = parser.parse_args()
    for part in PARTS:
        if part.name in args.parts:
            run(args, part)
    parts = [part for part in PARTS if (args.work / part.name / "summary.json").is_file()]
    rows = [row for part in parts for row in rows_of(args.work, part)]
    facts = {
        "estimate": f"mean of the samples of the head's default; coverage of {DRAWS} samples",
        "intervals": "95 %, bootstrap over subjects; goals are for the lower bound",
        "data": "IXI T1 slices (CC BY-SA 3.0), 55 test subjects; simulated from magnitude images",
        "data_range": "the intensity window",
        "model_digest": summary(args.work, parts[0].name)["facts"]["model_digest"],
    }
    print(write_result("inverse_problems", rows, facts=facts))
    for part in parts:
        picture = ROOT / "benchmarks" / "results" / f"inverse_{part.name.replace('-', '_')}.png"
        shutil.copyfile(args.work / part.name / "comparison.png", picture)


def run(args: argparse.Namespace, part: Part) -> None:
    """The part's benchmarks, those that are not done yet."""
    kinds = {part.name: (1, "tuned")}
    if part.calibrated:
        kinds[f"{part.name}-spread"] = (DRAWS, "none")
    for name, (n, baselines) in kinds.items():
        place = args.work / name
        if (place / "summary.json").is_file():
            continue
        table = api.benchmark(
            part.task,
            args.model,
            manifest=args.manifest,
            out=place,
            n=n,
            baselines="tuned" if baselines == "tuned" else "none",
            mismatch="warn",  # the whole split is measured, and what does not fit is said
            progress="bars",
            **part.options,  # type: ignore[arg-type]
        )
        print(table.text)


def rows_of(work: Path, part: Part) -> Iterator[Measured]:
    """Each figure with what is beside it, the differences that were aimed at, and the coverage."""
    found = summary(work, part.name)
    metric = "psnr_region" if part.task == "inpaint" else "psnr_head"
    where = REGIONS[metric]
    for setting in dict.fromkeys(each["setting"] for each in found["summary"]):
        means = {
            each["method"]: each["interval"]
            for each in found["summary"]
            if (each["setting"], each["metric"]) == (setting, metric)
        }
        ours = means.pop(OURS)
        peers = {method: interval["mean"] for method, interval in means.items()}
        what = f"{setting}, PSNR {where}, n={ours['n']}"
        yield Measured(what, ours["mean"], "dB", "higher", peers | bounds(ours))
    for goal in found["goals"]:
        apart, least = goal["difference"], goal["least"]
        what = f"{apart['setting']}, {where}, above {apart['baseline']}: {goal['verdict']}"
        yield Measured(what, apart["interval"]["mean"], "dB", "higher", bounds(apart), least)
    for apart in found["differences"]:
        if apart["metric"] == metric and apart["setting"] in RICIAN_GOALS:
            least = RICIAN_GOALS[apart["setting"]]
            verdict = "reached" if apart["interval"]["low"] >= least else "missed"
            what = f"{apart['setting']}, {where}, above {apart['baseline']}: {verdict}"
            yield Measured(what, apart["interval"]["mean"], "dB", "higher", bounds(apart), least)
    if part.calibrated and (work / f"{part.name}-spread" / "summary.json").is_file():
        for spread in summary(work, f"{part.name}-spread")["spreads"]:
            coverage, width = spread["coverage"], spread["spread"]
            what = f"{spread['setting']}, coverage of the central 90 %: {spread['verdict']}"
            yield Measured(what, coverage["mean"], "", "higher", bounds(coverage), 0.87)
            what = f"{spread['setting']}, spread over error"
            yield Measured(what, width["mean"], "", "higher", bounds(width))


def bounds(value: dict) -> dict[str, float]:
    """The interval's ends, of a value or of what holds one."""
    interval = value.get("interval", value)
    return {"lower bound": interval["low"], "upper bound": interval["high"]}


def summary(work: Path, name: str) -> dict:
    return json.loads((work / name / "summary.json").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
