"""Whether the spread of posterior draws is right: coverage, ranks, spread against error.

All of them are corrected for the number of draws: exact draws have a coverage of just the level, an
even histogram and a ratio of 1, be they five or a thousand. A value that equals draws (a background
of zeros) has its rank spread evenly over theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medidiff.evaluation.bootstrap import Interval, bootstrap_groups, bootstrap_interval

LEVEL = 0.9
TOLERANCE = 0.03
"""How far from LEVEL the coverage of maps may lie that are called calibrated."""
BINS = 10

Verdict = Literal["calibrated", "uncalibrated"]


def coverage(
    draws: Tensor, truth: Tensor, region: Tensor | None = None, level: float = LEVEL
) -> Tensor:
    """The share of each image's voxels that lie in the draws' central interval of this level.

    The interval is one of ranks: with S draws the truth's rank is one of S + 1, of which the
    central `level` is taken, those at its ends in part. The quantiles of few draws cover less
    than they say (.86 for .90 with 40), ranks do not.
    Shapes: draws (n, batch, channel, *space); truth (batch, channel, *space); region broadcasts to
    truth, 0 where a voxel does not count; gives (batch,), nan where no voxel counts.
    Errors: ValueError for a level outside (0, 1), or shapes that do not fit.
    Source: Talagrand, Vautard & Strauss 1997 and Hamill 2001 for ranks; the parts at the ends are
    those of a randomised rank, in expectation.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1); found {level}")
    low, high = _rank_ends(draws, truth)
    tail = (1 - level) / 2
    inside = (high.clamp_max(1 - tail) - low.clamp_min(tail)).clamp_min(0) / (high - low)
    return _mean(inside, region)


