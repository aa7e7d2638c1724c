"""The spread of the head `denoise`'s samples is judged on test scans, and right with the exact
prior."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from medidiff.data.datasets import Case
from medidiff.data.intensity import FittedIntensity, Scale
from medidiff.data.options import Space
from medidiff.diffusion import Estimate, NoiseLevel, scale
from medidiff.diffusion.denoiser import counted
from medidiff.jobs.benchmark import keep_verdicts
from medidiff.model import Model
from medidiff.networks import NetworkShape, UNetOptions, build
from medidiff.spec import ModelSpec
from medidiff.tasks import restoration
from medidiff.tasks.base import Bench
from medidiff.tasks.denoise import Denoising
from medidiff.tasks.restoration import SPREAD

SIZE = (24, 24)
NETWORK = UNetOptions(channels=(4, 8), blocks=1, attention=(False, False), groups=2)
SUBJECTS = 20
INSIDE = torch.hypot(*torch.meshgrid(*2 * [torch.linspace(-1, 1, 24)], indexing="ij")) < 0.8
MEAN, STD = torch.where(INSIDE, 0.2, -0.95), torch.where(INSIDE, 0.2, 0.005)


def exact(x: Tensor, level: NoiseLevel) -> Estimate:
    """The denoiser of voxels from N(MEAN, STD^2)."""
    alpha, sigma = scale(level.alpha, x), scale(level.sigma, x)
    power = (alpha * STD) ** 2 + sigma**2
    rest = x - alpha * MEAN
    return Estimate(MEAN + alpha * STD**2 / power * rest, sigma / power * rest)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Discs in air, and a model whose prior is just this."""
    monkeypatch.setattr(Model, "denoiser", lambda *args, **options: counted(exact))
    monkeypatch.setattr(restoration, "head_region", lambda clean: INSIDE.expand_as(clean))
    shape, space = NetworkShape(dims=2), Space(2, SIZE, (1.0, 1.0))
    intensity = FittedIntensity((0.0,), (200.0,), "train", None, (-1.0, 1.0))
    spec = ModelSpec("tiny", "MR", ("image",), space, intensity, NETWORK, shape)
    model = Model(spec, build(NETWORK, shape).eval().requires_grad_(False))
    own = Model.load(model.save(tmp_path / "own"))
    unit = torch.randn(SUBJECTS, 1, *SIZE, generator=torch.Generator().manual_seed(0))
    cases = [
        Case(f"s{row}", row, image, {}, None, Scale((0.0,), (200.0,)), np.eye(4), None)  # type: ignore[arg-type]
        for row, image in enumerate(MEAN + STD * unit, 1)
    ]
    return Bench(own, [], [], cases, samples=8, baselines="none")


@pytest.mark.parametrize("noise", ["gaussian", "rician"])
def test_samples_of_the_exact_prior_are_calibrated_and_said_to_be(bench: Bench, noise: Any) -> None:
    head = Denoising(noise=noise, sigma=0.1)
    found = head.benchmark(bench)
    (judged,) = found.calibrated
    assert (judged.kind, judged.noise) == (f"{noise} noise", pytest.approx(0.1))
    assert judged.found.coverage.mean == pytest.approx(0.9, abs=0.02)
    assert judged.found.spread.mean == pytest.approx(1.0, abs=0.1)
    assert found.maps == (SPREAD,)
    assert found.labels == [judged.setting] * len(found.examples)
    keep_verdicts(bench.model, found, "test")

    def said(head: Denoising) -> object:
        problem = head.prepare(bench.test[:1], bench.model)
        return head.solve(problem, bench.model, 2, 0).facts["uncertainty"]

    assert said(head) == "calibrated"
    assert said(replace(head, sigma=0.12)) == "calibrated"
    assert said(replace(head, sigma=0.2)) == "uncalibrated"
    assert said(replace(head, steps=6)) == "uncalibrated"


def test_samples_of_large_steps_differ_more(bench: Bench) -> None:
    few = Denoising(sigma=0.1, steps=8)
    small, large = (
        replace(few, variance=size).benchmark(bench).calibrated[0].found.spread.mean
        for size in ("small", "large")
    )
    assert small < 0.9 < 1.0 <= large
