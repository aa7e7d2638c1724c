"""Checkpoints: everything that a resumed run needs to go on as if it had never stopped.

A checkpoint is a file of tensors, read back with `weights_only=True`, and a JSON file that names
it with its digest. The JSON file is replaced last and whole, so a crash while saving leaves the
one before.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from medidiff.errors import TrainingError

POINTER = "latest.json"


def save_checkpoint(
    folder: Path, step: int, tensors: dict[str, Any], facts: dict[str, Any]
) -> Path:
    """Write the checkpoint of `step` and remove the one before."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"step-{step:08d}.pt"
    part = file.with_suffix(".part")
    torch.save(tensors, part)
    part.replace(file)
    pointer = {"step": step, "file": file.name, "sha256": _digest(file), **facts}
    part = folder / (POINTER + ".part")
    part.write_text(json.dumps(pointer, indent=2) + "\n", encoding="utf-8")
    part.replace(folder / POINTER)
    for old in folder.glob("step-*.pt"):
        if old != file:
            old.unlink()
    return file


def load_checkpoint(
    folder: Path, device: torch.device
) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """(tensors, facts) of the latest checkpoint in `folder`, or None if there is none.

    Errors: TrainingError if it is damaged.
    """
    pointer = folder / POINTER
    if not pointer.exists():
        return None
    facts = json.loads(pointer.read_text(encoding="utf-8"))
    file = folder / facts["file"]
    if not file.exists() or _digest(file) != facts["sha256"]:
        raise TrainingError(
            f"the checkpoint of step {facts['step']} is missing or altered (its SHA-256 differs); "
            "start the run again in a new folder"
        )
    return torch.load(file, map_location=device, weights_only=True), facts


def ended(folder: Path) -> str:
    """Why the training of these checkpoints ended; "" if it did not."""
    pointer = folder / POINTER
    if not pointer.exists():
        return ""
    return json.loads(pointer.read_text(encoding="utf-8"))["watch"]["ended"]


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
