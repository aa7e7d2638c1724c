"""Laws of reverse variances, the bound, the losses that train them, and encoding."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from medidiff.conformance.oracles import Mixture
from medidiff.diffusion import (
    DDIM,
    DDPM,
    VE,
    ClassifierGuided,
    Decoder,
    Discrete,
    Eps,
    Estimate,
    Flow,
    HybridLoss,
    KeyedNoise,
    LinspaceSteps,
    LossHistory,
    NoiseLevel,
    OptimalVariance,
    SpreadLoss,
    UniformTime,
    VPLinear,
    ZeroTerminalBetas,
    bound,
    centred,
    clipped,
    encode,
    gamma_table,
    interpolate,
    path,
    sample,
    scale,
    uncentred,
    with_gamma,
)
from medidiff.diffusion.objectives import hop_from
from medidiff.diffusion.variance import Transition

SCHEDULES = [VPLinear(), VE(), Flow(), Discrete()]
schedules = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: s.kind)
HALF, LATE = torch.tensor(0.5).double(), torch.tensor(0.8).double()


def noise_for(count: int) -> KeyedNoise:
    return KeyedNoise(0, [("law", index) for index in range(count)])


def eps_variance(model: Any, level: NoiseLevel) -> torch.Tensor:
    power = (level.alpha * model.std) ** 2
    return power / (power + level.sigma**2)


def with_spread(model: Any, source: str) -> Any:
    def denoise(x: torch.Tensor, level: NoiseLevel) -> Estimate:
        here = model(x, level)
        left = scale(eps_variance(model, level), x) + torch.zeros_like(x)
        spread = left + here.eps**2 if source == "sn" else left
        return Estimate(here.clean, here.eps, 1 - left if source == "gamma" else spread)

    return denoise


@pytest.mark.parametrize("source", ["gamma", "sn", "npr"])
@pytest.mark.parametrize("kind", ["ddpm", "ddim"])
@schedules
def test_the_optimal_variance_is_the_true_one_on_a_gaussian(
    gaussian_denoise: Any, schedule: Any, kind: str, source: Any
) -> None:
    now, to = schedule(LATE), schedule(HALF)
    best = OptimalVariance(source=source, half_range=math.inf)
    sampler = DDPM(variance=best) if kind == "ddpm" else DDIM(eta=1.0, variance=best)
    x = torch.linspace(-1, 1, 4, dtype=torch.float64).reshape(1, 1, 2, 2)
    here = with_spread(gaussian_denoise, source)(x, now)
    power_now = (now.alpha * gaussian_denoise.std) ** 2 + now.sigma**2
    power_to = (to.alpha * gaussian_denoise.std) ** 2 + to.sigma**2
    truth = power_to - (now.alpha / to.alpha * power_to) ** 2 / power_now
    ours = sampler.transition(x, here, now, to).variance
    torch.testing.assert_close(ours, truth.expand_as(x), rtol=1e-10, atol=4e-14)


def two_modes() -> Mixture:
    means = torch.tensor([-0.6, 0.7], dtype=torch.float64).reshape(2, 1, 1, 1)
    variances = torch.tensor([0.02, 0.1], dtype=torch.float64).reshape(2, 1, 1, 1)
    return Mixture(torch.tensor([0.35, 0.65], dtype=torch.float64), means, variances)


def clean_moments(data: Mixture, x: torch.Tensor, level: NoiseLevel) -> tuple[Any, Any]:
    """Mean and variance of the clean image given x, by the components' own posteriors."""
    _, share, residual, variance = data.parts(x, level)
    means = data.means + level.alpha * data.variances / variance * residual
    each = data.variances * level.sigma**2 / variance
    mean = (share * means).sum(1)
    return mean, (share * (each + means**2)).sum(1) - mean**2


