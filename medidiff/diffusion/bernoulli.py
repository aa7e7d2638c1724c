"""Bernoulli diffusion of masks: BerDiff. Chen et al. 2023 (arXiv:2304.04429).

A voxel is 0 or 1. With keep = alpha^2 (alpha-bar of a variance-preserving schedule)

    q(x | clean) = Bernoulli(keep clean + (1 - keep) / 2)

An `Estimate` of this process has in `clean` the probability that the clean voxel is 1 and in `eps`
that x is flipped. The last hop is the driver's: it leaves the probability.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import torch
from torch.nn import functional

from medidiff.diffusion.denoiser import Network
from medidiff.diffusion.levels import Denoise, Estimate, NoiseLevel, scale
from medidiff.diffusion.noise import NoiseSource
from medidiff.diffusion.sampling import START, Step
from medidiff.diffusion.schedules import AnySchedule, Discrete
from medidiff.diffusion.times import UniformSteps
from medidiff.types import Image, Tensor

Says: TypeAlias = Literal["clean", "flip"]
"""Whether the network's logit is of a clean voxel of 1, or of a voxel that is flipped."""

LEAST = 1e-6
"""Probabilities in a divergence are kept this far from 0 and 1, as float32 can hold."""


def keep(level: NoiseLevel) -> Tensor:
    """The share of voxels that are still the clean ones; the others are a coin's."""
    return level.alpha**2


def flipped_share(clean: Image, level: NoiseLevel) -> Image:
    """q(x = 1 | clean). Source: Chen et al. 2023 (arXiv:2304.04429)."""
    kept = scale(keep(level), clean)
    return kept * clean + (1 - kept) / 2


def tossed(probability: Image, eps: Image) -> Image:
    """0 or 1: a coin of this probability, thrown by a unit Gaussian field."""
    return (torch.special.ndtr(eps) < probability).to(probability.dtype)


def corrupt(clean: Image, level: NoiseLevel, eps: Image) -> Image:
    """A draw of x given a clean mask, by a unit Gaussian field. Shapes: all those of `clean`."""
    return tossed(flipped_share(clean, level), eps)


def fair(like: Image, noise: NoiseSource) -> Image:
    """A draw from the prior: fair coins."""
    return tossed(torch.full_like(like, 0.5), noise(like, START, 0))


def posterior(x: Image, clean: Image, now: NoiseLevel, to: NoiseLevel) -> Image:
    """q(x_to = 1 | x, clean) by Bayes, for any two levels.

    Shapes: x and clean (batch, channel, *space); clean may be a probability, which is then put in
    for the mask.
    Source: Chen et al. 2023 (arXiv:2304.04429).
    """
    ratio = torch.where(keep(to) == 0, 1.0, keep(now) / keep(to))
    moved = scale(ratio, x)
    one = (moved * x + (1 - moved) / 2) * flipped_share(clean, to)
    zero = (moved * (1 - x) + (1 - moved) / 2) * (1 - flipped_share(clean, to))
    return one / (one + zero)


def reverse(
    x: Image, probability: Image, now: NoiseLevel, to: NoiseLevel, rule: Literal["mixture", "mean"]
) -> Image:
    """p(x_to = 1 | x) of a model that gives the clean voxels' probabilities. See `BerDiff.rule`."""
    if rule == "mean":
        return posterior(x, probability, now, to)
    ones, zeros = torch.ones_like(x), torch.zeros_like(x)
    of_one, of_zero = posterior(x, ones, now, to), posterior(x, zeros, now, to)
    return probability * of_one + (1 - probability) * of_zero


@dataclass(frozen=True)
class BerDiff:
    """Ancestral sampling of masks.

    Source: Chen et al. 2023 (arXiv:2304.04429), and their DDIM form.
    """

    kind: Literal["berdiff"] = "berdiff"
    rule: Literal["mixture", "mean"] = "mixture"
    """mixture averages the posteriors of both possible masks, which is exact; mean is the paper's:
    the posterior with the probability put in for the mask."""

    @property
    def finishes(self) -> bool:
        """The driver takes the last hop: the probability."""
        return False

    def step(
        self, denoise: Denoise, x: Image, now: NoiseLevel, to: NoiseLevel, memory: None, at: Step
    ) -> tuple[Image, None]:
        """A draw of the mask at the next level."""
        share = reverse(x, denoise(x, now).clean, now, to, self.rule)
        return tossed(share, at.noise()), None


@dataclass(frozen=True, eq=False)
class MaskDenoiser:
    """A network's logit as an `Estimate` of a mask. Shapes: as in `Denoiser`; label is t."""

    network: Network
    says: Says = "flip"
    condition: Tensor | None = None
    concat: Image | None = None

    def __call__(self, x: Image, level: NoiseLevel) -> Estimate:
        label = level.t.to(device=x.device, dtype=torch.float32).expand(x.shape[0])
        said = self.network(x, label, self.condition, self.concat).to(x.dtype).sigmoid()
        other = (x - said).abs()
        return Estimate(said, other) if self.says == "clean" else Estimate(other, said)


@dataclass(frozen=True)
class BernoulliLoss:
    """The divergence of one hop's posterior plus the cross-entropy of the network, in nats.

    Source: Chen et al. 2023 (arXiv:2304.04429), equal shares.
    Differs: the mean over voxels; the hop's reverse is chosen by `rule` as in `BerDiff`.
    """

    schedule: AnySchedule
    says: Says = "flip"
    rule: Literal["mixture", "mean"] = "mixture"
    times: UniformSteps = field(default_factory=UniformSteps)

    def levels(self, draw: Tensor) -> NoiseLevel:
        """The levels to train, one for each uniform number of `draw`, (batch,) in (0, 1)."""
        return self.times.levels(self.schedule, draw)

    def __call__(
        self,
        network: Network,
        clean: Image,
        levels: NoiseLevel,
        eps_noise: Image,
        condition: Tensor | None = None,
        concat: Image | None = None,
    ) -> Tensor:
        """The loss of each example, (batch,). Shapes: clean and eps (batch, channel, *space)."""
        x = corrupt(clean, levels, eps_noise)
        here = MaskDenoiser(network, self.says, condition, concat)(x, levels)
        steps = self.schedule.steps if isinstance(self.schedule, Discrete) else self.times.steps
        to = self.schedule((levels.t - 1 / steps).clamp_min(0))
        true = posterior(x, clean, levels, to)
        ours = reverse(x, here.clean, levels, to, self.rule)
        guess = here.clean.clamp(LEAST, 1 - LEAST)
        entropy = functional.binary_cross_entropy(guess, clean, reduction="none")
        return (divergence(true, ours) + entropy).flatten(1).mean(1)


def divergence(p: Image, q: Image) -> Image:
    """KL of two coins, in nats, elementwise; 0 log 0 is 0."""
    p, q = p.clamp(0, 1), q.clamp(LEAST, 1 - LEAST)
    return torch.xlogy(p, p / q) + torch.xlogy(1 - p, (1 - p) / (1 - q))
