"""What does a prior of configs/ draw, how does it denoise, and has it learned scans by heart?

    python benchmarks/prior.py brain-t1-2d --manifest ixi_t1_slices/manifest.csv --work W --out OUT

Stages: `train` (goes on with an interrupted training; with --minutes it stops cleanly before a
time limit and exits with 75, to be run again), `heads` (the bf16 weights get what samplers need:
SN and NPR heads trained on the frozen network, and the Gamma table), `weights` (in parts that are
easy to move), `evaluate` (curves by noise level, 32 samples, the memorisation guard with 500,
samples a second, the test split denoised). A consistency student is trained --from its parent, has
no heads, and denoises to no mean. Noise on the IXI slices is simulated on magnitude images of 8
bits: it says nothing about raw data.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from curves import plot_curves, training_rate
from record import ROOT, Measured, direction, write_result
from sampling_rate import STEPS, images_per_second
from weights import split

from medidiff import api
from medidiff.api.calls import splits_of
from medidiff.config import load_config
from medidiff.jobs.cases import cases_of_split
from medidiff.jobs.memorisation import Memorisation, losses_by_case
from medidiff.jobs.reporting import reporter
from medidiff.model import Model
from medidiff.model_folder import write_json
from medidiff.report.pictures import sheet
from medidiff.tasks.base import OURS
from medidiff.training.stop import Stopped

DATA = {
    "brain": "IXI T1 slices (CC BY-SA 3.0): 414 train, 58 validation, 55 test subjects, one each",
    "hippocampus": "MSD Task04 hippocampus (CC BY-SA 4.0): 15 % of the train subjects held out",
}
GOALS = {"gaussian 0.05": 34.5, "gaussian 0.1": 31.0, "gaussian 0.2": 28.0}
"""PSNR over the whole image that the benchmark prior of the brain is to reach."""
REGIONS = "in-head (psnr_head, ssim_head) and whole image; data range = intensity window"
SYNTHESIS = ("kernel_distance", "precision", "recall", "similarity", "memorisation_ratio")
EXIT_STOPPED = 75  # as the command line: run again to go on
FILLING = 0.93  # of the time is training; the rest is validating, drawing and saving
TIMED_STEPS = 150
STAGES = ("train", "heads", "weights", "evaluate")
SOURCES = ("sn", "npr")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="a configuration of configs/, without .yaml")
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--stage", choices=(*STAGES, "all"), default="all")
    parser.add_argument("--from", dest="parent", help="the model that a student is tuned from")
    parser.add_argument("--head-steps", type=int, default=1500, help="of each of SN and NPR")
    parser.add_argument("--minutes", type=float, help="of training in this start")
    parser.add_argument(
        "--fit-minutes", type=float, help="fewer steps than configured, if only those fit"
    )
    parser.add_argument("--samples", type=int, default=500, help="that the guard looks at")
    parser.add_argument("--baselines", choices=("tuned", "none"), default="none")
    parser.add_argument("--change", action="append", default=[])
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    args.out.mkdir(parents=True, exist_ok=True)
    run, model = args.work / "run", args.work / "model"
    if args.stage in ("train", "all") and not (run / "model").is_dir():
        try:
            train(args, run)
        except Stopped as stopped:
            print(stopped)
            return EXIT_STOPPED
    if args.stage in ("heads", "all") and not model.is_dir():
        complete(args, run, model)
    if args.stage in ("weights", "all"):
        weights(args, run, model)
    if args.stage in ("evaluate", "all"):
        evaluate(args, run, api.load(model))
    return 0


def train(args: argparse.Namespace, run: Path) -> None:
    """Start the training or go on with it. Errors: Stopped when the time is up."""
    config = ROOT / "configs" / f"{args.name}.yaml"
    changes = [f"data.manifest={args.manifest.resolve()}", *args.change]
    torch.backends.cudnn.benchmark = True
    if args.fit_minutes is not None:
        changes.append(f"train.steps={fitted_steps(args, config, changes)}")
    if args.minutes is not None:
        changes.append(f"train.minutes={args.minutes}")
    began = time.monotonic()
    try:
        api.train(
            config,
            changes=[*changes, f"output={run}"],
            resume=(run / "config.yaml").is_file(),
            parent=args.parent,
            progress="bars",
        )
    finally:
        spent = args.work / "minutes.json"
        before = json.loads(spent.read_text()) if spent.is_file() else []
        write_json(spent, [*before, round((time.monotonic() - began) / 60, 2)])


def fitted_steps(args: argparse.Namespace, config: Path, changes: list[str]) -> int:
    """Whole validation periods that fit into the minutes, by the speed of a short training; at most
    the configured steps."""
    kept = args.work / "steps.json"
    if not kept.is_file():
        place = args.work / "timing"
        short = [f"train.{key}={TIMED_STEPS}" for key in ("steps", "validate_every", "save_every")]
        short += ["train.sample_every=0", "train.log_every=50", f"output={place}"]
        api.train(config, changes=[*changes, *short], parent=args.parent, progress="bars")
        options = load_config(config, changes).config.train
        fitting = 60 * args.fit_minutes * FILLING * training_rate(place) / options.batch
        steps = max(1, int(fitting / options.validate_every)) * options.validate_every
        steps = min(steps, options.steps)
        write_json(kept, steps)
        print(f"{training_rate(place):.1f} images/s: {steps} steps fit")
    return json.loads(kept.read_text())


def complete(args: argparse.Namespace, run: Path, model: Path) -> None:
    """The finished model in bf16 and, for a prior, what its samplers need beside it.

    The trunk's numbers and its lineage are those of the training.
    """
    if api.load(run, "cpu").spec.draws_only:
        api.export(run, model, dtype="bfloat16")
        return
    plain = args.work / "plain"
    if not plain.is_dir():
        api.export(run, plain, dtype="bfloat16")
    headed = plain
    for source in SOURCES:
        headed = head_trained(args, headed, source)
    with_gamma = args.work / "gamma"
    if not with_gamma.is_dir():
        api.gamma(headed, with_gamma, manifest=args.manifest, mismatch="warn", progress="bars")
    known, trunk = api.load(with_gamma, "cpu"), api.load(plain, "cpu")
    spec = replace(trunk.spec, heads=known.spec.heads, gamma=known.spec.gamma)
    Model(spec, trunk.network, heads=known.heads).save(model, dtype="bfloat16")


def head_trained(args: argparse.Namespace, parent: Path, source: str) -> Path:
    """The run folder of a head of `parent`, trained with the prior's own data and times."""
    place = args.work / f"run-{source}"
    if (place / "model").is_dir():
        return place
    steps = args.head_steps
    changes = [
        f"data.manifest={args.manifest.resolve()}",
        *args.change,
        f"output={place}",
        f"diffusion.objective={{kind: spread, source: {source}}}",
        f"train.steps={steps}",
        f"train.warmup_steps={steps // 10}",
        "train.sample_every=0",
    ]
    config = ROOT / "configs" / f"{args.name}.yaml"
    resume = (place / "config.yaml").is_file()
    api.train(config, changes=changes, parent=parent, resume=resume, progress="bars")
    return place


