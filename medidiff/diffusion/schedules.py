"""Noise schedules: t in [0, 1] (1 = noise) to a noise level, and back.

A new schedule is a class here and an entry in `AnySchedule`; nothing else changes.
Every formula is written so that both ends are exact: sigma keeps its relative precision as t -> 0
and alpha is exactly 0 at t = 1 where the paper says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, Protocol, TypeAlias

import torch

from medidiff.diffusion.betas import AnyBetas, LinearBetas
from medidiff.diffusion.levels import NoiseLevel
from medidiff.types import Tensor, Times


class Schedule(Protocol):
    """t -> NoiseLevel, with its inverse.

    `t_min` is the last noisy time that a path visits before the clean level, `t_max` the first.
    The forward SDE is dx = drift x dt + sqrt(diffusion) dw, with drift = d log(alpha) / dt and
    diffusion = d sigma^2 / dt - 2 drift sigma^2: g^2, not g (Song et al. 2021,
    arXiv:2011.13456; Kingma et al. 2021, arXiv:2107.00630, appendix C).
    """

    @property
    def t_min(self) -> float: ...

    @property
    def t_max(self) -> float: ...

    def __call__(self, t: Times) -> NoiseLevel: ...

    def time_of(self, half_log_snr: Tensor) -> Tensor: ...

    def drift(self, t: Times) -> Tensor: ...

    def diffusion(self, t: Times) -> Tensor: ...


@dataclass(frozen=True)
class VPLinear:
    """Variance-preserving, beta linear in t. Song et al. 2021 (arXiv:2011.13456), eq. 33.

    The limit of DDPM's linear betas (Ho et al. 2020, arXiv:2006.11239) for many steps.
    """

    kind: Literal["vp-linear"] = "vp-linear"
    beta_min: float = 0.1
    """Rate of noise at t = 0."""
    beta_max: float = 20.0
    """Rate of noise at t = 1."""

    def __post_init__(self) -> None:
        if not 0 < self.beta_min <= self.beta_max:
            raise ValueError(
                f"vp-linear needs 0 < beta_min <= beta_max, got {self.beta_min}, {self.beta_max}"
            )

    @property
    def t_min(self) -> float:
        """The last noisy time of a path."""
        return 1e-3

    @property
    def t_max(self) -> float:
        """The first time of a path."""
        return 1.0

    def __call__(self, t: Times) -> NoiseLevel:
        t = _double(t)
        log_alpha = -0.25 * t**2 * (self.beta_max - self.beta_min) - 0.5 * t * self.beta_min
        return NoiseLevel(t, log_alpha.exp(), (-torch.expm1(2 * log_alpha)).sqrt())

    def time_of(self, half_log_snr: Tensor) -> Tensor:
        """The time of a half-log-SNR. Lu et al. 2022 (arXiv:2206.00927), appendix D.4."""
        lam = _double(half_log_snr)
        power = 2 * torch.logaddexp(-2 * lam, torch.zeros_like(lam))
        root = (self.beta_min**2 + (self.beta_max - self.beta_min) * power).sqrt()
        return power / (root + self.beta_min)

    def drift(self, t: Times) -> Tensor:
        """-beta / 2. Song et al. 2021 (arXiv:2011.13456)."""
        return -self._beta(t) / 2

    def diffusion(self, t: Times) -> Tensor:
        """beta, linear in t. Song et al. 2021 (arXiv:2011.13456)."""
        return self._beta(t)

    def _beta(self, t: Times) -> Tensor:
        return self.beta_min + _double(t) * (self.beta_max - self.beta_min)


@dataclass(frozen=True)
class SubVP:
    """VP-linear's alpha with less noise: sigma = 1 - alpha^2, so the variance is its square.

    Source: Song et al. 2021 (arXiv:2011.13456), eq. 33.
    """

    kind: Literal["sub-vp"] = "sub-vp"
    beta_min: float = 0.1
    """Rate of noise at t = 0."""
    beta_max: float = 20.0
    """Rate of noise at t = 1."""

    def __post_init__(self) -> None:
        if not 0 < self.beta_min <= self.beta_max:
            raise ValueError(
                f"sub-vp needs 0 < beta_min <= beta_max, got {self.beta_min}, {self.beta_max}"
            )

    @property
    def _preserving(self) -> VPLinear:
        return VPLinear(beta_min=self.beta_min, beta_max=self.beta_max)

    @property
    def t_min(self) -> float:
        """The last noisy time of a path."""
        return 1e-3

    @property
    def t_max(self) -> float:
        """The first time of a path."""
        return 1.0

    def __call__(self, t: Times) -> NoiseLevel:
        level = self._preserving(t)
        return NoiseLevel(level.t, level.alpha, level.sigma**2)

    def time_of(self, half_log_snr: Tensor) -> Tensor:
        """The time of a half-log-SNR: alpha / (1 - alpha^2) = r gives log(alpha) = -asinh(1/2r)."""
        log_alpha = -torch.asinh((-_double(half_log_snr)).exp() / 2)
        preserving = log_alpha - 0.5 * (-torch.expm1(2 * log_alpha)).log()
        return self._preserving.time_of(preserving)

    def drift(self, t: Times) -> Tensor:
        """-beta / 2."""
        return self._preserving.drift(t)

    def diffusion(self, t: Times) -> Tensor:
        """beta (1 - alpha^4)."""
        level = self(t)
        return self._preserving.diffusion(t) * level.sigma * (1 + level.alpha**2)


@dataclass(frozen=True)
class Cosine:
    """Variance-preserving, alpha a quarter cosine.

    Source: Nichol & Dhariwal 2021 (arXiv:2102.09672), eq. 17.
    Differs: not clipped at beta = 0.999, so alpha is exactly 0 at t = 1; the sines below are that
    equation rewritten without cancellation at either end.
    """

    kind: Literal["cosine"] = "cosine"
    offset: float = 0.008
    """The paper's s: keeps the first steps from being too small."""

    def __post_init__(self) -> None:
        if not 0 < self.offset < 1:
            raise ValueError(f"cosine needs 0 < offset < 1, got {self.offset}")

    @property
    def _start_angle(self) -> float:
        return self.offset / (1 + self.offset) * math.pi / 2

    @property
    def t_min(self) -> float:
        """The last noisy time of a path."""
        return 1e-3

    @property
    def t_max(self) -> float:
        """The first time of a path."""
        return 1.0

    def __call__(self, t: Times) -> NoiseLevel:
        t = _double(t)
        quarter = math.pi / 2 / (1 + self.offset)
        top = math.cos(self._start_angle)
        alpha = (quarter * (1 - t)).sin() / top
        product = (quarter * t).sin() * (quarter * t + 2 * self._start_angle).sin()
        return NoiseLevel(t, alpha, product.sqrt() / top)

    def time_of(self, half_log_snr: Tensor) -> Tensor:
        """The time of a half-log-SNR, through the angle whose cosine is alpha."""
        lam = _double(half_log_snr)
        alpha, sigma = (2 * lam).sigmoid().sqrt(), (-2 * lam).sigmoid().sqrt()
        sine = torch.hypot(sigma, alpha * math.sin(self._start_angle))
        angle = torch.atan2(sine, alpha * math.cos(self._start_angle))
        return angle * (1 + self.offset) / (math.pi / 2) - self.offset

    def drift(self, t: Times) -> Tensor:
        """Minus the angle's rate times its tangent; -inf at t = 1."""
        quarter = math.pi / 2 / (1 + self.offset)
        left = quarter * (1 - _double(t))
        return -quarter * left.cos() / left.sin()

    def diffusion(self, t: Times) -> Tensor:
        """-2 drift, as on every variance-preserving schedule."""
        return -2 * self.drift(t)


