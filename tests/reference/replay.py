"""Replay every case of a folder of recordings: `python tests/reference/replay.py DIR [FAMILY...]`.

Prints a line a family, the total and what failed or is unsupported; exit 1 if any failed.
"""

from __future__ import annotations

import sys
from pathlib import Path

from medidiff.conformance.replay import replay, summary


def main(arguments: list[str]) -> int:
    if not arguments or not (Path(arguments[0]) / "index.json").is_file():
        print("usage: replay.py DIR [FAMILY...], where DIR holds index.json", file=sys.stderr)
        return 2
    families = set(arguments[1:])
    outcomes = list(
        replay(Path(arguments[0]), lambda case: not families or case.family in families)
    )
    print("\n".join(summary(outcomes)))
    return int(any(outcome.verdict == "failed" for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
