"""Laws of EDM's, k-diffusion's and the consistency samplers: limits, marginals, equalities."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from medidiff.conformance.oracles import Mixture
from medidiff.conformance.recordings import find_case
from medidiff.diffusion import (
    CLEAN,
    DDIM,
    DPM2,
    EDM,
    LMS,
    TCD,
    AnySampler,
    Consistency,
    DPMSolverPP,
    DPMSolverPPAncestral,
    DPMSolverPPSDE,
    Estimate,
    Flow,
    Heun,
    Karras,
    KeyedNoise,
    NoiseLevel,
    ShiftedTime,
    UniformTime,
    VPLinear,
    autoguided,
    classifier_free,
    noise_level,
    path,
    sample,
    scale,
    start,
    walk,
)
from medidiff.diffusion.samplers.edm import split_noise
from medidiff.diffusion.samplers.lms import multistep_weights

SUBSET = Path(__file__).parent.parent / "reference" / "data"
STOCHASTIC = [DPM2(eta=1.0), DPMSolverPPAncestral(), DPMSolverPPSDE(), Heun(churn=20.0)]


def noise_for(count: int, seed: int = 0) -> KeyedNoise:
    return KeyedNoise(seed, [("subject", sample) for sample in range(count)])


def draw(denoise: Any, sampler: AnySampler, schedule: Any, steps: int, size: int = 4) -> Tensor:
    levels, noise = path(UniformTime(), schedule, steps), noise_for(1)
    x = start(levels[0], noise, torch.zeros(1, 1, size, size, dtype=torch.float64))
    return sample(denoise, x, levels, sampler, noise, schedule)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Heun(order=1), DDIM()),
        (LMS(order=1), DDIM()),
        (TCD(gamma=0.0), DDIM()),
        (TCD(gamma=1.0), Consistency()),
        (DPMSolverPPSDE(eta=0.0), DPMSolverPPAncestral(eta=0.0)),
        (DPM2(churn=30.0, churn_min=1e8), DPM2()),
        (Heun(churn=30.0, churn_min=1e8), Heun()),
        (Heun(churn=0.0, noise_scale=9.0), Heun()),
    ],
    ids=repr,
)
def test_two_names_of_one_limit_agree(
    gaussian_denoise: Any, one: AnySampler, other: AnySampler
) -> None:
    ours, theirs = (draw(gaussian_denoise, each, Flow(), 12) for each in (one, other))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_time_is_the_noise_ratio_where_the_schedule_says_so(gaussian_denoise: Any) -> None:
    linear = EDM(rho=1.0)
    ours = draw(gaussian_denoise, Heun(variable="time", churn=5.0), linear, 12)
    theirs = draw(gaussian_denoise, Heun(churn=5.0), linear, 12)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


def test_flow_time_is_the_time_of_straight_lines(gaussian_denoise: Any) -> None:
    levels = [level for level in path(UniformTime(), Flow(), 12) if float(level.t) < 1]
    x = start(levels[0], noise_for(1), torch.zeros(1, 1, 4, 4, dtype=torch.float64))
    ours, theirs = (
        sample(gaussian_denoise, x, levels[:-1], Heun(variable=each), None, Flow())
        for each in ("flow", "time")
    )
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("sampler", "order"),
    [
        (Heun(order=1, variable="time"), 1),
        (Heun(variable="time"), 2),
        (Heun(variable="time", second_at=0.6), 2),
    ],
)
def test_steps_in_time_converge_at_their_order(
    gaussian_denoise: Any, sampler: AnySampler, order: int
) -> None:
    schedule = VPLinear()
    times = torch.linspace(0.9, 0.02, 401, dtype=torch.float64)
    fine = [schedule(t) for t in times]
    x = torch.linspace(-1.5, 1.5, 4, dtype=torch.float64).reshape(1, 1, 2, 2)
    exact = gaussian_denoise.flow(x, fine[0], fine[-1])
    errors = [
        float((sample(gaussian_denoise, x, levels, sampler, None, schedule) - exact).abs().max())
        for levels in (fine[::2], fine)
    ]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize(
    "sampler",
    [
        LMS(),
        DPM2(),
        DPM2(eta=0.7),
        DPMSolverPPAncestral(),
        DPMSolverPPSDE(eta=0.8),
        Consistency(floor=0.002),
    ],
    ids=repr,
)
def test_a_variance_preserving_walk_is_the_exploding_one_rescaled(
    gaussian_denoise: Any, sampler: AnySampler
) -> None:
    preserving = path(UniformTime(), VPLinear(), 12)
    exploding = [noise_level(0, 1, float(level.noise_ratio)) for level in preserving]
    noise = noise_for(2)
    x = start(preserving[0], noise, torch.zeros(2, 1, 4, 4, dtype=torch.float64))
    ours = walk(gaussian_denoise, x, preserving, sampler, noise, VPLinear())
    rescaled = x / scale(preserving[0].alpha, x)
    theirs = walk(gaussian_denoise, rescaled, exploding, sampler, noise, EDM(sigma_max=200.0))
    for (index, vp), (_, ve) in zip(ours, theirs, strict=True):
        expected = scale(preserving[index + 1].alpha, ve) * ve
        torch.testing.assert_close(vp, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sampler", STOCHASTIC, ids=repr)
@pytest.mark.parametrize("schedule", [EDM(), VPLinear()], ids=lambda s: s.kind)
def test_many_small_noisy_steps_give_the_mean_and_spread_of_the_data(
    gaussian_denoise: Any, sampler: AnySampler, schedule: Any
) -> None:
    levels, noise = path(Karras(), schedule, 150), noise_for(1)
    x = start(levels[0], noise, torch.zeros(1, 1, 64, 64, dtype=torch.float64))
    result = sample(gaussian_denoise, x, levels, sampler, noise, schedule)
    assert float(result.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(result.std()) == pytest.approx(0.2, rel=0.07)


def within_mode_variance(mixture: Mixture, sampler: AnySampler, steps: int) -> float:
    """Mean over modes and voxels of the samples' variance about their mode over the true one."""
    levels, noise = path(Karras(), EDM(), steps), noise_for(2000)
    x = start(levels[0], noise, torch.zeros(2000, *mixture.means.shape[1:], dtype=torch.float64))
    result = sample(mixture, x, levels, sampler, noise, EDM())
    mode = mixture.parts(result, noise_level(0, 1, 1e-3))[0].argmax(1)
    ratios = [
        ((result[mode == k] - mixture.means[k]) ** 2).mean(0) / mixture.variances[k]
        for k in range(len(mixture.weights))
    ]
    return float(torch.stack(ratios).mean())


