"""Laws of every sampler: order, limits, independence of the batch, invariance, moments."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from medidiff.diffusion import (
    DDIM,
    DDPM,
    DEIS,
    DPM2,
    EDM,
    LMS,
    PNDM,
    RK45,
    TCD,
    AnnealedLangevin,
    AnySampler,
    AnySchedule,
    AnyTarget,
    Consistency,
    Denoiser,
    DPMSolver,
    DPMSolverPP,
    DPMSolverPPAncestral,
    DPMSolverPPSDE,
    Eps,
    Estimate,
    Flow,
    Heun,
    Karras,
    KeyedNoise,
    NoiseLevel,
    PredictorCorrector,
    RhoRK,
    SASolver,
    Score,
    UniformLogSNR,
    UniformTime,
    UniPC,
    V,
    VPLinear,
    noise_level,
    path,
    sample,
    scale,
    start,
    walk,
)

SCHEDULES = [kind() for kind in get_args(AnySchedule)]
TARGETS = [kind() for kind in get_args(AnyTarget)]
SAMPLERS = [
    DDPM(),
    DDPM(variance="large"),
    DDIM(),
    DDIM(eta=0.6),
    Heun(),
    Heun(churn=10.0, churn_min=0.05, churn_max=50.0),
    Heun(order=1),
    Heun(second_at=0.5),
    Heun(variable="flow"),
    Heun(variable="time"),
    DPM2(),
    DPM2(eta=1.0),
    DPM2(churn=10.0, churn_min=0.05, churn_max=50.0),
    LMS(order=2),
    LMS(),
    DPMSolverPPAncestral(),
    DPMSolverPPAncestral(eta=0.0),
    DPMSolverPPSDE(),
    DPMSolverPPSDE(eta=0.0),
    Consistency(),
    TCD(),
    DPMSolverPP(order=1),
    DPMSolverPP(order=2),
    DPMSolverPP(order=3),
    DPMSolverPP(order=2, basis="eps", rule="taylor"),
    DPMSolverPP(order=2, eta=1.0),
    DPMSolverPP(order=2, basis="eps", eta=1.0),
    DPMSolver(order=2),
    DPMSolver(order=3),
    DPMSolver(order=3, basis="clean", rule="taylor"),
    UniPC(order=3),
    UniPC(order=2, weights="bh1", basis="eps"),
    UniPC(order=3, weights="varying"),
    SASolver(),
    SASolver(predictor_order=3, corrector_order=1, tau=0.6, basis="eps"),
    DEIS(order=3),
    DEIS(order=2, variable="log-rho"),
    DEIS(order=3, variable="rho"),
    RhoRK(method="kutta"),
    RhoRK(method="classical"),
    PNDM(order=4),
    PNDM(order=2, start="heun"),
    PNDM(order=4, start="grow"),
    PredictorCorrector(),
    PredictorCorrector(predictor="ancestral", corrector="annealed", corrector_steps=2),
    PredictorCorrector(predictor="euler-maruyama", corrector="none"),
    PredictorCorrector(predictor="none"),
    RK45(),
    AnnealedLangevin(steps=3),
]
ORDERS = [
    (DDIM(), 1),
    (DPMSolverPP(order=1), 1),
    (DPMSolverPP(order=2), 2),
    (DPMSolverPP(order=2, basis="eps", rule="taylor"), 2),
    (DPMSolver(order=2, last="full"), 2),
    (DPMSolver(order=2, basis="clean", rule="taylor", last="full"), 2),
    (UniPC(order=1), 2),
    (UniPC(order=1, corrector=False), 1),
    (DEIS(order=1), 2),
    (DEIS(order=1, variable="log-rho"), 2),
    (Heun(), 2),
    (Heun(order=1), 1),
    (Heun(second_at=2 / 3), 2),
    (Heun(variable="flow"), 2),
    (DPM2(), 2),
    (LMS(order=1), 1),
    (LMS(order=2), 2),
    (DPMSolverPPAncestral(eta=0.0), 2),
    (DPMSolverPPSDE(eta=0.0), 2),
    (TCD(gamma=0.0), 1),
    (PredictorCorrector(predictor="reverse-diffusion", corrector="none", dynamics="flow"), 1),
]

schedules = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: s.kind)
samplers = pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)


def noise_for(count: int, seed: int = 0) -> KeyedNoise:
    return KeyedNoise(seed, [("subject", sample) for sample in range(count)])


def endpoint_error(denoise: Any, sampler: AnySampler, schedule: AnySchedule, steps: int) -> float:
    """Error at the last noisy level, where the exact solution is known, from noise ratio 20."""
    first = schedule(schedule.time_of(-torch.tensor(20.0, dtype=torch.float64).log()))
    levels = path(UniformLogSNR(), schedule, steps, first)[:-1]
    x = torch.linspace(-1.5, 1.5, 4, dtype=torch.float64).reshape(1, 1, 2, 2)
    x = x * first.sigma + first.alpha * 0.5
    exact = denoise.flow(x, levels[0], levels[-1])
    return float((sample(denoise, x, levels, sampler, None, schedule) - exact).abs().max())


@pytest.mark.parametrize(("sampler", "order"), ORDERS, ids=repr)
@schedules
def test_converges_at_its_order(
    gaussian_denoise: Any, sampler: AnySampler, schedule: AnySchedule, order: int
) -> None:
    coarse = endpoint_error(gaussian_denoise, sampler, schedule, 200)
    fine = endpoint_error(gaussian_denoise, sampler, schedule, 400)
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("schedule", [Flow(), VPLinear()], ids=lambda s: s.kind)
def test_the_whole_way_from_noise_to_image_is_right(
    gaussian_denoise: Any, schedule: AnySchedule
) -> None:
    levels = path(UniformTime(), schedule, 400)
    x = start(levels[0], noise_for(1), torch.zeros(1, 1, 8, 8, dtype=torch.float64))
    exact = gaussian_denoise.flow(x, levels[0], levels[-1])
    for sampler in (DDIM(), Heun(), DPMSolverPP()):
        result = sample(gaussian_denoise, x, levels, sampler)
        torch.testing.assert_close(result, exact, rtol=0, atol=0.01)


@pytest.mark.parametrize(
    ("target", "dtype"),
    [*((target, torch.float32) for target in TARGETS), (V(), torch.float64)],
    ids=lambda each: getattr(each, "kind", str(each)),
)
@samplers
@schedules
def test_every_combination_gives_a_finite_image(
    schedule: AnySchedule, sampler: AnySampler, target: AnyTarget, dtype: torch.dtype
) -> None:
    blind = isinstance(target, Eps | Score)
    first = schedule(torch.tensor(0.98 if blind else 1.0, dtype=torch.float64))
    like = torch.zeros(2, 1, 3, 3, dtype=dtype)
    for spacing in (UniformTime(), UniformLogSNR(), Karras()):
        levels = path(spacing, schedule, 4, first)
        x = start(levels[0], noise_for(2), like)
        denoise = Denoiser(lambda x, label, condition, concat: x.sin(), target)
        result = sample(denoise, x, levels, sampler, noise_for(2), schedule)
        assert result.isfinite().all()
        assert result.dtype == dtype


@samplers
@schedules
def test_a_batch_equals_its_members_one_by_one(
    gaussian_denoise: Any, schedule: AnySchedule, sampler: AnySampler
) -> None:
    noise, levels = noise_for(3), path(Karras(), schedule, 5)

    def draw(part: KeyedNoise) -> Tensor:
        like = torch.zeros(len(part.members), 1, 5, 7)
        x = start(levels[0], part, like)
        return sample(gaussian_denoise, x, levels, sampler, part, schedule)

    together = draw(noise)
    for index in range(3):
        assert torch.equal(draw(noise.take([index]))[0], together[index])
    assert torch.equal(draw(noise.take([2, 0])), together[[2, 0]])


@samplers
def test_members_at_their_own_levels_equal_single_ones(
    gaussian_denoise: Any, sampler: AnySampler
) -> None:
    schedule, noise = VPLinear(), noise_for(2)
    firsts = schedule(torch.tensor([0.4, 0.9], dtype=torch.float64))
    x = torch.randn(2, 1, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def draw(x: Tensor, first: NoiseLevel, part: KeyedNoise) -> Tensor:
        levels = path(UniformTime(), schedule, 6, first)
        return sample(gaussian_denoise, x, levels, sampler, part, schedule)

    together = draw(x, firsts, noise)
    for index in range(2):
        first = NoiseLevel(firsts.t[index], firsts.alpha[index], firsts.sigma[index])
        alone = draw(x[index : index + 1], first, noise.take([index]))
        torch.testing.assert_close(alone[0], together[index], rtol=0, atol=1e-12)


@samplers
def test_the_same_seed_gives_the_same_image(gaussian_denoise: Any, sampler: AnySampler) -> None:
    levels = path(Karras(), EDM(), 5)

    def draw(seed: int) -> Tensor:
        noise = noise_for(1, seed)
        x = start(levels[0], noise, torch.zeros(1, 1, 4, 4))
        return sample(gaussian_denoise, x, levels, sampler, noise, EDM())

    torch.manual_seed(1)
    once = draw(3)
    torch.manual_seed(2)
    assert torch.equal(draw(3), once)
    assert not torch.equal(draw(4), once)


@schedules
def test_ddim_with_eta_1_is_ddpm_with_the_small_variance(
    gaussian_denoise: Any, schedule: AnySchedule
) -> None:
    levels, noise = path(UniformTime(), schedule, 20), noise_for(1)
    x = start(levels[0], noise, torch.zeros(1, 1, 4, 4, dtype=torch.float64))
    ours = sample(gaussian_denoise, x, levels, DDIM(eta=1.0), noise)
    theirs = sample(gaussian_denoise, x, levels, DDPM(), noise)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@schedules
def test_dpm_solver_of_order_1_is_ddim(gaussian_denoise: Any, schedule: AnySchedule) -> None:
    levels = path(UniformTime(), schedule, 20)
    x = start(levels[0], noise_for(1), torch.zeros(1, 1, 4, 4, dtype=torch.float64))
    ours = sample(gaussian_denoise, x, levels, DPMSolverPP(order=1))
    theirs = sample(gaussian_denoise, x, levels, DDIM())
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@schedules
def test_a_churn_that_nothing_reaches_is_no_churn(
    gaussian_denoise: Any, schedule: AnySchedule
) -> None:
    levels, noise = path(Karras(), schedule, 8), noise_for(1)
    x = start(levels[0], noise, torch.zeros(1, 1, 4, 4, dtype=torch.float64))
    plain = sample(gaussian_denoise, x, levels, Heun())
    outside = Heun(churn=40.0, churn_min=1e8)
    assert torch.equal(sample(gaussian_denoise, x, levels, outside, noise, schedule), plain)
    assert torch.equal(sample(gaussian_denoise, x, levels, Heun(churn=0.0)), plain)
    churned = sample(gaussian_denoise, x, levels, Heun(churn=4.0), noise, schedule)
    assert not torch.equal(churned, plain)


@pytest.mark.parametrize(
    "sampler", [DDPM(), DDIM(), DDIM(eta=0.6), Heun(), DPMSolverPP()], ids=repr
)
def test_a_variance_preserving_walk_is_the_exploding_one_rescaled(
    gaussian_denoise: Any, sampler: AnySampler
) -> None:
    preserving = path(UniformTime(), VPLinear(), 12)
    exploding = [noise_level(0, 1, float(level.noise_ratio)) for level in preserving]
    noise = noise_for(2)
    x = start(preserving[0], noise, torch.zeros(2, 1, 4, 4, dtype=torch.float64))
    rescaled = x / scale(preserving[0].alpha, x)
    ours = walk(gaussian_denoise, x, preserving, sampler, noise)
    theirs = walk(gaussian_denoise, rescaled, exploding, sampler, noise)
    for (index, vp), (_, ve) in zip(ours, theirs, strict=True):
        expected = scale(preserving[index + 1].alpha, ve) * ve
        torch.testing.assert_close(vp, expected, rtol=1e-11, atol=1e-11)


@samplers
def test_a_perfect_denoiser_gives_the_clean_image(sampler: AnySampler) -> None:
    clean = torch.linspace(-1, 1, 16, dtype=torch.float64).reshape(1, 1, 4, 4)

    def know(x: Tensor, level: NoiseLevel) -> Estimate:
        eps = (x - scale(level.alpha, x) * clean) / scale(level.sigma, x)
        return Estimate(clean.expand_as(x), eps)

    levels, noise = path(UniformTime(), Flow(), 7), noise_for(1)
    x = start(levels[0], noise, clean)
    result = sample(know, x, levels, sampler, noise, Flow())
    torch.testing.assert_close(result, clean, rtol=0, atol=1e-12)


def moments(denoise: Any, sampler: AnySampler, steps: int) -> tuple[float, float]:
    levels, noise = path(UniformTime(), VPLinear(), steps), noise_for(1)
    x = start(levels[0], noise, torch.zeros(1, 1, 100, 100))
    result = sample(denoise, x, levels, sampler, noise)
    return float(result.mean()), float(result.std())


def ddpm_deviation(std: float, steps: int, variance: str) -> float:
    """The deviation that DDPM must leave, by the paper's own beta and alpha-bar (eqs. 6 and 7)."""
    alpha_bars = [float(level.alpha**2) for level in path(UniformTime(), VPLinear(), steps)]
    power = 1 - alpha_bars[0]
    for now, to in pairwise(alpha_bars):
        beta = 1 - now / to
        gain = now**0.5 * std**2 / (now * std**2 + 1 - now)
        of_clean = to**0.5 * beta / (1 - now)
        of_x = (1 - beta) ** 0.5 * (1 - to) / (1 - now)
        fresh = beta * (1 - to) / (1 - now) if variance == "small" else beta
        last = to == 1
        power = (of_clean * gain + of_x) ** 2 * power + (0 if last else fresh)
    return power**0.5


@pytest.mark.parametrize("variance", ["small", "large"])
@pytest.mark.parametrize("steps", [5, 10, 50, 250])
def test_a_respaced_ddpm_has_the_moments_that_its_equations_give(
    gaussian_denoise: Any, steps: int, variance: Any
) -> None:
    mean, std = moments(gaussian_denoise, DDPM(variance=variance), steps)
    assert mean == pytest.approx(0.5, abs=0.01)
    assert std == pytest.approx(ddpm_deviation(0.2, steps, variance), rel=0.03)
    # few steps lose spread, which is the method's own; they never blow up
    assert 0.05 < std < 0.22


def test_ddpm_of_a_thousand_steps_gives_the_mean_and_spread_of_the_data(
    gaussian_denoise: Any,
) -> None:
    mean, std = moments(gaussian_denoise, DDPM(), 1000)
    assert mean == pytest.approx(0.5, abs=0.005)
    assert std == pytest.approx(0.2, abs=0.004)
