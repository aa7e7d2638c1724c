"""The demo says what can be done next, as it can be typed here."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from medidiff.jobs import demo
from medidiff.jobs.reporting import Quiet
from medidiff.training.stop import Stopped


def test_a_stopped_demo_says_how_to_run_it_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object, **__: object) -> Path:
        raise Stopped("run the same command with --resume to go on")

    monkeypatch.setattr(demo, "train_model", stopped)
    with pytest.raises(Stopped, match=r"run it anew, remove .*place") as found:
        demo.trained(tmp_path / "demo.yaml", tmp_path / "place", Quiet())
    assert "--resume" not in str(found.value)  # the demo has no such option


def test_a_program_is_named_by_its_path_where_the_environment_is_not_activated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("python", "medidiff"):
        (tmp_path / name).touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", "/nowhere")
    assert demo.program("medidiff") == str(tmp_path / "medidiff")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert demo.program("medidiff") == "medidiff"
    assert demo.program("mlflow") == "mlflow"
