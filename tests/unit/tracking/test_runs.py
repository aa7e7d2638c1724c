from __future__ import annotations

import json
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from medidiff.errors import OutputError, RegistryError
from medidiff.tracking import PrivacyError, close_lost, open_run, runs, sync
from medidiff.tracking.delivery import Courier
from medidiff.tracking.journal import Journal
from medidiff.tracking.process import process, this_process
from medidiff.tracking.record import read_record, write_record
from medidiff.tracking.sender import within

if TYPE_CHECKING:
    from mlflow import MlflowClient

NOBODY = "http://user:secret@127.0.0.1:9"
GUARD_S = 300
"""Longer than anything takes on a busy machine."""


class Stop(Exception):  # noqa: N818 as the training's own
    killed = True


def opened(folder: Path, params: Mapping[str, Any] | None = None, *, resume: bool = False) -> Any:
    return open_run(folder, name="a run", experiment="brain", params=params or {}, resume=resume)


def id_in(folder: Path) -> str:
    record = read_record(folder)
    assert record is not None
    assert record.run_id is not None
    return record.run_id


def status_of(store: MlflowClient, folder: Path) -> str:
    return store.get_run(id_in(folder)).info.status


def test_a_run_arrives_whole(store: MlflowClient, tmp_path: Path) -> None:
    picture, model = tmp_path / "sheet.png", tmp_path / "run" / "model"
    picture.write_bytes(b"png")
    with opened(tmp_path / "run", {"train": {"lr": 1e-4, "note": "é" * 7000}}) as run:
        model.mkdir()
        (model / "model.json").write_text("{}")
        for step in range(1500):
            run.log({"loss": 1 / (step + 1)}, step)
        run.log({"loss": math.nan, "psnr (dB)": 30}, 1500)
        run.tag({"manifest": "sha256:ab"})
        run.picture(picture, "samples", 1500)
        run.artifact(model, "model")
        assert run.flush()
        run_id = run.run_id
    assert run_id is not None
    data = store.get_run(run_id)
    assert data.info.status == "FINISHED"
    assert data.info.run_name == "a run"
    assert data.data.params["train.lr"] == "0.0001"
    assert data.data.params["train.note"].startswith("artifact params/train.note.txt, sha256")
    assert data.data.tags["manifest"] == "sha256:ab"
    assert data.data.metrics["psnr _dB_"] == 30
    history = store.get_metric_history(run_id, "loss")
    assert len(history) == 1501
    assert math.isnan(history[-1].value)
    paths = {entry.path for entry in store.list_artifacts(run_id)}
    assert paths == {"params", "pictures", "model"}
    assert store.list_artifacts(run_id, "pictures/samples")[0].path.endswith("00001500.png")
    assert store.list_artifacts(run_id, "model")[0].path == "model/model.json"


def test_nothing_of_this_machine_or_its_user_is_sent(store: MlflowClient, tmp_path: Path) -> None:
    with opened(tmp_path / "run", {"epochs": 3}):
        pass
    data = store.get_run(id_in(tmp_path / "run")).data
    assert set(data.tags) == {"medidiff.key", "medidiff.version", "mlflow.runName"}
    assert str(tmp_path) not in json.dumps([data.params, data.tags])


def test_a_place_or_a_subject_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for params in ({"data": {"root": "/data/pat"}}, {"first": "IXI002"}, {"IXI002": 1}):
        with (
            pytest.raises(PrivacyError),
            open_run(folder, name="r", experiment="e", params=params, subjects=["IXI002"]),
        ):
            pass
    assert not folder.exists()


def test_a_metric_named_after_a_subject_is_refused(store: MlflowClient, tmp_path: Path) -> None:
    with (
        pytest.raises(PrivacyError),
        open_run(tmp_path / "r", name="r", experiment="e", params={}, subjects=["IXI002"]) as run,
    ):
        run.log({"dice/IXI002": 0.9}, 1)
    assert "IXI002" not in (tmp_path / "r" / "journal.jsonl").read_text()
    assert store.get_run(id_in(tmp_path / "r")).data.tags["medidiff.error"] == "PrivacyError"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RuntimeError("/data/doe.nii.gz"), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
        (Stop(), "KILLED"),
        (SystemExit(1), "FAILED"),
        (SystemExit(0), "FINISHED"),
    ],
)
def test_the_status_says_how_a_run_ended(
    store: MlflowClient, tmp_path: Path, error: BaseException, status: str
) -> None:
    with pytest.raises(type(error)), opened(tmp_path / "run"):
        raise error
    run = store.get_run(id_in(tmp_path / "run"))
    assert run.info.status == status
    assert run.info.end_time is not None
    assert "doe" not in json.dumps(run.data.tags)