@dataclass(frozen=True)
class VE:
    """Variance-exploding, sigma geometric in t. Song et al. 2021 (arXiv:2011.13456).

    The levels of NCSN (Song & Ermon 2019, arXiv:1907.05600). At t = 0 sigma is sigma_min, not 0.
    """

    kind: Literal["ve"] = "ve"
    sigma_min: float = 0.01
    """Noise at t = 0, in units of the network's image range."""
    sigma_max: float = 50.0
    """Noise at t = 1; about the largest distance between two images."""

    def __post_init__(self) -> None:
        _check_sigmas(self.kind, self.sigma_min, self.sigma_max)

    @property
    def t_min(self) -> float:
        """The last noisy time of a path."""
        return 0.0

    @property
    def t_max(self) -> float:
        """The first time of a path."""
        return 1.0

    def __call__(self, t: Times) -> NoiseLevel:
        t = _double(t)
        log_sigma = math.log(self.sigma_min) + t * math.log(self.sigma_max / self.sigma_min)
        return NoiseLevel(t, torch.ones_like(t), log_sigma.exp())

    def time_of(self, half_log_snr: Tensor) -> Tensor:
        """The time of a half-log-SNR, -log(sigma)."""
        excess = -_double(half_log_snr) - math.log(self.sigma_min)
        return excess / math.log(self.sigma_max / self.sigma_min)

    def drift(self, t: Times) -> Tensor:
        """0: the signal is not scaled."""
        return torch.zeros_like(_double(t))

    def diffusion(self, t: Times) -> Tensor:
        """2 sigma^2 log(sigma_max / sigma_min). Song et al. 2021 (arXiv:2011.13456)."""
        return 2 * math.log(self.sigma_max / self.sigma_min) * self(t).sigma ** 2


