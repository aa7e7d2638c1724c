"""Reconstruct every measurement of a folder; what is done already is skipped.

python pipelines/reconstruct.py models:/brain-t1@champion kspace/ images/ --samples 8
"""

from __future__ import annotations

import argparse
from pathlib import Path

from medidiff import api

ENDINGS = (".h5", ".hdf5", ".npy", ".npz")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("measurements", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--samples", type=int, default=4, help="with maps from two on")
    args = parser.parse_args()

    model = api.load(args.model)
    for file in sorted(p for p in args.measurements.iterdir() if p.suffix in ENDINGS):
        target = args.out / f"{file.stem}-reconstruct.nii.gz"
        if target.exists():
            continue
        api.run("reconstruct", model, file, n=args.samples, progress="bars").save(target)
        print(target)


if __name__ == "__main__":
    main()
