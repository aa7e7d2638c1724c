"""How much fresh noise a hop adds: x_to | x_now ~ N(mean, fresh + gain^2 Cov[clean | x_now]).

    fresh     the noise that the process leaves free: beta-tilde in DDPM, eta^2 of it in DDIM
    gain      d mean / d clean at fixed x
    Cov       what the clean image is not known by: 0 (small), by Gamma, an SN or NPR head, ...

Bao et al. 2022 (arXiv:2201.06503), and 2022 (arXiv:2206.07309), theorems 1 and 3. The
variances that a network gives whole ("learned", "learned-range") and DDPM's "large" are functions
of the hop beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch

from medidiff.diffusion.levels import (
    Denoise,
    Estimate,
    NoiseLevel,
    diffuse,
    half_log_snr_gap,
    scale,
)
from medidiff.diffusion.noise import NoiseSource
from medidiff.types import Image, Tensor


@dataclass(frozen=True, eq=False)
class Transition:
    """x_to given x_now: N(mean, variance). The variance broadcasts over the mean."""

    mean: Image
    variance: Tensor


@dataclass(frozen=True)
class OptimalVariance:
    """The variance that is best for the bound, from what is known of Cov[clean | x].

    Source: Bao et al. 2022 (arXiv:2201.06503), section 3 ("gamma"); Bao et al. 2022
    (arXiv:2206.07309) ("sn", "npr"); their code's "heuristic" has 1 for E[eps^2].
    The covariance is held within [0, half_range^2], Bao's bounds.
    Errors: ValueError at a step if the model gives no spread and the source needs one.
    """

    kind: Literal["optimal"] = "optimal"
    source: Literal["gamma", "sn", "npr", "heuristic"] = "gamma"
    """What `Estimate.spread` holds: Gamma (`with_gamma`), E[eps^2 | x] or E[(eps - eps-hat)^2 | x];
    heuristic needs none."""
    half_range: float = 1.0
    """Half the range of clean images in network units; inf for latents."""

    def __post_init__(self) -> None:
        if not self.half_range > 0:
            raise ValueError(f"optimal variance needs half_range > 0, got {self.half_range}")

    def clean_variance(self, here: Estimate, now: NoiseLevel) -> Image:
        """The variance of each value of the clean image given x.

        Where alpha is 0 the noise says nothing about it and the bound is taken.
        """
        most = self.half_range**2
        of_clean = scale(now.noise_ratio**2, here.eps) * self._eps_variance(here)
        return torch.where(of_clean.isnan(), most, of_clean).clamp(0, most)

    def _eps_variance(self, here: Estimate) -> Image:
        if self.source == "heuristic":
            return 1 - here.eps**2
        if here.spread is None:
            raise ValueError(
                f"variance source {self.source!r} needs a model that gives a spread "
                "(a second head, or with_gamma(denoise, table))"
            )
        if self.source == "gamma":
            return 1 - here.spread
        return here.spread if self.source == "npr" else here.spread - here.eps**2


StepVariance: TypeAlias = Literal["small", "large", "learned", "learned-range"]
AnyVariance: TypeAlias = StepVariance | OptimalVariance


@dataclass(frozen=True, eq=False)
class GammaTable:
    """Gamma = E[|eps-hat|^2] / dimensions of a model at some times: an artefact of the model.

    Shapes: times (rising) and values are (K,), float64. Between the times it is linear.
    Source: Bao et al. 2022 (arXiv:2201.06503).
    """

    times: Tensor
    values: Tensor

    def __call__(self, level: NoiseLevel) -> Tensor:
        """Gamma at a level, shaped as the level."""
        if len(self.times) == 1:
            return self.values[0].expand(level.t.shape)
        t = level.t.double().contiguous()
        # an ulp below a time of the table is that time
        behind = torch.searchsorted(self.times - 1e-12, t).clamp(1, len(self.times) - 1)
        first, last = self.times[behind - 1], self.times[behind]
        part = ((t - first) / (last - first)).clamp(0, 1)
        return torch.lerp(self.values[behind - 1], self.values[behind], part)


def gamma_table(
    denoise: Denoise,
    batches: Iterable[tuple[Image, NoiseSource]],
    levels: Sequence[NoiseLevel],
) -> GammaTable:
    """Gamma by Monte Carlo: the mean square of the model's noise over clean images and noise.

    Shapes: levels are (), in rising order of t. Each batch comes with its own noise source (keyed
    by the image), drawn once a level: one pass over the images.
    Source: Bao et al. 2022 (arXiv:2201.06503).
    """
    sums, count = torch.zeros(len(levels), dtype=torch.float64), 0
    for clean, noise in batches:
        for index, level in enumerate(levels):
            here = denoise(diffuse(clean, level, noise(clean, index)), level)
            sums[index] += here.eps.double().square().flatten(1).mean(1).sum().cpu()
        count += len(clean)
    if count == 0:
        raise ValueError("a Gamma table needs at least one clean image")
    return GammaTable(torch.stack([level.t for level in levels]).cpu(), sums / count)


def with_gamma(denoise: Denoise, table: GammaTable) -> Denoise:
    """`denoise` with Gamma at the level as its spread, for `OptimalVariance(source="gamma")`."""

    def add(x: Image, level: NoiseLevel) -> Estimate:
        here = denoise(x, level)
        return Estimate(here.clean, here.eps, scale(table(level), x) + torch.zeros_like(x))

    return add


def centred(denoise: Denoise) -> Denoise:
    """`denoise`, whose spread is E[eps^2 | x], with Cov[eps | x] = E[eps^2 | x] - eps^2 instead.

    Guidance and clipping change eps: between this and `uncentred` they leave the covariance as the
    network's own two outputs say it, as the authors' code has it (Bao et al. 2022,
    arXiv:2206.07309).
    """

    def change(x: Image, level: NoiseLevel) -> Estimate:
        here = denoise(x, level)
        return Estimate(here.clean, here.eps, _given(here) - here.eps**2)

    return change


def uncentred(denoise: Denoise) -> Denoise:
    """`denoise` with the spread E[eps^2 | x] that belongs to its eps; undoes `centred`."""

    def change(x: Image, level: NoiseLevel) -> Estimate:
        here = denoise(x, level)
        return Estimate(here.clean, here.eps, _given(here) + here.eps**2)

    return change


def _given(here: Estimate) -> Image:
    if here.spread is None:
        raise ValueError("a second moment of the noise needs a model that gives a spread")
    return here.spread


def small_variance(now: NoiseLevel, to: NoiseLevel) -> Tensor:
    """beta-tilde, the variance of x_to given x_now and the clean image.

    Source: Ho et al. 2020 (arXiv:2006.11239), eq. 7, for any two levels.
    """
    return to.sigma**2 * renewed(now, to)


def large_variance(now: NoiseLevel, to: NoiseLevel) -> Tensor:
    """beta, the variance of the forward step. Ho et al. 2020 (arXiv:2006.11239), section 3.2."""
    return now.sigma**2 * renewed(now, to)


def renewed(now: NoiseLevel, to: NoiseLevel) -> Tensor:
    """1 - exp(-2h), the share of the noise at `to` that DDPM draws afresh."""
    return -torch.expm1(-2 * half_log_snr_gap(now, to))


def posterior_mean(x: Image, clean: Image, now: NoiseLevel, to: NoiseLevel) -> Image:
    """The mean of x_to given x_now = x and the clean image.

    Source: Ho et al. 2020 (arXiv:2006.11239), eq. 7, for any two levels.
    """
    gap = half_log_snr_gap(now, to)
    of_x = to.sigma / now.sigma * (-gap).exp()
    return scale(to.alpha * renewed(now, to), x) * clean + scale(of_x, x) * x


def clean_gain(now: NoiseLevel, to: NoiseLevel, fresh: Tensor) -> Tensor:
    """d mean / d clean at fixed x, where `fresh` is the share of sigma_to^2 drawn afresh.

    Source: Bao et al. 2022 (arXiv:2201.06503): sqrt(abar_s) - sqrt(bbar_s - lam^2)
    sqrt(abar_n / bbar_n).
    """
    return to.alpha * (1 - (1 - fresh).sqrt() * (-half_log_snr_gap(now, to)).exp())


def optimal_transition(
    mean: Image,
    here: Estimate,
    now: NoiseLevel,
    to: NoiseLevel,
    fresh: Tensor,
    variance: OptimalVariance | None,
) -> Transition:
    """N(mean, fresh sigma_to^2 + gain^2 Cov[clean | x]); without a model of Cov, Cov = 0."""
    own = scale(to.sigma**2 * fresh, mean)
    if variance is None:
        return Transition(mean, own)
    gain = scale(clean_gain(now, to, fresh) ** 2, mean)
    return Transition(mean, own + gain * variance.clean_variance(here, now))


def ddpm_transition(
    x: Image,
    here: Estimate,
    now: NoiseLevel,
    to: NoiseLevel,
    variance: AnyVariance,
    last: Tensor | None = None,
) -> Transition:
    """DDPM's hop: the posterior with the clean image replaced by its estimate.

    `last` replaces beta-tilde (and beta) on the hop onto a clean level, where beta-tilde is 0: the
    papers' code takes the beta-tilde of the hop before.
    Source: Ho et al. 2020 (arXiv:2006.11239), eqs. 6, 7; Nichol & Dhariwal 2021
    (arXiv:2102.09672), eq. 15, for "learned-range", with v not squashed.
    """
    mean = posterior_mean(x, here.clean, now, to)
    if isinstance(variance, OptimalVariance):
        return optimal_transition(mean, here, now, to, renewed(now, to), variance)
    if variance == "learned":
        return Transition(mean, _spread_of(here, variance).exp())
    small, large = small_variance(now, to), large_variance(now, to)
    if last is not None:
        small = torch.where(to.sigma == 0, last, small)
    if variance == "small":
        return Transition(mean, scale(small, x))
    if variance == "large":
        # the last step's beta is the whole noise left: the code repeats beta-tilde there
        held = large if last is None else torch.where(to.sigma == 0, last, large)
        return Transition(mean, scale(held, x))
    share = (_spread_of(here, variance) + 1) / 2
    low, high = scale(small.log(), x), scale(large.log(), x)
    return Transition(mean, (share * high + (1 - share) * low).exp())


def hold_noise(transition: Transition, mean_size: float) -> Transition:
    """The transition with E|noise| of each value held below `mean_size`, in network units.

    Source: Bao et al. 2022 (arXiv:2201.06503), section 5 and appendix F: at the last noisy hop at
    most 1 or 2 of 255 grey levels, 2 / 255 each in the range [-1, 1].
    """
    most = mean_size**2 * math.pi / 2
    return Transition(transition.mean, transition.variance.clamp_max(most))


def _spread_of(here: Estimate, variance: str) -> Image:
    if here.spread is None:
        raise ValueError(f"variance {variance!r} needs a model that gives a spread (a second head)")
    return here.spread
