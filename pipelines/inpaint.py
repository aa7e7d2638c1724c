"""Fill the holes of every scan of a folder; the mask of scan.nii.gz is called scan-mask.nii.gz.

python pipelines/inpaint.py models:/brain-t1@champion scans/ masks/ filled/
"""

from __future__ import annotations

import argparse
from pathlib import Path

from medidiff import api

ENDING = ".nii.gz"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("scans", type=Path)
    parser.add_argument("masks", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--samples", type=int, default=4, help="with maps from two on")
    args = parser.parse_args()

    model = api.load(args.model)
    for scan in sorted(path for path in args.scans.iterdir() if path.name.endswith(ENDING)):
        name = scan.name.removesuffix(ENDING)
        mask, target = args.masks / f"{name}-mask{ENDING}", args.out / f"{name}-inpaint{ENDING}"
        if target.exists() or not mask.exists():
            continue
        api.run("inpaint", model, scan, n=args.samples, mask=mask).save(target)
        print(target)


if __name__ == "__main__":
    main()
