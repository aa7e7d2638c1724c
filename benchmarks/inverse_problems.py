"""How much better than classical methods does one frozen prior solve inverse problems, and is its
spread right?

    python benchmarks/inverse_problems.py MODEL --manifest ixi_t1_slices/manifest.csv --work W

Each part is `medidiff benchmark` on the test split, the mean of the samples beside baselines tuned
on validation scans, and again with eight samples for their coverage; parts that are in W already
are not run again (--parts chooses, so that several processes can share the work). The result is
benchmarks/results/inverse_problems.json and a sheet of each part. Everything is simulated from
8-bit magnitude slices: smooth random phases, sinograms from a finer grid; the noise level and the
coils' maps are told to all methods.

--only spread leaves out all but the coverage: with the shipped prior it leaves the verdicts in the
package's own folder, where `medidiff run` reads them.

Networks that benchmarks/supervised.py trained are compared on the same measurements by
--supervised FILES; with --baselines none and --name supervised that is all there is besides. With
--ours FOLDER, the W of an earlier run, only the others are run (those networks, or without
--supervised the classical methods of a part), beside what ours was there.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

import torch
from record import ROOT, Measured, Origins, write_result
from supervised_peers import RICIAN, described, least_of, peer
from supervised_tasks import as_benchmarked

from medidiff import api, options
from medidiff.api.calls import splits_of
from medidiff.jobs.benchmark import make_table
from medidiff.jobs.cases import cases_of_split
from medidiff.jobs.reporting import Lines
from medidiff.report.tables import write_json
from medidiff.tasks.base import OURS, Bench, Benchmarked, Head, Peer, Row
from medidiff.tasks.denoise import Denoising
from medidiff.tasks.inpaint import Inpainting
from medidiff.tasks.reconstruct import Reconstruction, setting_of
from medidiff.tasks.restoration import measured
from medidiff.tasks.settings import as_the_truth, simulated, tune
from medidiff.tasks.super_resolution import SuperResolution

DRAWS = 8
AT_ONCE = 16  # scans
HEADS = {
    "denoise": Denoising,
    "reconstruct": Reconstruction,
    "super_resolution": SuperResolution,
    "inpaint": Inpainting,
}
REGIONS = {"psnr_head": "in-head", "psnr_region": "in the hole"}


def about(what: str) -> str:
    """A row's setting, and whether it is of the samples' spread."""
    setting, _, rest = what.partition(", ")
    return f"{setting}, spread" if rest.startswith(("coverage", "spread")) else setting


BY_SETTING = Origins("kept", "settings", ("commit", "date", "hardware", "versions"), about)


@dataclass(frozen=True)
class Part:
    """One call of `medidiff benchmark`."""

    name: str
    task: str
    options: dict[str, object] = field(default_factory=dict)


PARTS = (
    *(
        Part(f"mri-{coils}-{r}", "reconstruct", {"settings": [f"mri {coils} {c} R={r}"]})
        for coils, c in ((1, "coil"), (8, "coils"))
        for r in (4, 8)
    ),
    *(
        Part(
            f"mri-{coils}-4-equispaced",
            "reconstruct",
            {"settings": [f"mri {coils} {c} equispaced R=4"]},
        )
        for coils, c in ((1, "coil"), (8, "coils"))
    ),
    Part("radon-60", "reconstruct", {"settings": ["radon 60 views"]}),
    Part("radon-30", "reconstruct", {"settings": ["radon 30 views"]}),
    Part("radon-90-degrees", "reconstruct", {"settings": ["radon 90 degrees"]}),
    Part("super-resolution", "super_resolution"),
    Part("inpainting", "inpaint"),
    *(
        Part(noise, "denoise", {"noise": noise})
        for noise in ("rician", "poisson", "transmission", "gaussian")
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    names = [part.name for part in PARTS]
    parser.add_argument("--parts", nargs="*", choices=names, default=names)
    parser.add_argument("--supervised", nargs="*", type=Path, default=[], metavar="WEIGHTS")
    parser.add_argument("--ours", type=Path, metavar="FOLDER", help="of an earlier run")
    parser.add_argument("--baselines", choices=("tuned", "none"), default="tuned")
    parser.add_argument("--only", choices=("all", "spread"), default="all", help="of each part")
    parser.add_argument("--name", default="inverse_problems", help="of the result")
    parser.add_argument("--out", type=Path, help="another folder for it; pictures stay in W then")
    parser.add_argument("--keep", type=Path, help="a result whose other settings stay, as they are")
    args = parser.parse_args()
    for part in PARTS:
        if part.name in args.parts:
            (run if args.ours is None else run_others)(args, part)
    parts = [part for part in PARTS if there(args.work, part.name)]
    rows = [row for part in parts for row in rows_of(args.work, part)]
    rows += [row for part in PARTS for row in spread_of(args.work, part)]
    facts: dict[str, object] = {
        "estimate": "the image of the head's default: the mean of two samples of opposite noise, "
        f"of denoise the posterior mean; coverage of {DRAWS} samples",
        "intervals": "95 %, bootstrap over subjects; goals are for the lower bound",
        "data": "IXI T1 slices (CC BY-SA 3.0), 55 test subjects; simulated from magnitude images",
        "data_range": "the intensity window",
        "model_digest": api.load(args.model, device="cpu").digest,
    }
    if args.ours is not None:
        facts["ours"] = "of an earlier run, as in inverse_problems.json"
    if args.supervised:
        facts["supervised"] = [options.tree(described(place)) for place in args.supervised]
    earlier = json.loads(args.keep.read_text(encoding="utf-8")) if args.keep else None
    print(
        write_result(
            args.name, rows, facts=facts, folder=args.out, earlier=earlier, origins=BY_SETTING
        )
    )
    for part in parts if args.out is None and args.ours is None else ():
        picture = ROOT / "benchmarks" / "results" / f"inverse_{part.name.replace('-', '_')}.png"
        shutil.copyfile(args.work / part.name / "comparison.png", picture)


def run(args: argparse.Namespace, part: Part) -> None:
    """The part's benchmarks, those that are not done yet."""
    kinds = {} if args.only == "spread" else {part.name: (1, args.baselines)}
    if not args.supervised:
        kinds[f"{part.name}-spread"] = (DRAWS, "none")
    for name, (n, baselines) in kinds.items():
        place = args.work / name
        if there(args.work, name):
            continue
        table = api.benchmark(
            part.task,
            args.model,
            manifest=args.manifest,
            out=place,
            n=n,
            baselines="tuned" if baselines == "tuned" else "none",
            mismatch="warn",  # the whole split is measured, and what does not fit is said
            peers=peers_of(args, part) if n == 1 else (),
            progress="bars",
            **part.options,  # type: ignore[arg-type]
        )
        print(table.text)