def spread_of(data: Mixture, source: str, error: float) -> Any:
    """The mixture's denoiser, its noise wrong by `error`, with SN's or NPR's exact spread."""

    def denoise(x: torch.Tensor, level: NoiseLevel) -> Estimate:
        exact, square = data(x, level).eps, data.eps_square(x, level)
        eps = exact + error
        clean = (x - scale(level.sigma, x) * eps) / scale(level.alpha, x)
        return Estimate(clean, eps, square if source == "sn" else square - 2 * eps * exact + eps**2)

    return denoise


def variance_of(source: Any, error: float, x: torch.Tensor, now: Any, to: Any) -> torch.Tensor:
    best = OptimalVariance(source=source, half_range=math.inf)
    here = spread_of(two_modes(), source, error)(x, now)
    return DDPM(variance=best).transition(x, here, now, to).variance


def test_sn_equals_npr_when_the_mean_is_exact() -> None:
    now, to = VPLinear()(LATE), VPLinear()(HALF)
    x = torch.linspace(-1, 1, 9, dtype=torch.float64).reshape(9, 1, 1, 1)
    sn, npr = (variance_of(source, 0.0, x, now, to) for source in ("sn", "npr"))
    torch.testing.assert_close(sn, npr, rtol=1e-12, atol=1e-14)


def test_with_a_wrong_mean_npr_is_the_optimum_and_sn_is_not() -> None:
    """E (x_to - wrong mean)^2 = fresh + gain^2 (Var[clean | x] + (clean - wrong clean)^2)."""
    now, to, data = VPLinear()(LATE), VPLinear()(HALF), two_modes()
    x = torch.linspace(-1, 1, 9, dtype=torch.float64).reshape(9, 1, 1, 1)
    mean, variance = clean_moments(data, x, now)
    wrong = spread_of(data, "npr", 0.3)(x, now).clean
    plain = DDPM().transition(x, Estimate(wrong, wrong), now, to)
    shifted = DDPM().transition(x, Estimate(wrong + 1, wrong), now, to)
    gain = shifted.mean - plain.mean
    truth = plain.variance + gain**2 * (variance + (mean - wrong) ** 2)
    torch.testing.assert_close(variance_of("npr", 0.3, x, now, to), truth, rtol=1e-10, atol=1e-14)
    assert float((variance_of("sn", 0.3, x, now, to) / truth - 1).abs().max()) > 0.05


def test_the_clean_variance_is_held_at_both_ends_and_at_pure_noise() -> None:
    x, level = torch.zeros(1, 1, 1, 1).double(), VPLinear()(torch.tensor(1.0).double())
    for spread, held in ((1.2, 0.0), (0.0, 0.25)):
        here = Estimate(x, x, x + spread)
        assert float(OptimalVariance(half_range=0.5).clean_variance(here, level)) == held
    pure = Flow()(torch.tensor(1.0).double())
    here = Estimate(x, x, x + 1)
    assert float(OptimalVariance(half_range=0.5).clean_variance(here, pure)) == 0.25


def test_the_last_noisy_hop_is_held_to_its_mean_size(gaussian_denoise: Any) -> None:
    levels, noise = path(UniformTime(), VPLinear(), 3), noise_for(1)
    x = torch.zeros(1, 1, 64, 64, dtype=torch.float64)
    states: list[torch.Tensor] = []

    def listen(x: torch.Tensor, level: NoiseLevel) -> Estimate:
        states.append(x)
        return gaussian_denoise(x, level)

    held = DDPM(last_noise=2 * 2 / 255)
    sample(listen, x, levels, held, noise)
    here = gaussian_denoise(states[1], levels[1])
    mean = held.transition(states[1], here, levels[1], levels[2]).mean
    assert float((states[2] - mean).abs().mean()) == pytest.approx(2 * 2 / 255, rel=0.05)


