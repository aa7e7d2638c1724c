"""Processes that end at an image and not at noise: bridges (BBDM, I2SB) and CARD.

    x = alpha clean + (1 - alpha) endpoint + sigma eps

is what all of them say, so what is left of the endpoint is plain Gaussian diffusion of a residual:

    x - endpoint = alpha (clean - endpoint) + sigma eps

A process is therefore a schedule and a target; every sampler, loss weight and noise source of the
core works on the residual unchanged. A bridge has no noise at either end; CARD is any schedule
(Han et al. 2022, arXiv:2206.07275, where the endpoint is a first prediction).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import torch

from medidiff.diffusion.denoiser import Network, predict
from medidiff.diffusion.levels import Denoise, Estimate, NoiseLevel, diffuse, scale
from medidiff.diffusion.noise import NoiseSource
from medidiff.diffusion.sampling import Sampler, sample, start
from medidiff.diffusion.schedules import Schedule
from medidiff.diffusion.targets import Target, estimate, prediction_of
from medidiff.diffusion.times import AnyTimes, UniformTimes
from medidiff.types import Image, Tensor, Times

ENDPOINT_REST = 1e-20
"""1 - u at the endpoint for sigma alone, which is 1e-10 there and not 0: it vanishes beside any
endpoint, but the residual keeps it, and the level is pure noise as every sampler knows it."""


@dataclass(frozen=True)
class BrownianBridge:
    """A Brownian bridge from the clean image to the endpoint: sigma^2 = 2 s u (1 - u), u = t.

    Source: Li et al. 2023 (arXiv:2205.07680).
    """

    kind: Literal["brownian-bridge"] = "brownian-bridge"
    spread: float = 1.0
    """s: half-way the variance is s / 2, the largest of the path."""

    def __post_init__(self) -> None:
        if not self.spread > 0:
            raise ValueError(f"brownian-bridge needs spread > 0, got {self.spread}")

    @property
    def t_min(self) -> float:
        """The last noisy time of a path."""
        return 1e-3

    @property
    def t_max(self) -> float:
        """The first time of a path: the endpoint."""
        return 1.0

    def __call__(self, t: Times) -> NoiseLevel:
        t = torch.as_tensor(t, dtype=torch.float64)
        return bridge_level(t, t, 1 - t, 2 * self.spread)

    def time_of(self, half_log_snr: Tensor) -> Tensor:
        """The time of a half-log-SNR."""
        return clock_of(half_log_snr, 2 * self.spread)

    def drift(self, t: Times) -> Tensor:
        """-1 / (1 - t), of the residual; -inf at the endpoint."""
        return -1 / (1 - torch.as_tensor(t, dtype=torch.float64))

    def diffusion(self, t: Times) -> Tensor:
        """2 s, the rate of the Brownian motion that is pinned."""
        return torch.full_like(torch.as_tensor(t, dtype=torch.float64), 2 * self.spread)


@dataclass(frozen=True)
class SchrodingerBridge:
    """I2SB: the same bridge by a clock that is slow at both ends.

    The root of the rate rises linearly from sqrt(beta_min) towards sqrt(beta_max) at t = 1, as far
    as t = 1/2, and falls as it rose.
    Source: Liu et al. 2023 (arXiv:2302.05872), section 5.1; 0.1 and 0.3 after the
    authors' code. Differs: their sums over 1000 steps are integrals here.
    """

    kind: Literal["i2sb"] = "i2sb"
    beta_min: float = 0.1
    """Rate of the Brownian motion at both ends."""
    beta_max: float = 0.3
    """Rate towards which it rises; a quarter of (sqrt(min) + sqrt(max))^2 is reached."""

    def __post_init__(self) -> None:
        if not 0 < self.beta_min < self.beta_max:
            raise ValueError(
                f"i2sb needs 0 < beta_min < beta_max, got {self.beta_min}, {self.beta_max}"
            )

    @property
    def t_min(self) -> float:
        """The last noisy time of a path."""
        return 1e-3

    @property
    def t_max(self) -> float:
        """The first time of a path: the endpoint."""
        return 1.0

    @property
    def power(self) -> float:
        """Variance of the whole Brownian motion."""
        return 2 * float(self._gathered(torch.tensor(0.5, dtype=torch.float64)))

    def __call__(self, t: Times) -> NoiseLevel:
        t = torch.as_tensor(t, dtype=torch.float64)
        near = self._gathered(torch.minimum(t, 1 - t)) / self.power
        first = t <= 0.5
        u, rest = torch.where(first, near, 1 - near), torch.where(first, 1 - near, near)
        return bridge_level(t, u, rest, self.power)

    def time_of(self, half_log_snr: Tensor) -> Tensor:
        """The time of a half-log-SNR."""
        u = clock_of(half_log_snr, self.power)
        low, high = math.sqrt(self.beta_min), math.sqrt(self.beta_max)
        near = torch.minimum(u, 1 - u) * self.power
        root = (low**3 + 3 * (high - low) * near) ** (1 / 3)
        t = (root - low) / (high - low)
        return torch.where(u <= 0.5, t, 1 - t)

    def drift(self, t: Times) -> Tensor:
        """-u' / (1 - u), of the residual; -inf at the endpoint."""
        return -self.diffusion(t) / self.power / self(t).alpha

    def diffusion(self, t: Times) -> Tensor:
        """The rate of the Brownian motion that is pinned."""
        t = torch.as_tensor(t, dtype=torch.float64)
        low, high = math.sqrt(self.beta_min), math.sqrt(self.beta_max)
        return (low + (high - low) * torch.minimum(t, 1 - t)) ** 2

    def _gathered(self, t: Tensor) -> Tensor:
        """The integral of the rate from 0 to t <= 1/2."""
        low, high = math.sqrt(self.beta_min), math.sqrt(self.beta_max)
        return ((low + (high - low) * t) ** 3 - low**3) / (3 * (high - low))


