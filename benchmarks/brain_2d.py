"""What does a brain-slice prior trained for about 8 minutes on one GPU draw, and how does it
denoise?

    python benchmarks/brain_2d.py --manifest ixi_t1_slices/manifest.csv --work WORK --out OUT

Trains configs/brain-t1-2d.yaml (going on with an interrupted training), draws 16 images with 20
network calls, denoises the test split beside tuned baselines, compares 64 samples with real images.
Noise is simulated on magnitude slices of 8 bits: it says nothing about raw data.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from curves import plot_curves
from record import ROOT, Measured, direction, write_result

from medidiff import api
from medidiff.report.pictures import sheet

STAGES = ("train", "synthesis", "denoise", "all")
BETTER = {"psnr": "higher", "ssim": "higher", "psnr_head": "higher", "ssim_head": "higher"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--stage", choices=STAGES, default="all")
    parser.add_argument("--change", action="append", default=[])
    args = parser.parse_args()
    run = args.work / "run"
    if args.stage in ("train", "all"):
        changes = [f"data.manifest={args.manifest.resolve()}", f"output={run}", *args.change]
        started = (run / "config.yaml").is_file()
        api.train(
            ROOT / "configs" / "brain-t1-2d.yaml", changes=changes, resume=started, progress="bars"
        )
    args.out.mkdir(parents=True, exist_ok=True)
    if args.stage in ("synthesis", "all"):
        plot_curves(run, args.out / "brain_2d_curves.png")
        synthesis(api.load(run), args)
    if args.stage in ("denoise", "all"):
        denoise(api.load(run), args)


def synthesis(model: api.Model, args: argparse.Namespace) -> None:
    """Samples, their sheet, and their distances from the real test images."""
    model.sample(16, steps=2)  # warm
    began = time.perf_counter()
    samples = model.sample(16, steps=20, seed=0)
    seconds = time.perf_counter() - began
    sheet(samples.images, args.out / "brain_2d_samples.png", window=(0, 255), columns=8)
    rows = [Measured("sampling, 20 calls", 16 / seconds, "images/s", "higher")]
    found = api.evaluate(
        model, manifest=args.manifest, out=args.work / "evaluation", n=64, progress="bars"
    )
    print(found.text)
    for metric in ("kernel_distance", "precision", "recall", "similarity", "memorisation_ratio"):
        peers = {m: found.samples.mean(metric, m) for m in ("real", "PCA Gaussian")}
        ours = found.samples.mean(metric, "medidiff")
        rows.append(Measured(f"synthesis, {metric}", ours, "", direction(metric), peers))
    facts = about(model) | {"losses_by_level_test": list(found.losses)}
    print(write_result("brain_2d_synthesis", rows, facts=facts, folder=args.out))


def denoise(model: api.Model, args: argparse.Namespace) -> None:
    """The test split denoised beside the baselines, which are tuned on the validation split."""
    rows: list[Measured] = []
    for noise in ("rician", "gaussian"):
        folder = args.work / f"denoise-{noise}"
        table = api.benchmark(
            "denoise", model, manifest=args.manifest, out=folder, noise=noise, progress="bars"
        )
        print(table.text)
        for summary in table.summaries:
            if summary.method != "medidiff" or summary.metric not in BETTER:
                continue
            peers = {
                other.method: other.interval.mean
                for other in table.summaries
                if (other.setting, other.metric) == (summary.setting, summary.metric)
                and other.method != "medidiff"
            }
            what = f"denoise {noise} {summary.setting}, {summary.metric}"
            unit = "dB" if summary.metric.startswith("psnr") else "SSIM"
            rows.append(Measured(what, summary.interval.mean, unit, "higher", peers))
        for name in ("table.md", "comparison.png"):
            target = args.out / f"brain_2d_denoise_{noise}{Path(name).suffix}"
            target.write_bytes((folder / name).read_bytes())
    print(write_result("brain_2d_denoise", rows, facts=about(model), folder=args.out))


def about(model: api.Model) -> dict[str, object]:
    """What the figures are of."""
    return {
        "data": "IXI T1 slices (CC BY-SA 3.0), 414 train, 58 validation, 55 test subjects",
        "region": "in-head and whole image, data range = the 8-bit window",
        "estimate": "posterior mean by one network call (Rician: 4 calls more for the phase)",
        "steps": model.spec.lineage.steps,
        "parameters": sum(p.numel() for p in model.network.parameters()),
    }


if __name__ == "__main__":
    main()
