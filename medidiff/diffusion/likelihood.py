"""The log-likelihood of clean images under the probability flow.

    log p(x_min) = log prior(x_max) + integral of div(dx/dt) dt from t_min to t_max      (1)

Source: Song et al. 2021 (arXiv:2011.13456), section 4.3; Chen et al. 2018
(arXiv:1806.07366).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from medidiff.diffusion.dormand_prince import ErrorControl, integrate
from medidiff.diffusion.levels import Denoise, scale
from medidiff.diffusion.noise import NoiseSource
from medidiff.diffusion.samplers.probability_flow import velocity
from medidiff.diffusion.schedules import Schedule
from medidiff.types import Image, Tensor

EXACT_UP_TO = 4096
"""Dimensions up to which "auto" takes the exact divergence, one gradient a dimension."""


@dataclass(frozen=True)
class FlowLikelihood:
    """How the flow's log-likelihood is computed.

    The result is the log-density at t_min, where the image still holds a little noise.
    """

    kind: Literal["flow-likelihood"] = "flow-likelihood"
    divergence: Literal["auto", "exact", "hutchinson"] = "auto"
    """exact: every diagonal entry of the Jacobian; hutchinson: from random signs; auto: exact up to
    4096 dimensions."""
    probes: int = 8
    """Sign fields of the Hutchinson estimate; its standard error needs at least 2."""
    chunk: int = 64
    """Diagonal entries of the exact divergence taken in one backward pass."""
    control: ErrorControl = ErrorControl()
    """Allowed error of the adaptive steps."""
    t_min: float | None = None
    """The time whose density is given; None is the schedule's last noisy time."""
    t_max: float | None = None
    """The time of the prior; None is the schedule's first time, and must leave some signal."""

    def __post_init__(self) -> None:
        if self.probes < 1 or self.chunk < 1:
            raise ValueError(
                f"flow-likelihood needs probes >= 1 and chunk >= 1, got {self.probes}, {self.chunk}"
            )


@dataclass(frozen=True, eq=False)
class LogLikelihood:
    """Log-densities in nats, (batch,) float64.

    `standard_error` is that of the random estimate, None where the divergence is exact and NaN for
    a single probe; `latent` is the image carried to the prior; `calls` counts network calls.
    """

    nats: Tensor
    standard_error: Tensor | None
    latent: Image
    dimensions: int
    calls: int

    @property
    def nats_per_dim(self) -> Tensor:
        """-nats / dimensions: what continuous data have, who have no bits."""
        return -self.nats / self.dimensions

    def bits_per_dim(self, bit_depth: int, low: float = -1.0, high: float = 1.0) -> Tensor:
        """Bits per dimension of integers 0 .. 2^bit_depth - 1, dequantised by uniform noise.

        The clean images must have been made by `dequantised` with the same numbers; scans whose
        intensities are not such integers have nats per dimension only.
        Source: Theis et al. 2016 (arXiv:1511.01844), section 3.1.
        """
        _check_depth(bit_depth, low, high)
        return self.nats_per_dim / math.log(2) + bit_depth - math.log2(high - low)


def dequantised(
    integers: Tensor, uniform: Tensor, bit_depth: int, low: float = -1.0, high: float = 1.0
) -> Image:
    """Integers 0 .. 2^bit_depth - 1 plus uniform noise in [0, 1), stretched to [low, high].

    Errors: ValueError if an integer is outside of the depth or the noise outside of [0, 1).
    Source: Theis et al. 2016 (arXiv:1511.01844), section 3.1.
    """
    _check_depth(bit_depth, low, high)
    whole = integers.double()
    if not bool(((whole >= 0) & (whole < 2**bit_depth) & (whole == whole.round())).all()):
        raise ValueError(f"dequantisation needs integers from 0 to {2**bit_depth - 1}")
    if not bool(((uniform >= 0) & (uniform < 1)).all()):
        raise ValueError("dequantisation needs noise within [0, 1)")
    return low + (high - low) * (whole + uniform) / 2**bit_depth


