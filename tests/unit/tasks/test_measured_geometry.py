"""Where measured images lie, how large their pixels are, and what is refused of a measurement."""

from __future__ import annotations

import numpy as np
import pytest

from medidiff.data.intensity import FittedIntensity
from medidiff.data.options import Space
from medidiff.errors import DataError
from medidiff.jobs.measurements import Opened, open_measurement
from medidiff.model import Model
from medidiff.networks import NetworkShape, UNetOptions, build
from medidiff.spec import ModelSpec

SIZE = (12, 16)
NETWORK = UNetOptions(channels=(4, 8), blocks=1, attention=(False, False), groups=2)
KSPACE, SINOGRAM = np.ones(SIZE, np.complex64), np.ones((6, 24), np.float32)


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDIDIFF_SITE_KEY", "ab" * 32)


def model_of(spacing: object = (2.0, 3.0), modality: str = "MR") -> Model:
    shape = NetworkShape(dims=2)
    network = build(NETWORK, shape).eval().requires_grad_(False)
    intensity = FittedIntensity((0.0,), (200.0,), "train", None, (-1.0, 1.0))
    space = Space(2, SIZE, spacing)  # type: ignore[arg-type]
    return Model(ModelSpec("a", modality, ("image",), space, intensity, NETWORK, shape), network)


def sides(affine: np.ndarray) -> list[float]:
    return np.linalg.norm(affine[:3, :2], axis=0).tolist()


@pytest.mark.parametrize("given", [KSPACE, SINOGRAM])
@pytest.mark.parametrize(
    ("spacing", "expected"), [((2.0, 3.0), [2, 3]), ("as stored", [1, 1]), ((1.0, 1.0), [1, 1])]
)
def test_voxels_are_the_models_where_none_are_stated(
    given: np.ndarray, spacing: object, expected: list[float]
) -> None:
    opened = open_measurement(given, {}, model_of(spacing), 1)
    assert sides(opened.affine) == expected
    assert sides(opened.cases[0].affine) == expected


def stated(given: np.ndarray, **beside: object) -> Opened:
    return open_measurement(given, beside, model_of(), 1)


def test_a_sinogram_is_solved_on_the_models_pixels_and_on_no_others() -> None:
    turned = np.array([[0, 3.0, 0, 7], [2, 0, 0, 9], [0, 0, 5, 1], [0, 0, 0, 1]])
    assert np.array_equal(stated(SINOGRAM, affine=turned).affine, turned)
    same = stated(SINOGRAM, spacing_mm=np.array([2.0, 3.0, 5.0])).affine
    assert np.array_equal(same, np.diag([2.0, 3.0, 5.0, 1.0]))
    for beside in ({"affine": np.eye(4)}, {"spacing_mm": np.array([1.0, 3.0])}):
        with pytest.raises(DataError, match=r"pixels of 2 x 3 mm.*found 1 x"):
            stated(SINOGRAM, **beside)
    with pytest.raises(DataError, match="found 1 x 1 mm"):
        stated(SINOGRAM, affine=np.eye(4), spacing_mm=np.array([2.0, 3.0]))


def test_sinograms_of_another_layout_are_refused_with_those_that_are_understood() -> None:
    for shape in ((5, 6, 24), (2, 3, 6, 24)):
        with pytest.raises(DataError, match=r"\(slices, 1, views, detectors\)"):
            stated(np.ones(shape, np.float32))
    assert len(stated(np.ones((5, 1, 6, 24), np.float32)).cases) == 5
    assert len(stated(np.ones((1, 6, 24), np.float32)).cases) == 1
