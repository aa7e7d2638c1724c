"""`run.json`: which MLflow run a folder belongs to, and which process writes it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from medidiff.errors import OutputError
from medidiff.tracking.process import Process

FORMAT = 1


@dataclass(frozen=True)
class RunRecord:
    """The identity of a run, kept in its folder."""

    key: str
    """Our own id; the tag `medidiff.key` in the store, so that no run is made twice."""
    name: str
    experiment: str
    created_ms: int
    process: Process
    run_id: str | None = None
    """MLflow's id; None until a store has answered."""
    tracking_uri: str | None = None
    """The store of `run_id`, without password."""


def read_record(folder: Path) -> RunRecord | None:
    """The record in `folder`, or None if no run was opened there.

    Errors: OutputError if the file cannot be read.
    """
    file = folder / "run.json"
    if not file.exists():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content.pop("format") != FORMAT:
            raise ValueError("its format is not 1")
        return RunRecord(**{**content, "process": Process(**content["process"])})
    except (ValueError, KeyError, TypeError) as error:
        raise OutputError(f"{file} does not describe a run: {error}") from None


def write_record(folder: Path, record: RunRecord) -> None:
    """Write `run.json`, whole or not at all."""
    part = folder / "run.json.part"
    content = {"format": FORMAT, **asdict(record)}
    part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    part.replace(folder / "run.json")
