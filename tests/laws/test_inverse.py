"""Laws of posterior samplers: against the closed-form posterior of a Gaussian prior, and apart."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pytest
import torch
from torch import Tensor

from medidiff.diffusion import (
    CLEAN,
    DDIM,
    DDPM,
    EDM,
    Cosine,
    DPMSolverPP,
    Estimate,
    Flow,
    Heun,
    Karras,
    KeyedNoise,
    NoiseLevel,
    UniformTime,
    VPLinear,
    counted,
    eps_of,
    path,
    sample,
    start,
)
from medidiff.inverse import (
    DDRM,
    DPS,
    DDRMSampler,
    DPSSampler,
    Gaussian,
    Problem,
    ddrm_sampler,
    pigdm,
)
from medidiff.physics import BlockAverage, DenseOperator, Mask

SHAPE = (1, 4, 4)
COUNT = 16
SIGNALS, EACH = 8, 100
SEEN = torch.zeros(COUNT, dtype=torch.float64)
SEEN[[0, 4, 5, 8, 12]] = 1
AVERAGE = BlockAverage((2, 2))
MASK = Mask(SEEN.reshape(SHAPE))
UNITS = torch.eye(COUNT, dtype=torch.float64).reshape(COUNT, *SHAPE)
DENSE = DenseOperator(AVERAGE.forward(UNITS).flatten(1).T.contiguous(), SHAPE)
operators = pytest.mark.parametrize(
    "operator", [MASK, AVERAGE, DENSE], ids=["mask", "average", "matrix"]
)


@dataclass(frozen=True, eq=False)
class Field:
    """Clean images from N(0, covariance): the exact denoiser."""

    covariance: Tensor

    @cached_property
    def parts(self) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(self.covariance)
        return values, vectors

    def __call__(self, x: Tensor, level: NoiseLevel) -> Estimate:
        values, vectors = self.parts
        gain = level.alpha * values / (level.alpha**2 * values + level.sigma**2)
        clean = ((x.flatten(1) @ vectors * gain) @ vectors.T).reshape(x.shape)
        return Estimate(clean, eps_of(x, clean, level))


def smooth() -> Field:
    """Sixteen values with a correlation of two voxels (a squared exponential)."""
    place = torch.arange(COUNT, dtype=torch.float64)
    kernel = (-((place[:, None] - place) ** 2) / 8).exp()
    return Field(kernel + 1e-3 * torch.eye(COUNT, dtype=torch.float64))


WHITE = Field(torch.eye(COUNT, dtype=torch.float64))
SMOOTH = smooth()


def matrix_of(operator: Any) -> Tensor:
    """The operator as a matrix of the rows that measure something, (m, n)."""
    whole = operator.forward(UNITS).flatten(1).T
    return whole[whole.abs().sum(1) > 0]


def measured(
    operator: Any, noise_std: float, prior: Field = SMOOTH, signals: int = 1, each: int = 1
) -> Tensor:
    """Measurements of draws of the prior, `each` times, with noise where they are measured."""
    generator = torch.Generator().manual_seed(0)
    values, vectors = prior.parts
    unit = torch.randn((signals, COUNT), dtype=torch.float64, generator=generator)
    clean = (unit * values.sqrt()) @ vectors.T
    y = operator.forward(clean.reshape(-1, *SHAPE)).repeat_interleave(each, 0)
    noise = torch.randn(y[::each].shape, dtype=torch.float64, generator=generator)
    noise = (operator.forward(noise) if isinstance(operator, Mask) else noise).repeat_interleave(
        each, 0
    )
    return y + noise_std * noise


def exact(prior: Field, operator: Any, y: Tensor, noise_std: float) -> tuple[Tensor, Tensor]:
    """Means (batch, n) and the covariance of the clean image given y."""
    a, rows = matrix_of(operator), operator.forward(UNITS).flatten(1).T.abs().sum(1) > 0
    seen = y.flatten(1)[:, rows]
    of_y = a @ prior.covariance @ a.T + noise_std**2 * torch.eye(len(a), dtype=torch.float64)
    gain = torch.linalg.solve(of_y, a @ prior.covariance).T
    return seen @ gain.T, prior.covariance - gain @ a @ prior.covariance


def noise_for(count: int) -> KeyedNoise:
    return KeyedNoise(0, [("subject", sample) for sample in range(count)])


@dataclass(frozen=True, eq=False)
class Guided:
    """DDPM along PiGDM's estimates."""

    operator: Any
    measurement: Tensor
    noise_std: float


def problem_of(operator: Any, y: Tensor, noise_std: Any) -> Problem:
    return Problem(operator, y, Gaussian(noise_std))


