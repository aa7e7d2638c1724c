"""Linear multistep in the noise ratio: Adams and Bashforth on EDM's levels (Crowson 2022)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch

from medidiff.diffusion.levels import Denoise, NoiseLevel, ddim_hop, scale
from medidiff.diffusion.sampling import Step
from medidiff.types import Image, Tensor


@dataclass(frozen=True, eq=False)
class Past:
    """The noise estimates of earlier hops with their noise ratios, the latest first."""

    ratios: tuple[Tensor, ...]
    estimates: tuple[Image, ...]


@dataclass(frozen=True)
class LMS:
    """d(x / alpha) / d(noise ratio) = eps, with eps extrapolated by a polynomial. One call a hop.

    Source: k-diffusion's "lms" (Crowson 2022); Liu et al. 2022 (arXiv:2202.09778), section 3, and
    Zhang & Chen 2023 (arXiv:2204.13902), section 3, for the method on diffusion models.
    The integrals are exact (Gauss-Legendre on two nodes integrates a cubic), down to the clean
    level, which the sampler reaches itself. A hop from pure noise is of first order and is
    forgotten.
    """

    kind: Literal["lms"] = "lms"
    order: Literal[1, 2, 3, 4] = 4
    """How many estimates are used; 1 is Euler's method."""

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3, 4):
            raise ValueError(f"lms needs order 1, 2, 3 or 4, got {self.order}")

    @property
    def finishes(self) -> bool:
        """The last hop is extrapolated like any other."""
        return True

    def step(
        self,
        denoise: Denoise,
        x: Image,
        now: NoiseLevel,
        to: NoiseLevel,
        memory: Past | None,
        at: Step,
    ) -> tuple[Image, Past | None]:
        """alpha_to * (x / alpha_now + the integral of the polynomial through the estimates)."""
        here = denoise(x, now)
        if bool((now.alpha == 0).any()):
            return ddim_hop(here, to), None
        past = memory or Past((), ())
        past = Past(
            (now.noise_ratio, *past.ratios)[: self.order],
            (here.eps, *past.estimates)[: self.order],
        )
        x = scale(to.alpha / now.alpha, x) * x
        weights = multistep_weights(past.ratios, to.noise_ratio)
        for weight, eps in zip(weights, past.estimates, strict=True):
            x = x + scale(to.alpha * weight, x) * eps
        return x, past


def multistep_weights(nodes: tuple[Tensor, ...], end: Tensor) -> list[Tensor]:
    """The integral of each Lagrange polynomial on up to four nodes, from nodes[0] to `end`.

    Source: Hairer, Norsett & Wanner 1993, section III.5 (variable step size Adams methods).
    """
    middle, half = (nodes[0] + end) / 2, (end - nodes[0]) / 2
    places = [middle - half / math.sqrt(3), middle + half / math.sqrt(3)]
    return [
        half * sum((_lagrange(nodes, index, place) for place in places), torch.zeros_like(half))
        for index in range(len(nodes))
    ]


def _lagrange(nodes: tuple[Tensor, ...], index: int, place: Tensor) -> Tensor:
    value = torch.ones_like(place)
    for other, node in enumerate(nodes):
        if other != index:
            value = value * (place - node) / (nodes[index] - node)
    return value
