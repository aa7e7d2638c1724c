"""Laws of the exponential integrators: phi functions, order 3, adaptive steps, thresholding."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from medidiff.diffusion import (
    CLEAN,
    DDPM,
    VE,
    AdaptiveSteps,
    Cosine,
    DPMSolver,
    DPMSolverPP,
    Estimate,
    Flow,
    KeyedNoise,
    NoiseLevel,
    SingleStepLogSNR,
    UniformLogSNR,
    UniformTime,
    UniPC,
    VPLinear,
    noise_level,
    path,
    sample,
    sample_adaptive,
    start,
    thresholded,
    walk_adaptive,
)
from medidiff.diffusion.samplers.exponential import phi, phi_weight


def test_phi_meets_its_series_and_its_limits() -> None:
    z = torch.tensor([-1e-9, 0.0, 1e-9, -0.999, -1.001, 1.001], dtype=torch.float64)
    assert phi(2, z)[:3].tolist() == pytest.approx([0.5] * 3, abs=1e-9)
    direct = (torch.expm1(z[3:]) / z[3:] - 1) / z[3:]
    torch.testing.assert_close(phi(2, z)[3:], direct, rtol=1e-13, atol=0)
    pure = torch.tensor(-math.inf, dtype=torch.float64)
    assert [float(phi_weight(k, pure)) for k in (1, 2, 3)] == [1.0, 1.0, 0.5]


def order_with_exact_history(denoise: Any, sampler: DPMSolverPP | UniPC) -> float:
    """Order of one hop's error whose two predictions before were made on the exact flow."""
    schedule = VPLinear()

    def error(h: float) -> float:
        lams = torch.tensor([-0.5 + h * n for n in range(4)], dtype=torch.float64)
        levels = [schedule(t) for t in schedule.time_of(lams)]
        x = torch.linspace(-1.5, 1.5, 4, dtype=torch.float64).reshape(1, 1, 2, 2)
        exact = [denoise.flow(x, levels[0], level) for level in levels]
        memory = None
        for n in range(3):
            result, memory = sampler.step(
                denoise, exact[n], levels[n], levels[n + 1], memory, step_of(n)
            )
        return float((result - exact[3]).abs().max())

    return math.log2(error(0.01) / error(0.005))


def step_of(index: int) -> Any:
    from medidiff.diffusion import Step

    ahead = (CLEAN,) * 9
    return Step(index, 100, torch.zeros(1), None, None, ahead)


def test_multistep_of_order_3_has_a_local_error_of_order_4(gaussian_denoise: Any) -> None:
    full = order_with_exact_history(gaussian_denoise, DPMSolverPP(order=3))
    assert full == pytest.approx(4, abs=0.3)
    half = order_with_exact_history(gaussian_denoise, DPMSolverPP(order=3, curvature="half"))
    assert half == pytest.approx(3, abs=0.3)


@pytest.mark.parametrize("basis", ["eps", "clean"])
@pytest.mark.parametrize("rule", ["midpoint", "taylor"])
def test_single_step_of_order_3_converges_at_order_3(
    gaussian_denoise: Any, basis: Any, rule: Any
) -> None:
    schedule = VPLinear()

    def error(calls: int) -> float:
        sampler = DPMSolver(order=3, basis=basis, rule=rule, last="full")
        levels = path(UniformLogSNR(), schedule, calls + 1)[:-1]
        x = torch.linspace(-1.5, 1.5, 4, dtype=torch.float64).reshape(1, 1, 2, 2)
        exact = gaussian_denoise.flow(x, levels[0], levels[-1])
        return float((sample(gaussian_denoise, x, levels, sampler) - exact).abs().max())

    assert math.log2(error(300) / error(600)) == pytest.approx(3, abs=0.25)


def test_the_sde_form_of_order_1_is_ddpm(gaussian_denoise: Any) -> None:
    noise = KeyedNoise(0, [("subject", 0)])
    for schedule in (VPLinear(), Flow(), VE()):
        levels = path(UniformTime(), schedule, 12)
        x = start(levels[0], noise, torch.zeros(1, 1, 4, 4, dtype=torch.float64))
        theirs = sample(gaussian_denoise, x, levels, DDPM(), noise)
        ours = sample(gaussian_denoise, x, levels, DPMSolverPP(order=1, eta=1.0), noise)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_the_stages_of_single_steps_are_where_the_paper_has_them() -> None:
    levels = path(SingleStepLogSNR(order=3), VPLinear(), 7)[:-1]
    lams = torch.stack([level.half_log_snr for level in levels])
    parts = ((lams - lams[0]) / (lams[-1] - lams[0])).tolist()
    assert parts == pytest.approx([0, 1 / 9, 2 / 9, 1 / 3, 1 / 2, 2 / 3, 1], abs=1e-6)


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("schedule", [VPLinear(), Cosine(), Flow(), VE()], ids=lambda s: s.kind)
def test_adaptive_steps_meet_the_flow_and_keep_a_batch_apart(
    gaussian_denoise: Any, schedule: Any, order: Any
) -> None:
    steps = AdaptiveSteps(absolute=1e-3, relative=1e-3)
    noise = KeyedNoise(0, [("subject", n) for n in range(3)])
    first = schedule(torch.tensor(1.0, dtype=torch.float64))
    x = start(first, noise, torch.zeros(3, 1, 3, 3, dtype=torch.float64))
    x[1] = x[1] * 1.5
    sampler = DPMSolver(order=order)
    together = sample_adaptive(gaussian_denoise, x, schedule, sampler, steps=steps)
    exact = gaussian_denoise.flow(x, first, CLEAN)
    torch.testing.assert_close(together, exact, rtol=0, atol=0.03)
    for index in range(3):
        alone = sample_adaptive(
            gaussian_denoise, x[index : index + 1], schedule, sampler, steps=steps
        )
        torch.testing.assert_close(alone[0], together[index], rtol=0, atol=1e-12)


def test_the_worst_image_decides_for_all_by_name(gaussian_denoise: Any) -> None:
    x = torch.randn(2, 1, 3, 3, generator=torch.Generator().manual_seed(0)).double()
    steps = AdaptiveSteps(error="batch-max")
    for level, _ in walk_adaptive(gaussian_denoise, x, VPLinear(), DPMSolver(), steps=steps):
        assert float(level.t[0]) == float(level.t[1])


def test_a_threshold_is_of_each_image_alone() -> None:
    clean = torch.stack([torch.linspace(-3, 3, 9), torch.linspace(-0.5, 0.5, 9)])
    clean = clean.reshape(2, 1, 3, 3).double()

    def know(x: Tensor, level: NoiseLevel) -> Estimate:
        return Estimate(clean, x)

    result = thresholded(know, 0.5)(clean, noise_level(0.5, 0.8, 0.6)).clean
    assert torch.equal(result[1], clean[1])
    bound = torch.quantile(clean[0].abs(), 0.5)
    torch.testing.assert_close(result[0], clean[0].clamp(-bound, bound) / bound)
