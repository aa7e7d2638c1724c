"""The denoising head: its phases, its options, and that it does what it says with a known prior."""

from __future__ import annotations

import pytest
import torch

from medidiff.tasks.denoise import Denoising, cos_of_von_mises


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


@pytest.mark.parametrize("options", [{"sigma": 0.0}, {"sigma": 11.0}, {"phase_draws": 0}])
def test_options_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        Denoising(**options)  # type: ignore[arg-type]
