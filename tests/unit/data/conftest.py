"""Small images with known geometry, and a key that is the tests' own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medidiff.data.privacy import SiteKey

AXES = {"L": (0, -1), "R": (0, 1), "P": (1, -1), "A": (1, 1), "I": (2, -1), "S": (2, 1)}


@pytest.fixture
def key() -> SiteKey:
    return SiteKey(b"0123456789abcdef")


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test touches the user's key."""
    monkeypatch.setenv("MEDIDIFF_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MEDIDIFF_SITE_KEY", raising=False)
    return tmp_path / "home"


@pytest.fixture
def affine_for() -> Callable[..., np.ndarray]:
    """The affine of axes such as "LPS" with their spacing and origin in mm."""

    def make(
        letters: str, spacing_mm: Sequence[float], origin: Sequence[float] = (0, 0, 0)
    ) -> np.ndarray:
        affine = np.zeros((4, 4))
        for axis, (letter, step) in enumerate(zip(letters, spacing_mm, strict=True)):
            direction, sign = AXES[letter]
            affine[direction, axis] = sign * step
        affine[:3, 3] = origin
        affine[3, 3] = 1
        return affine

    return make


@pytest.fixture
def write_nifti(tmp_path: Path) -> Callable[..., Path]:
    def write(name: str, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
        return path

    return write
