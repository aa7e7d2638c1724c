"""Laws of likelihood, purification, semantic guidance and the exact posterior."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from medidiff.conformance.oracles import Mixture, posterior
from medidiff.diffusion import (
    DDPM,
    AnySchedule,
    ErrorControl,
    FlowLikelihood,
    KeyedNoise,
    NoiseLevel,
    PredictorCorrector,
    SubVP,
    UniformTime,
    VPLinear,
    dequantised,
    log_likelihood,
    noise_level,
    path,
    sample,
    start,
)
from medidiff.diffusion.purify import LangevinPurification, purify
from medidiff.diffusion.semantic import Guided, content, gradient, gram, structure, style, text

TIGHT = ErrorControl(1e-8, 1e-8)


def mixture() -> Mixture:
    generator = torch.Generator().manual_seed(3)
    means = torch.randn(2, 1, 2, 2, dtype=torch.float64, generator=generator)
    variances = 0.02 + 0.1 * torch.rand(2, 1, 2, 2, dtype=torch.float64, generator=generator)
    return Mixture(torch.tensor([0.3, 0.7], dtype=torch.float64), means, variances)


def noise_for(count: int) -> KeyedNoise:
    return KeyedNoise(0, [("subject", sample) for sample in range(count)])


def images(count: int = 3) -> Tensor:
    return mixture().means[[0, 1, 1]][:count] + 0.1 * noise_for(count)(
        torch.zeros(count, 1, 2, 2), 9
    )


@pytest.mark.parametrize("schedule", [VPLinear(), SubVP()], ids=lambda s: s.kind)
def test_the_flow_s_likelihood_is_the_exact_one(schedule: AnySchedule) -> None:
    top, low = (schedule(torch.tensor(t, dtype=torch.float64)) for t in (1.0, schedule.t_min))
    found = log_likelihood(
        mixture(),
        images().double(),
        schedule,
        options=FlowLikelihood(control=TIGHT, chunk=3),
        prior=lambda latent: mixture().log_density(latent, top),
    )
    exact = mixture().log_density(images().double(), low)
    torch.testing.assert_close(found.nats, exact, rtol=0, atol=1e-5)
    assert found.standard_error is None


def test_random_signs_estimate_the_likelihood_within_their_error() -> None:
    x, schedule = images().double(), VPLinear()
    exact = log_likelihood(mixture(), x, schedule).nats
    options = FlowLikelihood(divergence="hutchinson", probes=100)
    found = log_likelihood(mixture(), x, schedule, noise_for(3), options)
    assert found.standard_error is not None
    assert ((found.nats - exact).abs() < 4 * found.standard_error + 1e-4).all()
    assert (found.standard_error < 0.5).all()


def test_bits_are_for_integers_that_are_stated() -> None:
    whole = torch.tensor([[[[0, 255], [3, 17]]]])
    x = dequantised(whole, torch.full((1, 1, 2, 2), 0.5).double(), 8)
    assert float(x.min()) == pytest.approx(-1 + 1 / 256)
    found = log_likelihood(mixture(), x, VPLinear())
    expected = found.nats_per_dim / math.log(2) + 7
    torch.testing.assert_close(found.bits_per_dim(8), expected)
    with pytest.raises(ValueError, match="integers from 0 to 255"):
        dequantised(whole + 0.25, torch.zeros(1, 1, 2, 2), 8)
    with pytest.raises(ValueError, match="integer bit depth"):
        found.bits_per_dim(0)


def walks() -> dict[str, Any]:
    schedule = VPLinear()
    first = schedule(torch.tensor(0.15, dtype=torch.float64))
    levels = path(UniformTime(), schedule, 6, first)
    euler = PredictorCorrector(predictor="euler-maruyama", corrector="none")
    flow = PredictorCorrector(predictor="euler-maruyama", corrector="none", dynamics="flow")

    def run(sampler: Any) -> Any:
        return lambda x: purify(mixture(), x, levels, sampler, noise_for(3), schedule, rounds=2)

    tied = LangevinPurification()
    return {
        "sde": run(euler),
        "flow": run(flow),
        "ddpm": run(DDPM()),
        "langevin": lambda x: tied(mixture(), x, first, [0.01] * 5, noise_for(3)),
    }


@pytest.mark.parametrize("kind", ["sde", "flow", "ddpm", "langevin"])
def test_the_gradient_through_purification_is_that_of_finite_differences(kind: str) -> None:
    run, x = walks()[kind], images().double().requires_grad_()
    aim = torch.linspace(-1, 1, x.numel(), dtype=torch.float64).reshape(x.shape)
    (found,) = torch.autograd.grad((run(x) * aim).sum(), x)
    way = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    ahead, behind = ((run(x.detach() + h * way) * aim).sum() for h in (1e-5, -1e-5))
    assert float((found * way).sum()) == pytest.approx(float(ahead - behind) / 2e-5, rel=1e-6)


def encoder(x: Tensor, level: NoiseLevel) -> tuple[list[Tensor], Tensor]:
    weight = torch.linspace(-1, 1, 3 * 4, dtype=torch.float64).reshape(3, 1, 2, 2)
    maps = torch.conv2d(x, weight, padding=1).tanh() * (1 + level.sigma.to(x.dtype))
    return [maps], maps.mean((2, 3))


@pytest.mark.parametrize("aim", [content(encoder), structure(encoder), style(encoder)])
def test_an_aim_s_gradient_is_that_of_finite_differences(aim: Any) -> None:
    x, level = images().double(), noise_level(0.2, 0.9, 0.4)
    reference = x.flip(0).cos()
    found = gradient(aim, x, level, reference)
    way = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    ahead, behind = (aim(x + h * way, level, reference) for h in (1e-5, -1e-5))
    slope = (found * way).flatten(1).sum(1)
    torch.testing.assert_close(slope, (ahead - behind) / 2e-5, rtol=1e-6, atol=1e-9)
    # each image's value is its own
    alone = aim(x[:1], level, reference[:1])
    torch.testing.assert_close(alone, aim(x, level, reference)[:1], rtol=0, atol=1e-12)


def test_a_gram_matrix_is_an_image_s_own() -> None:
    maps = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert gram(maps).shape == (2, 3, 3)
    torch.testing.assert_close(gram(maps)[1], gram(maps[1:])[0])


def test_an_aim_of_nothing_guides_nowhere_and_an_aim_is_approached() -> None:
    levels, noise = path(UniformTime(), VPLinear(), 20), noise_for(3)
    x = start(levels[0], noise, images().double())
    plain = sample(mixture(), x, levels, DDPM(), noise)
    idle = Guided(DDPM(), lambda x, level, noised: 0 * x.flatten(1).sum(1))
    assert torch.equal(sample(mixture(), x, levels, idle, noise), plain)
    words = torch.tensor([1.0, -0.5, 0.3], dtype=torch.float64)
    towards = text(encoder, words)
    guided = sample(mixture(), x, levels, Guided(DDPM(), lambda *a: 30 * towards(*a)), noise)
    level = levels[-2]
    assert (towards(guided, level, None) > towards(plain, level, None)).all()


def test_an_image_s_aim_needs_a_reference() -> None:
    with pytest.raises(ValueError, match="reference"):
        content(encoder)(images().double(), noise_level(0, 1, 0.1), None)


def test_the_posterior_of_a_measured_voxel_is_its_gaussian_product() -> None:
    data = Mixture(
        *(each[:1] for each in (torch.ones(1).double(), mixture().means, mixture().variances))
    )
    row = torch.tensor([[0.0, 1.0, 0.0, 0.0]], dtype=torch.float64)
    found = posterior(data, row, torch.tensor([[0.4]], dtype=torch.float64), 0.1)
    mean, variance = data.means.flatten()[1], data.variances.flatten()[1]
    precision = 1 / variance + 100
    assert float(found.variance[0, 1]) == pytest.approx(float(1 / precision))
    assert float(found.mean[0, 1]) == pytest.approx(float((mean / variance + 40) / precision))
    torch.testing.assert_close(found.variance[0, 2], data.variances.flatten()[2])
