"""Laws of spacings by a table: the user's levels, align-your-steps lists, Beta quantiles."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch

from medidiff.diffusion import (
    EDM,
    BetaQuantiles,
    Discrete,
    DPMSolver,
    Flow,
    GivenLevels,
    Karras,
    VPLinear,
    path,
)
from medidiff.diffusion.spacing_tables import beta_quantile
from medidiff.diffusion.times import single_step_orders

RATIOS = (14.6, 3.0, 1.0, 0.3, 0.03)
SCHEDULES = [VPLinear(), EDM(), Flow(), Discrete()]
schedules = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: s.kind)


def ratios(levels: list[Any]) -> list[float]:
    return [float(level.noise_ratio) for level in levels[:-1]]


@schedules
def test_a_list_of_the_asked_length_is_visited_as_it_is(schedule: Any) -> None:
    found = path(GivenLevels(values=RATIOS), schedule, 5)
    assert ratios(found) == pytest.approx(RATIOS, rel=1e-9)
    lams = tuple(-math.log(ratio) for ratio in RATIOS)
    by_lam = path(GivenLevels(values=lams, of="half-log-snr"), schedule, 5)
    assert ratios(by_lam) == pytest.approx(RATIOS, rel=1e-9)


@schedules
def test_times_are_visited_to_the_last_bit(schedule: Any) -> None:
    values = (1.0, 0.7, 0.31, 0.002)
    levels = path(GivenLevels(values=values, of="time"), schedule, 4)
    assert tuple(float(level.t) for level in levels[:-1]) == values


@schedules
@pytest.mark.parametrize("steps", [2, 3, 9, 50])
def test_another_count_is_log_linear_between_the_levels(schedule: Any, steps: int) -> None:
    found = ratios(path(GivenLevels(values=RATIOS), schedule, steps))
    assert len(found) == steps
    assert found[0] == pytest.approx(RATIOS[0])
    assert found[-1] == pytest.approx(RATIOS[-1])
    if steps == 9:
        assert found[::2] == pytest.approx(RATIOS, rel=1e-9)
        middles = [math.sqrt(a * b) for a, b in pairwise(RATIOS)]
        assert found[1::2] == pytest.approx(middles, rel=1e-9)


def test_one_step_starts_at_the_list_s_first_level() -> None:
    assert ratios(path(GivenLevels(values=RATIOS), VPLinear(), 1)) == pytest.approx([14.6])


def test_from_an_intermediate_start_the_rest_of_the_list_is_used_for_each_image() -> None:
    schedule = VPLinear()
    start = schedule(schedule.time_of(-torch.tensor([2.0, 20.0], dtype=torch.float64).log()))
    levels = path(GivenLevels(values=RATIOS), schedule, 5, start)
    both = torch.stack([level.noise_ratio for level in levels[:-1]], 1)
    assert both[1].tolist() == pytest.approx([20.0, *RATIOS[1:]], rel=1e-9)
    own = [0, 0.75, 1.5, 2.25, 3]
    table = torch.tensor([2.0, 1.0, 0.3, 0.03], dtype=torch.float64).log()
    wanted = [float(table[int(x)].lerp(table[min(int(x) + 1, 3)], x - int(x)).exp()) for x in own]
    assert both[0].tolist() == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize(
    ("values", "of"),
    [
        ((), "time"),
        ((0.5, 0.7), "time"),
        ((1.0, 0.0), "noise-ratio"),
        ((1.0, -1.0), "half-log-snr"),
        ((math.inf, 1.0), "noise-ratio"),
    ],
)
def test_a_list_that_is_no_path_is_refused(values: Any, of: Any) -> None:
    with pytest.raises(ValueError, match="given-levels needs"):
        GivenLevels(values=values, of=of)


def test_quantiles_of_a_beta_are_those_of_its_closed_forms() -> None:
    for p in (0.01, 0.2, 0.5, 0.8, 0.999):
        assert beta_quantile(p, 1.0) == pytest.approx(p, abs=1e-12)
        # Beta(1/2, 1/2) is the arcsine distribution
        arcsine = math.sin(math.pi * p / 2) ** 2
        assert beta_quantile(p, 0.5) == pytest.approx(arcsine, abs=1e-12)


@schedules
def test_even_beta_quantiles_are_the_karras_levels_of_rho_1(schedule: Any) -> None:
    ours = path(BetaQuantiles(shape=1.0), schedule, 7)
    theirs = path(Karras(rho=1.0), schedule, 7)
    assert ratios(ours) == pytest.approx(ratios(theirs), rel=1e-9)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("calls", range(1, 9))
def test_the_solver_takes_the_orders_of_its_spacing(order: Any, calls: int) -> None:
    left, found = calls, []
    while left:
        found.append(DPMSolver(order=order)._next_order(left))
        left -= found[-1]
    assert found == single_step_orders(calls, order)