def test_gamma_by_monte_carlo_is_the_closed_form(gaussian_denoise: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    clean = 0.5 + 0.2 * torch.randn(8, 1, 32, 32, generator=generator, dtype=torch.float64)
    levels = [VPLinear()(torch.tensor(t).double()) for t in (0.05, 0.3, 0.9)]
    table = gamma_table(gaussian_denoise, [(clean, noise_for(8))], levels)
    for level, value in zip(levels, table.values, strict=True):
        truth = 1 - float(eps_variance(gaussian_denoise, level))
        assert float(value) == pytest.approx(truth, rel=0.06)
        assert float(table(level)) == pytest.approx(float(value))
    spread = with_gamma(gaussian_denoise, table)(clean, levels[1]).spread
    assert spread is not None
    torch.testing.assert_close(spread, torch.full_like(clean, float(table.values[1])))


def test_the_bound_is_not_below_the_negative_log_likelihood(gaussian_denoise: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    draw = 0.2 * torch.randn(12000, 1, 4, 4, generator=generator, dtype=torch.float64)
    clean = ((draw + 0.5 + 1) / 2 * 255).round().clamp(0, 255) / 255 * 2 - 1
    data = Transition(torch.full_like(clean, 0.5), torch.full_like(clean, 0.04))
    exact = Decoder().nll(clean, data)
    truth = exact.flatten(1).sum(1)
    model = with_spread(gaussian_denoise, "npr")
    best: list[float] = []
    for steps in (10, 50):
        levels = path(LinspaceSteps(), Discrete(), steps)
        for variance in ("small", OptimalVariance(source="npr")):
            ours = bound(model, clean, levels, noise_for(12000), variance)
            best.append(float(ours.nats.mean()))
            excess = ours.nats - truth
            # on the mean over images; three standard errors of it, below .15 nats of some 74
            error = 3 * float(excess.std()) / len(clean) ** 0.5
            assert float(excess.mean()) > -error
            assert variance == "small" or error < 0.15
    assert best[1] <= best[0]
    assert best[3] < best[1]


@pytest.mark.parametrize("source", ["sn", "npr"])
def test_the_closed_form_spread_has_the_least_loss(gaussian_denoise: Any, source: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    noise, draw = torch.randn(2, 64, 1, 16, 16, generator=generator, dtype=torch.float64)
    clean, schedule = 0.5 + 0.2 * draw, VPLinear()
    levels = schedule(torch.full((64,), 0.2).double())
    trained = torch.ones((), dtype=torch.float64, requires_grad=True)

    def losing(factor: float) -> torch.Tensor:
        def network(x: torch.Tensor, *_: Any) -> torch.Tensor:
            here = with_spread(gaussian_denoise, source)(x, levels)
            assert here.spread is not None
            return torch.cat([here.eps * trained, factor * here.spread], 1)

        return SpreadLoss(Eps(), schedule, source)(network, clean, levels, noise).mean()

    losses = [losing(factor).item() for factor in (0.9, 1.0, 1.1)]
    assert losses[1] < min(losses[0], losses[2])
    (gradient,) = torch.autograd.grad(losing(1.0), trained)
    assert float(gradient) == 0


def test_the_bound_of_the_hybrid_loss_leaves_the_mean_alone() -> None:
    loss = HybridLoss(Eps(), Discrete())
    levels = loss.levels(torch.tensor([0.0005, 0.5], dtype=torch.float64))
    assert levels.t.tolist() == [0.001, 0.5]
    clean, noise = torch.zeros(2, 1, 2, 2).double(), torch.ones(2, 1, 2, 2).double()
    for which, moved in ((0, 0), (1, 1)):
        output = torch.full((2, 2, 2, 2), 0.3, dtype=torch.float64, requires_grad=True)
        hop = hop_from(loss.schedule, loss.times, levels)
        part = loss.parts(lambda *_, out=output: out, clean, hop, noise)[which]
        (gradient,) = torch.autograd.grad(part.sum(), output)
        assert (gradient[:, moved] != 0).all()
        assert (gradient[:, 1 - moved] == 0).all()


def test_steps_drawn_by_their_losses_stay_unbiased() -> None:
    history = LossHistory.empty(4, kept=2)
    steps = torch.tensor([1, 2, 3, 4])
    losses = torch.tensor([1.0, 2.0, 3.0, 6.0]).double()
    assert not history.is_warm
    history = history.updated(steps, 9 * losses).updated(steps, losses).updated(steps, losses)
    assert history.is_warm
    expected = 0.999 * losses / 12 + 0.001 / 4
    torch.testing.assert_close(history.probabilities, expected)
    chosen, weights = history.drawn((torch.arange(20000).double() + 0.5) / 20000)
    mean = (weights * losses[chosen - 1]).mean()
    assert float(mean) == pytest.approx(3.0, rel=1e-3)


def test_an_encoded_image_comes_back(gaussian_denoise: Any) -> None:
    clean = torch.linspace(0, 1, 16, dtype=torch.float64).reshape(1, 1, 4, 4)
    errors = []
    for steps in (100, 200):
        levels = path(UniformTime(), VPLinear(), steps)
        noise = encode(gaussian_denoise, clean, levels[::-1])
        errors.append(float((sample(gaussian_denoise, noise, levels, DDIM()) - clean).abs().max()))
    assert errors[1] < 0.6 * errors[0]
    assert errors[1] < 0.05


def test_interpolated_noise_keeps_its_length() -> None:
    one, two = torch.randn(2, 3, 1, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    two = two / two.flatten(1).norm(dim=1)[:, None, None, None]
    one = one / one.flatten(1).norm(dim=1)[:, None, None, None]
    torch.testing.assert_close(interpolate(one, two, 0.0), one)
    torch.testing.assert_close(interpolate(one, two, 1.0), two)
    length = interpolate(one, two, 0.3).flatten(1).norm(dim=1)
    torch.testing.assert_close(length, torch.ones(3).double())


def test_a_classifier_of_no_weight_changes_nothing(gaussian_denoise: Any) -> None:
    levels, noise = path(UniformTime(), VPLinear(), 8), noise_for(1)
    x = torch.ones(1, 1, 4, 4).double()
    guided = ClassifierGuided(lambda x, level: x, 0.0)
    ours = sample(gaussian_denoise, x, levels, guided, noise)
    torch.testing.assert_close(ours, sample(gaussian_denoise, x, levels, DDPM(), noise))


def test_zero_terminal_betas_end_in_pure_noise_and_keep_their_first() -> None:
    plain = ZeroTerminalBetas()
    schedule, before = Discrete(betas=plain), Discrete(betas=plain.betas)
    assert float(schedule.after(1000).alpha) == 0
    assert float(schedule.after(1).alpha) == pytest.approx(float(before.after(1).alpha), rel=1e-12)


@pytest.mark.parametrize("eps", ["rederive", "keep"])
def test_clipping_changes_the_mean_and_not_the_learned_variance(
    gaussian_denoise: Any, eps: Any
) -> None:
    """The variance of a hop is that of the network's own outputs, wherever the mean is moved."""
    model = with_spread(gaussian_denoise, "sn")
    level = VPLinear()(HALF)
    x = torch.linspace(-3, 3, 16, dtype=torch.float64).reshape(1, 1, 4, 4)
    raw = model(x, level)
    held = uncentred(clipped(centred(model), -0.1, 0.1, eps=eps))(x, level)
    assert (held.clean.abs() <= 0.1).all()
    assert raw.spread is not None
    assert held.spread is not None
    torch.testing.assert_close(held.spread - held.eps**2, raw.spread - raw.eps**2)
    bare = clipped(model, -0.1, 0.1, eps="rederive")(x, level)
    assert bare.spread is not None
    assert not torch.allclose(bare.spread - bare.eps**2, raw.spread - raw.eps**2)
