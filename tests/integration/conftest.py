"""A small population, an MLflow store of its own, and one short training for many tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working folder with its own MLflow store and site key."""
    folder = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDIDIFF_HOME", str(folder / "home"))
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        yield folder


@pytest.fixture(scope="session")
def flat(place: Path) -> Path:
    """The manifest of 32 x 32 phantoms."""
    from medidiff.data.phantoms import write_population

    return write_population(place / "flat", 12, 6, 4, size=32)


@pytest.fixture(scope="session")
def solid(place: Path) -> Path:
    """The manifest of 16 x 16 x 16 phantoms."""
    from medidiff.data.phantoms import write_population

    return write_population(place / "solid", 6, 3, 3, dims=3, size=16)


@pytest.fixture(scope="session")
def run_2d(place: Path, flat: Path) -> Path:
    """A finished 2-D run."""
    from medidiff import api

    changes = [f"data.manifest={flat}", f"output={place / 'run-2d'}"]
    return api.train(ROOT / "configs" / "smoke-2d.yaml", changes=changes)


@pytest.fixture(scope="session")
def run_3d(place: Path, solid: Path) -> Path:
    """A finished 3-D run."""
    from medidiff import api

    changes = [f"data.manifest={solid}", f"output={place / 'run-3d'}"]
    return api.train(ROOT / "configs" / "smoke-3d.yaml", changes=changes)