def run_others(args: argparse.Namespace, part: Part) -> None:
    """Tuned classical methods or supervised networks on the part's measurements, beside what ours
    was on them before."""
    if there(args.work, part.name):
        return
    model, peers = api.load(args.model), peers_of(args, part)
    head = HEADS[part.task](**part.options)  # type: ignore[arg-type]
    splits = splits_of(model, None, None)
    cases, validation = (
        cases_of_split(model, args.manifest, name, splits, Lines(), None)
        for name in ("test", splits.validation)
    )
    bench = Bench(model, [], validation, cases)
    if args.supervised:
        names = getattr(head, "settings", (RICIAN,))
        found = Benchmarked([row for name in names for row in networks(name, bench, peers)])
    else:
        found = classical(head, bench)
    ours = [row for row in summary(args.ours, part.name)["rows"] if row["method"] == OURS]
    subjects = {row["row"]: row["subject"] for row in ours}  # pseudonyms are a machine's own
    others = [row | {"subject": subjects[row["row"]]} for row in found.rows]
    table = make_table(head, replace(found, rows=[*ours, *others]), [each.name for each in peers])
    write_json(
        args.work / part.name / "summary.json",
        table.rows,
        table.summaries,
        table.differences,
        {"model_digest": model.digest, "ours": "of an earlier run"},
        goals=table.goals,
    )
    print(table.text)


