"""From a configuration to a registered model, stage by stage; run it again and it goes on where it
stopped.

python pipelines/train.py configs/brain-t1-2d.yaml --manifest /data/ixi/manifest.csv --register
brain-t1
"""

from __future__ import annotations

import argparse
from pathlib import Path

from medidiff import api


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("config", type=Path)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--split", default="test", help="split that the evaluation reports")
    parser.add_argument("--register", help="name in the registry")
    parser.add_argument("--alias", default="candidate")
    parser.add_argument("--change", action="append", default=[])
    args = parser.parse_args()
    changes = [f"data.manifest={args.manifest.resolve()}", *args.change]

    checked = api.check(args.config, changes=changes, progress="bars")
    run = Path(checked.loaded.config.output)
    if not (run / "model").is_dir():
        started = (run / "config.yaml").is_file()
        api.train(args.config, changes=changes, resume=started, progress="bars")
    if not (run / "evaluation" / "evaluation.json").is_file():
        found = api.evaluate(
            run, manifest=args.manifest, split=args.split, out=run / "evaluation", progress="bars"
        )
        print(found.text)
    if args.register and not is_registered(args.register, args.alias, run):
        version = api.register(run, args.register, alias=args.alias)
        print(f"models:/{args.register}@{args.alias} is version {version}")


def is_registered(name: str, alias: str, run: Path) -> bool:
    """Whether the alias already is this very model."""
    try:
        return api.load(f"models:/{name}@{alias}").digest == api.load(run).digest
    except api.MedidiffError:  # no such name or alias yet
        return False


if __name__ == "__main__":
    main()
