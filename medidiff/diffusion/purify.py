"""Purification: an image noised part of the way and walked back. Nie et al. 2022 (2205.07460).

    x --diffuse--> level t* --reverse SDE, flow or DDPM--> purified

The gradient is that of the discrete walk itself, by backpropagation with recomputed hops: one
image a hop is kept. The adjoint SDE of the paper (section 3.3) differs from it by its own
discretisation error and is not offered; an attack must see the exact one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.checkpoint import checkpoint

from medidiff.diffusion.levels import Denoise, NoiseLevel, diffuse, scale
from medidiff.diffusion.noise import NoiseSource
from medidiff.diffusion.sampling import START, Sampler, Step, sample
from medidiff.diffusion.schedules import Schedule
from medidiff.types import Image


@dataclass(frozen=True)
class Checkpointed:
    """`sampler` whose hops are computed again in the backward pass instead of being kept.

    Source: Chen et al. 2016 (arXiv:1604.06174). The noise is keyed, so it is the same again.
    """

    sampler: Sampler

    @property
    def finishes(self) -> bool:
        """As the sampler inside."""
        return self.sampler.finishes

    def step(
        self, denoise: Denoise, x: Image, now: NoiseLevel, to: NoiseLevel, memory: Any, at: Step
    ) -> tuple[Image, Any]:
        """The sampler's step."""

        def again(x: Image) -> tuple[Image, Any]:
            return self.sampler.step(denoise, x, now, to, memory, at)

        found: Any = checkpoint(again, x, use_reentrant=False, preserve_rng_state=False)
        return found


@dataclass(frozen=True)
class Later:
    """`source` with its steps counted from `offset` on: another round's noise."""

    source: NoiseSource
    offset: int

    def __call__(self, like: Image, step: int, draw: int = 0) -> Image:
        """The noise of step `offset + step`."""
        return self.source(like, step + self.offset, draw)


def purify(
    denoise: Denoise,
    x: Image,
    path: Sequence[NoiseLevel],
    sampler: Sampler,
    noise: NoiseSource,
    schedule: Schedule | None = None,
    noised: NoiseLevel | None = None,
    rounds: int = 1,
) -> Image:
    """x noised to the first level of `path` and walked along it, `rounds` times over.

    `noised` is another level to noise to (the paper's code noises by a table of betas, or to a time
    jittered around t*, and starts the walk at t* all the same). Round r noises by the draw r of
    the prior's key, and its hops are counted on from the round before.
    `PredictorCorrector(predictor="euler-maruyama", corrector="none")` is the paper's reverse SDE;
    with dynamics "flow" its ODE; `DDPM` the variant of Blau et al.

    Shapes: x (batch, channel, *space), differentiable.
    Errors: ValueError if rounds < 1.
    Source: Nie et al. 2022 (arXiv:2205.07460).
    """
    if rounds < 1:
        raise ValueError(f"purification needs at least 1 round, got {rounds}")
    for turn in range(rounds):
        eps = noise(x, START, turn)
        x = diffuse(x, path[0] if noised is None else noised, eps)
        source = Later(noise, turn * (len(path) - 1))
        x = sample(denoise, x, path, Checkpointed(sampler), source, schedule)
    return x


@dataclass(frozen=True)
class LangevinPurification:
    """Langevin dynamics of the clean images' score, tied to the image by a Gaussian.

    Source: Nie et al. 2022 (arXiv:2205.07460), appendix C.5 (the baseline "LD-SDE").
    """

    rate: float = 0.01
    """The paper's lambda: how fast the dynamics goes."""
    tie: float = 0.001
    """Variance of the Gaussian around the image (sigma^2)."""
    temperature: float = 5.0
    """Factor of the noise (eta)."""

    def __call__(
        self,
        denoise: Denoise,
        x: Image,
        level: NoiseLevel,
        lengths: Sequence[float],
        noise: NoiseSource,
        tied_to: Image | None = None,
    ) -> Image:
        """x after steps of those lengths, all with the score at `level`.

        Shapes: x (batch, channel, *space). `tied_to` is x itself unless a round has gone before.
        """
        centre = x if tied_to is None else tied_to
        for index, length in enumerate(lengths):

            def hop(x: Image, centre: Image, index: int = index, length: float = length) -> Image:
                score = -denoise(x, level).eps / scale(level.sigma, x)
                pull = (x - centre) / self.tie
                mean = x + length * self.rate / 2 * (score - pull)
                return mean + self.temperature * (self.rate * length) ** 0.5 * noise(x, index)

            found: Any = checkpoint(hop, x, centre, use_reentrant=False, preserve_rng_state=False)
            x = found
        return x
