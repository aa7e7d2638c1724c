"""Laws of SA-Solver: its limits, its orders, its marginals, and which noise it uses."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from medidiff.conformance.oracles import Mixture
from medidiff.diffusion import (
    CLEAN,
    DDPM,
    DPMSolverPP,
    KeyedNoise,
    NoiseLevel,
    SASolver,
    Step,
    UniformLogSNR,
    UniformTime,
    UniPC,
    VPLinear,
    path,
    sample,
    start,
)

EVERYWHERE: Any = {"over": "time", "tau_from": 0.0, "tau_until": 1.0}
ENDLESS = (CLEAN,) * 9


def prior(levels: list[NoiseLevel], shape: tuple[int, ...] = (1, 1, 4, 4)) -> tuple[Any, Any]:
    noise = KeyedNoise(0, [("subject", sample) for sample in range(shape[0])])
    return noise, start(levels[0], noise, torch.zeros(shape, dtype=torch.float64))


@pytest.mark.parametrize("basis", ["clean", "eps"])
@pytest.mark.parametrize(("predictor", "corrector"), [(1, 0), (2, 0), (1, 2), (2, 3), (3, 4)])
def test_without_noise_it_is_an_ode_solver_of_its_order(
    gaussian_denoise: Any, predictor: int, corrector: int, basis: Any
) -> None:
    order, schedule = max(predictor, corrector), VPLinear()
    sampler = SASolver(predictor_order=predictor, corrector_order=corrector, tau=0.0, basis=basis)

    alone = replace(sampler, corrector_order=0)

    def error(h: float) -> float:
        """Of the image after a hop and its correction, from an exact history."""
        lams = torch.tensor([-0.5 + h * n for n in range(6)], dtype=torch.float64)
        levels = [schedule(t) for t in schedule.time_of(lams)]
        x = torch.linspace(-1.5, 1.5, 4, dtype=torch.float64).reshape(1, 1, 2, 2)
        exact = [gaussian_denoise.flow(x, levels[0], level) for level in levels]
        result, memory, at = x, None, Step(0, 100, x, None, None, ENDLESS)
        for n in range(4):
            now, to = levels[n : n + 2]
            result, memory = alone.step(gaussian_denoise, exact[n], now, to, memory, at)
        assert memory is not None
        here = gaussian_denoise(result, levels[4])
        result = sampler._corrected(result, memory, levels[4], here, at)
        return float((result - exact[4]).abs().max())

    assert math.log2(error(0.02) / error(0.01)) == pytest.approx(order + 1, abs=0.3)


@pytest.mark.parametrize("weights", ["exact", "second-order-half"])
def test_a_whole_path_converges_at_order_2(gaussian_denoise: Any, weights: Any) -> None:
    sampler, schedule = SASolver(tau=0.0, weights=weights), VPLinear()
    first = schedule(schedule.time_of(-torch.tensor(20.0, dtype=torch.float64).log()))
    x = torch.linspace(-1.5, 1.5, 4, dtype=torch.float64).reshape(1, 1, 2, 2)

    def error(steps: int) -> float:
        levels = path(UniformLogSNR(), schedule, steps, first)[:-1]
        exact = gaussian_denoise.flow(x, levels[0], levels[-1])
        return float((sample(gaussian_denoise, x, levels, sampler) - exact).abs().max())

    assert math.log2(error(600) / error(1200)) == pytest.approx(2, abs=0.15)


def test_one_prediction_at_full_noise_is_ddpm(gaussian_denoise: Any) -> None:
    levels = path(UniformTime(), VPLinear(), 12)
    noise, x = prior(levels)
    ours = SASolver(predictor_order=1, corrector_order=0, **EVERYWHERE)
    torch.testing.assert_close(
        sample(gaussian_denoise, x, levels, ours, noise),
        sample(gaussian_denoise, x, levels, DDPM(), noise),
        rtol=0,
        atol=1e-12,
    )


def test_the_predictor_with_taylor_weights_is_the_sde_form_of_dpm_solver(
    gaussian_denoise: Any,
) -> None:
    levels = path(UniformTime(), VPLinear(), 12)
    noise, x = prior(levels)
    ours = SASolver(corrector_order=0, **EVERYWHERE)
    theirs = DPMSolverPP(order=2, rule="taylor", eta=1.0)
    torch.testing.assert_close(
        sample(gaussian_denoise, x, levels, ours, noise),
        sample(gaussian_denoise, x, levels, theirs, noise),
        rtol=0,
        atol=1e-12,
    )


def test_without_noise_it_is_unipc_with_the_paper_s_weights(gaussian_denoise: Any) -> None:
    levels = path(UniformTime(), VPLinear(), 12)
    _, x = prior(levels)
    ours = SASolver(predictor_order=3, corrector_order=4, tau=0.0)
    theirs = UniPC(order=3, weights="varying")
    torch.testing.assert_close(
        sample(gaussian_denoise, x, levels, ours),
        sample(gaussian_denoise, x, levels, theirs),
        rtol=0,
        atol=1e-10,
    )


def test_tau_acts_inside_its_interval_only() -> None:
    schedule = VPLinear()
    times = torch.tensor([0.1, 0.2, 0.5, 0.8, 0.9], dtype=torch.float64)
    assert SASolver(tau=0.5).eta(schedule(times)).tolist() == [0, 0.25, 0.25, 0.25, 0]
    by_ratio = SASolver(over="noise-ratio", tau_from=0.05, tau_until=1.0)
    ratios = torch.tensor([2.0, 1.0, 0.5, 0.05, 0.01], dtype=torch.float64)
    levels = schedule(schedule.time_of(-ratios.log()))
    assert by_ratio.eta(levels).tolist() == [0, 1, 1, 1, 0]
    by_lam = SASolver(over="half-log-snr", tau_from=0.0, tau_until=math.log(20))
    assert by_lam.eta(levels).tolist() == [0, 1, 1, 1, 0]


@pytest.mark.parametrize("options", [{}, EVERYWHERE, {"weights": "second-order-half"}])
@pytest.mark.parametrize("tau", [0.5, 1.0])
@pytest.mark.parametrize("basis", ["clean", "eps"])
def test_the_marginal_of_a_mixture_is_kept(basis: Any, tau: float, options: Any) -> None:
    means = torch.tensor([[-0.6, 0.5], [0.7, -0.3]], dtype=torch.float64).reshape(2, 1, 1, 2)
    variances = torch.tensor([[0.02, 0.05], [0.04, 0.02]], dtype=torch.float64).reshape(2, 1, 1, 2)
    data = Mixture(torch.tensor([0.35, 0.65], dtype=torch.float64), means, variances)
    levels = path(UniformLogSNR(), VPLinear(), 80)
    x = torch.randn(4000, 1, 1, 2, dtype=torch.float64, generator=_generator(0))
    sampler = SASolver(tau=tau, basis=basis, **options)
    images = sample(data, x, levels, sampler, _drawn)
    mode = data.parts(images, VPLinear()(torch.tensor(1e-3, dtype=torch.float64)))[0].argmax(1)
    ratio = torch.stack([images[mode == k].var(0) / variances[k] for k in range(2)]).mean()
    assert float(ratio) == pytest.approx(1.0, abs=0.05)
    assert float((mode == 0).double().mean()) == pytest.approx(0.35, abs=0.03)


def test_predictor_and_corrector_share_their_noise(gaussian_denoise: Any) -> None:
    drawn = []

    def source(like: Any, step: int, draw: int = 0) -> Any:
        drawn.append((step, draw))
        return torch.ones_like(like)

    levels = path(UniformTime(), VPLinear(), 6)
    x = torch.zeros(1, 1, 2, 2, dtype=torch.float64)
    sample(gaussian_denoise, x, levels, SASolver(**EVERYWHERE), source)
    assert drawn == [(step, 0) for step in range(5)]


@pytest.mark.parametrize(
    "wrong", [{"predictor_order": 0}, {"corrector_order": -1}, {"tau": -1.0}, {"tau_from": 2.0}]
)
def test_options_that_mean_nothing_are_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="sa-solver needs"):
        SASolver(**wrong)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _drawn(like: torch.Tensor, step: int, draw: int = 0) -> torch.Tensor:
    generator = _generator(1000 * (step + 2) + draw)
    return torch.randn(like.shape, dtype=like.dtype, generator=generator)
