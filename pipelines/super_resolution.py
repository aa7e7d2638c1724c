"""Bring every scan of a folder onto a finer grid; scans that are done already are skipped.

python pipelines/super_resolution.py models:/brain-t1@champion scans/ fine/ --factor 4
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
    parser.add_argument("--factor", type=int, nargs="+", default=[4], help="one, or one an axis")
    parser.add_argument("--samples", type=int, default=4, help="with maps from two on")
    args = parser.parse_args()

    model = api.load(args.model)
    factor = args.factor[0] if len(args.factor) == 1 else tuple(args.factor)
    for scan in sorted(path for path in args.scans.iterdir() if path.name.endswith(ENDINGS)):
        name = scan.name.removesuffix(".gz").rsplit(".", 1)[0]
        target = args.out / f"{name}-super_resolution.nii.gz"
        if target.exists():
            continue
        api.run("super_resolution", model, scan, n=args.samples, factor=factor).save(target)
        print(target)


if __name__ == "__main__":
    main()