def spectral(operator: Any, y: Tensor, noise_std: Any, **options: Any) -> DDRMSampler:
    return ddrm_sampler(problem_of(operator, y, noise_std), DDRM(**options))


def pushed(sampler: Any, operator: Any, y: Tensor, **options: Any) -> DPSSampler:
    return DPSSampler(sampler, problem_of(operator, y, 0.05), DPS(**options))


def draws(prior: Any, sampler: Any, count: int, steps: int = 30) -> Tensor:
    """Images of the posterior, (count, n)."""
    levels, noise = path(Karras(), EDM(), steps), noise_for(count)
    like = torch.zeros((count, *SHAPE), dtype=torch.float64)
    begin = sampler.start if isinstance(sampler, DDRMSampler) else start
    if isinstance(sampler, Guided):
        prior = pigdm(prior, problem_of(sampler.operator, sampler.measurement, sampler.noise_std))
        sampler = DDPM()
    x = begin(levels[0], noise, like)
    return sample(prior, x, levels, sampler, noise, EDM()).flatten(1)


def bias_and_spread(
    sampler: Any, noise_std: float, prior: Field, steps: int
) -> tuple[float, float]:
    """Over eight signals, 100 images each, of the values that stay open: |mean error| in posterior
    deviations (of which 0.08 is the draws' own), and the ratio of deviations."""
    images = draws(prior, sampler, SIGNALS * EACH, steps).reshape(SIGNALS, EACH, COUNT)
    problem = getattr(sampler, "problem", sampler)
    y = problem.measurement[::EACH]
    mean, covariance = exact(prior, problem.operator, y, max(noise_std, 1e-6))
    deviation = covariance.diagonal().clamp_min(0).sqrt()
    open_ = deviation > 1e-2
    bias = ((images.mean(1) - mean).abs() / deviation)[:, open_].mean()
    return float(bias), float((images.std(1) / deviation)[:, open_].mean())


# what the methods promise, and by how much they miss the posterior of a smooth field


@operators
@pytest.mark.parametrize("noise_std", [0.0, 0.05])
def test_without_noise_ddrm_satisfies_its_measurement_and_with_noise_nearly(
    operator: Any, noise_std: float
) -> None:
    y = measured(operator, noise_std)
    images = draws(SMOOTH, spectral(operator, y.expand(20, *y.shape[1:]), noise_std), 20)
    left = operator.forward(images.reshape(-1, *SHAPE)) - y
    assert float(left.abs().max()) < (1e-12 if noise_std == 0 else 5 * noise_std)


def test_on_independent_voxels_ddrm_draws_the_posterior_and_shrinks_it_by_fresh_noise() -> None:
    """A step with eta = 1 forgets x_now but for the estimate, at any number of steps."""
    y = measured(MASK, 0.0, WHITE, SIGNALS, EACH)
    none, usual, all_fresh = (
        bias_and_spread(spectral(MASK, y, 0.0, eta=eta), 0.0, WHITE, 60) for eta in (0.0, 0.85, 1.0)
    )
    assert max(none[0], usual[0], all_fresh[0]) < 0.1
    assert none[1] == pytest.approx(1, abs=0.06)  # of which 0.05 is the last hops' length
    assert 0.7 < usual[1] < 0.9
    assert 0.6 < all_fresh[1] < 0.75


@pytest.mark.parametrize(
    ("operator", "bias_within", "spread_within"),
    [(AVERAGE, (0.25, 0.6), (0.8, 1.0)), (MASK, (0.6, 1.2), (1.0, 1.3))],
    ids=["average", "mask"],
)
def test_ddrm_is_biased_on_a_smooth_field_and_the_more_in_holes(
    operator: Any, bias_within: Any, spread_within: Any
) -> None:
    y = measured(operator, 0.05, SMOOTH, SIGNALS, EACH)
    bias, spread = bias_and_spread(spectral(operator, y, 0.05), 0.05, SMOOTH, 30)
    assert bias_within[0] < bias < bias_within[1]
    assert spread_within[0] < spread < spread_within[1]


@pytest.mark.parametrize(
    ("step_size", "bias_within", "spread_within"),
    [(1.0, (0.25, 0.5), (0.9, 1.1)), (0.3, (0.45, 0.75), (1.1, 1.3))],
)
def test_dps_is_biased_and_the_more_the_smaller_its_step(
    step_size: float, bias_within: Any, spread_within: Any
) -> None:
    y = measured(AVERAGE, 0.05, SMOOTH, SIGNALS, EACH)
    bias, spread = bias_and_spread(
        pushed(DDPM(), AVERAGE, y, step_size=step_size), 0.05, SMOOTH, 60
    )
    assert bias_within[0] < bias < bias_within[1]
    assert spread_within[0] < spread < spread_within[1]


