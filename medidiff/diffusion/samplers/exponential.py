"""Exponential integrators: what DPM-Solver, UniPC, DEIS and SA-Solver share.

In lambda = half_log_snr the probability-flow ODE is linear in x but for the network, so the linear
part is solved exactly and only the prediction F (the clean image or the noise) is expanded:

    x_to = carry x + gain sum_k w_k F^(k) h^k,    w_k = |z| phi_k(z),   h = lambda_to - lambda_now

    basis    carry                       gain                  z
    clean    sigma_to/sigma_now e^(-eta h)    alpha_to         -(1 + eta) h
    eps      alpha_to/alpha_now               -(1 + eta) sigma_to      h

eta is the share of the reverse SDE's noise, 0 for the ODE.
Source: Lu et al. 2022 (arXiv:2206.00927), eq. 3.7; (arXiv:2211.01095), eqs. 8 and 18.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch

from medidiff.diffusion.levels import Estimate, NoiseLevel, half_log_snr_gap, scale
from medidiff.types import Image, Tensor

Basis: TypeAlias = Literal["clean", "eps"]
"""Which output of the network is held or extrapolated over a hop."""


def phi(order: int, z: Tensor) -> Tensor:
    """phi_k(z): phi_0 = e^z, phi_k = (phi_(k-1) - 1/(k-1)!) / z, and 1/k! at z = 0.

    Shapes: any, float64. Range: 0 at z = -inf for k >= 1.
    Source: Hochbruck & Ostermann 2010 (doi:10.1017/S0962492910000048), eq. 2.10.
    """
    far = z.exp()
    for k in range(1, order + 1):
        far = (far - 1 / math.factorial(k - 1)) / z
    return torch.where(z.abs() < 1, _series(order, z.clamp(-1, 1)), far)


def phi_weight(order: int, z: Tensor) -> Tensor:
    """|z| phi_k(z) for k >= 1, finite at z = -inf, where it is 1/(k-1)!."""
    far = z.sign() * (phi(order - 1, z) - 1 / math.factorial(order - 1))
    return torch.where(z.abs() < 1, z.abs() * phi(order, z), far)


def _series(order: int, z: Tensor) -> Tensor:
    total = torch.zeros_like(z)
    for power in range(20, -1, -1):
        total = total * z + 1 / math.factorial(order + power)
    return total


@dataclass(frozen=True, eq=False)
class Hop:
    """The exponential form of one hop. From pure noise it is first order, whatever the solver."""

    now: NoiseLevel
    to: NoiseLevel
    basis: Basis = "clean"
    eta: float = 0.0

    @property
    def gap(self) -> Tensor:
        """h, inf from pure noise."""
        return half_log_snr_gap(self.now, self.to)

    @property
    def rate(self) -> Tensor:
        """z, the argument of the phi functions."""
        return -(1 + self.eta) * self.gap if self.basis == "clean" else self.gap

    @property
    def gain(self) -> Tensor:
        """What multiplies the weighted sum of predictions."""
        return self.to.alpha if self.basis == "clean" else -(1 + self.eta) * self.to.sigma

    def prediction(self, here: Estimate) -> Image:
        """F: the output of the network in this hop's basis."""
        return here.clean if self.basis == "clean" else here.eps

    def first_order(self, x: Image, here: Estimate) -> Image:
        """carry x + gain w_1 F: DDIM at eta 0, the mean of DDPM at eta 1.

        Source: Lu et al. 2022 (arXiv:2206.00927), eq. 3.7 with k = 1; (arXiv:2211.01095), eq. 18.
        """
        if self.basis == "clean":
            carry = self.to.sigma / self.now.sigma
            if self.eta > 0:
                carry = carry * (-self.eta * self.gap).exp()
            return scale(carry, x) * x + scale(self.weight(1), x) * here.clean
        pure = self.now.alpha == 0
        carry = torch.where(pure, 0.0, self.to.alpha / self.now.alpha)
        same = self.to.sigma if self.eta == 0 else torch.zeros_like(self.to.sigma)
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

    @property
    def fresh(self) -> Tensor:
        """Deviation of the noise that the hop adds, 0 at eta 0.

        Source: Lu et al. 2022 (arXiv:2211.01095), eq. 18.
        """
        if self.basis == "clean":
            return self.to.sigma * (-torch.expm1(-2 * self.eta * self.gap)).sqrt()
        power = self.eta * torch.expm1(2 * self.gap)
        return self.to.sigma * torch.where(self.gap.isfinite(), power, 1.0).sqrt()


def second_order(
    hop: Hop, slope: Image, ratio: Tensor, rule: Literal["midpoint", "taylor"]
) -> Image:
    """The term that a second prediction adds: slope / ratio is h F'.

    `slope` is the difference of two predictions whose half-log-SNRs lie `ratio` hops apart.
    midpoint: gain w_1 / 2; taylor: gain w_2. Equal to second order.
    Source: Lu et al. 2022 (arXiv:2206.00927), eq. 3.7 and algorithm 1; (arXiv:2211.01095), alg. 1.
    """
    weight = hop.weight(1) / 2 if rule == "midpoint" else hop.weight(2)
    return scale(hop.higher(weight / ratio), slope) * slope