@dataclass(frozen=True)
class EDM:
    """Variance-exploding, sigma**(1/rho) linear in t. Karras et al. 2022 (arXiv:2206.00364), eq. 5.

    Differs: eq. 5 is a list of steps; this is the continuous curve through it. t = 0 is sigma_min.
    """

    kind: Literal["edm"] = "edm"
    sigma_min: float = 0.002
    """Noise at t = 0, in units of the network's image range."""
    sigma_max: float = 80.0
    """Noise at t = 1."""
    rho: float = 7.0
    """How strongly the levels crowd towards sigma_min."""

    def __post_init__(self) -> None:
        _check_sigmas(self.kind, self.sigma_min, self.sigma_max)
        if not self.rho > 0:
            raise ValueError(f"edm needs rho > 0, got {self.rho}")

    @property
    def _roots(self) -> tuple[float, float]:
        return self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)

    @property
    def t_min(self) -> float:
        """The last noisy time of a path."""
        return 0.0

    @property
    def t_max(self) -> float:
        """The first time of a path."""
        return 1.0

    def __call__(self, t: Times) -> NoiseLevel:
        t = _double(t)
        low, high = self._roots
        return NoiseLevel(t, torch.ones_like(t), (low + t * (high - low)) ** self.rho)

    def time_of(self, half_log_snr: Tensor) -> Tensor:
        """The time of a half-log-SNR, -log(sigma)."""
        low, high = self._roots
        return ((-_double(half_log_snr) / self.rho).exp() - low) / (high - low)

    def drift(self, t: Times) -> Tensor:
        """0: the signal is not scaled."""
        return torch.zeros_like(_double(t))

    def diffusion(self, t: Times) -> Tensor:
        """2 sigma d sigma / dt."""
        low, high = self._roots
        root = low + _double(t) * (high - low)
        return 2 * self.rho * (high - low) * root ** (2 * self.rho - 1)


@dataclass(frozen=True)
class Flow:
    """Straight lines from clean to noise: alpha = 1 - t, sigma = t.

    Source: Liu et al. 2023 (arXiv:2209.03003); Lipman et al. 2023 (arXiv:2210.02747).
    Differs: both papers have the data at t = 1; here t = 1 is noise, as in every other schedule.
    """

    kind: Literal["flow"] = "flow"

    @property
    def t_min(self) -> float:
        """The last noisy time of a path."""
        return 1e-3

    @property
    def t_max(self) -> float:
        """The first time of a path."""
        return 1.0

    def __call__(self, t: Times) -> NoiseLevel:
        t = _double(t)
        return NoiseLevel(t, 1 - t, t)

    def time_of(self, half_log_snr: Tensor) -> Tensor:
        """The time of a half-log-SNR: log((1 - t) / t) solved for t."""
        return (-_double(half_log_snr)).sigmoid()

    def drift(self, t: Times) -> Tensor:
        """-1 / (1 - t); -inf at t = 1."""
        return -1 / (1 - _double(t))

    def diffusion(self, t: Times) -> Tensor:
        """2 t / (1 - t); inf at t = 1."""
        t = _double(t)
        return 2 * t / (1 - t)


