"""Laws of every schedule, target, training time, spacing and weight."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch

from medidiff.diffusion import (
    VE,
    AnySchedule,
    AnySpacing,
    AnyTarget,
    AnyTimes,
    AnyWeight,
    Cosine,
    Denoiser,
    DenoisingLoss,
    Eps,
    Flow,
    GivenLevels,
    LeadingSteps,
    NoiseLevel,
    QuadraticSteps,
    RespacedSteps,
    Score,
    UniformTime,
    V,
    VPLinear,
    diffuse,
    estimate,
    noise_level,
    path,
    prediction_of,
)

SCHEDULES = [kind() for kind in get_args(AnySchedule)]
TARGETS = [kind() for kind in get_args(AnyTarget)]
SPACINGS = [kind() for kind in get_args(AnySpacing)]
TIMES = [kind() for kind in get_args(AnyTimes)]
WEIGHTS = [kind() for kind in get_args(AnyWeight)]

schedules = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: s.kind)
targets = pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.kind)
spacings = pytest.mark.parametrize("spacing", SPACINGS, ids=lambda s: s.kind)


def grid(low: float = 1e-6, high: float = 1 - 1e-6) -> torch.Tensor:
    return torch.linspace(low, high, 101, dtype=torch.float64)


@schedules
def test_the_signal_to_noise_ratio_falls_with_time(schedule: AnySchedule) -> None:
    assert (schedule(grid(0, 1)).half_log_snr.diff() < 0).all()


@schedules
def test_time_of_inverts_the_schedule(schedule: AnySchedule) -> None:
    t = grid()
    torch.testing.assert_close(schedule.time_of(schedule(t).half_log_snr), t, rtol=0, atol=1e-10)


@pytest.mark.parametrize("schedule", [VPLinear(), Cosine()], ids=lambda s: s.kind)
def test_variance_is_preserved(schedule: AnySchedule) -> None:
    level = schedule(grid(0, 1))
    power = level.alpha**2 + level.sigma**2
    torch.testing.assert_close(power, torch.ones_like(power), rtol=0, atol=1e-14)


@pytest.mark.parametrize("schedule", [VPLinear(), Cosine()], ids=lambda s: s.kind)
def test_sigma_keeps_its_digits_near_the_clean_end(schedule: AnySchedule) -> None:
    # sigma^2 is linear in t there, so halving t must halve it to nearly all digits
    far, near = (schedule(torch.tensor(t, dtype=torch.float64)).sigma ** 2 for t in (2e-12, 1e-12))
    assert float(far / near) == pytest.approx(2, abs=1e-9)


@schedules
def test_both_ends_are_finite(schedule: AnySchedule) -> None:
    for t in (0.0, schedule.t_min, schedule.t_max):
        level = schedule(torch.tensor(t, dtype=torch.float64))
        assert level.alpha.isfinite()
        assert level.sigma.isfinite()


@pytest.mark.parametrize("schedule", [Cosine(), Flow()], ids=lambda s: s.kind)
def test_the_last_time_is_pure_noise(schedule: AnySchedule) -> None:
    level = schedule(torch.tensor(1.0, dtype=torch.float64))
    assert (level.alpha, level.sigma) == (0, 1)


@targets
@schedules
def test_a_target_says_what_estimate_reads(schedule: AnySchedule, target: AnyTarget) -> None:
    level = schedule(grid(1e-3, 0.999))
    clean, eps = torch.randn(2, 101, 1, 4, 4, dtype=torch.float64, generator=seeded())
    x = diffuse(clean, level, eps)
    back = estimate(target, x, prediction_of(target, clean, eps, level), level)
    # the error of the clean image is that of x (one rounding) times 1 / alpha for eps and score
    slack = 1 + level.noise_ratio.reshape(-1, 1, 1, 1)
    assert ((back.clean - clean).abs() <= 1e-12 * slack).all()
    assert (
        (back.eps - eps).abs() <= 1e-12 * (1 + 1 / level.noise_ratio.reshape(-1, 1, 1, 1))
    ).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@targets
@schedules
def test_estimates_are_finite_at_both_ends(
    schedule: AnySchedule, target: AnyTarget, dtype: torch.dtype
) -> None:
    for level in (schedule(torch.tensor(1.0)), noise_level(0, 1, 0), schedule(torch.tensor(0.0))):
        if level.alpha == 0 and isinstance(target, Eps | Score):
            with pytest.raises(ValueError, match="pure noise"):
                target.multipliers(level)
            continue
        x = torch.randn(2, 1, 4, 4, dtype=dtype, generator=seeded())
        here = Denoiser(lambda x, label, condition, concat: torch.cos(x + label[0]), target)(
            x, level
        )
        assert here.clean.isfinite().all()
        assert here.eps.isfinite().all()
        assert here.clean.dtype == here.eps.dtype == dtype
        if not isinstance(target, Score):
            assert prediction_of(target, x, x, level).isfinite().all()


@targets
def test_a_perfect_prediction_returns_the_clean_image(target: AnyTarget) -> None:
    level = VPLinear()(torch.tensor([0.3, 0.7], dtype=torch.float64))
    clean, eps = torch.randn(2, 2, 1, 4, 4, dtype=torch.float64, generator=seeded())
    perfect = prediction_of(target, clean, eps, level)
    here = Denoiser(lambda x, label, condition, concat: perfect, target)(
        diffuse(clean, level, eps), level
    )
    torch.testing.assert_close(here.clean, clean, rtol=0, atol=1e-12)


@targets
def test_a_clean_level_keeps_the_image_unless_the_image_is_the_target(target: AnyTarget) -> None:
    x = torch.randn(2, 1, 4, 4, dtype=torch.float64, generator=seeded())
    here = estimate(target, x, torch.ones_like(x), noise_level(0, 1, 0))
    expected = torch.ones_like(x) if target.kind == "clean" else x
    torch.testing.assert_close(here.clean, expected, rtol=0, atol=0)
    assert (here.eps == 0).all()


@targets
@schedules
def test_the_input_has_unit_scale(schedule: AnySchedule, target: AnyTarget) -> None:
    level = schedule(grid())
    data_std = target.data_std if target.kind == "edm" else 1.0
    std = target.input_scale(level) * ((data_std * level.alpha) ** 2 + level.sigma**2).sqrt()
    torch.testing.assert_close(std, torch.ones_like(std), rtol=0, atol=1e-14)


def test_v_is_the_paper_s_on_variance_preserving_levels() -> None:
    level = Cosine()(torch.tensor(0.4, dtype=torch.float64))
    clean, eps = torch.randn(2, 1, 1, 2, 2, dtype=torch.float64, generator=seeded())
    v = level.alpha * eps - level.sigma * clean
    torch.testing.assert_close(prediction_of(V(), clean, eps, level), v, rtol=0, atol=1e-14)


@pytest.mark.parametrize("times", TIMES, ids=lambda t: t.kind)
@schedules
def test_more_of_the_draw_is_more_noise(schedule: AnySchedule, times: AnyTimes) -> None:
    level = times.levels(schedule, grid(0.001, 0.999))
    assert (level.half_log_snr.diff() < 0).all()
    assert level.alpha.isfinite().all()
    assert level.alpha.dtype == level.sigma.dtype == level.t.dtype == torch.float64


@schedules
def test_half_of_the_log_normal_levels_lie_below_the_median(schedule: AnySchedule) -> None:
    times = next(time for time in TIMES if time.kind == "log-normal-noise-ratio")
    middle = times.levels(schedule, torch.tensor([0.5], dtype=torch.float64))
    assert float(middle.noise_ratio) == pytest.approx(math.exp(-1.2), rel=1e-9)


@pytest.mark.parametrize("weight", WEIGHTS, ids=lambda w: w.kind)
@targets
@schedules
def test_weights_are_finite_and_not_negative(
    schedule: AnySchedule, target: AnyTarget, weight: AnyWeight
) -> None:
    value = weight(target, schedule(grid(1e-3, 0.999)))
    assert value.isfinite().all()
    assert (value >= 0).all()


@targets
@schedules
def test_the_loss_of_a_perfect_network_is_zero(schedule: AnySchedule, target: AnyTarget) -> None:
    loss = DenoisingLoss(target, schedule)
    levels = loss.levels(torch.tensor([0.2, 0.8], dtype=torch.float64))
    clean, eps = torch.randn(2, 2, 1, 4, 4, dtype=torch.float64, generator=seeded())
    perfect = prediction_of(target, clean, eps, levels)
    value = loss(lambda x, label, condition, concat: perfect, clean, levels, eps, None, None)
    assert value.shape == (2,)
    assert (value == 0).all()


@spacings
@schedules
def test_a_path_falls_from_its_start_to_clean(schedule: AnySchedule, spacing: AnySpacing) -> None:
    for steps in (1, 2, 7, 50):
        levels = path(spacing, schedule, steps)
        assert len(levels) == steps + 1
        assert levels[-1].is_clean
        # leading and quadratic steps leave the noisiest levels out, a list may
        assert float(levels[0].t) <= schedule.t_max
        if not isinstance(spacing, LeadingSteps | QuadraticSteps | RespacedSteps | GivenLevels):
            assert float(levels[0].t) == schedule.t_max
        ratios = torch.stack([level.noise_ratio for level in levels])
        assert (ratios[1:] < ratios[:-1]).all()


@spacings
@schedules
def test_a_path_starts_where_it_is_told(schedule: AnySchedule, spacing: AnySpacing) -> None:
    # each image of a batch may start at its own level
    start = schedule(schedule.time_of(-torch.tensor([0.3, 2.0], dtype=torch.float64).log()))
    levels = path(spacing, schedule, 5, start)
    torch.testing.assert_close(levels[0].noise_ratio, torch.tensor([0.3, 2.0]).double())
    for index in range(2):
        alone = path(spacing, schedule, 5, NoiseLevel(*(v[index] for v in values(start))))
        for many, one in zip(levels[:-1], alone[:-1], strict=True):
            torch.testing.assert_close(many.t[index], one.t, rtol=1e-13, atol=1e-15)


@spacings
def test_a_path_of_no_steps_is_refused(spacing: AnySpacing) -> None:
    with pytest.raises(ValueError, match="at least 1 step"):
        path(spacing, VE(), 0)


def test_uniform_time_is_trailing() -> None:
    times = [float(level.t) for level in path(UniformTime(), Flow(), 4)]
    assert times == [1.0, 0.75, 0.5, 0.25, 0.0]


def values(level: NoiseLevel) -> tuple[torch.Tensor, ...]:
    return level.t, level.alpha, level.sigma


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)