def test_pigdm_is_less_biased_where_all_is_seen_coarsely() -> None:
    y = measured(AVERAGE, 0.05, SMOOTH, SIGNALS, EACH)
    bias, spread = bias_and_spread(Guided(AVERAGE, y, 0.05), 0.05, SMOOTH, 60)
    assert bias < 0.35
    assert 0.9 < spread < 1.1


@operators
def test_pigdm_s_estimate_is_the_exact_one_of_unit_white_images(operator: Any) -> None:
    """There r^2 = sigma^2 / (alpha^2 + sigma^2) is the variance of the clean image given x."""
    noise_std, y = 0.2, measured(operator, 0.2, WHITE)
    guided = pigdm(WHITE, problem_of(operator, y.expand(5, *y.shape[1:]), noise_std))
    x = noise_for(5)(torch.zeros((5, *SHAPE), dtype=torch.float64), 3)
    for t in (0.1, 0.5, 0.9):
        level = VPLinear()(torch.tensor(t, dtype=torch.float64))
        a = matrix_of(operator)
        rows = operator.forward(UNITS).flatten(1).T.abs().sum(1) > 0
        precision = torch.eye(COUNT, dtype=torch.float64) * (1 + (level.alpha / level.sigma) ** 2)
        precision = precision + a.T @ a / noise_std**2
        aim = x.flatten(1) * level.alpha / level.sigma**2
        aim = aim + (y.flatten(1)[0, rows] @ a) / noise_std**2
        clean = torch.linalg.solve(precision, aim.T).T.reshape(x.shape)
        found = guided(x, level)
        assert torch.allclose(found.clean, clean, atol=1e-10)
        assert torch.allclose(found.eps, eps_of(x, found.clean, level), atol=1e-10)


# the batch, the step, the cost


@pytest.mark.parametrize("sampler", [DDPM(), DDIM(), Heun(), DPMSolverPP()], ids=lambda s: s.kind)
@pytest.mark.parametrize("distance", ["norm", "squared-norm"])
def test_dps_of_a_batch_equals_its_members_one_by_one(sampler: Any, distance: Any) -> None:
    y = torch.cat([measured(AVERAGE, noise) for noise in (0.0, 0.3, 1.0)])
    together = _dps(sampler, y, noise_for(3), distance)
    for index in range(3):
        alone = _dps(sampler, y[index : index + 1], noise_for(3).take([index]), distance)
        assert torch.allclose(together[index : index + 1], alone, atol=1e-12)


def _dps(sampler: Any, y: Tensor, noise: Any, distance: Any, **options: Any) -> Tensor:
    levels = path(Karras(), EDM(), 6)
    x = start(levels[0], noise, torch.zeros((len(y), *SHAPE), dtype=torch.float64))
    steered = pushed(sampler, AVERAGE, y, step_size=0.1, distance=distance, **options)
    return sample(SMOOTH, x, levels, steered, noise, EDM())


def test_the_norm_over_the_batch_couples_its_members() -> None:
    y = torch.cat([measured(AVERAGE, noise) for noise in (0.0, 0.3, 1.0)])
    coupled = _dps(DDPM(), y, noise_for(3), "norm", norms="batch")
    alone = _dps(DDPM(), y[:1], noise_for(3).take([0]), "norm", norms="batch")
    assert not torch.allclose(coupled[:1], alone, atol=1e-3)
    assert torch.equal(alone, _dps(DDPM(), y[:1], noise_for(3).take([0]), "norm"))


def test_ddrm_of_a_batch_equals_its_members_one_by_one() -> None:
    y = torch.cat([measured(MASK, noise) for noise in (0.0, 0.3, 1.0)])
    levels = path(Karras(), EDM(), 6)

    def run(y: Tensor, noise: KeyedNoise) -> Tensor:
        ddrm = spectral(MASK, y, 0.1)
        x = ddrm.start(levels[0], noise, torch.zeros((len(y), *SHAPE), dtype=torch.float64))
        return sample(SMOOTH, x, levels, ddrm, noise, EDM())

    together = run(y, noise_for(3))
    for index in range(3):
        alone = run(y[index : index + 1], noise_for(3).take([index]))
        assert torch.allclose(together[index : index + 1], alone, atol=1e-12)


def test_a_push_of_no_length_is_the_sampler_itself() -> None:
    y = measured(AVERAGE, 0.1)
    for sampler in (DDPM(), Heun(), DPMSolverPP(order=3)):
        levels, noise = path(Karras(), EDM(), 8), noise_for(1)
        x = start(levels[0], noise, torch.zeros((1, *SHAPE), dtype=torch.float64))
        plain = sample(SMOOTH, x, levels, sampler, noise, EDM())
        unmoved = pushed(sampler, AVERAGE, y, step_size=0.0)
        steered = sample(SMOOTH, x, levels, unmoved, noise, EDM())
        assert torch.allclose(plain, steered, atol=1e-12)


