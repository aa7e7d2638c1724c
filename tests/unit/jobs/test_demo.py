"""The demo says what can be done next, as it can be typed here."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from medidiff.errors import OutputError
from medidiff.jobs import demo
from medidiff.jobs.reporting import Quiet
from medidiff.training.stop import Stopped


class Stage:
    """Does nothing but to be counted, and to be interrupted where it is told so."""

    def __init__(self, made: str, answer: object = None) -> None:
        self.made, self.answer = made, answer
        self.interrupted = False
        self.calls: list[dict[str, object]] = []

    def __call__(self, *given: object, **options: object) -> object:
        self.calls.append(options)
        (self.place / self.made).parent.mkdir(parents=True)  # nothing of before is left in it
        if self.interrupted:
            raise KeyboardInterrupt
        (self.place / self.made).touch()
        return self.answer

    place = Path()


@pytest.fixture
def stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Stage]:
    """A demo whose work is replaced, but for its order and its folders."""
    place = tmp_path / "place"
    differences = [SimpleNamespace(metric="psnr_head", interval=SimpleNamespace(mean=1.0))]
    found = {
        "try_shipped": Stage("shipped/sheet.png"),
        "write_population": Stage("phantoms/manifest.csv"),
        "draw": Stage("samples/sheet.png"),
        "benchmark_head": Stage("denoising/table.md", SimpleNamespace(differences=differences)),
    }
    for name, stage in found.items():
        stage.place = place
        monkeypatch.setattr(demo, name, stage)
    for name in ("trained", "register_model", "load_model"):
        monkeypatch.setattr(demo, name, lambda *_, **__: None)
    monkeypatch.setattr(demo, "closing", lambda *_: "")
    return found


@pytest.mark.parametrize("at", ["try_shipped", "write_population", "draw", "benchmark_head"])
def test_a_stopped_demo_goes_on_where_it_was(
    at: str, stages: dict[str, Stage], tmp_path: Path
) -> None:
    stages[at].interrupted = True
    with pytest.raises(Stopped, match="the same command goes on"):
        demo.run_demo(tmp_path / "place", Quiet())
    stages[at].interrupted = False
    demo.run_demo(tmp_path / "place", Quiet())
    assert len(stages[at].calls) == 2
    assert len(stages["try_shipped"].calls) + len(stages["write_population"].calls) <= 3
    with pytest.raises(OutputError, match="already holds"):  # it is whole
        demo.run_demo(tmp_path / "place", Quiet())


def test_a_folder_that_is_no_demo_of_ours_is_left_alone(
    stages: dict[str, Stage], tmp_path: Path
) -> None:
    kept = tmp_path / "place" / "samples" / "mine.nii.gz"
    kept.parent.mkdir(parents=True)
    kept.touch()
    (tmp_path / "place" / "demo.yaml").write_bytes(demo.CONFIG.read_bytes())
    with pytest.raises(OutputError, match="already holds"):
        demo.run_demo(tmp_path / "place", Quiet())
    assert kept.exists()


def test_the_training_of_a_stopped_demo_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(demo, "train_model", lambda *_, resume, **__: asked.append(resume))
    config, run = tmp_path / "demo.yaml", tmp_path / "run"
    demo.trained(config, tmp_path, Quiet())
    run.mkdir()
    (run / "config.yaml").touch()
    demo.trained(config, tmp_path, Quiet())
    (run / "model").mkdir()
    assert demo.trained(config, tmp_path, Quiet()) == run
    assert asked == [False, True]


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
