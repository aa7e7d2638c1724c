"""A reader of noisy images sees a prior's states as images of its own schedule."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from medidiff.diffusion import VE, AnySchedule, Cosine, Flow, VPLinear, diffuse
from medidiff.diffusion.noise import KeyedNoise
from medidiff.steering import half_log_snr_range, reading_level

SCHEDULES = [kind() for kind in get_args(AnySchedule)]


def fields() -> tuple[torch.Tensor, torch.Tensor]:
    noise, like = KeyedNoise(0, [("a", 0), ("b", 0)]), torch.zeros(2, 1, 3, 3).double()
    return noise(like, 0), noise(like, 1)


@pytest.mark.parametrize("own", SCHEDULES, ids=lambda each: each.kind)
@pytest.mark.parametrize("of_prior", [Cosine(), VE(), Flow(), VPLinear()], ids=lambda s: s.kind)
def test_the_scaled_image_is_the_schedule_s_own(own: AnySchedule, of_prior: AnySchedule) -> None:
    clean, eps = fields()
    for half in (-1.5, 0.0, 1.5):
        level = of_prior(of_prior.time_of(torch.tensor(half, dtype=torch.float64)))
        low, high = half_log_snr_range(own)
        if not low < half < high:
            continue
        seen, there = reading_level(own, diffuse(clean, level, eps), level)
        rough = 1e-2 if own.kind == "discrete" else 1e-6
        assert float(there.half_log_snr) == pytest.approx(half, abs=rough)
        torch.testing.assert_close(seen, diffuse(clean, there, eps), rtol=rough, atol=rough)


@pytest.mark.parametrize("own", SCHEDULES, ids=lambda each: each.kind)
@pytest.mark.parametrize("of_prior", [Cosine(), VE(), Flow()], ids=lambda s: s.kind)
def test_both_ends_are_finite_and_keep_the_power(own: AnySchedule, of_prior: AnySchedule) -> None:
    clean, eps = fields()
    for time in (of_prior.t_min, of_prior.t_max):
        level = of_prior(torch.tensor(time, dtype=torch.float64))
        seen, there = reading_level(own, diffuse(clean, level, eps), level)
        assert bool(seen.isfinite().all())
        assert bool(there.t.isfinite())
        power = float((there.alpha**2 + there.sigma**2).sqrt())
        before = float((level.alpha**2 + level.sigma**2).sqrt())
        torch.testing.assert_close(seen / power, diffuse(clean, level, eps) / before)


def test_a_level_for_each_image_is_translated_for_each() -> None:
    clean, eps = fields()
    times = torch.tensor([0.3, 0.6], dtype=torch.float64)
    both = Cosine()(times)
    seen, there = reading_level(VE(), diffuse(clean, both, eps), both)
    for index, time in enumerate(times):
        level = Cosine()(time)
        alone, own = reading_level(VE(), diffuse(clean, level, eps)[index : index + 1], level)
        torch.testing.assert_close(seen[index : index + 1], alone)
        torch.testing.assert_close(there.sigma[index], own.sigma)
