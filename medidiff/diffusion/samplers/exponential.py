"""Exponential integrators: what DPM-Solver, UniPC, DEIS and SA-Solver share.

In lambda = half_log_snr the probability-flow ODE is linear in x but for the network, so the linear
part is solved exactly and only the prediction F (the clean image or the noise) is expanded:

    x_to = carry x + gain sum_k w_k F^(k) h^k,    w_k = |z| phi_k(z),   h = lambda_to - lambda_now

    basis    carry                       gain                  z
    clean    sigma_to/sigma_now e^(-eta h)    alpha_to         -(1 + eta) h
    eps      alpha_to/alpha_now               -(1 + eta) sigma_to      h

eta is the share of the reverse SDE's noise, 0 for the ODE.
Source: Lu et al. 2022 (arXiv:2206.00927); (arXiv:2211.01095).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Literal, TypeAlias

import torch

from medidiff.diffusion.levels import Estimate, NoiseLevel, half_log_snr_gap, scale
from medidiff.types import Image, Tensor

_TERMS = 21  # of a series within the unit disc: the next one is below 1e-19
_LARGEST = 709.0  # whose exponential is finite

Basis: TypeAlias = Literal["clean", "eps"]
"""Which output of the network is held or extrapolated over a hop."""


def phi(order: int, z: Tensor) -> Tensor:
    """phi_k(z): phi_0 = e^z, phi_k = (phi_(k-1) - 1/(k-1)!) / z, and 1/k! at z = 0.

    Shapes: any, float64. Range: 0 at z = -inf for k >= 1.
    Source: Hochbruck & Ostermann 2010 (doi:10.1017/S0962492910000048), section 2.
    """
    return _each(lambda number: _phi(order, number), z)


def phi_weight(order: int, z: Tensor) -> Tensor:
    """|z| phi_k(z) for k >= 1, finite at z = -inf, where it is 1/(k-1)!."""
    return _each(lambda number: _phi_weight(order, number), z)


def _phi(order: int, z: float) -> float:
    if abs(z) < 1:
        powers = range(_TERMS - 1, -1, -1)
        return reduce(lambda sum_, k: sum_ * z + 1 / math.factorial(order + k), powers, 0.0)
    value = math.exp(z) if z < _LARGEST else math.inf
    for k in range(order):
        value = (value - 1 / math.factorial(k)) / z
    return value


def _phi_weight(order: int, z: float) -> float:
    if abs(z) < 1:
        return abs(z) * _phi(order, z)
    return math.copysign(1, z) * (_phi(order - 1, z) - 1 / math.factorial(order - 1))


def _each(function: Callable[[float], float], z: Tensor) -> Tensor:
    """The function of every number: a level has few, for which torch takes ten times as long."""
    values = [function(number) for number in z.reshape(-1).tolist()]
    return torch.tensor(values, dtype=torch.float64, device=z.device).reshape(z.shape)


@dataclass(frozen=True, eq=False)
class Hop:
    """The exponential form of one hop. From pure noise it is first order, whatever the solver.

    Shapes: eta is a number or, where it follows the level, of the level's shape.
    """

    now: NoiseLevel
    to: NoiseLevel
    basis: Basis = "clean"
    eta: float | Tensor = 0.0

    @cached_property
    def gap(self) -> Tensor:
        """h, inf from pure noise."""
        return half_log_snr_gap(self.now, self.to)

    @cached_property
    def rate(self) -> Tensor:
        """z, the argument of the phi functions."""
        return -(1 + self.eta) * self.gap if self.basis == "clean" else self.gap

    @cached_property
    def gain(self) -> Tensor:
        """What multiplies the weighted sum of predictions."""
        return self.to.alpha if self.basis == "clean" else -(1 + self.eta) * self.to.sigma

    def prediction(self, here: Estimate) -> Image:
        """F: the output of the network in this hop's basis."""
        return here.clean if self.basis == "clean" else here.eps

    def first_order(self, x: Image, here: Estimate) -> Image:
        """carry x + gain w_1 F: DDIM at eta 0, the mean of DDPM at eta 1.

        Source: Lu et al. 2022 (arXiv:2206.00927), section 3, order 1; (arXiv:2211.01095).
        """
        if self.basis == "clean":
            carry = self.to.sigma / self.now.sigma * (-self._damping).exp()
            return scale(carry, x) * x + scale(self.weight(1), x) * here.clean
        pure = self.now.alpha == 0
        carry = torch.where(pure, 0.0, self.to.alpha / self.now.alpha)
        same = torch.where(self._damping == 0, self.to.sigma, 0.0)
        result = scale(carry, x) * x + scale(torch.where(pure, same, self.weight(1)), x) * here.eps
        if bool(pure.any()):
            result = result + scale(torch.where(pure, self.to.alpha, 0.0), x) * here.clean
        return result

    def weight(self, order: int) -> Tensor:
        """gain w_k: what multiplies h^(k-1) times the (k-1)-th derivative of F."""
        return self.gain * phi_weight(order, self.rate)

    def higher(self, value: Tensor) -> Tensor:
        """A coefficient of a higher-order term: 0 from pure noise, where there is no such term."""
        return torch.where(self.gap.isfinite(), value, 0.0)

    @cached_property
    def fresh(self) -> Tensor:
        """Deviation of the noise that the hop adds, 0 at eta 0.

        Source: Lu et al. 2022 (arXiv:2211.01095).
        """
        if self.basis == "clean":
            return self.to.sigma * (-torch.expm1(-2 * self._damping)).sqrt()
        power = self.eta * torch.expm1(2 * self.gap)
        from_pure = (self._damping > 0).to(power.dtype)
        return self.to.sigma * torch.where(self.gap.isfinite(), power, from_pure).sqrt()

    @cached_property
    def _damping(self) -> Tensor:
        """eta h, 0 without noise even where h is infinite."""
        eta = torch.as_tensor(self.eta, dtype=self.gap.dtype, device=self.gap.device)
        return torch.where(eta == 0, 0.0, eta * self.gap)


