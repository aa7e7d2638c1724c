"""EDM's second-order sampler. Karras et al. 2022 (arXiv:2206.00364)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import torch

from medidiff.diffusion.levels import (
    Denoise,
    Estimate,
    NoiseLevel,
    chosen_level,
    ddim_hop,
    scale,
)
from medidiff.diffusion.sampling import Step, renoise
from medidiff.types import Image, Tensor


class ChurnOptions(Protocol):
    """How much noise is added back before each hop, and where."""

    @property
    def churn(self) -> float: ...

    @property
    def churn_min(self) -> float: ...

    @property
    def churn_max(self) -> float: ...

    @property
    def noise_scale(self) -> float: ...


@dataclass(frozen=True)
class Heun:
    """Heun's method in the noise ratio, with EDM's churn. Two network calls a hop.

    Source: Karras et al. 2022 (arXiv:2206.00364), algorithm 2 (algorithm 1 at churn 0); eq. 5 of
    appendix D for `second_at`; appendix B.4 for `variable`.
    Differs: for any alpha, through x / alpha, where noise_ratio is the paper's sigma. From pure
    noise (alpha = 0) that quotient does not exist and the hop is an Euler one; one hop of
    lower order leaves the order of the whole.
    """

    kind: Literal["heun"] = "heun"
    order: Literal[1, 2] = 2
    """1 is Euler's method, with one call a hop."""
    second_at: float = 1.0
    """Where in the hop the second call stands: 1 its end (Heun), 2/3 Ralston, 1/2 the midpoint."""
    variable: Literal["noise-ratio", "flow", "time"] = "noise-ratio"
    """What the steps are taken in. flow: sigma / (alpha + sigma), the time of straight lines, in
    which the first hop from pure noise is of second order too. time: the schedule's own; the scale
    of the signal is integrated too and the last hop is an Euler one onto the clean level's time."""
    churn: float = 0.0
    """How much noise is added back over the whole path (S_churn); 0 is deterministic."""
    churn_min: float = 0.0
    """Smallest noise ratio at which noise is added back."""
    churn_max: float = math.inf
    """Largest noise ratio at which noise is added back."""
    noise_scale: float = 1.0
    """Standard deviation of the noise that is added back (S_noise)."""

    def __post_init__(self) -> None:
        check_churn(self.kind, self)
        if self.order not in (1, 2) or not 0 < self.second_at <= 1:
            raise ValueError(
                "heun needs order 1 or 2 and 0 < second_at <= 1, got "
                f"{self.order}, {self.second_at}"
            )

    @property
    def finishes(self) -> bool:
        """With churn the last hop, too, begins by adding noise; in time it is no plain denoise."""
        return self.churn > 0 or self.variable == "time"

    def step(
        self, denoise: Denoise, x: Image, now: NoiseLevel, to: NoiseLevel, memory: None, at: Step
    ) -> tuple[Image, None]:
        """Churn, an Euler step, and its correction by the noise estimate further on."""
        x, now = churned(self, x, now, at)
        if self.variable == "time":
            return self._in_time(denoise, x, now, to, at), None
        here = denoise(x, now)
        if to.is_clean or self.order == 1:
            return ddim_hop(here, to), None
        stage = self._stage(now, to, at)
        there = denoise(ddim_hop(here, stage), stage)
        share = 1 / (2 * self.second_at)
        x = ddim_hop(here, to)
        if self.variable == "flow":
            change = (there.eps - there.clean) - (here.eps - here.clean)
            length = (to.alpha + to.sigma) * (_flow_time(to) - _flow_time(now))
            return x + scale(share * length, x) * change, None
        return x + scale(share * _slope(now, to), x) * (there.eps - here.eps), None

    def _stage(self, now: NoiseLevel, to: NoiseLevel, at: Step) -> NoiseLevel:
        if self.second_at == 1:
            return to
        if self.variable == "flow":
            time = torch.lerp(_flow_time(now), _flow_time(to), self.second_at)
            return at.level(noise_ratio=time / (1 - time))
        start = torch.where(now.alpha == 0, to.noise_ratio, now.noise_ratio)
        return at.level(noise_ratio=start + self.second_at * (to.noise_ratio - start))

    def _in_time(
        self, denoise: Denoise, x: Image, now: NoiseLevel, to: NoiseLevel, at: Step
    ) -> Image:
        if at.schedule is None:
            raise ValueError("heun in time needs the schedule: give it to sample() or walk()")
        here = denoise(x, now)
        end = at.schedule.time_of(to.half_log_snr)
        if bool((now.alpha == 0).any()) or not bool(end.isfinite().all()):
            return ddim_hop(here, to)
        first, length = _rate(x, here, now, at), end - now.t
        if to.is_clean or self.order == 1:
            return x + scale(length, x) * first
        stage = at.level(t=now.t + self.second_at * length)
        middle = x + scale(self.second_at * length, x) * first
        second = _rate(middle, denoise(middle, stage), stage, at)
        share = 1 / (2 * self.second_at)
        return x + scale(length, x) * ((1 - share) * first + share * second)


