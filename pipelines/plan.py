"""From a folder of scans to a checked configuration: manifest, splits, plan, check.

python pipelines/plan.py /data/export work/ --gpu-memory 24
"""

from __future__ import annotations

import argparse
from pathlib import Path

from medidiff import api


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="scans, or a manifest with splits (.csv)")
    parser.add_argument("work", type=Path)
    parser.add_argument("--gpu-memory", type=float, default=24.0)
    parser.add_argument("--stratify", action="append", default=[])
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)

    found, dealt, plan = (args.work / name for name in ("all.csv", "manifest.csv", "plan.yaml"))
    if args.folder.suffix == ".csv":
        dealt = args.folder
    elif not dealt.is_file():
        if not found.is_file():
            print(api.build_manifest(args.folder, found, progress="bars").text)
        print(api.split_manifest(found, dealt, stratify=args.stratify))
    if not plan.is_file():
        print(api.plan(dealt, plan, gpu_memory=args.gpu_memory, progress="bars").text)
    checked = api.check(plan, gpu_memory=args.gpu_memory, progress="bars")
    print(f"{plan}: {checked.train_images} training images; next: pipelines/train.py {plan}")


if __name__ == "__main__":
    main()