def test_killed_arrives_although_everything_else_is_stuck(
    store: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "KILL_LIMIT_S", 0.5)
    # a busy machine has longer for the one thing that is not stuck
    monkeypatch.setattr(runs, "within", lambda _, action: within(GUARD_S, action))
    free = threading.Event()

    def interrupted() -> None:
        with opened(tmp_path / "run") as run:
            monkeypatch.setattr(Courier, "deliver", lambda self: free.wait(2 * GUARD_S))
            run.log({"loss": 1.0}, 1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert status_of(store, tmp_path / "run") == "KILLED"
    free.set()


def test_a_resumed_run_goes_on_under_its_id(store: MlflowClient, tmp_path: Path) -> None:
    folder = tmp_path / "run"

    def crashed() -> None:
        with opened(folder, {"lr": 1, "steps": 10}) as run:
            run.log({"loss": 1.0}, 1)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        crashed()
    first = id_in(folder)
    with opened(folder, {"lr": 1, "steps": 20}, resume=True) as run:
        assert run.run_id == first
        assert status_of(store, folder) == "RUNNING"
        run.log({"loss": 0.5}, 2)
    found = store.get_run(first)
    assert found.info.status == "FINISHED"
    assert [metric.step for metric in store.get_metric_history(first, "loss")] == [1, 2]
    assert found.data.params == {"lr": "1", "steps": "10"}
    assert found.data.tags["changed.steps"] == "20"
    assert len(store.search_runs([found.info.experiment_id])) == 1


def test_a_folder_with_a_run_is_not_taken_for_a_new_one(
    store: MlflowClient, tmp_path: Path
) -> None:
    with opened(tmp_path / "run"):
        pass
    with pytest.raises(OutputError, match="already holds a run"), opened(tmp_path / "run"):
        pass


def test_resume_begins_a_run_where_there_is_none(store: MlflowClient, tmp_path: Path) -> None:
    with opened(tmp_path / "run", resume=True) as run:
        assert run.run_id is not None


def test_a_run_deleted_in_the_store_is_made_again_from_the_journal(
    store: MlflowClient, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    with opened(folder, {"lr": 1}) as run:
        run.log({"loss": 1.0}, 1)
    first = id_in(folder)
    store.delete_run(first)
    with opened(folder, resume=True) as run:
        run.log({"loss": 0.5}, 2)
    assert id_in(folder) != first
    assert [m.step for m in store.get_metric_history(id_in(folder), "loss")] == [1, 2]


def test_without_a_server_the_run_goes_on_with_one_warning_and_is_sent_later(
    tmp_path: Path,
    store: MlflowClient,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    reachable = str(store.tracking_uri)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOBODY)
    folder = tmp_path / "runs" / "a"
    report = tmp_path / "runs" / "a" / "report.html"
    with opened(folder, {"lr": 1}) as run:
        assert run.run_id is None
        assert len(run.key) == 32
        run.log({"loss": 1.0}, 1)
        report.write_text("<p>")
        run.artifact(report)
        assert not run.flush()
    warned = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warned) == 1
    assert "medidiff sync" in warned[0].getMessage()
    assert "secret" not in caplog.text
    with pytest.raises(RegistryError, match="nothing was lost"):
        sync(folder)
    assert "secret" not in (folder / "run.json").read_text()

    folder = (tmp_path / "runs").rename(tmp_path / "moved") / "a"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", reachable)
    assert sync(tmp_path / "moved") == 5  # params, tags, metrics, artifact, status
    found = store.get_run(id_in(folder))
    assert found.info.status == "FINISHED"
    assert found.data.metrics == {"loss": 1.0}
    assert [entry.path for entry in store.list_artifacts(found.info.run_id)] == ["report.html"]
    assert sync(tmp_path / "moved") == 0


def test_without_mlflow_there_is_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.delenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING")
    with opened(tmp_path / "run") as run:
        run.log({"loss": 1.0}, 1)
    assert [event.kind for event in Journal(tmp_path / "run").events()] == [
        "params",
        "tags",
        "metrics",
        "status",
    ]
    assert len([r for r in caplog.records if r.levelno >= logging.WARNING]) == 1
    with pytest.raises(RegistryError, match="MLflow cannot be imported"):
        sync(tmp_path / "run")


def test_a_server_that_comes_back_gets_all_without_a_word(
    tmp_path: Path, store: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    reachable = str(store.tracking_uri)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOBODY)
    with opened(tmp_path / "run") as run:
        run.log({"loss": 1.0}, 1)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", reachable)
        assert run.flush()
        assert run.run_id is not None
    assert status_of(store, tmp_path / "run") == "FINISHED"


def test_a_crash_between_making_a_run_and_noting_it_makes_no_second_run(
    store: MlflowClient, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    with opened(folder):
        pass
    first = id_in(folder)
    record = read_record(folder)
    assert record is not None
    write_record(folder, replace(record, run_id=None, tracking_uri=None))
    assert sync(folder) > 0
    assert id_in(folder) == first


def test_what_the_store_refuses_does_not_stop_the_rest(
    store: MlflowClient, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "run"
    with opened(folder, {"lr": 1}):
        pass
    journal = Journal(folder)
    journal.append("params", {"params": {"lr": "2"}})
    journal.append("metrics", {"metrics": {"loss": 1.0}, "step": 1})
    sync(folder)
    assert "refused an event of kind 'params'" in caplog.text
    found = store.get_run(id_in(folder)).data
    assert found.params["lr"] == "1"
    assert found.metrics == {"loss": 1.0}


def test_an_artifact_that_is_gone_is_warned_of(
    store: MlflowClient, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "run"
    with opened(folder) as run, pytest.raises(FileNotFoundError):
        run.artifact(folder / "never.txt")
    Journal(folder).append("artifact", {"path": "gone.txt", "name": "gone.txt"})
    sync(folder)
    assert "gone.txt is gone" in caplog.text


def test_a_lost_run_is_closed_when_its_process_is_gone_and_only_then(
    store: MlflowClient, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    with opened(folder) as run:
        run.log({"loss": 1.0}, 1)
        run.flush()
        assert not close_lost(folder)  # this process lives
        record = read_record(folder)
    assert record is not None
    write_record(folder, replace(record, process=replace(this_process(), start="long ago")))
    assert not close_lost(folder)  # it ended well
    lines = (folder / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "journal.jsonl").write_bytes(b"".join(lines[:-1]))
    Journal(folder).mark(0)
    store.update_run(id_in(folder), status="RUNNING")
    assert close_lost(folder)
    assert status_of(store, folder) == "KILLED"
    assert not close_lost(folder)
    assert not close_lost(tmp_path / "no run here")


def test_a_run_of_a_living_process_is_left_to_it(store: MlflowClient, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with opened(folder):
        pass
    record = read_record(folder)
    assert record is not None
    write_record(folder, replace(record, process=process(os.getppid())))
    Journal(folder).append("metrics", {"metrics": {"loss": 1.0}, "step": 1})
    assert sync(folder) == 0
    with pytest.raises(OutputError, match="is writing this run"), opened(folder, resume=True):
        pass


def test_sync_says_when_there_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="holds no run"):
        sync(tmp_path)


def test_the_load_of_the_machine_is_recorded(
    store: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING")
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    wanted = "system/cpu_utilization_percentage"
    with opened(tmp_path / "run") as run:
        limit = time.monotonic() + GUARD_S
        while wanted not in run.folder.joinpath("journal.jsonl").read_text():
            assert time.monotonic() < limit
            time.sleep(0.05)
    metrics = store.get_run(id_in(tmp_path / "run")).data.metrics
    assert {wanted, "system/system_memory_usage_megabytes", "system/disk_usage_percentage"} <= set(
        metrics
    )
