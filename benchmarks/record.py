"""How a benchmark's result is kept: figures with the command, commit, date, hardware and
versions."""

from __future__ import annotations

import datetime
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
HEADER = ("command", "commit", "date", "hardware")
PACKAGES = ("medidiff", "torch", "monai", "numpy", "scikit-image", "nibabel", "diffusers")


@dataclass(frozen=True)
class Origins:
    """How a result tells which run measured the rows that are not its own."""

    fact: str = "measured earlier"
    """Its place among the facts: a list of runs."""
    names: str = "rows"
    """Of each run, what its rows there are about."""
    source: tuple[str, ...] = HEADER
    """What is told of a run besides."""
    about: Callable[[str], str] = str
    """What a row is about: one that is measured anew takes the place of all about the same."""


BY_ROW = Origins()


@dataclass(frozen=True)
class Measured:
    """One line of a result."""

    what: str
    ours: float | None
    unit: str
    better: Literal["lower", "higher"]
    peers: dict[str, float] = field(default_factory=dict)
    goal: float | None = None


def write_result(
    name: str,
    rows: Sequence[Measured],
    *,
    facts: dict[str, object],
    folder: Path | None = None,
    earlier: Mapping[str, Any] | None = None,
    origins: Origins = BY_ROW,
) -> Path:
    """Write benchmarks/results/NAME.json (or into `folder`).

    Rows and facts of an `earlier` result that were not measured anew are kept, with their origin.
    """
    place = (folder or RESULTS) / f"{name}.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    # the interpreter's and the data's own places are nobody else's business
    command = " ".join(shlex.quote(Path(a).name if a.startswith("/") else a) for a in sys.argv)
    content = {
        "command": f"python {command}",
        "commit": commit(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "hardware": hardware(),
        "versions": versions(),
        "facts": facts,
        "rows": [asdict(row) for row in rows],
    }
    if earlier:
        content = with_earlier(content, earlier, origins)
    place.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return place


def earlier_result(name: str, folder: Path | None = None) -> dict[str, Any]:
    """The result in `folder`, or else in benchmarks/results; empty if there is none."""
    for place in ((folder or RESULTS) / f"{name}.json", RESULTS / f"{name}.json"):
        if place.is_file():
            return json.loads(place.read_text(encoding="utf-8"))
    return {}


def with_earlier(
    content: Mapping[str, Any], earlier: Mapping[str, Any], origins: Origins = BY_ROW
) -> dict[str, Any]:
    """The result with what only the earlier one has, and among the facts its origin."""
    kept, runs = kept_of(earlier, [row["what"] for row in content["rows"]], origins)
    facts = {**earlier["facts"], **content["facts"], origins.fact: runs}
    return {**content, "facts": facts, "rows": [*content["rows"], *kept]}


def kept_of(
    earlier: Mapping[str, Any], measured: Sequence[str], origins: Origins = BY_ROW
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Of an earlier result the rows that none `measured` anew is about, and which runs they are of:
    the one that first told of a row, or the earlier result's own."""
    new = {origins.about(what) for what in measured}
    kept = [row for row in earlier["rows"] if origins.about(row["what"]) not in new]
    left = list(dict.fromkeys(origins.about(row["what"]) for row in kept))
    own = {origins.names: left, **{name: earlier[name] for name in origins.source}}
    runs: list[dict[str, Any]] = []
    for run in [*earlier["facts"].get(origins.fact, []), own]:
        names = [name for name in run[origins.names] if name in left]
        left = [name for name in left if name not in names]
        runs += [{**run, origins.names: names}] if names else []
    return kept, runs


def direction(metric: str) -> Literal["lower", "higher"]:
    """Which way a synthesis metric is better, as the head says."""
    from medidiff.tasks import Synthesis

    return "higher" if Synthesis().metrics()[metric].endswith("higher") else "lower"


def commit() -> str:
    """The commit that was measured: MEDIDIFF_COMMIT where the tree travels without its history."""
    if "MEDIDIFF_COMMIT" in os.environ:
        return os.environ["MEDIDIFF_COMMIT"]
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True
    )
    return done.stdout.strip() or "unknown"


def hardware() -> str:
    """GPU, or processor and its cores."""
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, {os.cpu_count()} CPU cores"
    return f"{platform.machine()} CPU, {os.cpu_count()} cores"


def versions() -> dict[str, str]:
    """Of Python and the packages that matter."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
