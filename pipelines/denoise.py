"""Denoise every scan of a folder with a registered model; scans that are done already are skipped.

python pipelines/denoise.py models:/brain-t1@champion scans/ denoised/ --noise rician
"""

from __future__ import annotations

import argparse
from pathlib import Path

from medidiff import api

ENDINGS = (".nii", ".nii.gz", ".png")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("scans", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--noise", choices=("gaussian", "rician", "poisson"), default="rician")
    parser.add_argument("--sigma", type=float, help="in window widths; estimated where not given")
    parser.add_argument("--counts", type=float, help="of poisson noise, at the top of the window")
    parser.add_argument("--samples", type=int, default=1)
    args = parser.parse_args()

    model = api.load(args.model)
    scans = sorted(path for path in args.scans.iterdir() if path.name.endswith(ENDINGS))
    for scan in scans:
        target = args.out / f"{scan.name.removesuffix('.gz').rsplit('.', 1)[0]}-denoise.nii.gz"
        if target.exists():
            continue
        told = {"sigma": args.sigma, "counts": args.counts}
        level = {name: value for name, value in told.items() if value is not None}
        result = api.run("denoise", model, scan, n=args.samples, noise=args.noise, **level)
        result.save(target)
        print(target)


if __name__ == "__main__":
    main()
