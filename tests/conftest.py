"""Fixtures that more than one folder of tests uses."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")

ROOT = Path(__file__).resolve().parent.parent


def _folder(variable: str, default: Path) -> Path:
    folder = Path(os.environ.get(variable, default))
    if not folder.is_dir():
        pytest.skip(f"{variable} is not set and the default folder is absent")
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real scans, where they are at hand."""
    return _folder("MEDIDIFF_DATA", ROOT.parent / "shared" / "data")


@pytest.fixture(scope="session")
def trajectories() -> Path:
    """Recorded trajectories of the original implementations, where they are at hand."""
    return _folder("MEDIDIFF_TRAJECTORIES", ROOT.parent / "shared" / "reference" / "trajectories")
