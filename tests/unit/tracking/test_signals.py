"""Runs of real processes that are stopped from outside."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from medidiff.tracking import close_lost
from medidiff.tracking.record import read_record

if TYPE_CHECKING:
    from mlflow import MlflowClient

PROGRAM = """
import signal, sys, time
from medidiff.tracking import open_run

class Stopped(BaseException):
    killed = True

def stop(*_):
    raise Stopped

signal.signal(signal.SIGTERM, stop)
with open_run(sys.argv[1], name="a run", experiment="brain", params={}) as run:
    run.log({"loss": 1.0}, 1)
    print(run.run_id, run.flush(), flush=True)
    time.sleep(3600)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_stopped_process_leaves_a_killed_run(
    store: MlflowClient, tmp_path: Path, number: signal.Signals
) -> None:
    folder = tmp_path / "run"
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            run_id, flushed = process.stdout.readline().split()
            assert flushed == "True"
            assert not close_lost(folder)
            assert store.get_run(run_id).info.status == "RUNNING"
        finally:
            process.send_signal(number)
        process.wait(300)
    lost = number is signal.SIGKILL
    if lost:
        assert store.get_run(run_id).info.status == "RUNNING"
    assert close_lost(folder) is lost
    record = read_record(folder)
    assert record is not None
    assert record.run_id == run_id
    found = store.get_run(run_id)
    assert found.info.status == "KILLED"
    assert found.info.end_time is not None
    assert found.data.metrics == {"loss": 1.0}