@pytest.mark.parametrize(
    ("sampler", "steps", "ratio"),
    [
        (Heun(), 10, 1.69),
        (DDIM(eta=1.0), 10, 0.33),
        (DDIM(eta=1.0), 30, 0.65),
        (DPMSolverPP(eta=1.0, lower_order_below=0), 30, 1.13),
        (DPMSolverPPSDE(), 10, 0.46),
        (DPMSolverPPSDE(), 30, 0.71),
    ],
    ids=repr,
)
def test_the_spread_within_a_mode_is_that_of_the_original(
    sampler: AnySampler, steps: int, ratio: float
) -> None:
    """Ratios measured on the originals with the same model, 1 being exact."""
    model = find_case(SUBSET, "model")
    found = within_mode_variance(Mixture(model["w"], model["mu"], model["v"]), sampler, steps)
    assert found == pytest.approx(ratio, rel=0.06)


def test_kept_and_fresh_noise_are_the_level() -> None:
    now, to = noise_level(0, 0.3, 0.9), noise_level(0, 0.8, 0.5)
    for eta in (0.0, 0.4, 1.0):
        kept, fresh = split_noise(now, to, eta)
        assert float(kept**2 + fresh**2) == pytest.approx(0.25, abs=1e-14)
    kept, _ = split_noise(now, to, 1.0)
    assert float(kept / to.sigma) == pytest.approx(0.5 / 0.8 / (0.9 / 0.3), abs=1e-14)


