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
GUARD_S = 600
"""Longer than anything takes on a busy machine."""


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


LINGER = f"""
import time
from medidiff import cli
from medidiff.tracking import Run

log = Run.log

def lingering(run, metrics, step):
    log(run, metrics, step)
    if step in range({STEPS - 4}, {STEPS - 1}):
        time.sleep(20)

Run.log = lingering
cli.main()
"""
"""A run that is not done before a busy machine comes to stop it."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "ema"),
    [
        (signal.SIGTERM, "{kind: exponential}"),
        (signal.SIGKILL, "{kind: exponential}"),
        (signal.SIGKILL, "{kind: power, snapshots: 8}"),
    ],
    ids=["SIGTERM", "SIGKILL", "SIGKILL-power"],
)
def test_a_stopped_run_goes_on_as_if_it_had_never_stopped(
    number: signal.Signals, ema: str, flat: Path, place: Path
) -> None:
    whole, parts = place / f"whole-{number}-{len(ema)}", place / f"parts-{number}-{len(ema)}"
    average = ("--change", f"train.ema={ema}")
    subprocess.run(command(flat, whole, *average), check=True, capture_output=True)
    lingering = [sys.executable, "-c", LINGER, *command(flat, parts, *average)[3:]]
    process = subprocess.Popen(lingering, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + GUARD_S
    while not (parts / "checkpoints" / "latest.json").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, text = process.communicate(timeout=GUARD_S)
    assert not (parts / "model").exists(), "the run was done before it could be stopped"
    run_id, status = status_of(parts)
    if number == signal.SIGTERM:
        assert process.returncode == 75
        assert "--resume" in text
        assert status == "KILLED"
    subprocess.run(command(flat, parts, *average, "--resume"), check=True, capture_output=True)
    assert status_of(parts) == (run_id, "FINISHED")
    assert losses(parts) == losses(whole)
    ours, theirs = (load_file(run / "model" / "model.safetensors") for run in (parts, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


BREAK = """
import os, signal, sys
from medidiff import cli
from medidiff.tracking import Run

def broken(*_):
    if how == "FAILED":
        raise OSError("the disk is full")
    os.kill(os.getpid(), signal.SIGKILL)

how, before = sys.argv.pop(1), sys.argv.pop(1)
setattr(Run, before, broken)
cli.main()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "before", "then"),
    [
        ("SIGKILL", "artifact", "resume"),
        ("SIGKILL", "tag", "resume"),
        ("FAILED", "artifact", "resume"),
        ("SIGKILL", "artifact", "sync"),
        ("SIGKILL", "artifact", "register"),
    ],
)
def test_a_run_that_dies_between_saving_and_logging_its_model_is_completed_by_the_next_command(
    how: str, before: str, then: str, flat: Path, place: Path
) -> None:
    from mlflow import MlflowClient

    run = place / f"undelivered-{how}-{before}-{then}"
    train = [*command(flat, run)[3:], "--change", "train.steps=4"]
    interpreter = [sys.executable, "-c", BREAK, how, before]
    done = subprocess.run([*interpreter, *train], capture_output=True, check=False)
    assert done.returncode == (1 if how == "FAILED" else -signal.SIGKILL)
    made = (run / "model" / "SHA256SUMS").read_bytes()
    assert status_of(run)[1] == ("FAILED" if how == "FAILED" else "RUNNING")
    words = {
        "resume": [*train, "--resume"],
        "sync": ["sync", str(run)],
        "register": ["register", str(run), "--name", "late"],
    }[then]
    subprocess.run([sys.executable, "-m", "medidiff", *words], check=True, capture_output=True)
    run_id, status = status_of(run)
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    assert status == "FINISHED"
    assert len(client.list_artifacts(run_id, "model")) == 4
    assert client.get_run(run_id).data.tags["model_digest"] == medidiff.load(run).digest
    assert client.get_run(run_id).data.tags["ended"] == "all steps done"
    assert (run / "model" / "SHA256SUMS").read_bytes() == made
    with pytest.raises(OutputError, match="this run is finished"):
        medidiff.train(CONFIG, changes=train[3::2], resume=True)


@pytest.mark.slow
def test_a_finished_run_and_another_configuration_are_not_resumed(run_2d: Path, flat: Path) -> None:
    changes = [f"data.manifest={flat}", f"output={run_2d}"]
    with pytest.raises(OutputError, match="finished"):
        medidiff.train(CONFIG, changes=changes, resume=True)
    with pytest.raises(OutputError, match="already holds results"):
        medidiff.train(CONFIG, changes=changes)
