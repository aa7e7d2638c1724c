"""Coverage, ranks and spread of draws: right for exact draws at any number of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medidiff.evaluation.calibration import (
    calibration,
    central_interval,
    coverage,
    interval_share,
    rank_histogram,
    spread_and_error,
)

VOXELS = 20_000


def drawn(
    count: int, width: float = 1.0, bias: float = 0.0, batch: int = 2
) -> tuple[Tensor, Tensor]:
    """Draws and a truth of the unit Gaussian; the draws widened and moved."""
    generator = torch.Generator().manual_seed(count)
    field = torch.randn((count + 1, batch, 1, VOXELS), generator=generator, dtype=torch.float64)
    return bias + width * field[1:], field[0]


@pytest.mark.parametrize("count", [4, 8, 20, 40])
@pytest.mark.parametrize("level", [0.5, 0.9])
def test_exact_draws_cover_the_level_at_any_number(count: int, level: float) -> None:
    found = coverage(*drawn(count), level=level)
    assert found.shape == (2,)
    assert torch.allclose(found, torch.full_like(found, level), atol=0.012)


def test_the_quantiles_of_few_draws_would_not() -> None:
    draws, truth = drawn(40)
    low, high = draws.quantile(0.05, 0), draws.quantile(0.95, 0)
    assert float(((truth > low) & (truth < high)).double().mean()) < 0.88


@pytest.mark.parametrize(("count", "share"), [(2, 1 / 3), (8, 7 / 9), (19, 0.9), (40, 0.9)])
def test_the_ends_of_a_map_hold_as_much_as_is_said_of_them(count: int, share: float) -> None:
    draws, truth = drawn(count)
    low, high = (torch.from_numpy(end) for end in central_interval(draws.numpy()))
    assert interval_share(count) == pytest.approx(share)
    held = ((truth >= low) & (truth <= high)).double().mean()
    assert float(held) == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize(
    ("width", "bias", "low", "high"),
    [(0.7, 0.0, 0.6, 0.8), (1.5, 0.0, 0.97, 1.0), (1.0, 1.0, 0.6, 0.85)],
)
def test_draws_that_are_too_narrow_too_wide_or_biased_are_seen(
    width: float, bias: float, low: float, high: float
) -> None:
    assert low < float(coverage(*drawn(20, width, bias)).mean()) < high


def test_the_histogram_s_shape_says_what_is_wrong() -> None:
    right, narrow, wide, high = (
        rank_histogram(*drawn(40, width, bias)).mean(0)
        for width, bias in ((1, 0), (0.5, 0), (2, 0), (1, 0.5))
    )
    assert float((right - 0.1).abs().max()) < 0.01
    assert float(narrow[0]) > 0.2 < float(narrow[-1])
    assert float(wide[0]) < 0.05 > float(wide[-1])
    assert float(high[0]) > 0.15 > 0.05 > float(high[-1])


@pytest.mark.parametrize("count", [2, 5, 40])
def test_spread_and_error_are_equal_for_exact_draws(count: int) -> None:
    variance, error = spread_and_error(*drawn(count))
    assert torch.allclose(variance, error, rtol=0.04)
    assert torch.allclose(variance, torch.ones_like(variance), rtol=0.04)


def test_a_truth_that_equals_its_draws_says_nothing_against_them() -> None:
    draws, truth = torch.zeros((20, 1, 1, 50)), torch.zeros((1, 1, 50))
    assert float(coverage(draws, truth)) == pytest.approx(0.9)
    assert torch.allclose(rank_histogram(draws, truth), torch.full((1, 10), 0.1).double())


def test_only_the_region_counts() -> None:
    draws, truth = drawn(20)
    truth[..., :100] = 50.0
    region = torch.ones_like(truth)
    region[..., :100] = 0
    assert torch.allclose(
        coverage(draws, truth, region), coverage(draws[..., 100:], truth[..., 100:])
    )
    assert bool(coverage(draws, truth, torch.zeros_like(truth)).isnan().all())


def test_a_batch_is_its_members() -> None:
    draws, truth = drawn(10)
    for measure in (coverage, rank_histogram):
        assert torch.equal(measure(draws, truth)[1:], measure(draws[:, 1:], truth[1:]))


def test_subjects_decide_whether_maps_are_called_calibrated() -> None:
    for width, verdict in ((1.0, "calibrated"), (0.8, "uncalibrated"), (1.4, "uncalibrated")):
        draws, truth = drawn(20, width, batch=6)
        found = calibration(list(draws.unbind(1)), list(truth.unbind(0)), [None] * 6)
        assert found.verdict == verdict
        assert found.spread.mean == pytest.approx(width, rel=0.03)
        assert found.spread.low <= found.spread.mean <= found.spread.high
        assert found.coverage.n == 6
        assert sum(found.histogram) == pytest.approx(1)


def test_what_does_not_fit_is_refused() -> None:
    draws, truth = drawn(4)
    with pytest.raises(ValueError, match="draws are"):
        coverage(draws[:, :1], truth)
    with pytest.raises(ValueError, match="level"):
        coverage(draws, truth, level=1.0)
    with pytest.raises(ValueError, match="differ"):
        calibration([draws[:, 0], draws[:2, 0]], [truth[0], truth[0]], [None, None])
    with pytest.raises(ValueError, match="no subject"):
        calibration([draws[:, 0]], [truth[0]], [torch.zeros_like(truth[0])])
