"""Does a 3-D prior trained for a few minutes on one GPU draw volumes that look like hippocampus?

    python benchmarks/hippocampus_3d.py --manifest hippocampus/manifest.csv --work WORK --out OUT

Trains configs/hippocampus-3d.yaml, draws 8 volumes and compares samples with real volumes.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from curves import plot_curves
from record import ROOT, Measured, direction, write_result

from medidiff import api
from medidiff.data.datasets import CaseSet
from medidiff.data.manifest import read_manifest
from medidiff.report.pictures import sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--change", action="append", default=[])
    args = parser.parse_args()
    run = args.work / "run"
    changes = [f"data.manifest={args.manifest.resolve()}", f"output={run}", *args.change]
    if not (run / "model").is_dir():
        api.train(
            ROOT / "configs" / "hippocampus-3d.yaml",
            changes=changes,
            resume=(run / "config.yaml").is_file(),
            progress="bars",
        )
    args.out.mkdir(parents=True, exist_ok=True)
    model = api.load(run)
    plot_curves(run, args.out / "hippocampus_3d_curves.png")
    model.sample(1, steps=2)  # warm
    began = time.perf_counter()
    samples = model.sample(8, steps=20, seed=0)
    seconds = time.perf_counter() - began
    show(model, samples.images, args.manifest, args.out)
    rows = [Measured("sampling, 20 calls", 8 / seconds, "volumes/s", "higher")]
    found = api.evaluate(
        model,
        manifest=args.manifest,
        n=32,
        out=args.work / "evaluation",
        progress="bars",
    )
    print(found.text)
    for metric in ("kernel_distance", "precision", "recall", "similarity", "memorisation_ratio"):
        peers = {m: found.samples.mean(metric, m) for m in ("real", "PCA Gaussian")}
        ours = found.samples.mean(metric, "medidiff")
        rows.append(Measured(f"synthesis, {metric}", ours, "", direction(metric), peers))
    facts = {
        "data": "MSD hippocampus (CC BY-SA 4.0), train split with 15 % of subjects held out",
        "steps": model.spec.lineage.steps,
        "parameters": sum(p.numel() for p in model.network.parameters()),
        "losses_by_level_test": list(found.losses),
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30
        if torch.cuda.is_available()
        else None,
    }
    print(write_result("hippocampus_3d", rows, facts=facts, folder=args.out))


def show(model: api.Model, images: torch.Tensor, manifest: Path, out: Path) -> None:
    """The made volumes, and as many real test volumes, in the model's units."""
    rows = read_manifest(manifest).split("test")[:8]
    cases = CaseSet(rows, model.spec.images, model.spec.space, model.spec.intensity)
    real = torch.stack([case.images for case in cases])
    made = model.spec.intensity.typical.normalise(images)
    affine = model.spec.space.affine()
    for name, volumes in (("samples", made), ("real", real)):
        sheet(
            volumes,
            out / f"hippocampus_3d_{name}.png",
            window=(-1, 1),
            affine=affine,
            title=f"hippocampus, {name}: axial, coronal, sagittal",
        )


if __name__ == "__main__":
    main()