@dataclass(frozen=True)
class DPM2:
    """The midpoint method in the logarithm of the noise ratio. Two network calls a hop.

    Source: Karras et al. 2022 (arXiv:2206.00364), algorithm 2 with the second call at the geometric
    mean, after Lu et al. 2022 (arXiv:2206.00927) (DPM-Solver-2); k-diffusion's "dpm_2"
    and, with eta 1, "dpm_2_ancestral".
    From pure noise the hop is of first order.
    """

    kind: Literal["dpm-2"] = "dpm-2"
    eta: float = 0.0
    """Share of fresh noise (ancestral sampling), 0 to 1."""
    churn: float = 0.0
    """How much noise is added back over the whole path (S_churn)."""
    churn_min: float = 0.0
    """Smallest noise ratio at which noise is added back."""
    churn_max: float = math.inf
    """Largest noise ratio at which noise is added back."""
    noise_scale: float = 1.0
    """Standard deviation of the noise that churn adds back (S_noise)."""

    def __post_init__(self) -> None:
        check_churn(self.kind, self)
        if not 0 <= self.eta <= 1 or (self.eta > 0 and self.churn > 0):
            raise ValueError(
                f"dpm-2 needs 0 <= eta <= 1, and either eta or churn, got {self.eta}, {self.churn}"
            )

    @property
    def finishes(self) -> bool:
        """With churn the last hop, too, begins by adding noise."""
        return self.churn > 0

    def step(
        self, denoise: Denoise, x: Image, now: NoiseLevel, to: NoiseLevel, memory: None, at: Step
    ) -> tuple[Image, None]:
        """An Euler step by the noise estimate of the middle, then the fresh noise."""
        x, now = churned(self, x, now, at)
        here = denoise(x, now)
        if to.is_clean:
            return here.clean, None
        kept, fresh = split_noise(now, to, self.eta)
        down = NoiseLevel(to.t, to.alpha, kept)
        middle = stage_level(now, to, kept, 0.5, at)
        there = denoise(ddim_hop(here, middle), middle)
        x = ddim_hop(here, down) + scale(_slope(now, down), x) * (there.eps - here.eps)
        return (x + scale(fresh, x) * at.noise() if self.eta > 0 else x), None


def split_noise(now: NoiseLevel, to: NoiseLevel, eta: float) -> tuple[Tensor, Tensor]:
    """The parts of sigma_to that stay and that are fresh: (sigma_down, sigma_up) of k-diffusion.

    Their squares add up to sigma_to^2; eta 1 is DDPM with the small variance.
    Source: Song, Meng & Ermon 2021 (arXiv:2010.02502), eq. 16, in half-log-SNR.
    """
    if eta == 0:
        return to.sigma, torch.zeros_like(to.sigma)
    gap = to.half_log_snr - now.half_log_snr
    kept = (1 - eta**2 + eta**2 * (-2 * gap).exp()).sqrt()
    return to.sigma * kept, to.sigma * eta * (-torch.expm1(-2 * gap)).sqrt()


def stage_level(now: NoiseLevel, to: NoiseLevel, kept: Tensor, part: float, at: Step) -> NoiseLevel:
    """The level at a part of the way, in half-log-SNR, to where the kept noise stands.

    From pure noise, from where no part of the way can be counted, it is `to`.
    """
    pure = now.alpha == 0
    start = torch.where(pure, to.half_log_snr, now.half_log_snr)
    end = torch.where(pure, start, to.alpha.log() - kept.log())
    return at.level(half_log_snr=start + part * (end - start))


def churned(options: ChurnOptions, x: Image, now: NoiseLevel, at: Step) -> tuple[Image, NoiseLevel]:
    """x with noise added back up to a noisier level, and that level.

    Source: Karras et al. 2022 (arXiv:2206.00364), algorithm 2, lines 4 to 6.
    """
    ratio = now.noise_ratio
    within = (ratio >= options.churn_min) & (ratio <= options.churn_max) & ratio.isfinite()
    if options.churn == 0 or not bool(within.any()):
        return x, now
    gain = min(options.churn / at.count, math.sqrt(2) - 1)
    raised = at.level(noise_ratio=ratio * (1 + gain))
    up = chosen_level(within, raised, now)
    return renoise(x, now, up, options.noise_scale * at.noise()), up


def check_churn(kind: str, options: ChurnOptions) -> None:
    """Errors: ValueError unless the options describe a churn."""
    ordered = options.churn_min <= options.churn_max
    if options.churn < 0 or options.noise_scale < 0 or not ordered:
        raise ValueError(
            f"{kind} needs churn >= 0, noise_scale >= 0 and churn_min <= churn_max, got "
            f"{options.churn}, {options.noise_scale}, {options.churn_min}, {options.churn_max}"
        )


def _slope(now: NoiseLevel, to: NoiseLevel) -> Tensor:
    """alpha * the change of the noise ratio; 0 from pure noise, where the ratio is infinite."""
    return torch.where(now.alpha == 0, 0.0, to.sigma - to.alpha * now.noise_ratio)


def _flow_time(level: NoiseLevel) -> Tensor:
    """w of x / (alpha + sigma) = (1 - w) clean + w eps; Liu et al. 2023 (arXiv:2209.03003)."""
    return level.sigma / (level.alpha + level.sigma)


def _rate(x: Image, here: Estimate, level: NoiseLevel, at: Step) -> Image:
    """dx/dt of the probability-flow ODE. Song et al. 2021 (arXiv:2011.13456), eq. 13."""
    assert at.schedule is not None  # `_in_time` refused it
    drift, diffusion = at.schedule.drift(level.t), at.schedule.diffusion(level.t)
    return scale(drift, x) * x + scale(diffusion / (2 * level.sigma), x) * here.eps
