"""The variational bound on -log p(clean), its terms, and the discretised decoder.

    bound = KL(q(x_T | clean) || prior) + sum KL(q(x_to | x_now, clean) || p(x_to | x_now))
            - log p(clean | x_1)

Everything is in nats over channels and voxels, per image; `bits_per_dim` divides. Ho et al. 2020
(arXiv:2006.11239), eq. 5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Protocol

import torch

from medidiff.diffusion.levels import Denoise, Estimate, NoiseLevel, diffuse, scale
from medidiff.diffusion.noise import NoiseSource
from medidiff.diffusion.variance import (
    AnyVariance,
    Transition,
    ddpm_transition,
    posterior_mean,
    small_variance,
)
from medidiff.types import Image, Tensor


class AnyDecoder(Protocol):
    """p(clean | x_1): -log of each value's mass or density, in nats."""

    def nll(self, clean: Image, p: Transition) -> Image: ...


@dataclass(frozen=True)
class Decoder:
    """p(clean | x_1): a Gaussian's mass in the bin of each grey level.

    Source: Ho et al. 2020 (arXiv:2006.11239), section 3.3.
    """

    kind: Literal["discretised-gaussian"] = "discretised-gaussian"
    grey_levels: int = 256
    """Grey levels of the images."""
    half_range: float = 1.0
    """Network value of the brightest level; the darkest is its negative."""
    cdf: Literal["exact", "tanh"] = "exact"
    """tanh is the approximation of DDPM's code, 3e-4 off."""

    def __post_init__(self) -> None:
        if self.grey_levels < 2 or not self.half_range > 0:
            raise ValueError(
                "the decoder needs grey_levels >= 2 and half_range > 0, got "
                f"{self.grey_levels}, {self.half_range}"
            )

    def nll(self, clean: Image, p: Transition) -> Image:
        """-log of the mass in each value's bin, in nats. The outer bins reach to infinity."""
        half_bin = self.half_range / (self.grey_levels - 1)
        # of 256 levels in [-1, 1] the code's 0.999
        edge = self.half_range - 0.255 * half_bin
        rest, inverse = clean - p.mean, p.variance.rsqrt()
        above = self._cdf((rest + half_bin) * inverse)
        below = self._cdf((rest - half_bin) * inverse)
        mass = torch.where(clean > edge, 1 - below, above - below)
        mass = torch.where(clean < -edge, above, mass)
        return -mass.clamp_min(1e-12).log()

    def _cdf(self, z: Image) -> Image:
        if self.cdf == "exact":
            return torch.special.ndtr(z)
        return (1 + (math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)).tanh()) / 2


@dataclass(frozen=True, eq=False)
class Bound:
    """The terms of the bound: the prior's, then a hop's each from noise to clean.

    Shapes: terms (hops + 1, batch), nats; estimates, one each hop; dimensions, values an image.
    """

    terms: Tensor
    estimates: tuple[Estimate, ...]
    dimensions: int

    @property
    def nats(self) -> Tensor:
        """The bound on -log p(clean), (batch,)."""
        return self.terms.sum(0)

    @property
    def bits_per_dim(self) -> Tensor:
        """The bound in bits a value, (batch,)."""
        return self.nats / (self.dimensions * math.log(2))


def gaussian_kl(q: Transition, p: Transition) -> Image:
    """KL(q || p) of each value, in nats. Ho et al. 2020 (arXiv:2006.11239), eq. 5."""
    ratio = q.variance / p.variance
    return (ratio - 1 - ratio.log() + (q.mean - p.mean) ** 2 / p.variance) / 2


def prior_kl(clean: Image, level: NoiseLevel) -> Image:
    """KL(q(x | clean) || N(0, alpha^2 + sigma^2)) of each value at the noisiest level.

    On variance-preserving levels the prior is N(0, 1).
    """
    q = Transition(scale(level.alpha, clean) * clean, scale(level.sigma**2, clean))
    prior = scale(level.alpha**2 + level.sigma**2, clean)
    return gaussian_kl(q, Transition(torch.zeros_like(clean), prior))


def bound_term(
    clean: Image,
    x: Image,
    now: NoiseLevel,
    to: NoiseLevel,
    p: Transition,
    decoder: AnyDecoder,
) -> Image:
    """One hop's term for each value, in nats; onto a clean level it is the decoder's.

    Shapes: levels are () or (batch,): images of a batch may stand at different hops.
    Source: Ho et al. 2020 (arXiv:2006.11239), eq. 5.
    """
    ends = scale((to.sigma == 0).double(), x) > 0
    # any positive variance keeps the divergence finite where the decoder's term is taken instead
    narrow = torch.where(to.sigma == 0, 1.0, small_variance(now, to))
    q = Transition(posterior_mean(x, clean, now, to), scale(narrow, x))
    return torch.where(ends, decoder.nll(clean, p), gaussian_kl(q, p))


def bound(
    denoise: Denoise,
    clean: Image,
    path: Sequence[NoiseLevel],
    noise: NoiseSource,
    variance: AnyVariance = "small",
    decoder: AnyDecoder | None = None,
    decoder_variance: Tensor | None = None,
) -> Bound:
    """The variational bound along a path of levels from the noisiest to clean.

    Hop number i draws noise(clean, i). The variance of the last hop, onto clean, is
    `decoder_variance`, or beta-tilde of the hop before; "learned" and "learned-range" keep theirs.
    Source: Ho et al. 2020 (arXiv:2006.11239), eq. 5; Bao et al. 2022 (arXiv:2201.06503).
    Errors: ValueError if the path has fewer than two noisy levels and no decoder_variance.
    """
    decoder = decoder or Decoder()
    last = decoder_variance
    if last is None:
        if len(path) < 3:
            raise ValueError("the bound of one hop needs a decoder_variance")
        last = small_variance(path[-3], path[-2])
    terms, estimates = [prior_kl(clean, path[0])], []
    for index, (now, to) in enumerate(pairwise(path)):
        x = diffuse(clean, now, noise(clean, index))
        here = denoise(x, now)
        chosen: AnyVariance = variance
        if to.is_clean and variance not in ("learned", "learned-range"):
            chosen = "small"
        p = ddpm_transition(x, here, now, to, chosen, last)
        terms.append(bound_term(clean, x, now, to, p, decoder))
        estimates.append(here)
    sums = torch.stack([term.flatten(1).sum(1) for term in terms])
    return Bound(sums, tuple(estimates), clean[0].numel())
