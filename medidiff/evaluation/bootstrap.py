"""Intervals over subjects. The subject, not the voxel or the slice, is what is drawn again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class Interval:
    """A mean over subjects with its bootstrap interval."""

    mean: float
    low: float
    high: float
    n: int
    level: float


def bootstrap_interval(
    values: Sequence[float] | Tensor, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> Interval:
    """The mean of one value a subject, with its percentile bootstrap interval.

    One subject gives an interval without width: it says nothing of other subjects.
    Infinite values (the PSNR of equal images) stay infinite in the mean.
    Errors: ValueError without values, for one that is not a number, for a level outside (0, 1).
    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, section 13.3.
    """
    array = np.asarray([float(value) for value in values], dtype=np.float64)
    if array.size == 0:
        raise ValueError("an interval needs at least one value")
    if np.isnan(array).any():
        raise ValueError(f"{int(np.isnan(array).sum())} of {array.size} values are not numbers")
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1); found {level}")
    picks = np.random.default_rng(seed).integers(0, array.size, size=(draws, array.size))
    means = array[picks].mean(axis=1)
    tail = (1 - level) / 2
    # no interpolation: between a finite mean and an infinite one it gives nan
    low, high = np.quantile(means, [tail, 1 - tail], method="nearest")
    return Interval(float(array.mean()), float(low), float(high), int(array.size), level)


def bootstrap_groups(
    measure: Callable[..., np.ndarray],
    *groups: Sequence[float] | Tensor,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """What `measure` gives of several groups, each drawn again by itself; n is the smallest's size.

    Shapes: `measure` takes an array (draws, members) a group and gives (draws,).
    Errors: ValueError for an empty group, for a level outside (0, 1).
    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, section 8.3.
    """
    arrays = [np.asarray([float(value) for value in group]) for group in groups]
    if not arrays or min(array.size for array in arrays) == 0:
        raise ValueError("an interval needs at least one value in each group")
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1); found {level}")
    random = np.random.default_rng(seed)
    drawn = [array[random.integers(0, array.size, (draws, array.size))] for array in arrays]
    tail = (1 - level) / 2
    low, high = np.quantile(measure(*drawn), [tail, 1 - tail], method="nearest")
    found = float(measure(*(array[None] for array in arrays))[0])
    return Interval(found, float(low), float(high), min(array.size for array in arrays), level)