def lagrange_shares(ratios: Tensor, z: Tensor) -> Tensor:
    """What multiplies D_m / r_m, so that gain sum_m share_m D_m / r_m integrates the polynomial.

    D_m is a prediction's difference from the one at the hop's beginning, r_m its place in hops.
    Shapes: ratios (*batch, p), z (*batch) -> (*batch, p).
    Source: Zhao et al. 2023 (arXiv:2302.04867), appendix C; the same as the integrals of Lagrange
    polynomials of Xue et al. 2023 (arXiv:2309.05019).
    """
    count = ratios.shape[-1]
    columns = [ratios**power / math.factorial(power + 1) for power in range(count)]
    inverse = torch.linalg.inv(torch.stack(columns, -1))
    weights = torch.stack([phi_weight(power + 1, z) for power in range(1, count + 1)], -1)
    return (weights[..., None, :] @ inverse)[..., 0, :]


def polynomial_terms(
    hop: Hop,
    levels: tuple[NoiseLevel, ...],
    past: list[Image],
    end: Image | None,
    shares: Callable[[Tensor], Tensor],
) -> Image | float:
    """gain sum_m share_m D_m / r_m: what other predictions add to the first-order hop.

    `past` holds the predictions at `levels`, the hop's beginning first; `end`, for a corrector,
    the one at its end. `shares` takes the places r in hops, (*batch, p), to as many shares.
    """
    ratios = [-half_log_snr_gap(level, levels[0]) / hop.gap for level in levels[1:]]
    changes = [each - past[0] for each in past[1:]]
    if end is not None:
        ratios.append(torch.ones_like(hop.gap))
        changes.append(end - past[0])
    if not changes:
        return 0.0
    total: Image | float = 0.0
    found = shares(torch.stack(ratios, -1)).unbind(-1)
    for share, ratio, change in zip(found, ratios, changes, strict=True):
        total = total + scale(hop.higher(hop.gain * share / ratio), change) * change
    return total


def behind_pure_noise(levels: tuple[NoiseLevel, ...]) -> int:
    """How many of the latest levels hold some signal, at least 1."""
    count = 0
    for level in levels:
        if bool((level.alpha == 0).any()):
            break
        count += 1
    return max(count, 1)


def second_order(
    hop: Hop, slope: Image, ratio: Tensor, rule: Literal["midpoint", "taylor"]
) -> Image:
    """The term that a second prediction adds: slope / ratio is h F'.

    `slope` is the difference of two predictions whose half-log-SNRs lie `ratio` hops apart.
    midpoint: gain w_1 / 2; taylor: gain w_2. Equal to second order.
    Source: Lu et al. 2022 (arXiv:2206.00927), DPM-Solver-2; (arXiv:2211.01095), 2S.
    """
    weight = hop.weight(1) / 2 if rule == "midpoint" else hop.weight(2)
    return scale(hop.higher(weight / ratio), slope) * slope
