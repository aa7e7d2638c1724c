"""A store of its own for each test: a copy of an empty database, made once."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from medidiff.tracking.store import connect

if TYPE_CHECKING:
    from mlflow import MlflowClient


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    connect(f"sqlite:///{file}")
    return file


@pytest.fixture(autouse=True)
def own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No store but the test's own, no home but the test's own, no load metrics unless asked."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")
    monkeypatch.setenv("MEDIDIFF_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def store(empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """A client of the store that `medidiff.tracking` uses in this test."""
    file = tmp_path / "mlflow.db"
    shutil.copyfile(empty_database, file)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{file}")
    return connect(f"sqlite:///{file}")


class FakeModel:
    """Answers with images filled with the seed, so that a test sees which row made which."""

    def __init__(self) -> None:
        self.asked: list[dict[str, object]] = []

    @classmethod
    def load(cls, folder: str) -> FakeModel:
        assert (Path(folder) / "model.json").is_file()
        return cls()

    def sample(self, **asked: object) -> SimpleNamespace:
        import torch

        self.asked.append(asked)
        return SimpleNamespace(images=torch.full((1, 1, 2, 3), float(str(asked["seed"]))))


@pytest.fixture
def model_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks like a model, and a stand-in for the module that reads it."""
    condition = SimpleNamespace
    spec = SimpleNamespace(
        images=("image",),
        shape=SimpleNamespace(
            in_channels=1,
            out_channels=1,
            conditions=(
                condition(kind="class", name="sex", values=("f", "m")),
                condition(kind="number", name="age", mean=50.0, std=10.0),
            ),
        ),
        space=SimpleNamespace(size=(2, 3)),
        sampling=SimpleNamespace(steps=20),
        lineage=SimpleNamespace(run_id=None),
    )
    folder = tmp_path / "model"

    def read_spec(place: Path) -> SimpleNamespace:
        spec.lineage.run_id = json.loads((place / "model.json").read_text()).get("run_id")
        return spec

    module = ModuleType("medidiff.model")
    module.__dict__.update(Model=FakeModel)
    monkeypatch.setitem(sys.modules, "medidiff.model", module)
    monkeypatch.setattr("medidiff.model_folder.check_folder", lambda place: None)
    monkeypatch.setattr("medidiff.model_folder.read_spec", read_spec)
    folder.mkdir()
    (folder / "model.json").write_text(json.dumps({"format": 1}))
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "card.md").write_text("# a model\n")
    return folder
