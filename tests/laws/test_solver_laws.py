"""Laws of no one paper: invariance under x / alpha, orders of whole paths, marginals."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from medidiff.conformance.oracles import Mixture
from medidiff.diffusion import (
    DDIM,
    DDPM,
    DEIS,
    DPM2,
    EDM,
    LMS,
    PNDM,
    RK45,
    AnySampler,
    AnySchedule,
    DPMSolver,
    DPMSolverPP,
    DPMSolverPPAncestral,
    DPMSolverPPSDE,
    Flow,
    Heun,
    KeyedNoise,
    RhoRK,
    SASolver,
    UniformLogSNR,
    UniformTime,
    UniPC,
    VPLinear,
    noise_level,
    path,
    sample,
    scale,
    start,
    walk,
)

BY_RATIO: Any = {"over": "noise-ratio", "tau_from": 0.05, "tau_until": 2.0}
FLOWS = [
    DDIM(),
    Heun(),
    Heun(variable="flow"),
    DPM2(),
    LMS(),
    DPMSolver(order=1),
    DPMSolver(order=2),
    DPMSolver(order=2, rule="taylor", basis="clean"),
    DPMSolver(order=3),
    DPMSolver(order=3, basis="clean", rule="taylor"),
    DPMSolverPP(order=1),
    DPMSolverPP(order=2),
    DPMSolverPP(order=2, basis="eps", rule="taylor"),
    DPMSolverPP(order=3),
    DPMSolverPP(order=3, basis="eps"),
    UniPC(order=2),
    UniPC(order=3, weights="bh1", basis="eps"),
    UniPC(order=3, weights="varying"),
    DEIS(order=3, variable="rho"),
    DEIS(order=2, variable="log-rho"),
    RhoRK(method="heun"),
    RhoRK(method="kutta"),
    RhoRK(method="classical"),
    PNDM(order=4, start="heun"),
    PNDM(order=4, start="grow"),
    SASolver(tau=0.0),
    SASolver(**BY_RATIO),
    DPMSolverPP(order=2, eta=1.0),
]


@pytest.mark.parametrize("sampler", FLOWS, ids=repr)
def test_a_variance_preserving_walk_is_the_exploding_one_rescaled(
    gaussian_denoise: Any, sampler: AnySampler
) -> None:
    preserving = path(UniformTime(), VPLinear(), 12)
    exploding = [noise_level(0, 1, float(level.noise_ratio)) for level in preserving]
    noise = KeyedNoise(0, [("subject", 0), ("subject", 1)])
    x = start(preserving[0], noise, torch.zeros(2, 1, 4, 4, dtype=torch.float64))
    ours = walk(gaussian_denoise, x, preserving, sampler, noise, VPLinear())
    rescaled = x / scale(preserving[0].alpha, x)
    theirs = walk(gaussian_denoise, rescaled, exploding, sampler, noise, EDM(sigma_max=200.0))
    for (index, vp), (_, ve) in zip(ours, theirs, strict=True):
        expected = scale(preserving[index + 1].alpha, ve) * ve
        torch.testing.assert_close(vp, expected, rtol=1e-9, atol=1e-9)


def test_the_adaptive_flow_is_the_rescaled_one_up_to_its_tolerance(gaussian_denoise: Any) -> None:
    ratios = [20.0, 3.0, 0.5, 0.01]
    x = torch.linspace(-30, 30, 16, dtype=torch.float64).reshape(1, 1, 4, 4)
    ends = []
    for schedule in (VPLinear(), EDM()):
        lams = -torch.tensor(ratios, dtype=torch.float64).log()
        levels = [schedule(t) for t in schedule.time_of(lams)]
        begin = scale(levels[0].alpha, x) * x
        sampler = RK45(relative=1e-9, absolute=1e-9)
        end = sample(gaussian_denoise, begin, levels, sampler, None, schedule)
        ends.append(end / levels[-1].alpha)
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=1e-6)


WHOLE: list[tuple[AnySampler, float]] = [
    (UniPC(order=2, lower_order_final=False), 3),
    (UniPC(order=2, lower_order_final=False, corrector=False), 2),
    (UniPC(order=2, lower_order_final=False, weights="bh1"), 3),
    (UniPC(order=2, lower_order_final=False, basis="eps"), 3),
    (UniPC(order=3, lower_order_final=False), 4),
    (UniPC(order=3, lower_order_final=False, weights="varying"), 4),
    (DEIS(order=2, lower_order_below=0), 3),
    (DEIS(order=3, lower_order_below=0), 4),
    (DEIS(order=3, variable="rho", lower_order_below=0), 4),
    (RhoRK(method="kutta"), 3),
    (RhoRK(method="classical"), 4),
    (PNDM(order=4), 2),
    (PNDM(order=4, start="heun"), 2),
    (PNDM(order=4, start="grow"), 2),
]


@pytest.mark.parametrize(("sampler", "order"), WHOLE, ids=repr)
@pytest.mark.parametrize("schedule", [VPLinear(), Flow()], ids=lambda s: s.kind)
def test_whole_paths_converge_at_the_order_of_the_method(
    gaussian_denoise: Any, schedule: AnySchedule, sampler: AnySampler, order: float
) -> None:
    """From noise ratio 20, where the first hops' lower order is worth little.

    PNDM's transfer is DDIM's of a combined noise: of second order, whatever it combines.
    """
    first = schedule(schedule.time_of(-torch.tensor(20.0, dtype=torch.float64).log()))
    x = torch.linspace(-1.5, 1.5, 4, dtype=torch.float64).reshape(1, 1, 2, 2)
    x = x * first.sigma + first.alpha * 0.5

    def error(steps: int) -> float:
        levels = path(UniformLogSNR(end=_time_of(schedule, 0.01)), schedule, steps, first)[:-1]
        exact = gaussian_denoise.flow(x, levels[0], levels[-1])
        result = sample(gaussian_denoise, x, levels, sampler, None, schedule)
        return float((result - exact).abs().max())

    assert math.log2(error(121) / error(241)) == pytest.approx(order, abs=0.3)


def _time_of(schedule: Any, ratio: float) -> float:
    return float(schedule.time_of(-torch.tensor(ratio, dtype=torch.float64).log()))


STOCHASTIC: list[AnySampler] = [
    DDPM(),
    DDPM(variance="large"),
    DDIM(eta=0.6),
    DDIM(eta=1.0),
    Heun(churn=40.0),
    DPM2(eta=1.0),
    DPM2(churn=40.0),
    DPMSolverPPAncestral(),
    DPMSolverPPSDE(),
    DPMSolverPP(order=1, eta=1.0),
    DPMSolverPP(order=2, eta=1.0),
    DPMSolverPP(order=2, eta=0.5),
    DPMSolverPP(order=3, eta=1.0),
    DPMSolverPP(order=2, basis="eps", eta=1.0),
    SASolver(),
]


@pytest.mark.parametrize("sampler", STOCHASTIC, ids=repr)
def test_a_stochastic_sampler_draws_the_mixture(sampler: AnySampler) -> None:
    """Within-mode variance over the true one, and the weight of the first mode."""
    schedule = VPLinear()
    means = torch.tensor([[-0.6, 0.5], [0.7, -0.3]], dtype=torch.float64).reshape(2, 1, 1, 2)
    variances = torch.tensor([[0.02, 0.05], [0.04, 0.02]], dtype=torch.float64).reshape(2, 1, 1, 2)
    data = Mixture(torch.tensor([0.35, 0.65], dtype=torch.float64), means, variances)
    levels = path(UniformLogSNR(), schedule, 300)
    x = start(levels[0], _drawn, torch.zeros(3000, 1, 1, 2, dtype=torch.float64))
    images = sample(data, x, levels, sampler, _drawn, schedule)
    mode = data.parts(images, noise_level(0, 1, 1e-3))[0].argmax(1)
    ratio = torch.stack([images[mode == k].var(0) / variances[k] for k in range(2)]).mean()
    assert float(ratio) == pytest.approx(1.0, abs=0.08)
    assert float((mode == 0).double().mean()) == pytest.approx(0.35, abs=0.03)


def _drawn(like: Tensor, step: int, draw: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(1000 * (step + 2) + draw)
    return torch.randn(like.shape, dtype=like.dtype, generator=generator)
