"""How far Langevin chains are from settled: the variance that the hops of a path leave in them.

Gaussian data of width w have the variance V = w^2 + rho^2 of x / alpha at the noise ratio rho. On
them a step of size c rho^2 keeps 1 - c k of an image, k = rho^2 / V, and adds noise:

    variance -> (1 - c k)^2 variance + 2 c rho^2.

That is linear, so that of two chains, one of which begins higher, T steps keep (1 - c k)^(2 T) of
the difference. The hop from the noise ratio r rho sets the images (r^2 - 1) rho^2 above the
variance of their new level. What all the hops so far leave after the T steps at level i is

    E_i = (1 - c k_i)^(2 T) (E_(i-1) + rho_(i-1)^2 - rho_i^2).

After one hop from a settled level that is k (r^2 - 1) (1 - c k)^(2 T) of V, at most about
(r^2 - 1) / (2 e c T), for data of k = 1 / (c (2 T + 1)) (or 1 if that is above 1). Hops that lie
close add up: version 2's levels for CIFAR-10 leave three times what one hop leaves.

The steps' own bias, V / (1 - c k / 2), is no part of it: a smaller step lessens that, not a longer
chain. w = 0 is the case of Song & Ermon 2020 (arXiv:2006.09011), section 3.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from medidiff.diffusion.levels import NoiseLevel
from medidiff.types import Tensor

VARIANCES = torch.logspace(-10, 10, 401, dtype=torch.float64)[:, None]
"""w^2 of the data that are looked at; so close that the worst is missed by less than .2 %."""
MOST_STEPS = 100_000
"""No level is given more: a path that needs them has too few levels."""


@dataclass(frozen=True)
class Chain:
    """The Langevin steps at one level of a path, and what they leave of the hops that led to it."""

    steps: int
    excess: float
    """The most variance above the level's own, over it, for Gaussian data of any width."""


def chains(
    levels: Sequence[NoiseLevel], share: float, steps: int, settled: float = math.inf
) -> list[Chain]:
    """The chain at each noisy level of a path: `steps` long, or more until no excess is above
    `settled`; `share` is c.

    The first level has nothing to undo, nor has the one after pure noise: the hop there is DDIM's.
    Errors: ValueError if a level needs more than `MOST_STEPS`.
    """
    found, left = [Chain(steps, 0.0)], torch.zeros_like(VARIANCES)
    for before, here in pairwise(_squared_ratio(level) for level in levels):
        variance = VARIANCES + here
        moved = share * here / variance
        brought = left + torch.where(before.isinf(), 0.0, before - here)
        length = max(steps, _steps_until(settled, brought / variance, moved))
        left = brought * (1 - moved).abs() ** (2 * length)
        found.append(Chain(length, float((left / variance).max())))
    return found


def least_steps(levels: Sequence[NoiseLevel], share: float, excess: float) -> int | None:
    """The least steps at every level that leave no more than `excess` at the last; None where none
    do."""

    def enough(steps: int) -> bool:
        return chains(levels, share, steps)[-1].excess <= excess

    counts = range(1, MOST_STEPS + 1)
    index = bisect_left(counts, True, key=enough)
    return counts[index] if index < len(counts) else None


def _squared_ratio(level: NoiseLevel) -> Tensor:
    """rho^2 of each image, (1 or batch,)."""
    return level.noise_ratio.reshape(-1).cpu().square()


def _steps_until(settled: float, excess: Tensor, moved: Tensor) -> int:
    """The least T with (1 - moved)^(2 T) excess <= settled everywhere."""
    above = excess > settled
    if not bool(above.any()):
        return 0
    kept = (1 - moved.expand_as(excess)[above]).abs()
    needed = float(((settled / excess[above]).log() / (2 * kept.log())).max())
    if not needed <= MOST_STEPS:
        raise ValueError(
            f"a level of this path needs more than {MOST_STEPS} Langevin steps until its excess of "
            f"variance is {settled:g}: give the path more levels, or let settled be larger"
        )
    return math.ceil(needed)
