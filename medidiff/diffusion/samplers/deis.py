"""DEIS: exponential Adams-Bashforth and Runge-Kutta. Zhang & Chen 2023 (arXiv:2204.13902).

In y = x / alpha and rho = noise_ratio the flow is dy/d rho = eps. tAB, rhoAB and log-rhoAB put a
polynomial through the noises before, in time, in rho or in log rho; rhoRK are Runge-Kutta methods.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch

from medidiff.diffusion.levels import Denoise, Estimate, NoiseLevel, scale
from medidiff.diffusion.samplers.multistep import transfer
from medidiff.diffusion.sampling import Step
from medidiff.types import Image, Tensor

NODES = 24
"""Gauss-Legendre nodes of an integral over a hop."""
TABLEAUX = {
    "euler": ((), (1.0,)),
    "heun": (((1.0,),), (1 / 2, 1 / 2)),
    "kutta": (((1 / 2,), (-1.0, 2.0)), (1 / 6, 4 / 6, 1 / 6)),
    "classical": (((1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)), (1 / 6, 2 / 6, 2 / 6, 1 / 6)),
}
"""Stages and weights of Kutta 1901: the methods 1euler, 2heun, 3kutta and 4rk of the paper."""


@dataclass(frozen=True, eq=False)
class Noises:
    """The noises before, with their levels, the latest first."""

    levels: tuple[NoiseLevel, ...]
    fields: tuple[Image, ...]


@dataclass(frozen=True)
class DEIS:
    """A polynomial through up to four noises, integrated over the hop. One call a hop.

    Source: Zhang & Chen 2023 (arXiv:2204.13902), section 3 (tAB), section 4 (rhoAB); diffusers
    has log-rho only.
    Differs: the coefficients are integrated by Gauss and Legendre after one integration by parts,
    which needs no derivative of the schedule; noises at pure noise are not extrapolated from.
    """

    kind: Literal["deis"] = "deis"
    order: Literal[0, 1, 2, 3] = 3
    """Degree of the polynomial; 0 is DDIM."""
    variable: Literal["t", "rho", "log-rho"] = "t"
    """In what the polynomial is one."""
    lower_order_below: int = 0
    """Paths with fewer hops end by hops of degrees ..., 1, 0; 0 for never."""

    def __post_init__(self) -> None:
        if self.order not in (0, 1, 2, 3):
            raise ValueError(f"deis needs order 0 to 3, got {self.order}")

    @property
    def finishes(self) -> bool:
        """The driver takes the last hop."""
        return False

    def step(
        self,
        denoise: Denoise,
        x: Image,
        now: NoiseLevel,
        to: NoiseLevel,
        memory: Noises | None,
        at: Step,
    ) -> tuple[Image, Noises]:
        """alpha_to (x / alpha_now + sum_j C_j eps_j)."""
        here = denoise(x, now)
        past = memory or Noises((), ())
        levels, fields = (now, *past.levels)[:4], (here.eps, *past.fields)[:4]
        memory = Noises(levels, fields)
        known = sum(1 for level in levels if bool((level.alpha > 0).all()))
        degree = min(self.order, known - 1)
        if at.count < self.lower_order_below:
            degree = min(degree, len(at.ahead))
        if degree < 0:
            return transfer(x, here, here.eps, now, to), memory
        result = scale(to.alpha / now.alpha, x) * x
        shares = self.coefficients(levels[: degree + 1], to, at)
        for share, field in zip(shares, fields, strict=False):
            result = result + scale(to.alpha * share, x) * field
        return result, memory

    def coefficients(
        self, levels: tuple[NoiseLevel, ...], to: NoiseLevel, at: Step
    ) -> list[Tensor]:
        """C_j: the integral over rho of the Lagrange polynomials of the levels, the latest first.

        Shapes: each as the levels. Source: Zhang & Chen 2023 (arXiv:2204.13902).
        """
        places = [self._place(level) for level in levels]
        first, last = places[0], self._place(to)
        roots, weights = (each.reshape(-1, *[1] * first.ndim) for each in _gauss_legendre())
        middle, half = (first + last) / 2, (last - first) / 2
        inner = middle + half * roots  # (nodes, *level)
        rhos = self._rho(inner, at)
        shares = []
        for j in range(len(places)):
            polynomial = lagrange(places, j)
            ends = to.noise_ratio * polynomial(last)[0]
            ends = ends - levels[0].noise_ratio * polynomial(first)[0]
            inside = (weights * rhos * polynomial(inner)[1]).sum(0)
            shares.append(ends - half * inside)
        return shares

    def _place(self, level: NoiseLevel) -> Tensor:
        if self.variable == "t":
            return level.t
        return level.noise_ratio if self.variable == "rho" else -level.half_log_snr

    def _rho(self, place: Tensor, at: Step) -> Tensor:
        if self.variable == "t":
            return at.level(t=place).noise_ratio
        return place if self.variable == "rho" else place.exp()


@dataclass(frozen=True)
class RhoRK:
    """A Runge-Kutta method in rho = noise_ratio, on x / alpha. 1 to 4 calls a hop.

    Source: Zhang & Chen 2023 (arXiv:2204.13902), section 4 (rhoRK).
    Differs: a hop from pure noise is DDIM's.
    """

    kind: Literal["rho-rk"] = "rho-rk"
    method: Literal["euler", "heun", "kutta", "classical"] = "heun"
    """Of order 1, 2, 3, 4 with as many calls a hop."""

    def __post_init__(self) -> None:
        if self.method not in TABLEAUX:
            raise ValueError(f"rho-rk needs a method of {list(TABLEAUX)}, got {self.method}")

    @property
    def finishes(self) -> bool:
        """The driver takes the last hop."""
        return False

    def step(
        self, denoise: Denoise, x: Image, now: NoiseLevel, to: NoiseLevel, memory: None, at: Step
    ) -> tuple[Image, None]:
        """The stages, each a hop by a combination of the noises before it."""
        here = denoise(x, now)
        stages, weights = TABLEAUX[self.method]
        if bool((now.alpha == 0).all()):
            return transfer(x, here, here.eps, now, to), None
        noises = [here.eps]
        for row in stages:
            part = sum(row)
            level = to if part == 1 else self._between(now, to, part, at)
            noises.append(denoise(self._hop(x, here, noises, row, now, level), level).eps)
        return self._hop(x, here, noises, weights, now, to), None

    def _between(self, now: NoiseLevel, to: NoiseLevel, part: float, at: Step) -> NoiseLevel:
        pure = now.alpha == 0
        ratio = now.noise_ratio + part * (to.noise_ratio - now.noise_ratio)
        return at.level(noise_ratio=torch.where(pure, to.noise_ratio, ratio))

    def _hop(
        self,
        x: Image,
        here: Estimate,
        noises: list[Image],
        weights: tuple[float, ...],
        now: NoiseLevel,
        to: NoiseLevel,
    ) -> Image:
        total = sum(weights)
        eps = sum(
            (weight / total * noise for weight, noise in zip(weights, noises, strict=True)),
            torch.zeros_like(x),
        )
        return transfer(x, here, eps, now, to)


def lagrange(places: list[Tensor], j: int) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """The polynomial that is 1 at place j and 0 at the others, with its derivative."""
    others = [place for index, place in enumerate(places) if index != j]

    def polynomial(at: Tensor) -> tuple[Tensor, Tensor]:
        value, slope = torch.ones_like(at), torch.zeros_like(at)
        for other in others:
            width = places[j] - other
            value, slope = value * (at - other) / width, (slope * (at - other) + value) / width
        return value, slope

    return polynomial


@cache
def _gauss_legendre() -> tuple[Tensor, Tensor]:
    """Nodes and weights on [-1, 1], by Golub and Welsch 1969."""
    index = torch.arange(1, NODES, dtype=torch.float64)
    side = index / (4 * index**2 - 1).sqrt()
    roots, vectors = torch.linalg.eigh(torch.diag(side, 1) + torch.diag(side, -1))
    return roots, 2 * vectors[0] ** 2