def classical(head: Head, bench: Bench) -> Benchmarked:
    """Rows of the classical methods of a head that measures, tuned on validation scans.

    Errors: SystemExit for denoising, whose filters take no problems, and for holes, which are
    judged in a region of their own.
    """
    match head:
        case Reconstruction():
            settings = [setting_of(name, head) for name in head.settings]
        case SuperResolution():
            settings = head.settings_of(bench)
        case _:
            raise SystemExit(f"--ours without --supervised is not for {head.kind}")
    rows = []
    for setting in settings:
        tuned = tune(setting, bench)
        for first in range(0, len(bench.test), AT_ONCE):
            some = bench.test[first : first + AT_ONCE]
            given = simulated(setting, some, bench.seed)
            problem = setting.head.prepare(given, bench.model)
            clean = torch.stack([case.images for case in some])
            for each in tuned:
                made = as_the_truth(each.rival.solve(problem, each.parameter), problem, given)
                rows += measured(made, clean, some, setting.name, each.rival.name)
    return Benchmarked(rows, targets=[each for setting in settings for each in setting.targets])


def networks(name: str, bench: Bench, peers: Sequence[Peer]) -> Iterator[Row]:
    """Rows of supervised networks on what a benchmark measures."""
    for first in range(0, len(bench.test), AT_ONCE):
        some = bench.test[first : first + AT_ONCE]
        for check, each in product(as_benchmarked(name, some, bench.model), peers):
            made = check.estimate(each.solve)
            yield from measured(made, check.clean, some, check.setting, each.name)


def peers_of(args: argparse.Namespace, part: Part) -> list[Peer]:
    """The supervised networks that solve what the part measures."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = [peer(place, device) for place in args.supervised]
    if part.task == "denoise":
        return [each for each in found if each.settings is None]
    wanted = part.options.get("settings", [])
    assert isinstance(wanted, list)
    return [each for each in found if any(name in (each.settings or ()) for name in wanted)]


def rows_of(work: Path, part: Part) -> Iterator[Measured]:
    """Each figure with what is beside it, and the differences that were aimed at."""
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
        least = least_of(apart["baseline"], apart["setting"])
        if apart["metric"] == metric and least is not None:
            verdict = "reached" if apart["interval"]["low"] >= least else "missed"
            what = f"{apart['setting']}, {where}, above {apart['baseline']}: {verdict}"
            yield Measured(what, apart["interval"]["mean"], "dB", "higher", bounds(apart), least)


def spread_of(work: Path, part: Part) -> Iterator[Measured]:
    """The coverage of each setting, where several samples were drawn."""
    name = f"{part.name}-spread"
    for spread in summary(work, name)["spreads"] if there(work, name) else ():
        coverage, width = spread["coverage"], spread["spread"]
        what = f"{spread['setting']}, coverage of the central 90 %: {spread['verdict']}"
        yield Measured(what, coverage["mean"], "", "higher", bounds(coverage), 0.87)
        what = f"{spread['setting']}, spread over error"
        yield Measured(what, width["mean"], "", "higher", bounds(width))


def there(work: Path, name: str) -> bool:
    """Whether a benchmark was run."""
    return (work / name / "summary.json").is_file()


def bounds(value: dict) -> dict[str, float]:
    """The interval's ends, of a value or of what holds one."""
    interval = value.get("interval", value)
    return {"lower bound": interval["low"], "upper bound": interval["high"]}


def summary(work: Path, name: str) -> dict:
    return json.loads((work / name / "summary.json").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
