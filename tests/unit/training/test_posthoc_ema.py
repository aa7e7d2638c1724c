"""Power-function averages and their reconstruction after training."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from medidiff.training.posthoc_ema import (
    PowerAveragedWeights,
    combined,
    posthoc_coefficients,
    power_decay,
    power_exponent,
    power_std,
)


def one_weight(value: float) -> nn.Linear:
    layer = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    nn.init.constant_(layer.weight, value)
    return layer


def average(relative_std: float, steps: int, values: list[float]) -> float:
    averaged = PowerAveragedWeights(one_weight(123.0), relative_std)
    for step in range(1, steps + 1):
        averaged.update(one_weight(values[step - 1]), step)
    return float(next(averaged.network.parameters()))


@pytest.mark.parametrize(("std", "exponent"), [(0.05, 16.97), (0.10, 6.94)])
def test_the_exponent_is_that_of_the_paper(std: float, exponent: float) -> None:
    assert power_exponent(std) == pytest.approx(exponent, abs=0.005)
    assert power_std(power_exponent(std)) == pytest.approx(std, rel=1e-12)
    gamma, inverse = power_exponent(std), std**-2
    cubic = gamma**3 + 7 * gamma**2 + (16 - inverse) * gamma + 12 - inverse
    assert cubic == pytest.approx(0, abs=1e-8)


def test_the_first_step_replaces_the_initial_weights() -> None:
    assert power_decay(6.94, 1) == 0
    assert average(0.1, 1, [5.0]) == 5.0


def test_the_average_of_a_line_is_the_profile_s_mean() -> None:
    steps, gamma = 4000, power_exponent(0.1)
    found = average(0.1, steps, [step / steps for step in range(1, steps + 1)])
    assert found == pytest.approx((gamma + 1) / (gamma + 2), abs=1e-3)


def test_a_stored_average_is_itself() -> None:
    steps, stds = [100.0, 200.0, 200.0], [0.05, 0.05, 0.1]
    found = posthoc_coefficients(steps, stds, 200.0, 0.1)
    torch.testing.assert_close(found, torch.tensor([0.0, 0.0, 1.0]).double(), rtol=0, atol=1e-9)


def test_an_average_that_was_not_kept_is_found_from_those_that_were() -> None:
    steps, every, stored = 2000, 100, (0.05, 0.10)
    values = [math.exp(-4 * step / steps) + step / steps for step in range(1, steps + 1)]
    snapshots, times, stds = [], [], []
    for std in stored:
        for step in range(every, steps + 1, every):
            snapshots.append({"weight": torch.tensor([average(std, step, values)]).double()})
            times.append(float(step))
            stds.append(std)
    for wanted in (0.07, 0.15):
        coefficients = posthoc_coefficients(times, stds, float(steps), wanted)
        found = float(combined(snapshots, coefficients)["weight"])
        true = average(wanted, steps, values)
        nearest = min(abs(average(std, steps, values) - true) for std in stored)
        assert abs(found - true) < 0.01 * nearest


def test_snapshots_are_combined_in_float64_and_counters_are_the_last() -> None:
    low = {"w": torch.tensor([1.0]), "n": torch.tensor(3)}
    high = {"w": torch.tensor([3.0]), "n": torch.tensor(9)}
    result = combined([low, high], torch.tensor([-0.5, 1.5], dtype=torch.float64))
    assert result["w"].item() == 4.0
    assert result["w"].dtype == torch.float32
    assert result["n"].item() == 9


def test_bad_requests_are_refused() -> None:
    with pytest.raises(ValueError, match="relative std lies"):
        power_exponent(0.3)
    with pytest.raises(ValueError, match="later"):
        posthoc_coefficients([300.0], [0.1], 200.0, 0.1)
    with pytest.raises(ValueError, match="need one each"):
        posthoc_coefficients([300.0], [], 400.0, 0.1)
    with pytest.raises(ValueError, match="count from 1"):
        power_decay(6.94, 0)
