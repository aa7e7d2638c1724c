"""Annealed Langevin dynamics. Song & Ermon 2019 (arXiv:1907.05600); 2020 (arXiv:2006.09011)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from medidiff.diffusion.levels import Denoise, NoiseLevel, chosen, ddim_hop, diffuse, scale
from medidiff.diffusion.noise import NoiseSource
from medidiff.diffusion.samplers.langevin_chain import Chain, chains, least_steps
from medidiff.diffusion.sampling import Step
from medidiff.types import Image, Tensor
from medidiff.warned import warn

TOO_SHORT = 1.1**2 - 1
"""The excess of variance from which on a chain is clearly too short: a tenth of the deviation."""
Lengths = tuple[int, ...]
"""The Langevin steps at a level of the path and at those after it."""


@dataclass(frozen=True)
class AnnealedLangevin:
    """Langevin steps at each level of a path, each size in proportion to sigma^2.

    Source: Song & Ermon 2019 (arXiv:1907.05600), section 4.3; the last denoise is that of Song &
    Ermon 2020 (arXiv:2006.09011), section 3.5, and of Jolicoeur-Martineau et al. 2020
    (arXiv:2009.05475).
    Differs: on levels with alpha < 1 the size goes with sigma^2 as it does for x / alpha, and x is
    rescaled on the hop; from pure noise (alpha = 0) the hop is DDIM's.
    The levels of a path are NCSN's own: `UniformLogSNR` on `VE` is the geometric sequence.
    """

    kind: Literal["annealed-langevin"] = "annealed-langevin"
    step_size: float = 2e-5
    """Size of a step at the level of `sigma_last` (the papers' epsilon, the code's step_lr)."""
    sigma_last: float = 0.01
    """The noise ratio of the last level, where a step has that size."""
    steps: int = 100
    """Langevin steps at each level (the papers' T); version 2 has 5. With `settled`, the least."""
    settled: float | None = None
    """Where a hop needs more steps, they are taken until no more variance than this is left above
    the level's own, over it, for Gaussian data of any width (.05: 2.5 % of the deviation). None:
    `steps` everywhere, and a warning where they leave a tenth of the deviation."""
    convention: Literal["code", "paper"] = "code"
    """code: x + a score + sqrt(2 a) z, as the authors ran it; paper: x + a/2 score + sqrt(a) z, as
    the paper prints it. At the same size the code's step is twice as long."""
    last: Literal["denoise", "noisy"] = "denoise"
    """After the steps at the last level: a plain denoise (version 2) or nothing (version 1)."""

    def __post_init__(self) -> None:
        if not (self.step_size > 0 and self.sigma_last > 0 and self.steps >= 1):
            raise ValueError(
                "annealed-langevin needs step_size > 0, sigma_last > 0 and steps >= 1, got "
                f"{self.step_size}, {self.sigma_last}, {self.steps}"
            )
        if self.settled is not None and not (self.settled > 0 and self.share < 2):
            raise ValueError(
                "annealed-langevin needs settled > 0, and then steps that settle (below "
                f"2 sigma_last^2), got {self.settled} and {self.share:g} sigma_last^2"
            )

    @property
    def share(self) -> float:
        """The size of a step over the level's sigma^2, in the code's convention."""
        share = self.step_size / self.sigma_last**2
        return share / 2 if self.convention == "paper" else share

    @property
    def finishes(self) -> bool:
        """Steps are taken at the last noisy level, too."""
        return True

    def chains(self, path: Sequence[NoiseLevel]) -> list[Chain]:
        """How many steps are taken at each noisy level of a path, and what they leave of its hops.

        One more call of the denoiser follows the last of them where `last` is "denoise".
        """
        noisy = [level for level in path if not level.is_clean]
        return chains(noisy, self.share, self.steps, self.settled or math.inf)

    def step(
        self,
        denoise: Denoise,
        x: Image,
        now: NoiseLevel,
        to: NoiseLevel,
        memory: Lengths | None,
        at: Step,
    ) -> tuple[Image, Lengths]:
        """Langevin steps at `now`, then on to the next level's scale; draws 0, 1, ..."""
        steps, *after = memory or self.lengths(now, to, at)
        for draw in range(steps):
            x = self.update(denoise, x, now, at.noise(draw))
        return self.leave(denoise, x, now, to), tuple(after)

    def lengths(self, now: NoiseLevel, to: NoiseLevel, at: Step) -> Lengths:
        """Of the chains from the hop's first level on; warns where a run ends in short ones."""
        levels = [level for level in (now, to, *at.ahead) if not level.is_clean]
        found = self.chains(levels)
        ends_the_run = at.index + 1 + len(at.ahead) == at.count
        if self.settled is None and ends_the_run and found[-1].excess > TOO_SHORT:
            self._warn(found[-1].excess, least_steps(levels, self.share, TOO_SHORT))
        return tuple(chain.steps for chain in found)

    def _warn(self, excess: float, enough: int | None) -> None:
        longer = "" if enough is None else f"take steps >= {enough}, or "
        warn(
            f"annealed-langevin: {self.steps} steps a level are too few for the hops of this path: "
            f"the images keep noise that makes their standard deviation up to "
            f"{math.sqrt(1 + excess) - 1:.0%} too large; {longer}let the sampler choose "
            "(settled=0.05), or give the path more levels",
            stacklevel=4,
        )

    def update(self, denoise: Denoise, x: Image, now: NoiseLevel, noise: Image) -> Image:
        """One Langevin step at a level."""
        share = self.share
        x = x - scale(share * now.sigma, x) * denoise(x, now).eps
        return x + scale(math.sqrt(2 * share) * now.sigma, x) * noise

    def leave(self, denoise: Denoise, x: Image, now: NoiseLevel, to: NoiseLevel) -> Image:
        """x on the scale of the next level, or the result where that is the clean one."""
        if to.is_clean:
            return denoise(x, now).clean if self.last == "denoise" else x
        silent = now.alpha == 0
        if not bool(silent.any()):
            return scale(to.alpha / now.alpha, x) * x
        here = denoise(x, now)
        gain = torch.where(silent, 0.0, to.alpha / now.alpha)
        return chosen(silent, ddim_hop(here, to), scale(gain, x) * x)


@dataclass(frozen=True)
class LangevinInpainting:
    """`langevin` with what is known pasted into x, noised to the level.

    Shapes: clean as x; mask broadcasts to x, 1 where clean is known.
    Source: Song & Ermon 2019 (arXiv:1907.05600), appendix B.3.
    """

    langevin: AnnealedLangevin
    clean: Image
    mask: Tensor
    fresh: Literal["step", "level"] = "step"
    """step: new noise before each Langevin step (NCSNv2's code); level: one noise a level, pasted
    again after each step (NCSN's code)."""

    @property
    def finishes(self) -> bool:
        """As the sampler inside."""
        return True

    def step(
        self,
        denoise: Denoise,
        x: Image,
        now: NoiseLevel,
        to: NoiseLevel,
        memory: Lengths | None,
        at: Step,
    ) -> tuple[Image, Lengths]:
        """The known part's noises are the draws after the Langevin steps' own."""
        steps, *after = memory or self.langevin.lengths(now, to, at)
        for draw in range(steps):
            x = self._paste(x, now, at.noise(steps + (draw if self.fresh == "step" else 0)))
            x = self.langevin.update(denoise, x, now, at.noise(draw))
        if self.fresh == "level":
            x = self._paste(x, now, at.noise(steps))
        x = self.langevin.leave(denoise, x, now, to)
        if to.is_clean and self.langevin.last == "denoise":
            x = self._paste(x, to, torch.zeros_like(x))
        return x, tuple(after)

    def _paste(self, x: Image, level: NoiseLevel, noise: Image) -> Image:
        return x * (1 - self.mask) + diffuse(self.clean, level, noise) * self.mask


@dataclass(frozen=True)
class InterpolatedNoise:
    """Noise for `count` images between each two ends: cos(a) p + sin(a) q, a from 0 to pi / 2.

    Every mixture is unit Gaussian again, and neighbours are correlated, so that a sampler draws an
    interpolation. p and q are draws 2 d and 2 d + 1 of `source`, for a batch of 1 / count of ours;
    the images of one pair stand next to each other.
    Source: Song & Ermon 2020 (arXiv:2006.09011), appendix B.6.
    """

    source: NoiseSource
    count: int

    def __call__(self, like: Image, step: int, draw: int = 0) -> Image:
        if like.shape[0] % self.count:
            raise ValueError(
                f"interpolated noise is for multiples of {self.count} images, got {like.shape[0]}"
            )
        ends = like[:: self.count]
        angle = torch.linspace(0, math.pi / 2, self.count, dtype=torch.float64, device=like.device)
        angle = angle.reshape(1, -1, *(1,) * (like.ndim - 1))
        first, second = (self.source(ends, step, 2 * draw + end)[:, None] for end in (0, 1))
        mixed = angle.cos().to(like.dtype) * first + angle.sin().to(like.dtype) * second
        return mixed.reshape(like.shape)


def largest_distance(images: Tensor) -> float:
    """The largest Euclidean distance between two images: version 2's first sigma.

    Shapes: images (count, channel, *space). Source: arXiv:2006.09011, section 3.
    """
    return float(torch.pdist(images.flatten(1).double()).max())


def level_ratio(dimensions: int, overlap: float = 0.5) -> float:
    """The ratio of one sigma to the next that leaves `overlap` between neighbouring shells.

    The root of Phi(sqrt(2 D)(r - 1) + 3 r) - Phi(sqrt(2 D)(r - 1) - 3 r) = overlap.
    Source: Song & Ermon 2020 (arXiv:2006.09011), section 3.
    """

    def excess(ratio: float) -> float:
        shift = math.sqrt(2 * dimensions) * (ratio - 1)
        return _phi(shift + 3 * ratio) - _phi(shift - 3 * ratio) - overlap

    low, high = 1.0, 2.0
    while excess(high) > 0 and high < 1e6:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return (low + high) / 2


def level_count(sigma_first: float, sigma_last: float, dimensions: int) -> int:
    """How many geometric levels `level_ratio` asks for between two sigmas, ends included."""
    steps = math.log(sigma_first / sigma_last) / math.log(level_ratio(dimensions))
    return math.ceil(steps) + 1


def step_size_for(sigma_last: float, ratio: float, steps: int) -> float:
    """The step size whose variance after `steps` steps at a level comes nearest to the level's own.

    A step scales the score's Gaussian by 1 - c, c = step_size / sigma_last^2, and adds 2 c, so that
    the variance over sigma^2 goes from ratio^2 to (1 - c)^(2 T) (ratio^2 - s) + s, s = 2 / (2 - c).
    Source: Song & Ermon 2020 (arXiv:2006.09011), section 3 (the code's convention).
    """

    def excess(share: float) -> float:
        settled = 2 / (2 - share)
        return abs((1 - share) ** (2 * steps) * (ratio**2 - settled) + settled - 1)

    shares = [10 ** (-6 + 6 * index / 60000) for index in range(60000)]
    return min(shares, key=excess) * sigma_last**2


def _phi(x: float) -> float:
    return math.erfc(-x / math.sqrt(2)) / 2