def log_likelihood(
    denoise: Denoise,
    x: Image,
    schedule: Schedule,
    noise: NoiseSource | None = None,
    options: FlowLikelihood = FlowLikelihood(),
    prior: Callable[[Image], Tensor] | None = None,
) -> LogLikelihood:
    """The log-density at t_min of x, which is taken to be of that level.

    Shapes: x (batch, channel, *space); `prior` maps (batch, channel, *space) to (batch,) nats and
    is the Gaussian that `start` draws from, N(0, sigma^2) at t_max, unless given.
    Errors: ValueError without a noise source where the divergence is estimated, or where no signal
    is left at t_max.
    """
    first = schedule.t_min if options.t_min is None else options.t_min
    last = schedule.t_max if options.t_max is None else options.t_max
    top = schedule(torch.tensor(last, dtype=torch.float64))
    if not bool(top.alpha > 0):
        raise ValueError(
            f"no signal is left at t = {last:g}, where the flow has no finite speed: "
            "set t_max a little below"
        )
    probes = _probes(x, noise, options)
    batch, size, calls = x.shape[0], x[0].numel(), 0

    def slope(elapsed: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        level = schedule(first + elapsed.cpu())
        with torch.enable_grad():
            here = y[:, :size].detach().requires_grad_()
            speed = velocity(denoise, here.reshape(x.shape), level, schedule).flatten(1)
            spread = (
                _exact_divergence(speed, here, options.chunk)
                if probes is None
                else _estimated_divergence(speed, here, probes)
            )
        return torch.cat([speed.detach(), spread.to(y.dtype)], 1)

    count = 1 if probes is None else len(probes)
    state = torch.cat([x.flatten(1), x.new_zeros(batch, count)], 1)
    length = torch.full((batch,), last - first, dtype=torch.float64, device=x.device)
    state = integrate(slope, state, length, options.control)
    latent, gained = state[:, :size].reshape(x.shape), state[:, size:].double()
    of_prior = _gaussian(latent, top.sigma) if prior is None else prior(latent)
    error = None if probes is None else _standard_error(gained)
    return LogLikelihood(of_prior.double() + gained.mean(1), error, latent, size, calls)


def _probes(x: Image, noise: NoiseSource | None, options: FlowLikelihood) -> list[Tensor] | None:
    """Rademacher fields (batch, n), or None where every diagonal entry is computed."""
    small = x[0].numel() <= EXACT_UP_TO
    if options.divergence == "exact" or (options.divergence == "auto" and small):
        return None
    if noise is None:
        raise ValueError("the Hutchinson estimate draws signs: give a noise source")
    fields = (noise(x, 0, draw).flatten(1) for draw in range(options.probes))
    return [torch.where(field < 0, -1.0, 1.0).to(x.dtype) for field in fields]


def _exact_divergence(speed: Tensor, here: Tensor, chunk: int) -> Tensor:
    """Sum of d speed_i / d here_i, (batch, 1), `chunk` rows of the Jacobian at a time."""
    total = torch.zeros_like(here[:, 0])
    size = here.shape[1]
    for start in range(0, size, chunk):
        rows = torch.arange(start, min(start + chunk, size), device=here.device)
        unit = torch.nn.functional.one_hot(rows, size).to(speed.dtype)
        ahead = unit[:, None].expand(-1, len(here), -1)
        (jacobian,) = torch.autograd.grad(
            speed, here, ahead, retain_graph=True, is_grads_batched=True
        )
        total = total + (jacobian * ahead).sum((0, 2))
    return total[:, None]


def _estimated_divergence(speed: Tensor, here: Tensor, probes: list[Tensor]) -> Tensor:
    """probe . J probe for each probe, (batch, probes).

    Source: Hutchinson 1990; Grathwohl et al. 2019 (arXiv:1810.01367).
    """
    found = []
    for probe in probes:
        (row,) = torch.autograd.grad(speed, here, probe, retain_graph=True)
        found.append((row * probe).sum(1))
    return torch.stack(found, 1)


def _standard_error(estimates: Tensor) -> Tensor:
    """Of the mean over the probes, (batch,); NaN where there is only one."""
    count = estimates.shape[1]
    if count == 1:
        return torch.full_like(estimates[:, 0], math.nan)
    return estimates.std(1) / math.sqrt(count)


def _gaussian(latent: Image, sigma: Tensor) -> Tensor:
    unit = (latent / scale(sigma, latent)).flatten(1).double()
    constant = unit.shape[1] * (math.log(2 * math.pi) / 2 + math.log(float(sigma)))
    return -unit.square().sum(1) / 2 - constant


def _check_depth(bit_depth: int, low: float, high: float) -> None:
    if not (isinstance(bit_depth, int) and 1 <= bit_depth <= 16 and low < high):
        raise ValueError(
            "bits per dimension need an integer bit depth from 1 to 16 and low < high, got "
            f"{bit_depth}, {low}, {high}"
        )
