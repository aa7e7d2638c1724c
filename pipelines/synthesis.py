"""A population of synthetic images, one folder a condition.

python pipelines/synthesis.py models:/brain-t1@champion out/ --n 100 --condition sex=F --condition
sex=M
"""

from __future__ import annotations

import argparse
from pathlib import Path

from medidiff import api


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("out", type=Path)
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument(
        "--condition", action="append", default=[], help="NAME=CLASS; none: unconditional"
    )
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    model = api.load(args.model)
    for text in args.condition or [""]:
        name, _, value = text.partition("=")
        folder = args.out / (f"{name}-{value}" if text else "unconditional")
        if folder.exists():
            continue
        samples = model.sample(
            args.n,
            condition={name: value} if text else None,
            guidance=args.guidance,
            seed=args.seed,
        )
        samples.save(folder)
        print(f"{folder}: {args.n} images, {samples.nfe} network calls each")


if __name__ == "__main__":
    main()
