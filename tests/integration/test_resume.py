"""Being stopped: the resumed run is bit-equal, under the same MLflow run, whatever stopped it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import medidiff
from medidiff.errors import OutputError

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "smoke-2d.yaml"
STEPS = 40


def command(manifest: Path, output: Path, *more: str) -> list[str]:
    changes = [f"data.manifest={manifest}", f"output={output}", f"train.steps={STEPS}"]
    changes += ["train.save_every=3", "train.log_every=1", "train.sample_every=0"]
    changes += ["network.dropout=0.1", "data.augment.shift_voxels=2"]
    changes = [part for change in changes for part in ("--change", change)]
    return [sys.executable, "-m", "medidiff", "train", str(CONFIG), *changes, *more]


def losses(run: Path) -> dict[int, float]:
    found = {}
    for line in (run / "journal.jsonl").read_text().splitlines():
        event = json.loads(line)
        if "loss" in event.get("metrics", {}):
            found[event["step"]] = event["metrics"]["loss"]
    return found


def status_of(run: Path) -> tuple[str, str]:
    from mlflow import MlflowClient

    run_id = json.loads((run / "run.json").read_text())["run_id"]
    return run_id, MlflowClient(os.environ["MLFLOW_TRACKING_URI"]).get_run(run_id).info.status


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_a_stopped_run_goes_on_as_if_it_had_never_stopped(
    number: signal.Signals, flat: Path, place: Path
) -> None:
    whole, parts = place / f"whole-{number}", place / f"parts-{number}"
    subprocess.run(command(flat, whole), check=True, capture_output=True)
    process = subprocess.Popen(command(flat, parts), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (parts / "checkpoints" / "latest.json").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, text = process.communicate(timeout=120)
    assert not (parts / "model").exists(), "the run was done before it could be stopped"
    run_id, status = status_of(parts)
    if number == signal.SIGTERM:
        assert process.returncode == 75
        assert "--resume" in text
        assert status == "KILLED"
    subprocess.run(command(flat, parts, "--resume"), check=True, capture_output=True)
    assert status_of(parts) == (run_id, "FINISHED")
    assert losses(parts) == losses(whole)
    ours, theirs = (load_file(run / "model" / "model.safetensors") for run in (parts, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.slow
def test_a_finished_run_and_another_configuration_are_not_resumed(run_2d: Path, flat: Path) -> None:
    changes = [f"data.manifest={flat}", f"output={run_2d}"]
    with pytest.raises(OutputError, match="finished"):
        medidiff.train(CONFIG, changes=changes, resume=True)
    with pytest.raises(OutputError, match="already holds results"):
        medidiff.train(CONFIG, changes=changes)
