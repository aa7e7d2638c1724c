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

import torch
from curves import plot_curves
from record import ROOT, Measured, write_result

from medidiff import api
from medidiff.report.pictures import sheet

BETTER = {"psnr": "higher", "ssim": "higher", "psnr_head": "higher", "ssim_head": "higher"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--stage", choices=("train", "measure", "all"), default="all")
    parser.add_argument("--change", action="append", default=[])
    args = parser.parse_args()
    run = args.work / "run"
    if args.stage != "measure":
        changes = [f"data.manifest={args.manifest.resolve()}", f"output={run}", *args.change]
        started = (run / "config.yaml").is_file()
        api.train(
            ROOT / "configs" / "brain-t1-2d.yaml", changes=changes, resume=started, progress="bars"
        )
    if args.stage != "train":
        measure(run, args.manifest, args.work, args.out)


def measure(run: Path, manifest: Path, work: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    rows: list[Measured] = []
    model = api.load(run)
    plot_curves(run, out / "brain_2d_curves.png")

    model.sample(16, steps=2)  # warm
    began = time.perf_counter()
    samples = model.sample(16, steps=20, seed=0)
    seconds = time.perf_counter() - began
    sheet(samples.images, out / "brain_2d_samples.png", window=(0, 255), columns=8)
    rows.append(Measured("sampling, 20 calls", 16 / seconds, "images/s", "higher"))

    for noise in ("rician", "gaussian"):
        table = api.benchmark(
            "denoise",
            model,
            manifest=manifest,
            out=work / f"denoise-{noise}",
            noise=noise,
            progress="bars",
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
            what = f"denoise {summary.setting}, {summary.metric}"
            unit = "dB" if summary.metric.startswith("psnr") else "SSIM"
            rows.append(Measured(what, summary.interval.mean, unit, "higher", peers))
        for name in ("table.md", "comparison.png"):
            target = out / f"brain_2d_denoise_{noise}{Path(name).suffix}"
            target.write_bytes((work / f"denoise-{noise}" / name).read_bytes())

    found = api.evaluate(model, manifest=manifest, out=work / "evaluation", n=64, progress="bars")
    print(found.text)
    for metric in ("kernel_distance", "precision", "recall", "similarity", "memorisation_ratio"):
        peers = {m: found.samples.mean(metric, m) for m in ("real", "PCA Gaussian")}
        rows.append(
            Measured(
                f"synthesis, {metric}", found.samples.mean(metric, "medidiff"), "", "lower", peers
            )
        )
    facts = {
        "data": "IXI T1 slices (CC BY-SA 3.0), 414 train, 58 validation, 55 test subjects",
        "region": "in-head and whole image, data range = the 8-bit window",
        "estimate": "posterior mean by one network call (Rician: 4 calls more for the phase)",
        "steps": model.spec.lineage.steps,
        "parameters": sum(p.numel() for p in model.network.parameters()),
        "losses_by_level_test": list(found.losses),
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30
        if torch.cuda.is_available()
        else None,
    }
    print(write_result("brain_2d", rows, facts=facts, folder=out))


if __name__ == "__main__":
    main()
