"""The driver: from noise to an image along a path of noise levels.

    x ~ sigma eps                      start(level, noise, like)
     |
     v     path[0] -> path[1] -> ... -> path[N-1] -> CLEAN
    x  --sampler.step-->  x  --...-->  x  --one plain denoise-->  image

A sampler takes one hop between two noisy levels. The hop onto the clean level is one plain denoise
and belongs to the driver, unless the sampler says that it `finishes` by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Protocol

from medidiff.diffusion.levels import Denoise, NoiseLevel, half_log_snr_gap, scale
from medidiff.diffusion.noise import IntervalNoise, NoiseSource
from medidiff.diffusion.schedules import Schedule
from medidiff.types import Image, Tensor

START = -1
"""The noise key's step of the prior draw; the hops of a path have 0, 1, ..."""


@dataclass(frozen=True, eq=False)
class Step:
    """Where a sampler stands on the path: hop `index` of `count`, with its noise and its levels."""

    index: int
    count: int
    like: Image
    source: NoiseSource | None
    schedule: Schedule | None
    ahead: tuple[NoiseLevel, ...] = ()
    """The levels after this hop's, up to the end of the path or its next `Renoise`."""
    ends: tuple[NoiseLevel, NoiseLevel] | None = None
    """The levels that this hop goes from and to; None where noise is put back (`Renoise`)."""
    lap: int = 0
    """How often noise was put back before this hop."""

    @property
    def hops(self) -> int:
        """Hops of the sampler from this one on, without the driver's onto the clean level."""
        return 1 + len(self.ahead) - int(bool(self.ahead) and self.ahead[-1].is_clean)

    def noise(self, draw: int = 0, stage: NoiseLevel | None = None) -> Image:
        """Unit Gaussian field number `draw` of this hop, or of its part up to a `stage`.

        An interval noise gives draw 0 and every stage the increment of one Brownian motion over
        that stretch of levels, so that a stage and its whole hop belong together; any other source
        gives an independent field for each draw.
        """
        if self.source is None:
            raise ValueError("this sampler draws noise: give sample() or walk() a noise source")
        by_interval = draw == 0 or stage is not None
        if isinstance(self.source, IntervalNoise) and self.ends is not None and by_interval:
            now, to = self.ends
            to = to if stage is None else stage
            if not to.is_clean:
                return self.source.between(self.like, now, to, self.lap)
        return self.source(self.like, self.index, draw)

    def level(
        self,
        *,
        t: Tensor | None = None,
        half_log_snr: Tensor | None = None,
        noise_ratio: Tensor | None = None,
    ) -> NoiseLevel:
        """The schedule's level at one of: a time, a half-log-SNR, a noise ratio."""
        if self.schedule is None:
            raise ValueError(
                "this sampler visits levels between those of the path: "
                "give sample() or walk() the schedule"
            )
        if t is not None:
            return self.schedule(t)
        if half_log_snr is not None:
            return self.schedule(self.schedule.time_of(half_log_snr))
        if noise_ratio is not None:
            return self.schedule(self.schedule.time_of(-noise_ratio.log()))
        raise ValueError("name the level by t, half_log_snr or noise_ratio")


class Sampler(Protocol):
    """One hop from level `now` to the less noisy level `to`.

    A sampler holds options only; what it remembers between hops goes in and comes out (None first).
    `finishes` says that it takes the hop onto the clean level itself.
    """

    @property
    def finishes(self) -> bool: ...

    def step(
        self, denoise: Denoise, x: Image, now: NoiseLevel, to: NoiseLevel, memory: Any, at: Step
    ) -> tuple[Image, Any]: ...


@dataclass(frozen=True, eq=False)
class Renoise:
    """A path item that adds noise up to `level`; the sampler's memory is reset there.

    Source: Lugmayr et al. 2022 (arXiv:2201.09865), algorithm 1, line 10.
    """

    level: NoiseLevel


PathItem = NoiseLevel | Renoise


