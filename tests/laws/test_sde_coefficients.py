"""Laws of the two coefficients of every schedule's stochastic differential equation."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from medidiff.diffusion import AnySchedule, SubVP

SCHEDULES = [kind() for kind in get_args(AnySchedule)]

schedules = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: s.kind)


def inner_times() -> torch.Tensor:
    return torch.linspace(0.0137, 0.9871, 57, dtype=torch.float64)


@schedules
def test_the_drift_is_the_slope_of_log_alpha(schedule: AnySchedule) -> None:
    t = inner_times().requires_grad_()
    log_alpha = schedule(t).alpha.log().sum()
    slope = torch.autograd.grad(log_alpha, t)[0] if log_alpha.requires_grad else torch.zeros_like(t)
    torch.testing.assert_close(schedule.drift(t.detach()), slope, rtol=1e-10, atol=1e-12)


@schedules
def test_the_diffusion_keeps_the_variance_on_its_schedule(schedule: AnySchedule) -> None:
    t = inner_times().requires_grad_()
    power = schedule(t).sigma ** 2
    slope = torch.autograd.grad(power.sum(), t)[0]
    t, power = t.detach(), power.detach()
    # the linear equation of the variance: d sigma^2 / dt = 2 f sigma^2 + g^2
    expected = slope - 2 * schedule.drift(t) * power
    torch.testing.assert_close(schedule.diffusion(t), expected, rtol=1e-9, atol=1e-12)


def test_the_variance_of_sub_vp_is_the_square_of_one_minus_alpha_squared() -> None:
    level = SubVP()(inner_times())
    torch.testing.assert_close(level.sigma**2, (1 - level.alpha**2) ** 2, rtol=1e-12, atol=0)
    assert (level.alpha**2 + level.sigma**2 < 1).all()