@dataclass(frozen=True)
class Discrete:
    """Variance-preserving, from a table of betas: step n of N stands at t = n / N.

    Source: Ho et al. 2020 (arXiv:2006.11239), eq. 4; between the steps log(alpha) is linear in t
    (Lu et al. 2022, arXiv:2206.00927, appendix D.4).
    Differs: t = 0 is the clean image and the last stretch, from t = 1 / N to it, is linear too.
    """

    kind: Literal["discrete"] = "discrete"
    betas: AnyBetas = field(default_factory=LinearBetas)
    """The noise added in each step."""
    steps: int = 1000
    """Steps of the process (N)."""

    def __post_init__(self) -> None:
        if self.steps < 2:
            raise ValueError(f"a discrete schedule needs at least 2 steps, got {self.steps}")

    @property
    def t_min(self) -> float:
        """The time of the first step."""
        return 1 / self.steps

    @property
    def t_max(self) -> float:
        """The time of the last step."""
        return 1.0

    @cached_property
    def log_alphas(self) -> Tensor:
        """log(alpha) after 0, 1, ... N steps, (N + 1,) float64; -inf where no signal is left."""
        kept = torch.log1p(-self.betas(self.steps)) / 2
        return torch.cat([torch.zeros(1, dtype=torch.float64), kept.cumsum(0)])

    def __call__(self, t: Times) -> NoiseLevel:
        t = _double(t)
        log_alpha = self._log_alpha(t * self.steps)
        return NoiseLevel(t, log_alpha.exp(), (-torch.expm1(2 * log_alpha)).sqrt())

    def after(self, step: int | Tensor) -> NoiseLevel:
        """The level after that step of N; 0 is clean, and DDPM's index is step - 1."""
        return self(torch.as_tensor(step, dtype=torch.float64) / self.steps)

    def time_of(self, half_log_snr: Tensor) -> Tensor:
        """The time of a half-log-SNR, by the same straight lines in log(alpha)."""
        log_alpha = (
            -torch.logaddexp(torch.zeros((), dtype=torch.float64), -2 * _double(half_log_snr)) / 2
        )
        table = self.log_alphas
        behind = torch.searchsorted(-table, -log_alpha.contiguous()).clamp(1, self.steps)
        before = behind - 1
        part = (log_alpha - table[before]) / (table[behind] - table[before])
        return (before + part) / self.steps

    def drift(self, t: Times) -> Tensor:
        """The slope of log(alpha): constant within a step; at a step's level that of the step to
        it, the one that a reverse walk is about to undo."""
        behind = (_double(t) * self.steps - 1e-9).ceil().long().clamp(1, self.steps)
        return self.log_alphas.diff()[behind - 1] * self.steps

    def diffusion(self, t: Times) -> Tensor:
        """-2 drift, as on every variance-preserving schedule."""
        return -2 * self.drift(t)

    def _log_alpha(self, position: Tensor) -> Tensor:
        table = self.log_alphas
        # a whole position is looked up and not interpolated: t = n / N times N may miss n by an ulp
        nearest = position.round()
        position = torch.where((position - nearest).abs() < 1e-9, nearest, position)
        before = position.floor().long().clamp(0, self.steps - 1)
        part = position - before
        inside = table[before] + part * (table[before + 1] - table[before])
        return torch.where(
            part == 0, table[before], torch.where(part == 1, table[before + 1], inside)
        )


AnySchedule: TypeAlias = VPLinear | SubVP | Cosine | VE | EDM | Flow | Discrete


def _double(value: Tensor | float) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float64)


def _check_sigmas(kind: str, sigma_min: float, sigma_max: float) -> None:
    if not 0 < sigma_min < sigma_max < math.inf:
        raise ValueError(f"{kind} needs 0 < sigma_min < sigma_max, got {sigma_min}, {sigma_max}")