AnyBridge: TypeAlias = BrownianBridge | SchrodingerBridge


def bridge_level(t: Tensor, u: Tensor, rest: Tensor, power: float) -> NoiseLevel:
    """alpha = 1 - u, sigma = sqrt(power u (1 - u)), with `rest` = 1 - u kept apart for precision.

    Source: Li et al. 2023 (arXiv:2205.07680); Liu et al. 2023 (arXiv:2302.05872).
    """
    return NoiseLevel(t, rest, (power * u * rest.clamp_min(ENDPOINT_REST)).sqrt())


def clock_of(half_log_snr: Tensor, power: float) -> Tensor:
    """u of a half-log-SNR: (1 - u) / (power u) = e^(2 lambda)."""
    return (-(2 * half_log_snr.double() + math.log(power))).sigmoid()


@dataclass(frozen=True)
class Displacement:
    """The network says how far x lies from the clean image: clean = x - unit prediction.

    Source: Li et al. 2023 (arXiv:2205.07680) (unit 1); Liu et al. 2023
    (arXiv:2302.05872; unit "deviation": that of the Brownian motion since the clean
    image, sigma / sqrt(alpha)).
    """

    kind: Literal["displacement"] = "displacement"
    unit: Literal["one", "deviation"] = "one"
    """one is BBDM's, deviation is I2SB's."""

    def multipliers(self, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        """clean = 1 x - unit prediction."""
        one = torch.ones_like(level.alpha)
        deviation = level.sigma / level.alpha.clamp_min(ENDPOINT_REST).sqrt()
        return one, -one if self.unit == "one" else -deviation

    def input_scale(self, level: NoiseLevel) -> Tensor:
        """1: the network sees x as it is."""
        return torch.ones_like(level.alpha)

    def noise_label(self, level: NoiseLevel) -> Tensor:
        """The time."""
        return level.t


def diffuse_towards(clean: Image, endpoint: Image, level: NoiseLevel, eps: Image) -> Image:
    """alpha clean + (1 - alpha) endpoint + sigma eps.

    Source: Li et al. 2023 (arXiv:2205.07680); Han et al. 2022 (arXiv:2206.07275).
    """
    return endpoint + diffuse(clean - endpoint, level, eps)


@dataclass(frozen=True, eq=False)
class ResidualDenoiser:
    """What the network says of the residual x - endpoint: a `Denoise` for every sampler.

    The network sees x, scaled as its target says, and the endpoint as `concat`.
    """

    network: Network
    target: Target
    endpoint: Image
    condition: Tensor | None = None

    def __call__(self, x: Image, level: NoiseLevel) -> Estimate:
        seen = self.endpoint + x
        output = predict(self.network, self.target, seen, level, self.condition, self.endpoint)
        return estimate(self.target, x, output.to(x.dtype), level)


def residual(denoise: Denoise, endpoint: Image) -> Denoise:
    """A `Denoise` of residuals from one of images: the same estimate in other coordinates."""

    def of_residual(x: Image, level: NoiseLevel) -> Estimate:
        here = denoise(endpoint + x, level)
        return Estimate(here.clean - endpoint, here.eps, here.spread)

    return of_residual


@dataclass(frozen=True)
class ProcessLoss:
    """The mean squared error of the network's prediction of a process towards an endpoint.

    Source: Li et al. 2023 (arXiv:2205.07680); Liu et al. 2023 (arXiv:2302.05872);
    Han et al. 2022 (arXiv:2206.07275) (target `Eps`).
    """

    target: Target
    schedule: Schedule
    times: AnyTimes = field(default_factory=UniformTimes)

    def levels(self, draw: Tensor) -> NoiseLevel:
        """The levels to train, one for each uniform number of `draw`, (batch,) in (0, 1)."""
        return self.times.levels(self.schedule, draw)

    def __call__(
        self,
        network: Network,
        clean: Image,
        endpoint: Image,
        levels: NoiseLevel,
        eps_noise: Image,
        condition: Tensor | None = None,
    ) -> Tensor:
        """The loss of each example, (batch,). Shapes: images (batch, channel, *space)."""
        x = diffuse_towards(clean, endpoint, levels, eps_noise)
        prediction = predict(network, self.target, x, levels, condition, endpoint)
        aim = prediction_of(self.target, clean - endpoint, eps_noise, levels)
        return (prediction.to(clean.dtype) - aim).square().flatten(1).mean(1)


def translate(
    denoise: Denoise,
    endpoint: Image,
    levels: Sequence[NoiseLevel],
    sampler: Sampler,
    noise: NoiseSource,
    schedule: Schedule | None = None,
) -> Image:
    """Walk from the endpoint (bridges) or from noise around it (CARD) to the clean image.

    `denoise` is of residuals, such as a `ResidualDenoiser`. DDPM is the papers' own sampler (their
    posterior is that of the residual's diffusion); any other will do.
    Source: Li et al. 2023 (arXiv:2205.07680); Liu et al. 2023 (arXiv:2302.05872);
    Han et al. 2022 (arXiv:2206.07275): their sampling.
    """
    x = start(levels[0], noise, endpoint)
    return endpoint + sample(denoise, x, levels, sampler, noise, schedule)


def bridge_step(x: Image, clean: Image, now: NoiseLevel, to: NoiseLevel) -> tuple[Image, Tensor]:
    """Mean and deviation of a bridge's hop, from its own papers: x lies between, pinned to clean.

    x_to ~ N(clean + (u_to / u) (x - clean), power u_to (u - u_to) / u). It does not name the
    endpoint, and is DDPM's hop of the residual (a law of the tests).
    Source: Liu et al. 2023 (arXiv:2302.05872); Li et al. 2023 (arXiv:2205.07680).
    """
    u, u_to = 1 - now.alpha, 1 - to.alpha
    power = to.sigma**2 / (to.alpha * u_to)
    mean = clean + scale(u_to / u, x) * (x - clean)
    return mean, (power * u_to * (u - u_to) / u).sqrt()