def start(level: NoiseLevel, noise: NoiseSource, like: Image) -> Image:
    """A draw from the prior at `level`: sigma * eps, in the shape, dtype and device of `like`."""
    return scale(level.sigma, like) * noise(like, START, 0)


def sample(
    denoise: Denoise,
    x: Image,
    path: Sequence[PathItem],
    sampler: Sampler,
    noise: NoiseSource | None = None,
    schedule: Schedule | None = None,
) -> Image:
    """Walk noise to an image along `path`; x is the noisy image at path[0].

    Shapes: x is (batch, channel, *space); levels broadcast over it.
    Range: the model's network units.
    Errors: ValueError as in `walk`.
    Source: Karras et al. 2022 (arXiv:2206.00364), algorithm 1, generalised to alpha != 1.

    >>> sample(denoise, start(path[0], noise, like), path, DDIM()).shape  # doctest: +SKIP
    torch.Size([1, 1, 8, 8])
    """
    for _, state in walk(denoise, x, path, sampler, noise, schedule):
        x = state
    return x


def walk(
    denoise: Denoise,
    x: Image,
    path: Sequence[PathItem],
    sampler: Sampler,
    noise: NoiseSource | None = None,
    schedule: Schedule | None = None,
) -> Iterator[tuple[int, Image]]:
    """The states of `sample`: (hop index, image after that hop), the last being the result.

    Gradients flow if the caller asks for them: nothing here turns them off.
    Errors: ValueError if the path has fewer than two levels, starts with a `Renoise`, or its noise
    ratio rises other than at a `Renoise`.
    """
    _check_path(path)
    return _hops(denoise, x, path, sampler, noise, schedule)


def renoise(x: Image, now: NoiseLevel, to: NoiseLevel, eps: Image) -> Image:
    """`x` of level `now` with noise added up to level `to`, by the forward process.

    Source: Kingma et al. 2021 (arXiv:2107.00630) (the transition from s to t).
    """
    ratio = to.alpha / now.alpha
    added = (to.sigma**2 - (ratio * now.sigma) ** 2).clamp_min(0).sqrt()
    return scale(ratio, x) * x + scale(added, x) * eps


def _hops(
    denoise: Denoise,
    x: Image,
    path: Sequence[PathItem],
    sampler: Sampler,
    noise: NoiseSource | None,
    schedule: Schedule | None,
) -> Iterator[tuple[int, Image]]:
    memory: Any = None
    now, lap = _level(path[0]), 0
    for index, item in enumerate(path[1:]):
        to = _level(item)
        ends = None if isinstance(item, Renoise) else (now, to)
        at = Step(index, len(path) - 1, x, noise, schedule, _ahead(path, index), ends, lap)
        if isinstance(item, Renoise):
            x, memory, lap = renoise(x, now, to, at.noise()), None, lap + 1
        elif to.is_clean and not sampler.finishes:
            x = denoise(x, now).clean
        else:
            x, memory = sampler.step(denoise, x, now, to, memory, at)
        now = to
        yield index, x


def _level(item: PathItem) -> NoiseLevel:
    return item.level if isinstance(item, Renoise) else item


def _ahead(path: Sequence[PathItem], index: int) -> tuple[NoiseLevel, ...]:
    later = takewhile(lambda item: isinstance(item, NoiseLevel), path[index + 2 :])
    return tuple(_level(item) for item in later)


def _check_path(path: Sequence[PathItem]) -> None:
    if len(path) < 2 or isinstance(path[0], Renoise):
        raise ValueError(f"a path needs at least two levels and begins with one, got {len(path)}")
    for index in range(1, len(path)):
        before, item = _level(path[index - 1]), path[index]
        rises = bool((_level(item).noise_ratio > before.noise_ratio).any())
        if isinstance(item, NoiseLevel) and rises:
            raise ValueError(
                f"the noise ratio rises from level {index - 1} to level {index} of the path; "
                "a path goes from noise to clean (use Renoise(level) to go back)"
            )
        if isinstance(item, NoiseLevel) and bool((half_log_snr_gap(before, item).isnan()).any()):
            raise ValueError(f"levels {index - 1} and {index} of the path are both pure or clean")
