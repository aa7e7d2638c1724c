"""A batch of measurements is its members one by one; levels are those that the model knows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from medidiff import options
from medidiff.data.datasets import Case
from medidiff.data.images import Original
from medidiff.data.intensity import FittedIntensity, unscaled
from medidiff.data.options import Space
from medidiff.diffusion import EDM, Flow
from medidiff.errors import TaskError
from medidiff.evaluation.calibration import Calibration, bootstrap_interval
from medidiff.jobs.benchmark import verdict_of
from medidiff.jobs.measurements import open_measurement
from medidiff.model import Model
from medidiff.networks import NetworkShape, build
from medidiff.spec import ModelSpec
from medidiff.tasks import Inpainting
from medidiff.tasks.base import Calibrated
from medidiff.tasks.calibrated import keep
from medidiff.tasks.cartesian import Cartesian
from medidiff.tasks.defaults import Posterior
from medidiff.tasks.measured import misfit

from .test_measured import LARGE, NETWORK, SIZE, blob, kspace_of, lines, noisy


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDIDIFF_SITE_KEY", "ab" * 32)


def made(size: tuple[int, int]) -> Model:
    shape, space = NetworkShape(dims=2), Space(2, size, (1.0, 1.0))
    intensity = FittedIntensity((0.0,), (200.0,), "train", None, (-1.0, 1.0))
    network = build(NETWORK, shape).eval().requires_grad_(False)
    return Model(ModelSpec("tiny", "MR", ("image",), space, intensity, NETWORK, shape), network)


def test_each_image_of_a_batch_has_the_kind_that_it_has_by_itself() -> None:
    opened = [
        open_measurement(noisy(kspace_of(blob(LARGE))) * mask, {"mask": mask}, made(LARGE), 1)
        for mask in (lines(LARGE, 12), lines(LARGE, 12) * (np.indices(LARGE)[1] % 16 < 13))
    ]
    cases = [case for each in opened for case in each.cases]

    def kinds(cases: list[Case]) -> tuple[str, ...]:
        measurement = Cartesian(sigma=0.5).problem(cases, made(LARGE)).measurement
        assert measurement is not None
        return measurement.kinds

    assert kinds(cases) == (*kinds(cases[:1]), *kinds(cases[1:]))
    assert len(set(kinds(cases))) == 2


def test_each_hole_of_a_batch_is_judged_by_its_own_size(tmp_path: Path) -> None:
    """A verdict on large holes is none on the small one beside them."""
    own, right = Model.load(made(SIZE).save(tmp_path / "own")), [0.9] * 20
    how = Posterior(steps=2)
    found = Calibration(bootstrap_interval(right), bootstrap_interval(right), (0.1,) * 10, 8)
    large = Calibrated("a", "inpaint, 20 % missing", 0.0, options.tree(how), found)
    keep(own, [verdict_of(large, "test")])
    holes = torch.zeros(2, 1, *SIZE, dtype=torch.bool)
    holes[0, :, :11, :11] = holes[1, :, :2, :2] = True
    image = torch.from_numpy(blob())[None] / 100 - 1  # within the range that the model knows
    original = Original(SIZE, np.eye(4), True, "MR", (0.0,))
    cases = [
        Case("a", row, image, {}, None, unscaled(1), np.eye(4), original, "", {"mask": hole})
        for row, hole in enumerate(holes)
    ]

    def uncertainty(cases: list[Case]) -> object:
        head = Inpainting(posterior=how)
        facts = head.solve(head.prepare(cases, own), own, 2, 0).facts
        assert misfit(facts) is None  # which would be the reason, too
        return facts["uncertainty"]

    assert uncertainty(cases[:1]) == "calibrated"
    assert uncertainty(cases[1:]) == uncertainty(cases) == "uncalibrated"


@pytest.mark.parametrize("name", ["phase", "coils"])
def test_what_only_some_images_of_a_batch_are_given_is_not_ignored(name: str) -> None:
    model = made(SIZE)
    given, one = noisy(kspace_of(blob())), np.ones((1, *SIZE), np.float32)
    plain, known = (
        open_measurement(given, beside, model, 1).cases[0] for beside in ({}, {name: one})
    )
    for cases in ([plain, known], [known, plain]):
        with pytest.raises(TaskError, match=f"the cases of a batch need {name}"):
            Cartesian(sigma=0.5).problem(cases, model)


def test_no_level_lies_above_those_that_the_model_knows() -> None:
    assert float(Posterior(first_ratio=500.0).levels(EDM())[0].noise_ratio) == pytest.approx(80.0)
    assert float(Posterior(first_ratio=1e6).levels(Flow())[0].noise_ratio) == pytest.approx(1e6)
