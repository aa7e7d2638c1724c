"""Fixtures that more than one folder of tests uses."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")

ROOT = Path(__file__).resolve().parent.parent

# The same examples in every run, on however busy a machine.
settings.register_profile(
    "same",
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("same")


def pytest_runtest_setup() -> None:
    """A test draws the same numbers alone as after others."""
    random.seed(0)
    np.random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def own_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test touches the user's key and caches; noise is keyed by pseudonyms, so the key is known.

    A test of keys takes this one away.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDIDIFF_HOME", str(tmp_path_factory.mktemp("site") / "home"))
        patch.setenv("MEDIDIFF_SITE_KEY", "ab" * 32)
        patch.delenv("MEDIDIFF_CACHE", raising=False)
        yield


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