def test_the_multistep_weights_integrate_cubics_exactly() -> None:
    nodes = tuple(torch.tensor(each, dtype=torch.float64) for each in (2.0, 3.5, 4.0, 7.0))
    end = torch.tensor(0.5, dtype=torch.float64)
    weights = multistep_weights(nodes, end)
    for power in range(4):
        found = sum(float(w * node**power) for w, node in zip(weights, nodes, strict=True))
        exact = (0.5 ** (power + 1) - 2.0 ** (power + 1)) / (power + 1)
        assert found == pytest.approx(exact, abs=1e-10)


def test_a_consistency_model_keeps_the_marginal_of_every_level() -> None:
    clean = torch.linspace(-1, 1, 4096, dtype=torch.float64).reshape(1, 1, 64, 64)

    def end_of_the_flow(x: Tensor, level: NoiseLevel) -> Estimate:
        return Estimate(clean, torch.zeros_like(x))

    now, to = noise_level(0, 1, 5.0), noise_level(0, 1, 0.8)
    x = clean + 5 * noise_for(1)(clean, 7)
    for sampler, spread in ((Consistency(), 0.8), (Consistency(floor=0.5), math.sqrt(0.39))):
        result = sample(end_of_the_flow, x, [now, to], sampler, noise_for(1))
        assert float((result - clean).std()) == pytest.approx(spread, rel=0.03)
    assert torch.equal(sample(end_of_the_flow, x, [now, CLEAN], Consistency()), clean)


def test_shifted_times_multiply_the_noise_ratio() -> None:
    plain, moved = (path(ShiftedTime(shift=k), Flow(), 5)[1:-1] for k in (1.0, 3.0))
    for a, b in zip(plain, moved, strict=True):
        assert float(b.noise_ratio / a.noise_ratio) == pytest.approx(3.0, rel=1e-12)


def test_guidance_extrapolates_and_rescale_brings_the_contrast_back() -> None:
    x = torch.randn(3, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    level = noise_level(0.5, 0.8, 0.6)

    def model(factor: float) -> Any:
        return lambda x, level: Estimate(factor * x, torch.zeros_like(x))

    strong = autoguided(model(1.0), model(0.5), 3.0)(x, level)
    torch.testing.assert_close(strong.clean, 2.0 * x)
    rescaled = classifier_free(model(1.0), model(0.5), 3.0, rescale=1.0)(x, level)
    torch.testing.assert_close(rescaled.clean, x)
    part = classifier_free(model(1.0), model(0.5), 3.0, rescale=0.7)(x, level)
    torch.testing.assert_close(part.clean, 0.3 * 2.0 * x + 0.7 * x)
    alone = classifier_free(model(1.0), model(0.5), 3.0, rescale=0.7)(x[:1], level)
    torch.testing.assert_close(alone.clean[0], part.clean[0])
    with pytest.raises(ValueError, match="rescale"):
        classifier_free(model(1.0), model(0.5), 3.0, rescale=2.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Heun(order=3), "order"),  # type: ignore[arg-type]
        (lambda: Heun(second_at=0.0), "second_at"),
        (lambda: Heun(churn=-1.0), "churn"),
        (lambda: DPM2(eta=0.5, churn=1.0), "either"),
        (lambda: DPMSolverPPSDE(eta=2.0), "eta"),
        (lambda: DPMSolverPPAncestral(eta=-1.0), "eta"),
        (lambda: LMS(order=5), "order"),  # type: ignore[arg-type]
        (lambda: TCD(gamma=2.0), "gamma"),
        (lambda: Consistency(floor=-1.0), "floor"),
        (lambda: ShiftedTime(shift=0.0), "shift"),
    ],
)
def test_bad_options_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