@pytest.mark.parametrize(("sampler", "calls"), [(DDPM(), 8), (DPMSolverPP(), 8), (Heun(), 15)])
def test_dps_costs_the_calls_of_its_sampler(sampler: Any, calls: int) -> None:
    oracle, y = counted(SMOOTH), measured(AVERAGE, 0.1)
    x = torch.zeros((1, *SHAPE), dtype=torch.float64)
    sample(oracle, x, path(Karras(), EDM(), 8), pushed(sampler, AVERAGE, y), noise_for(1), EDM())
    assert oracle.calls == calls


@pytest.mark.parametrize("distance", ["norm", "squared-norm"])
def test_the_push_is_the_distance_s_gradient(distance: Any) -> None:
    level = VPLinear()(torch.tensor(0.4, dtype=torch.float64))
    x = noise_for(1)(torch.zeros((1, *SHAPE), dtype=torch.float64), 2)
    dps = pushed(DDPM(), AVERAGE, measured(AVERAGE, 0.1), distance=distance)
    _, push = dps.push(SMOOTH, x, level)
    for place in (0, 7, 15):
        tiny = 1e-6 * UNITS[place : place + 1]
        up, down = (dps.distances(SMOOTH(x + sign * tiny, level).clean) for sign in (1, -1))
        assert float(push.flatten()[place]) == pytest.approx(float(up - down) / 2e-6, abs=1e-7)


def test_the_last_hop_is_pushed_too() -> None:
    level, y = EDM()(torch.tensor(0.1, dtype=torch.float64)), measured(AVERAGE, 0.1)
    x = noise_for(1)(torch.zeros((1, *SHAPE), dtype=torch.float64), 2)
    dps = pushed(DDPM(), AVERAGE, y, step_size=0.7)
    here, push = dps.push(SMOOTH, x, level)
    found = sample(SMOOTH, x, [level, CLEAN], dps, noise_for(1), EDM())
    assert torch.allclose(found, here.clean - 0.7 * push, atol=1e-12)
    assert float(push.abs().max()) > 0.01


def test_a_measurement_that_is_met_pushes_nowhere() -> None:
    level = VPLinear()(torch.tensor(0.4, dtype=torch.float64))
    x = noise_for(1)(torch.zeros((1, *SHAPE), dtype=torch.float64), 2)
    dps = pushed(DDPM(), AVERAGE, AVERAGE.forward(SMOOTH(x, level).clean))
    assert bool((dps.push(SMOOTH, x, level)[1] == 0).all())


@pytest.mark.parametrize("schedule", [VPLinear(), EDM()], ids=lambda s: s.kind)
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_few_steps_and_pure_noise_stay_finite(schedule: Any, steps: int) -> None:
    y, noise = measured(MASK, 0.0), noise_for(1)
    x = torch.ones((1, *SHAPE), dtype=torch.float64)
    levels = path(Karras(), schedule, steps)
    for sampler in (
        spectral(MASK, y, 0.0),
        spectral(MASK, y, 0.1, eta_missing=0.0),
        pushed(DDPM(), MASK, y),
    ):
        assert bool(sample(SMOOTH, x, levels, sampler, noise, schedule).isfinite().all())
    guided = pigdm(SMOOTH, problem_of(MASK, y, 0.1))
    assert bool(sample(guided, x, levels, DDPM(), noise, schedule).isfinite().all())


@pytest.mark.parametrize("schedule", [Flow(), Cosine()], ids=lambda s: s.kind)
@pytest.mark.parametrize("noise_std", [0.0, 0.1])
def test_ddrm_starts_from_noise_alone_where_there_is_no_image(
    schedule: Any, noise_std: float
) -> None:
    y, noise = measured(MASK, noise_std), noise_for(1)
    like = torch.zeros((1, *SHAPE), dtype=torch.float64)
    levels = path(UniformTime(), schedule, 4)
    ddrm = spectral(MASK, y, noise_std)
    x = ddrm.start(levels[0], noise, like)
    assert torch.allclose(x, start(levels[0], noise, like), atol=1e-4)
    assert bool(sample(SMOOTH, x, levels, ddrm, noise, schedule).isfinite().all())


def test_options_that_mean_nothing_are_refused() -> None:
    for wrong in (
        lambda: DPS(step_size=-1.0),
        lambda: Gaussian(-0.1),
        lambda: DDRM(eta=1.5),
        lambda: DDRM(eta_b=-0.5),
    ):
        with pytest.raises(ValueError, match="needs"):
            wrong()
