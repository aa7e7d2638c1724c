"""The best strength of a method on validation images, wherever it lies."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

REFINEMENTS = 2
LEAST_GAIN = 0.003  # in dB: a longer way is not worth it


def best_strength(score: Callable[[float], float], grid: Sequence[float]) -> float:
    """The strength of the highest score: over a rising grid, past its ends, then between points.

    A best strength at an end is followed outwards by the grid's own ratio as long as that helps, so
    that a bar is not lowered by the grid; the neighbourhood of the best is then halved twice.
    Errors: ValueError without a grid.
    """
    if not grid:
        raise ValueError("tuning needs strengths to try; the grid is empty")
    scores = {strength: score(strength) for strength in grid}
    best = max(scores, key=scores.__getitem__)
    if len(grid) == 1:
        return best
    ratio = (grid[-1] / grid[0]) ** (1 / (len(grid) - 1))
    for end, factor in ((grid[0], 1 / ratio), (grid[-1], ratio)):
        if best == end:
            best, scores[best] = followed(best, scores[best], factor, score)
    for _ in range(REFINEMENTS):
        ratio = math.sqrt(ratio)
        for strength in (best / ratio, best * ratio):
            scores[strength] = score(strength)
        best = max(scores, key=scores.__getitem__)
    return best


def trials(grid: Sequence[float]) -> int:
    """How many scores `best_strength` asks for where the best lies inside the grid."""
    return len(grid) if len(grid) == 1 else len(grid) + 2 * REFINEMENTS


def followed(
    best: float, highest: float, factor: float, score: Callable[[float], float]
) -> tuple[float, float]:
    """The last strength, by steps of `factor`, that still raised the score in dB, and its score."""
    while True:
        found = score(best * factor)
        if found <= highest + LEAST_GAIN:
            return best, highest
        best, highest = best * factor, found