def central_interval(
    draws: NDArray[np.floating], level: float = LEVEL
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """The ends of the draws' central interval of this level, so that a further exact draw lies in
    it as often as `interval_share` says.

    The interval is one of ranks, as `coverage` judges it. The quantiles that an array of few draws
    has by interpolation hold less than they say: of 8 draws 70 % instead of 90.
    Shapes: draws (n, *shape); gives two of (*shape,).
    Source: Hyndman & Fan 1996 (doi:10.1080/00031305.1996.10473566), definition 6.
    """
    tail = (1 - level) / 2
    low, high = np.quantile(draws, (tail, 1 - tail), axis=0, method="weibull")
    return low, high


def interval_share(draws: int, level: float = LEVEL) -> float:
    """How often a further exact draw lies in `central_interval`: the level, or what lies between
    the least and the largest where the draws are too few (of 8: 7 / 9)."""
    return min(level, (draws - 1) / (draws + 1))


def rank_histogram(
    draws: Tensor, truth: Tensor, region: Tensor | None = None, bins: int = BINS
) -> Tensor:
    """The share of each image's voxels whose rank among the draws lies in each bin: even if right,
    a valley if the draws are too narrow, a hill if they are too wide, a slope if they are biased.

    A flat histogram is not enough: draws with a bias of twice their posterior's deviation were
    found to have one.
    Shapes: as `coverage`; gives (batch, bins).
    """
    low, high = _rank_ends(draws, truth)
    edges = torch.linspace(0, 1, bins + 1, dtype=low.dtype)
    parts = [
        _mean((high.clamp_max(above) - low.clamp_min(below)).clamp_min(0) / (high - low), region)
        for below, above in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
    ]
    return torch.stack(parts, dim=1)


def spread_and_error(
    draws: Tensor, truth: Tensor, region: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Mean over each image's voxels of the draws' variance and of their mean's squared error, both
    as if of infinitely many draws: equal for exact draws.

    Shapes: as `coverage`, n >= 2; gives two of (batch,).
    Source: Fortin et al. 2014, spread and skill of an ensemble.
    """
    if len(draws) < 2:
        raise ValueError(f"a spread needs at least 2 draws, got {len(draws)}")
    _check(draws, truth)
    variance = draws.double().var(0)
    error = (draws.double().mean(0) - truth.double()).square() - variance / len(draws)
    return _mean(variance, region), _mean(error, region)


@dataclass(frozen=True)
class Calibration:
    """What a set of subjects says of a sampler on one kind of measurement and noise level."""

    coverage: Interval
    """Of the central interval of LEVEL, mean over subjects."""
    spread: Interval
    """Root of the draws' variance over their error's square, both summed over subjects: 1 if
    right, less if the maps promise too much."""
    histogram: tuple[float, ...]
    """Mean over subjects of their rank histograms."""
    draws: int

    @property
    def verdict(self) -> Verdict:
        """calibrated where the coverage is LEVEL within TOLERANCE."""
        near = abs(self.coverage.mean - LEVEL) <= TOLERANCE + 1e-9
        return "calibrated" if near else "uncalibrated"


def calibration(
    draws: Sequence[Tensor], truths: Sequence[Tensor], regions: Sequence[Tensor | None]
) -> Calibration:
    """Of one entry a subject, with 95 % bootstrap intervals over subjects.

    Shapes: each draws (n, channel, *space) with one n for all, truth (channel, *space), region
    broadcasts to truth or is None. A subject without a voxel in its region is left out.
    Errors: ValueError if no subject is left, or the numbers of draws differ.
    """
    numbers = {len(each) for each in draws}
    if len(numbers) > 1:
        raise ValueError(f"subjects differ in their number of draws: {sorted(numbers)}")
    rows = [
        _row(each[:, None], truth[None], None if region is None else region[None])
        for each, truth, region in zip(draws, truths, regions, strict=True)
    ]
    rows = [row for row in rows if bool(row.isfinite().all())]
    if not rows:
        raise ValueError("no subject has a voxel that counts")
    table = torch.stack(rows)
    pairs = table[:, 1:3]
    spread = bootstrap_groups(_ratio_of(pairs), list(range(len(rows))))
    return Calibration(
        bootstrap_interval(table[:, 0]), spread, tuple(table[:, 3:].mean(0).tolist()), max(numbers)
    )


def _row(draws: Tensor, truth: Tensor, region: Tensor | None) -> Tensor:
    """Coverage, variance, squared error and the histogram of one subject."""
    variance, error = spread_and_error(draws, truth, region)
    histogram = rank_histogram(draws, truth, region)[0]
    first = torch.stack([coverage(draws, truth, region)[0], variance[0], error[0]])
    return torch.cat([first, histogram]).double().cpu()


def _ratio_of(pairs: Tensor) -> Callable[[NDArray[np.floating]], NDArray[np.floating]]:
    """sqrt(sum of variances / sum of errors) of subjects by their places in `pairs`."""
    variance, error = pairs.numpy().T

    def ratio(places: NDArray[np.floating]) -> NDArray[np.floating]:
        chosen = places.astype(int)
        below = np.maximum(error[chosen].sum(1), np.finfo(np.float64).tiny)
        return np.sqrt(variance[chosen].sum(1) / below)

    return ratio


def _rank_ends(draws: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Where the truth's rank begins and ends, of 0 to 1, by the draws below it and equal to it."""
    _check(draws, truth)
    below, equal = (torch.zeros_like(truth, dtype=torch.float64) for _ in range(2))
    for draw in draws:  # not all at once: the comparison of many draws of a volume is large
        below += draw < truth
        equal += draw == truth
    return below / (len(draws) + 1), (below + equal + 1) / (len(draws) + 1)


def _check(draws: Tensor, truth: Tensor) -> None:
    if draws.ndim < 1 or len(draws) < 1 or draws.shape[1:] != truth.shape:
        raise ValueError(
            f"draws are (n, *truth); found {tuple(draws.shape)} for a truth {tuple(truth.shape)}"
        )


def _mean(values: Tensor, region: Tensor | None) -> Tensor:
    """Over each image's voxels that count, (batch,)."""
    if region is None:
        return values.flatten(1).mean(1)
    counts = (region.to(values.device) > 0).expand_as(values).flatten(1)
    return torch.where(counts, values.flatten(1), 0.0).sum(1) / counts.sum(1)
