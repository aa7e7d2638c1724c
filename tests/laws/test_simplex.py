"""Laws of simplex noise: keyed, of unit variance, correlated, and what that breaks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from medidiff.diffusion import (
    SimplexNoise,
    VPLinear,
)
from medidiff.diffusion.simplex import simplex, simplex_variance


def noise_for(count: int, **options: Any) -> SimplexNoise:
    return SimplexNoise(0, tuple(("subject", sample) for sample in range(count)), **options)


@pytest.mark.parametrize("shape", [(150, 1, 12, 12), (40, 1, 8, 8, 8)])
@pytest.mark.parametrize("octaves", [1, 6])
def test_over_draws_every_voxel_has_mean_0_and_variance_1(shape: Any, octaves: int) -> None:
    noise = noise_for(shape[0], octaves=octaves, period_voxels=5.0)
    fields = torch.cat([noise(torch.zeros(shape), step) for step in range(2)])
    assert float(fields.mean()) == pytest.approx(0, abs=0.1)
    assert float(fields.var()) == pytest.approx(1, abs=0.1)
    assert fields.var(0).min() > 0.4
    assert fields.var(0).max() < 1.8


@pytest.mark.parametrize("count", [2, 3])
def test_the_variance_of_an_octave_is_the_measured_one(count: int) -> None:
    generator = torch.Generator().manual_seed(0)
    places = torch.rand(100_000, count, dtype=torch.float64, generator=generator) * 500
    words = torch.tensor([7, 11])
    assert float(simplex(places, words).var()) == pytest.approx(simplex_variance(count), rel=0.03)


@pytest.mark.parametrize("count", [2, 3])
def test_the_field_has_no_jumps(count: int) -> None:
    line = torch.linspace(0, 20, 40_001, dtype=torch.float64)
    places = torch.stack([line * slope for slope in (1.0, 0.37, -0.61)[:count]], -1)
    values = simplex(places, torch.tensor([1, 2]))
    # half the step, half the change: a jump would stay as it is
    fine, coarse = (float(each.diff().abs().max()) for each in (values, values[::2]))
    assert fine / coarse == pytest.approx(0.5, abs=0.01)


def test_a_batch_equals_its_members_and_another_key_is_another_field() -> None:
    noise, like = noise_for(3), torch.zeros(3, 2, 9, 7)
    fields = noise(like, 4, 1)
    for index in range(3):
        assert torch.equal(noise.take([index])(like[:1], 4, 1)[0], fields[index])
    assert torch.equal(noise(like, 4, 1), fields)
    for other in (noise(like, 5, 1), noise(like, 4, 0), SimplexNoise(1, noise.members)(like, 4, 1)):
        assert not torch.allclose(other, fields)
    assert not torch.allclose(fields[:, 0], fields[:, 1])


def test_neighbours_are_alike_the_more_the_coarser_it_is() -> None:
    def neighbours(**options: Any) -> float:
        fields = noise_for(40, **options)(torch.zeros(40, 1, 24, 24), 0)
        return float((fields[..., 1:] * fields[..., :-1]).mean() / fields.square().mean())

    assert neighbours() > 0.5
    assert neighbours(octaves=1) > neighbours() > neighbours(period_voxels=4.0)


def covariance() -> Tensor:
    """Of two neighbouring voxels."""
    pairs = noise_for(400, octaves=2, period_voxels=6.0)(torch.zeros(400, 1, 1, 2), 0)
    return torch.cov(pairs.double().flatten(1).T)


def test_the_noise_of_an_exact_denoiser_is_the_covariance_times_the_score() -> None:
    """-sigma score only where the noise is white: the identity that simplex noise breaks."""
    level, data, x = VPLinear()(torch.tensor(0.4).double()), 0.3**2, torch.tensor([0.8, -0.5])
    x = x.double()
    for noise, white in ((torch.eye(2, dtype=torch.float64), True), (covariance(), False)):
        total = level.alpha**2 * data * torch.eye(2) + level.sigma**2 * noise
        score = -torch.linalg.solve(total, x)
        eps = level.sigma * noise @ torch.linalg.solve(total, x)
        torch.testing.assert_close(eps, -level.sigma * noise @ score)
        assert torch.allclose(eps, -level.sigma * score, atol=0.02) == white


@pytest.mark.parametrize("wrong", [{"octaves": 0}, {"persistence": 0.0}, {"period_voxels": -1.0}])
def test_noise_that_means_nothing_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="simplex noise needs"):
        noise_for(1, **wrong)
    with pytest.raises(ValueError, match="2-D or 3-D"):
        noise_for(1)(torch.zeros(1, 1, 4), 0)
