"""Raw 8-coil brain k-space, reconstructed by a prior and by l1-wavelets with ESPIRiT maps.

    python benchmarks/raw_kspace.py MODEL KSPACE.npy --out benchmarks/results [--n 4]

The samples are of a scanner (sigpy's tutorial data, BSD-3; 12.4 % of the places) and there is no
fully sampled scan of that head: no number says which image is the nearer. Shown are the images, the
deviation of the samples, and each residual over what the noise explains, near 1 if the image
neither leaves signal behind nor follows the noise. The prior was made of another scanner's
magnitude images, T1-weighted; what it adds to this contrast is to be looked at, not believed.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from record import Measured, write_result

from medidiff import api
from medidiff.evaluation.classical_inverse import MRI, ZERO_FILLED
from medidiff.evaluation.tuning import best_strength
from medidiff.physics import CartesianMRI, ConjugateGradients
from medidiff.physics.coils import ESPIRiT, calibration_box
from medidiff.report.pictures import sheet
from medidiff.tasks.kspace import noise_level

CG = ConjugateGradients(tolerance=1e-5, steps=30)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("kspace", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--n", type=int, default=4)
    args = parser.parse_args()

    kspace = torch.from_numpy(np.load(args.kspace, allow_pickle=False))[None]
    mask = (kspace != 0).any(1, keepdim=True).float()
    box = calibration_box(mask[0, 0])
    coils = replace(ESPIRiT(), calibration=min(*box, ESPIRiT().calibration)).maps(kspace)
    operator = CartesianMRI(mask, coils, solver=CG)
    sigma = noise_level(kspace[0], mask[0])
    images, rows = {}, []

    def residual(image: torch.Tensor) -> float:
        count = float(mask.sum()) * kspace.shape[1]
        apart = torch.linalg.vector_norm(operator.forward(image.to(kspace)) - kspace)
        return float(apart / (sigma * (2 * count) ** 0.5))

    for method in (ZERO_FILLED, *(each for each in MRI if each.name == "l1-wavelet")):
        begin = time.monotonic()
        # without a truth: the strength whose residual is nearest to 1
        strength = best_strength(
            lambda s, method=method: -abs(residual(method.solve(operator, kspace, s)) - 1),
            method.grid,
        )
        image = method.solve(operator, kspace, strength)
        images[method.name] = image.abs()[0]
        rows.append(row(method.name, residual(image), time.monotonic() - begin, strength=strength))

    begin = time.monotonic()
    result = api.run("reconstruct", args.model, args.kspace, n=args.n)
    images["medidiff"] = torch.from_numpy(result.image)
    images["medidiff, one sample"] = torch.from_numpy(np.asarray(result.samples[0]))
    images["deviation x 4"] = 4 * torch.from_numpy(result.maps["std"])
    known = result.provenance
    own = known["residual"][0]  # type: ignore[index]
    spent = {"network_calls": known["network_calls"], "n": args.n, "model": known["model"]}
    rows.append(row("medidiff", float(own), time.monotonic() - begin, **spent))

    args.out.mkdir(parents=True, exist_ok=True)
    top = float(np.quantile(images["l1-wavelet"].numpy(), 0.995))
    shown = {row["what"]: f"residual {row['residual']:.2f}" for row in rows}
    titles = [f"{name}\n{shown.get(name, '')}".strip() for name in images]
    sheet(
        [*images.values()],
        args.out / "raw_kspace.png",
        window=(0.0, top),
        columns=len(images),
        titles=titles,
        title="8-coil brain k-space, 12.4 % sampled, no ground truth",
    )
    facts = {
        "sigma": sigma,
        "calibration_box": box,
        "measurement": known["measurement"],
        "methods": rows,
        "read": "a residual near 1 is what noise alone leaves",
    }
    what = "residual over what the noise explains"
    measured = [
        Measured(f"{each['what']}: {what}", float(str(each["residual"])), "", "lower")
        for each in rows
    ]
    print(write_result("raw_kspace", measured, facts=facts, folder=args.out))


def row(what: str, residual: float, seconds: float, **more: object) -> dict[str, object]:
    """One method."""
    return {"what": what, "residual": round(residual, 4), "seconds": round(seconds, 2), **more}


if __name__ == "__main__":
    main()