def weights(args: argparse.Namespace, run: Path, model: Path) -> None:
    """The model in parts to keep."""
    # the interpreter's and the data's own places are nobody else's business
    command = " ".join(shlex.quote(Path(a).name if a.startswith("/") else a) for a in sys.argv)
    print(split(model, args.out / "weights", f"python {command}"))
    # what `evaluate` needs of the run, should it happen elsewhere
    journal = args.out / f"prior_{args.name.replace('-', '_')}_journal.jsonl"
    journal.write_bytes((run / "journal.jsonl").read_bytes())


def evaluate(args: argparse.Namespace, run: Path, model: api.Model) -> None:
    """All that is said of a prior, as OUT/prior_NAME.json and pictures."""
    prefix = f"prior_{args.name.replace('-', '_')}"
    plot_curves(run, args.out / f"{prefix}_curves.png")
    window = (model.spec.intensity.typical.low[0], model.spec.intensity.typical.high[0])
    volumes = model.spec.space.dims == 3
    sheet(
        model.sample(32, seed=0, batch=32).images[:, :1],
        args.out / f"{prefix}_samples.png",
        window=window,
        columns=12 if volumes else 8,
        affine=model.spec.space.affine() if volumes else None,
    )
    batch = 32 if model.device.type == "cuda" else 2
    calls = model.spec.sampling.steps if model.spec.draws_only else STEPS
    rate = images_per_second(model, batch, steps=calls)
    rows = [Measured(f"sampling, {calls} calls, batch {batch}", rate, "images/s", "higher")]
    if not model.spec.draws_only:
        rows += denoised(args, model)
    folder = fresh(args.work / "evaluation")
    found = api.evaluate(
        model,
        manifest=args.manifest,
        n=args.samples,
        out=folder,
        memorisation=True,
        mismatch="warn",
        progress="bars",
    )
    print(found.text)
    for metric in SYNTHESIS:
        peers = {m: found.samples.mean(metric, m) for m in ("real", "PCA Gaussian")}
        ours = found.samples.mean(metric, OURS)
        rows.append(Measured(f"synthesis, {metric}", ours, "", direction(metric), peers))
    assert found.memorisation is not None
    rows += guarded(found.memorisation)
    (args.out / f"{prefix}_nearest.png").write_bytes((folder / "nearest.png").read_bytes())
    facts = about(args, model) | {
        "losses_by_level": losses_by_level(args, model, found.memorisation),
        "noise_ratios": [level.noise_ratio for level in found.memorisation.membership],
        "memorisation": brief(found.memorisation),
    }
    print(write_result(prefix, rows, facts=facts, folder=args.out))
    # the guard's verdict belongs beside the weights that it judged
    kept = args.work / "model" / "memorisation.json"
    (args.out / f"{prefix}_memorisation.json").write_bytes(kept.read_bytes())


