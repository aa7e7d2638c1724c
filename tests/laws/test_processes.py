"""Laws of the processes beside noise: bridges and CARD, Bernoulli masks, cold diffusion."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from medidiff.diffusion import (
    CLEAN,
    DDIM,
    DDPM,
    BerDiff,
    BernoulliLoss,
    Blur,
    BrownianBridge,
    Clean,
    Cold,
    ColdLoss,
    Displacement,
    DPMSolverPP,
    Eps,
    Estimate,
    Heun,
    KeyedNoise,
    NoiseLevel,
    ProcessLoss,
    ResidualDenoiser,
    SASolver,
    SchrodingerBridge,
    UniformTime,
    UniPC,
    VPLinear,
    diffuse_towards,
    path,
    residual,
    sample,
    scale,
    start,
    translate,
)
from medidiff.diffusion.bernoulli import corrupt, fair, flipped_share, posterior, reverse
from medidiff.diffusion.processes import bridge_step
from medidiff.diffusion.variance import ddpm_transition

BRIDGES = [BrownianBridge(), BrownianBridge(spread=0.3), SchrodingerBridge()]
PROCESSES = [*BRIDGES, VPLinear()]
bridges = pytest.mark.parametrize("bridge", BRIDGES, ids=repr)
processes = pytest.mark.parametrize("schedule", PROCESSES, ids=repr)


def noise_for(count: int) -> KeyedNoise:
    return KeyedNoise(0, [("subject", sample) for sample in range(count)])


def images(count: int, size: int = 4) -> tuple[Tensor, Tensor]:
    fields = torch.randn(
        2, count, 1, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(3)
    )
    return fields[0], fields[1]


def times(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_a_brownian_bridge_has_the_paper_s_mean_and_variance() -> None:
    t = times(0.0, 0.2, 0.5, 0.9, 1.0)
    level = BrownianBridge(spread=0.7)(t)
    torch.testing.assert_close(level.alpha, 1 - t, rtol=0, atol=1e-15)
    torch.testing.assert_close(level.sigma**2, 2 * 0.7 * (t - t**2), rtol=0, atol=1e-15)


def test_a_schrodinger_bridge_weighs_both_ends_by_the_variance_gathered_from_each() -> None:
    bridge, count = SchrodingerBridge(), 200_000
    middles = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    rates = (0.1**0.5 + (0.3**0.5 - 0.1**0.5) * torch.minimum(middles, 1 - middles)) ** 2 / count
    for t in (0.1, 0.4, 0.5, 0.8):
        before, after = rates[middles < t].sum(), rates[middles > t].sum()
        level = bridge(torch.tensor(t, dtype=torch.float64))
        assert float(level.alpha) == pytest.approx(float(after / (before + after)), abs=1e-8)
        variance = float(before * after / (before + after))
        assert float(level.sigma**2) == pytest.approx(variance, abs=1e-8)


@bridges
def test_a_bridge_s_rates_are_the_derivatives_of_its_levels(bridge: Any) -> None:
    t, step = times(0.05, 0.3, 0.49, 0.7, 0.95), 1e-6
    above, below, here = bridge(t + step), bridge(t - step), bridge(t)
    drift = (above.alpha.log() - below.alpha.log()) / (2 * step)
    torch.testing.assert_close(bridge.drift(t), drift, rtol=1e-6, atol=0)
    grown = (above.sigma**2 - below.sigma**2) / (2 * step)
    diffusion = grown - 2 * drift * here.sigma**2
    torch.testing.assert_close(bridge.diffusion(t), diffusion, rtol=1e-6, atol=0)
    torch.testing.assert_close(bridge.time_of(here.half_log_snr), t, rtol=0, atol=1e-12)


@bridges
def test_both_ends_of_a_bridge_are_the_images_themselves(bridge: Any) -> None:
    clean, endpoint = images(2)
    eps = torch.ones_like(clean)
    first, last = bridge(times(0.0, 0.0)), bridge(times(1.0, 1.0))
    torch.testing.assert_close(diffuse_towards(clean, endpoint, first, eps), clean)
    found = diffuse_towards(clean, endpoint, last, eps)
    torch.testing.assert_close(found, endpoint, rtol=0, atol=1e-9)


@bridges
@pytest.mark.parametrize(("now", "to"), [(0.8, 0.3), (0.31, 0.3), (1.0, 0.5), (1.0, 0.999)])
def test_the_papers_hop_is_ddpm_on_the_residual(bridge: Any, now: float, to: float) -> None:
    clean, endpoint = images(1)
    levels = bridge(torch.tensor(now, dtype=torch.float64)), bridge(torch.tensor(to).double())
    x = diffuse_towards(clean, endpoint, levels[0], torch.ones_like(clean))
    mean, deviation = bridge_step(x, clean, *levels)
    z = x - endpoint
    # the residual's own first digits: x has lost them where it is the endpoint
    if now == 1.0:
        z = scale(levels[0].sigma, z) * torch.ones_like(z)
    ours = ddpm_transition(z, Estimate(clean - endpoint, z), *levels, "small", times(0.0)[0])
    torch.testing.assert_close(endpoint + ours.mean, mean, rtol=0, atol=1e-8)
    assert float(ours.variance) == pytest.approx(float(deviation**2), rel=1e-8)


@bridges
def test_a_hop_of_the_forward_process_s_draws_leaves_the_next_marginal(bridge: Any) -> None:
    clean, endpoint = images(1)
    now, to = bridge(times(0.7)[0]), bridge(times(0.4)[0])
    ends = [
        bridge_step(
            diffuse_towards(clean, endpoint, now, eps * torch.ones_like(clean)), clean, now, to
        )
        for eps in (0.0, 1.0)
    ]
    middle = diffuse_towards(clean, endpoint, to, torch.zeros_like(clean))
    torch.testing.assert_close(ends[0][0], middle, rtol=0, atol=1e-12)
    moved = (ends[1][0] - ends[0][0]).square() + ends[0][1] ** 2
    torch.testing.assert_close(moved, to.sigma.square().expand_as(moved), rtol=0, atol=1e-12)


SAMPLERS = [DDPM(), DDIM(), DDIM(eta=0.5), Heun(), DPMSolverPP(), UniPC(), SASolver()]


@processes
@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
@pytest.mark.parametrize("steps", [1, 2, 3, 9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_perfect_denoiser_gives_the_clean_image_from_the_endpoint(
    schedule: Any, sampler: Any, steps: int, dtype: torch.dtype
) -> None:
    clean, endpoint = (each.to(dtype) for each in images(2))

    def know(x: Tensor, level: NoiseLevel) -> Estimate:
        eps = (x - scale(level.alpha, x) * (clean - endpoint)) / scale(level.sigma, x)
        return Estimate(clean - endpoint, eps)

    levels = path(UniformTime(), schedule, steps)
    result = translate(know, endpoint, levels, sampler, noise_for(2))
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(result, clean, rtol=0, atol=tolerance)


@processes
@pytest.mark.parametrize("sampler", [DDPM(), DDIM(), Heun(), UniPC(), SASolver()], ids=repr)
def test_images_that_differ_from_their_endpoints_by_a_gaussian_are_drawn_as_such(
    gaussian_denoise: Any, schedule: Any, sampler: Any
) -> None:
    endpoint = torch.full((1, 1, 100, 100), 3.0, dtype=torch.float64)
    # the small variance of few steps loses spread, which is the method's own
    levels = path(UniformTime(), schedule, 1000 if sampler == DDPM() else 200)[:-1]
    last = levels[-1]
    found = translate(gaussian_denoise, endpoint, levels, sampler, noise_for(1)) - endpoint
    assert float(found.mean()) == pytest.approx(0.5 * float(last.alpha), abs=0.01)
    wanted = float(((0.2 * last.alpha) ** 2 + last.sigma**2).sqrt())
    assert float(found.std()) == pytest.approx(wanted, rel=0.03)


@processes
@pytest.mark.parametrize(
    "target", [Displacement(), Displacement(unit="deviation"), Eps(), Clean()], ids=repr
)
def test_the_loss_is_zero_for_who_knows_and_the_denoiser_reads_the_same_answer(
    schedule: Any, target: Any
) -> None:
    clean, endpoint = images(2)
    eps = torch.flip(clean, [0])
    loss = ProcessLoss(target, schedule)
    levels = loss.levels(times(0.3, 0.9))
    x = diffuse_towards(clean, endpoint, levels, eps)
    unit = (
        1.0
        if getattr(target, "unit", "one") == "one"
        else scale(levels.sigma / levels.alpha.sqrt(), x)
    )
    said = {"displacement": (x - clean) / unit, "eps": eps, "clean": clean - endpoint}[target.kind]

    def network(seen: Tensor, label: Tensor, condition: Any, concat: Any) -> Tensor:
        assert torch.equal(concat, endpoint)
        return said

    assert loss(network, clean, endpoint, levels, eps).tolist() == pytest.approx([0, 0], abs=1e-20)
    here = ResidualDenoiser(network, target, endpoint)(x - endpoint, levels)
    torch.testing.assert_close(here.clean, clean - endpoint, rtol=0, atol=1e-10)
    torch.testing.assert_close(here.eps, eps, rtol=0, atol=1e-10)


def test_a_denoiser_of_images_is_one_of_residuals(gaussian_denoise: Any) -> None:
    level = BrownianBridge()(times(0.4)[0])
    x, endpoint = images(1)
    here = residual(gaussian_denoise, endpoint)(x - endpoint, level)
    torch.testing.assert_close(here.clean + endpoint, gaussian_denoise(x, level).clean)


def test_a_batch_of_bridges_equals_its_members(gaussian_denoise: Any) -> None:
    endpoint, noise = images(3)[0], noise_for(3)
    levels = path(UniformTime(), BrownianBridge(), 6)
    both = translate(gaussian_denoise, endpoint, levels, DDPM(), noise)
    for index in range(3):
        part = endpoint[index : index + 1]
        alone = translate(gaussian_denoise, part, levels, DDPM(), noise.take([index]))
        assert torch.equal(alone[0], both[index])


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: BrownianBridge(spread=0),
        lambda: SchrodingerBridge(beta_min=1.0),
        lambda: Blur(width_voxels=0),
    ],
)
def test_processes_that_do_not_exist_are_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="needs"):
        wrong()


def masks(count: int = 1, size: int = 60) -> Tensor:
    u = torch.rand(count, 1, size, size, generator=torch.Generator().manual_seed(5))
    return (u < 0.3).double()


def test_a_corrupted_mask_has_the_forward_marginal() -> None:
    clean, level = masks(1, 300), VPLinear()(times(0.3)[0])
    x = corrupt(clean, level, noise_for(1)(clean, 0))
    kept = float(level.alpha**2)
    assert float(x[clean == 1].mean()) == pytest.approx((1 + kept) / 2, abs=0.01)
    assert float(x[clean == 0].mean()) == pytest.approx((1 - kept) / 2, abs=0.01)
    assert set(x.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize(("now", "to"), [(0.9, 0.3), (0.4, 0.399), (0.2, 0.0)])
def test_a_mask_s_posterior_leaves_the_marginal_of_the_next_level(now: float, to: float) -> None:
    clean = times(0.0, 1.0).reshape(1, 1, 2, 1)
    levels = VPLinear()(times(now)[0]), VPLinear()(times(to)[0]) if to else CLEAN
    of_one = flipped_share(clean, levels[0])
    ones, zeros = torch.ones_like(clean), torch.zeros_like(clean)
    total = of_one * posterior(ones, clean, *levels)
    total = total + (1 - of_one) * posterior(zeros, clean, *levels)
    torch.testing.assert_close(total, flipped_share(clean, levels[1]), rtol=0, atol=1e-12)


def tossing(level: NoiseLevel, x: Tensor, share: float) -> Tensor:
    """P(clean = 1 | x) where clean voxels are coins of this share."""
    ones, zeros = torch.ones_like(x), torch.zeros_like(x)
    of_one, of_zero = flipped_share(ones, level), flipped_share(zeros, level)
    one = share * (x * of_one + (1 - x) * (1 - of_one))
    return one / (one + (1 - share) * (x * of_zero + (1 - x) * (1 - of_zero)))


def test_the_mixture_rule_keeps_the_marginal_of_coins_and_the_mean_rule_does_not() -> None:
    now, to = VPLinear()(times(0.5)[0]), VPLinear()(times(0.2)[0])
    x = times(0.0, 1.0).reshape(1, 1, 2, 1)
    seen = 0.2 * flipped_share(torch.ones_like(x), now) + 0.8 * flipped_share(0 * x, now)
    weight = torch.where(x == 1, seen, 1 - seen)

    def left(rule: Any) -> float:
        return float((weight * reverse(x, tossing(now, x, 0.2), now, to, rule)).sum())

    wanted = 0.2 * flipped_share(torch.ones_like(x), to) + 0.8 * flipped_share(0 * x, to)
    assert left("mixture") == pytest.approx(float(wanted[0, 0, 0, 0]), abs=1e-12)
    assert abs(left("mean") - float(wanted[0, 0, 0, 0])) > 1e-3


@pytest.mark.parametrize("steps", [1, 2, 3, 50])
@pytest.mark.parametrize("rule", ["mixture", "mean"])
def test_who_knows_the_mask_draws_it(steps: int, rule: Any) -> None:
    clean, noise = masks(2, 5), noise_for(2)

    def know(x: Tensor, level: NoiseLevel) -> Estimate:
        return Estimate(clean, (x - clean).abs())

    levels = path(UniformTime(), VPLinear(), steps)
    states = sample(know, fair(clean, noise), levels, BerDiff(rule=rule), noise)
    assert torch.equal(states, clean)


def test_coins_are_drawn_with_their_share() -> None:
    like, noise = torch.zeros(1, 1, 200, 200, dtype=torch.float64), noise_for(1)

    def exact(x: Tensor, level: NoiseLevel) -> Estimate:
        probability = tossing(level, x, 0.2)
        return Estimate(probability, (x - probability).abs())

    levels = path(UniformTime(), VPLinear(), 40)
    found = sample(exact, fair(like, noise), levels, BerDiff(), noise)
    assert float(found.mean()) == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize("rule", ["mixture", "mean"])
def test_a_mask_s_loss_is_least_for_the_true_probability(rule: Any) -> None:
    u = torch.rand(1, 1, 200, 200, generator=torch.Generator().manual_seed(1))
    clean = (u < 0.2).double()
    loss = BernoulliLoss(VPLinear(), says="clean", rule=rule)
    levels = loss.levels(times(0.4))
    eps = noise_for(1)(clean, 1)

    def at(shift: float) -> float:
        def network(x: Tensor, label: Tensor, condition: Any, concat: Any) -> Tensor:
            return tossing(levels, x, 0.2).logit() + shift

        return float(loss(network, clean, levels, eps))

    assert at(0.0) < min(at(-0.2), at(0.2))


def test_both_things_that_a_mask_network_can_say_are_the_same_loss() -> None:
    clean, levels = masks(1, 8), VPLinear()(times(0.4))
    eps = noise_for(1)(clean, 1)
    x = corrupt(clean, levels, eps)
    logit = x * 0.7 - 0.2

    def clean_says(*_: Any) -> Tensor:
        return logit

    def flip_says(*_: Any) -> Tensor:
        return torch.where(x == 1, -logit, logit)

    ours = BernoulliLoss(VPLinear(), says="clean")(clean_says, clean, levels, eps)
    theirs = BernoulliLoss(VPLinear(), says="flip")(flip_says, clean, levels, eps)
    torch.testing.assert_close(ours, theirs)


def faded(clean: Tensor, level: NoiseLevel) -> Tensor:
    """A degradation that is linear in t, and adds what does not depend on the image."""
    return clean + scale(level.t, clean) * torch.linspace(-2, 2, 4, dtype=clean.dtype)


@pytest.mark.parametrize("degrade", [Blur(), faded])
@pytest.mark.parametrize("rule", ["improved", "naive"])
@pytest.mark.parametrize("steps", [1, 2, 3, 9])
@pytest.mark.parametrize("shape", [(2, 1, 4, 4), (1, 1, 3, 4, 4)])
def test_who_knows_the_image_restores_it(degrade: Any, rule: Any, steps: int, shape: Any) -> None:
    clean = torch.linspace(-1, 1, math.prod(shape), dtype=torch.float64).reshape(shape)
    levels = path(UniformTime(), VPLinear(), steps)

    def know(x: Tensor, level: NoiseLevel) -> Estimate:
        return Estimate(clean, x)

    x = degrade(clean, levels[0])
    result = sample(know, x, levels, Cold(degrade, rule))
    torch.testing.assert_close(result, clean, rtol=0, atol=1e-12)


def test_the_improved_rule_forgives_any_restoration_of_a_linear_degradation() -> None:
    clean = torch.linspace(-1, 1, 16, dtype=torch.float64).reshape(1, 1, 4, 4)
    levels = path(UniformTime(), VPLinear(), 9)

    def wrong(x: Tensor, level: NoiseLevel) -> Estimate:
        return Estimate(x.sin() + 0.3, x)

    x = faded(clean, levels[0])
    improved = sample(wrong, x, levels, Cold(faded))
    torch.testing.assert_close(improved, clean, rtol=0, atol=1e-12)
    assert not torch.allclose(sample(wrong, x, levels, Cold(faded, "naive")), clean, atol=0.1)


def test_a_blur_is_nothing_at_0_keeps_the_mean_and_adds_its_variances() -> None:
    image = images(1, 32)[0]
    blur, levels = Blur(width_voxels=4.0), VPLinear()
    assert torch.allclose(blur(image, CLEAN), image, atol=1e-14)
    once = blur(image, levels(times(0.5)[0]))
    assert float(once.mean()) == pytest.approx(float(image.mean()), abs=1e-14)
    twice = blur(blur(image, levels(times(0.3)[0])), levels(times(0.4)[0]))
    torch.testing.assert_close(twice, once, rtol=0, atol=1e-12)


def test_a_cold_loss_is_the_mean_absolute_error_of_each_image() -> None:
    clean = images(2)[0]
    loss = ColdLoss(Blur())
    levels = loss.levels(times(0.2, 0.8))
    found = loss(
        lambda x, label, condition, concat: clean + label.reshape(-1, 1, 1, 1), clean, levels
    )
    assert found.tolist() == pytest.approx(levels.t.tolist(), rel=1e-6)


def test_the_start_of_a_bridge_shows_no_noise() -> None:
    endpoint = images(1)[0]
    first = path(UniformTime(), BrownianBridge(), 4)[0]
    assert torch.allclose(endpoint + start(first, noise_for(1), endpoint), endpoint, atol=1e-9)
