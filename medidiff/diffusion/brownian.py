"""Brownian-interval noise: what a stretch of levels adds is a function of the stretch.

The reverse SDE with eta = 1 has the exact solution (Lu et al. 2022, arXiv:2211.01095)

    x_to alpha_to / sigma_to^2 = x_now alpha_now / sigma_now^2 + (clean terms) + B(c_to) - B(c_now)

with a Brownian motion B in the clock c = (alpha / sigma)^2, the signal-to-noise ratio. Keyed by
place in c and not by step, one B serves every partition: a path of twice the steps follows the same
noise, and its image changes by the error of the solver alone.

B is found at any c by bisection (Levy's construction), each midpoint drawn from the Brownian bridge
between its neighbours with a field keyed by the midpoint, so nothing is stored:

    B(m) = B(a) + (m - a) / (b - a) (B(b) - B(a)) + sqrt((m - a) (b - m) / (b - a)) z
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from medidiff.diffusion.levels import NoiseLevel
from medidiff.diffusion.noise import KeyedNoise, gaussians
from medidiff.types import Image, Tensor

REACH = 16.0
"""Half-log-SNRs are bisected within (-16, 16): noise ratios from 1e-7 to 1e7."""


@dataclass(frozen=True)
class BrownianNoise:
    """Noise for a batch of (subject, sample) pairs whose hops share one Brownian motion each.

    A field over a stretch depends on (seed, subject, sample, lap), its two levels and the voxel's
    index: on neither the batch nor the partition. Fields of disjoint stretches are independent.
    A draw that belongs to no stretch is that of `KeyedNoise`.
    Source: k-diffusion's Brownian tree noise (Crowson 2022); Li et al. 2020 (arXiv:2001.01328),
    section 4, for the tree.
    Differs: k-diffusion's clock is sigma; in this one the noise of the exact solution is an
    increment, so refining a path converges to one image.
    Errors: ValueError if the batch has another size than `members`.
    """

    seed: int
    members: tuple[tuple[str, int], ...]
    depth: int
    """Bisections: levels closer than 32 / 2**depth in half-log-SNR share their last bridge, and
    their increments are then not quite independent."""

    def __init__(self, seed: int, members: Sequence[tuple[str, int]], depth: int = 14) -> None:
        if depth < 1:
            raise ValueError(f"Brownian noise needs depth >= 1, got {depth}")
        object.__setattr__(self, "seed", seed)
        object.__setattr__(self, "members", tuple((name, sample) for name, sample in members))
        object.__setattr__(self, "depth", depth)

    def __call__(self, like: Image, step: int, draw: int = 0) -> Image:
        return KeyedNoise(self.seed, self.members)(like, step, draw)

    def take(self, indices: Sequence[int]) -> BrownianNoise:
        """The noise of a part of the batch."""
        return BrownianNoise(self.seed, [self.members[index] for index in indices], self.depth)

    def between(self, like: Image, now: NoiseLevel, to: NoiseLevel, lap: int = 0) -> Image:
        """The unit field of the stretch: (B(to) - B(now)) / sqrt(c_to - c_now).

        Shapes: `like` is (batch, channel, *space), the levels () or (batch,); `now` may be pure
        noise, where B is 0.
        Errors: ValueError if a level is cleaner than half-log-SNR 16, or the stretch is empty.
        """
        if like.shape[0] != len(self.members):
            raise ValueError(f"noise for {len(self.members)} images, asked for {like.shape[0]}")
        first, last = (_places(level, len(self.members)) for level in (now, to))
        if not all(a < b < REACH for a, b in zip(first, last, strict=True)):
            raise ValueError(
                f"Brownian noise needs half-log-SNRs that rise and stay below {REACH}, "
                f"got {first} to {last}"
            )
        if len(set(first)) == len(set(last)) == 1:
            return self._increment(like, lap, first[0], last[0])
        alone = [self.take([index]) for index in range(len(self.members))]
        return torch.cat(
            [
                one._increment(like[index : index + 1], lap, first[index], last[index])
                for index, one in enumerate(alone)
            ]
        )

    def _increment(self, like: Image, lap: int, first: float, last: float) -> Image:
        length = math.sqrt(_clock(last) - _clock(first))
        change = self._motion(like, lap, last) - self._motion(like, lap, first)
        return (change / length).to(like.dtype)

    def _motion(self, like: Image, lap: int, place: float) -> Tensor:
        """B at a half-log-SNR, in float32 or better."""
        zero = torch.zeros_like(
            like, dtype=torch.float64 if like.dtype == torch.float64 else torch.float32
        )
        if place == -math.inf:
            return zero

        def field(at: float) -> Tensor:
            keys = [("brownian", *member, lap, at.hex()) for member in self.members]
            return gaussians(self.seed, keys, like[0].numel(), zero).reshape(like.shape)

        start = math.sqrt(_clock(-REACH)) * field(-REACH)
        if place <= -REACH:
            return _bridge(-math.inf, place, -REACH, zero, start, field(place))
        low, high = -REACH, REACH
        at_low, at_high = start, start + math.sqrt(_clock(high) - _clock(low)) * field(high)
        for _ in range(self.depth):
            middle = (low + high) / 2
            at_middle = _bridge(low, middle, high, at_low, at_high, field(middle))
            if place < middle:
                high, at_high = middle, at_middle
            else:
                low, at_low = middle, at_middle
        return _bridge(low, place, high, at_low, at_high, field(place))


def _clock(half_log_snr: float) -> float:
    return math.exp(2 * half_log_snr)


def _bridge(
    low: float, middle: float, high: float, at_low: Tensor, at_high: Tensor, z: Tensor
) -> Tensor:
    a, m, b = (_clock(each) for each in (low, middle, high))
    part = (m - a) / (b - a)
    return at_low + part * (at_high - at_low) + math.sqrt(part * (b - m)) * z


def _places(level: NoiseLevel, batch: int) -> list[float]:
    return level.half_log_snr.reshape(-1).expand(batch).tolist()
