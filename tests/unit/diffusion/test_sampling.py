"""The driver: paths, the last hop, renoising, steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from medidiff.diffusion import (
    CLEAN,
    DDIM,
    DDPM,
    DPMSolverPP,
    Estimate,
    Flow,
    Heun,
    KeyedNoise,
    NoiseLevel,
    Renoise,
    Step,
    UniformTime,
    VPLinear,
    counted,
    eps_of,
    noise_level,
    path,
    renoise,
    sample,
    scale,
    start,
    walk,
)

X = torch.ones(1, 1, 2, 2, dtype=torch.float64)
NOISE = KeyedNoise(0, [("a", 0)])
HIGH, LOW = noise_level(0.9, 0.5, 1.0), noise_level(0.4, 0.8, 0.3)


def half(x: Tensor, level: NoiseLevel) -> Estimate:
    return Estimate(0.5 * x, eps_of(x, 0.5 * x, level))


def test_the_last_hop_is_one_plain_denoise() -> None:
    for sampler in (DDPM(), DDIM(), Heun(), DPMSolverPP()):
        assert torch.equal(sample(half, X, [LOW, CLEAN], sampler, NOISE), 0.5 * X)


@pytest.mark.parametrize(
    ("sampler", "calls"), [(DDPM(), 8), (DDIM(), 8), (DPMSolverPP(), 8), (Heun(), 15)], ids=repr
)
def test_the_number_of_network_calls_is_what_the_paper_says(sampler: Any, calls: int) -> None:
    counter = counted(half)
    sample(counter, X, path(UniformTime(), VPLinear(), 8), sampler, NOISE)
    assert counter.calls == calls


def test_walk_gives_every_state_and_sample_the_last() -> None:
    levels = path(UniformTime(), Flow(), 5)
    states = list(walk(half, X, levels, DDIM()))
    assert [index for index, _ in states] == [0, 1, 2, 3, 4]
    assert torch.equal(states[-1][1], sample(half, X, levels, DDIM()))


def test_a_path_may_end_at_a_noisy_level() -> None:
    result = sample(half, X, [HIGH, LOW], DDIM())
    expected = 0.8 * 0.5 * X + 0.3 * (X - 0.25 * X)
    torch.testing.assert_close(result, expected)


@pytest.mark.parametrize(
    "levels", [[], [HIGH], [Renoise(HIGH), LOW]], ids=["none", "one", "renoise"]
)
def test_a_path_without_a_hop_is_refused_before_the_first_step(levels: list) -> None:
    with pytest.raises(ValueError, match="at least two levels"):
        walk(half, X, levels, DDIM())


def test_a_path_that_rises_is_refused_before_the_first_step() -> None:
    with pytest.raises(ValueError, match="rises from level 0 to level 1"):
        walk(half, X, [LOW, HIGH, CLEAN], DDIM())


def test_two_levels_of_pure_noise_are_refused() -> None:
    pure = noise_level(1, 0, 1)
    with pytest.raises(ValueError, match="both pure"):
        walk(half, X, [pure, pure, CLEAN], DDIM())


def test_renoising_goes_back_up_and_forgets() -> None:
    mid = noise_level(0.6, 0.7, 0.6)
    again = sample(half, X, [HIGH, mid, Renoise(HIGH), LOW, CLEAN], DPMSolverPP(), NOISE)
    up = renoise(sample(half, X, [HIGH, mid], DPMSolverPP()), mid, HIGH, NOISE(X, 1))
    torch.testing.assert_close(again, sample(half, up, [HIGH, LOW, CLEAN], DPMSolverPP()))


def test_renoising_keeps_the_signal_and_reaches_the_noise_of_the_level() -> None:
    many = torch.zeros(1, 1, 300, 300, dtype=torch.float64)
    noise = KeyedNoise(0, [("a", 0)])
    x = scale(LOW.alpha, many) * 1 + scale(LOW.sigma, many) * noise(many, 0)
    up = renoise(x, LOW, HIGH, noise(many, 1))
    assert float(up.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(up.std()) == pytest.approx(1.0, abs=0.02)


def test_the_prior_draw_has_the_level_s_noise_and_its_own_key() -> None:
    like = torch.zeros(1, 1, 100, 100)
    x = start(noise_level(1, 1, 80), NOISE, like)
    assert float(x.std()) == pytest.approx(80, rel=0.03)
    assert not torch.allclose(x / 80, NOISE(like, 0))


def test_a_step_makes_levels_by_time_half_log_snr_or_ratio() -> None:
    at = Step(0, 1, X, None, Flow())
    half_way = torch.tensor(0.5, dtype=torch.float64)
    for level in (
        at.level(t=half_way),
        at.level(half_log_snr=torch.zeros((), dtype=torch.float64)),
        at.level(noise_ratio=torch.ones((), dtype=torch.float64)),
    ):
        assert float(level.t) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="name the level"):
        at.level()


def test_a_missing_noise_source_or_schedule_is_named() -> None:
    with pytest.raises(ValueError, match="noise source"):
        sample(half, X, [HIGH, LOW], DDPM())
    with pytest.raises(ValueError, match="the schedule"):
        sample(half, X, [HIGH, LOW], Heun(churn=1.0), NOISE)


def test_gradients_flow_through_a_walk() -> None:
    x = X.clone().requires_grad_()
    sample(half, x, path(UniformTime(), VPLinear(), 3), DDIM()).sum().backward()
    assert x.grad is not None
    assert float(x.grad.abs().sum()) > 0


def test_churn_raises_the_noise_as_the_paper_says() -> None:
    # algorithm 2: gamma = min(churn / N, sqrt(2) - 1), added noise sqrt(t_hat^2 - t^2)
    seen: list[float] = []

    def watch(x: Tensor, level: NoiseLevel) -> Estimate:
        seen.append(float(level.noise_ratio))
        return half(x, level)

    levels = path(UniformTime(), VPLinear(), 4)
    first = float(levels[0].noise_ratio)
    sample(watch, X, levels, Heun(churn=0.4), NOISE, VPLinear())
    assert seen[0] == pytest.approx(1.1 * first)
    seen.clear()
    sample(watch, X, levels, Heun(churn=400.0), NOISE, VPLinear())
    assert seen[0] == pytest.approx(2**0.5 * first)


def test_ddim_shares_the_noise_as_equation_16_says() -> None:
    # VP levels: sigma = eta sqrt((1 - a_to) / (1 - a_now)) sqrt(1 - a_now / a_to), a = alpha^2
    now, to = (VPLinear()(torch.tensor(t, dtype=torch.float64)) for t in (0.6, 0.3))
    a_now, a_to = float(now.alpha**2), float(to.alpha**2)
    fresh = 0.4 * ((1 - a_to) / (1 - a_now)) ** 0.5 * (1 - a_now / a_to) ** 0.5
    here = half(X, now)
    expected = (
        a_to**0.5 * here.clean + (1 - a_to - fresh**2) ** 0.5 * here.eps + fresh * NOISE(X, 0)
    )
    torch.testing.assert_close(sample(half, X, [now, to], DDIM(eta=0.4), NOISE), expected)


def test_churn_also_precedes_the_last_hop() -> None:
    # algorithm 2 adds noise before every step, the one to zero included
    seen: list[float] = []

    def watch(x: Tensor, level: NoiseLevel) -> Estimate:
        seen.append(float(level.noise_ratio))
        return half(x, level)

    first = VPLinear()(torch.tensor(0.5, dtype=torch.float64))
    sample(watch, X, [first, CLEAN], Heun(churn=0.1), NOISE, VPLinear())
    assert seen == pytest.approx([1.1 * float(first.noise_ratio)])
