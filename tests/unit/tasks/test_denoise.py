"""The denoising head: its phases, its options, and that it does what it says with a known prior."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch

from medidiff.data.datasets import Case
from medidiff.data.images import Original
from medidiff.data.intensity import FittedIntensity, unscaled
from medidiff.data.options import Space
from medidiff.errors import MedidiffError
from medidiff.model import Model
from medidiff.networks import NetworkShape, UNetOptions, build
from medidiff.spec import ModelSpec
from medidiff.tasks import room
from medidiff.tasks.denoise import Denoising
from medidiff.tasks.magnitudes import cos_of_von_mises, further


@pytest.mark.parametrize("concentration", [0.0, 0.3, 2.0, 20.0, 1000.0])
def test_the_mean_cosine_of_a_von_mises_angle_is_the_ratio_of_bessel_functions(
    concentration: float,
) -> None:
    kappa = torch.full((200_000,), concentration, dtype=torch.float64)
    # equally spaced quantiles: no chance in the test
    unit = torch.special.ndtri((torch.arange(len(kappa), dtype=torch.float64) + 0.5) / len(kappa))
    found = cos_of_von_mises(kappa, unit)
    one = kappa[:1]
    expected = torch.special.i1e(one) / torch.special.i0e(one)
    assert float(found.mean()) == pytest.approx(float(expected), abs=1e-3)
    assert bool((found.abs() <= 1).all())


def test_a_drawn_real_channel_has_the_noise_that_the_prior_is_told() -> None:
    generator = torch.Generator().manual_seed(0)
    clean, sigma = 0.15, 0.1
    noise = torch.randn(3, 200_000, generator=generator, dtype=torch.float64) * sigma
    magnitude = torch.hypot(clean + noise[0], noise[1])
    real = magnitude * cos_of_von_mises(magnitude * clean / sigma**2, noise[2] / sigma)
    assert float(real.mean()) == pytest.approx(clean, abs=1e-3)
    assert float(real.std()) == pytest.approx(sigma, rel=0.01)


def test_stratified_draws_are_draws_and_their_mean_scatters_less() -> None:
    unit = torch.randn(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    draws = torch.stack([further(unit, part / 4) for part in range(4)])
    assert torch.equal(draws[0], unit)
    for draw in draws:
        assert float(draw.mean()) == pytest.approx(0, abs=0.03)
        assert float(draw.std()) == pytest.approx(1, abs=0.02)
    cosines = cos_of_von_mises(torch.full_like(draws, 2.0), draws)
    expected = float(torch.special.i1e(torch.tensor(2.0)) / torch.special.i0e(torch.tensor(2.0)))
    assert float(cosines.mean()) == pytest.approx(expected, abs=2e-3)
    assert cosines.mean(0).std() < 0.8 * cosines.std() / 2  # that of independent ones is half


@pytest.mark.parametrize("options", [{"sigma": 0.0}, {"sigma": 11.0}, {"phase_draws": 0}])
def test_options_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        Denoising(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("noise", ["gaussian", "rician"])
@pytest.mark.parametrize("level", [0.0, 0.1])
def test_an_image_that_is_even_shows_no_noise_to_be_estimated(
    noise: Literal["gaussian", "rician"], level: float
) -> None:
    case = Case(
        "a", 1, torch.full((1, 64, 64), 2 * level - 1), {}, None, unscaled(1), np.eye(4),
        Original((64, 64), np.eye(4), True, "MR", (0.0,)), "", {},
    )  # fmt: skip
    with pytest.raises(MedidiffError, match="state it with sigma"):
        Denoising(noise=noise).level(case.images, case)


def test_the_steps_of_samples_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MOST_AT_ONCE", 2)  # the samples of a case
    network = UNetOptions(channels=(4,), blocks=1, attention=(False,), groups=2)
    shape, space = NetworkShape(dims=2), Space(2, (8, 8), (1.0, 1.0))
    intensity = FittedIntensity((0.0,), (1.0,), "train", None, (-1.0, 1.0))
    spec = ModelSpec("a", "MR", ("image",), space, intensity, network, shape)
    original = Original((8, 8), np.eye(4), True, "MR", (0.0,))
    case = Case("s", 0, torch.zeros(1, 8, 8), {}, None, unscaled(1), np.eye(4), original, "c")
    head, model = Denoising(sigma=0.1, steps=3), Model(spec, build(network, shape).eval())
    told: list[tuple[str, int, int]] = []
    problem = replace(head.prepare([case, case], model), progress=lambda *step: told.append(step))
    head.solve(problem, model, 2, 0)
    assert [what for what, _, _ in told] == ["sampling"] * len(told)
    assert [done for _, done, _ in told] == [*range(1, told[-1][2] + 1)]
    assert len(told) == 2 * 3