def denoised(args: argparse.Namespace, model: api.Model) -> list[Measured]:
    """The test split with Gaussian noise, one network call a scan."""
    folder = fresh(args.work / "denoise")
    table = api.benchmark(
        "denoise",
        model,
        manifest=args.manifest,
        out=folder,
        noise="gaussian",
        baselines=args.baselines,
        mismatch="warn",  # the whole split is measured, and what does not fit is said
        progress="bars",
    )
    print(table.text)
    rows = []
    for ours in table.summaries:
        if ours.method != OURS or ours.metric == "background_bias":
            continue
        peers = {
            other.method: other.interval.mean
            for other in table.summaries
            if (other.setting, other.metric) == (ours.setting, ours.metric) and other.method != OURS
        }
        what = f"denoise {ours.setting}, {ours.metric}, n={ours.interval.n}"
        peers |= {"lower bound": ours.interval.low, "upper bound": ours.interval.high}
        unit = "dB" if ours.metric.startswith("psnr") else "SSIM"
        wanted = args.name == "brain-t1-2d-benchmark" and ours.metric == "psnr"
        goal = GOALS.get(ours.setting) if wanted else None
        rows.append(Measured(what, ours.interval.mean, unit, "higher", peers, goal))
    return rows


def losses_by_level(
    args: argparse.Namespace, model: api.Model, found: Memorisation
) -> dict[str, list[float]]:
    """The final weights' loss on the three splits at the guard's levels, with the same noises."""
    lineage = model.spec.lineage
    splits = splits_of(model, None, None)
    report = reporter()
    cases = cases_of_split(model, args.manifest, lineage.validation_split, splits, report)
    validation = losses_by_case(model, cases, 0, report).mean(0)
    report.close()
    return {
        "train": [level.train_loss for level in found.membership],
        "validation": validation.tolist(),
        "test": [level.unseen_loss for level in found.membership],
    }


def guarded(found: Memorisation) -> list[Measured]:
    """The guard's figures."""
    rows = []
    for space in found.nearness:
        ratio, share = space.nearest_ratio, space.copied_share
        bounds = {"lower bound": ratio.low, "upper bound": ratio.high}
        what = f"nearest training image, {space.space}"
        rows.append(Measured(f"{what}, ratio to unseen", ratio.mean, "", "higher", bounds))
        bounds = {"lower bound": share.low, "upper bound": share.high, "unseen images": 0.01}
        rows.append(Measured(f"{what}, share of near ones", share.mean, "", "lower", bounds))
        rows.append(Measured(f"{what}, near copies", space.near_copies, "samples", "lower"))
    for level in found.membership:
        bounds = {"lower bound": level.auc.low, "upper bound": level.auc.high}
        what = f"membership AUC at noise ratio {level.noise_ratio:.3g}"
        rows.append(Measured(what, level.auc.mean, "", "lower", bounds))
    return rows


def brief(found: Memorisation) -> dict[str, object]:
    """The verdict and what it stands on, without every distance."""
    tree = found.tree()
    return {
        name: tree[name]
        for name in ("verdict", "reasons", "samples", "split", "train_subjects", "unseen_subjects")
    } | {"limits": vars(found.limits)}


def about(args: argparse.Namespace, model: api.Model) -> dict[str, object]:
    """What the figures are of."""
    spent = args.work / "minutes.json"
    lineage = model.spec.lineage
    draws = model.spec.draws_only
    return {
        "data": next((text for key, text in DATA.items() if args.name.startswith(key)), ""),
        "region": "whole image" if draws else REGIONS,
        "estimate": "samples, each by two network calls"
        if draws
        else "posterior mean by one network call",
        "intervals": "95 %, bootstrap over subjects",
        "steps": lineage.steps,
        "train_images": lineage.train_images,
        "train_subjects": lineage.train_subjects,
        "training_minutes": json.loads(spent.read_text()) if spent.is_file() else None,
        "training_images_per_second": training_rate(args.work / "run"),
        "parameters": sum(p.numel() for p in model.network.parameters()),
        "model_digest": model.digest,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30
        if torch.cuda.is_available()
        else None,
    }


def fresh(folder: Path) -> Path:
    """The folder's name, or that of the next of its kind that is not there yet."""
    count = 1
    place = folder
    while place.exists():
        count += 1
        place = folder.with_name(f"{folder.name}-{count}")
    return place


if __name__ == "__main__":
    sys.exit(main())
