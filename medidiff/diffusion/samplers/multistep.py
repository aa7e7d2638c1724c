"""Pseudo numerical methods: PNDM, PLMS, iPNDM. Liu et al. 2022 (arXiv:2202.09778)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from medidiff.diffusion.levels import Denoise, Estimate, NoiseLevel, ddim_hop, scale
from medidiff.diffusion.sampling import Step
from medidiff.types import Image

ADAMS = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)
"""Adams-Bashforth weights for equal steps, the latest first. Liu et al. 2022 (order 4)."""


def transfer(x: Image, here: Estimate, eps: Image, now: NoiseLevel, to: NoiseLevel) -> Image:
    """DDIM's hop with any noise in place of the network's; from pure noise with the network's own.

    Source: Liu et al. 2022 (arXiv:2202.09778), their phi.
    """
    pure = now.alpha == 0
    carry = torch.where(pure, 0.0, to.alpha / now.alpha)
    change = torch.where(pure, to.sigma, to.sigma - carry * now.sigma)
    result = scale(carry, x) * x + scale(change, x) * eps
    if bool(pure.any()):
        lost = torch.where(pure, 1.0, 0.0)
        own = ddim_hop(here, to)
        result = torch.lerp(result, own, scale(lost, x).expand_as(x))
    return result


@dataclass(frozen=True)
class PNDM:
    """DDIM's hop with a combination of the noises before. One call a hop, but for the start.

    F-PNDM is order 4 with start "runge-kutta" (four calls in each of the first three hops), S-PNDM
    order 2 with "heun" (two calls in the first), PLMS order 4 with "heun", iPNDM order 4 with
    "grow". The weights are those of equal steps, whatever the path.
    Source: Liu et al. 2022 (arXiv:2202.09778), eq. 9, algorithm 2; Zhang & Chen 2023
    (arXiv:2204.13902), appendix H.2 (iPNDM); Rombach et al. 2022's code (PLMS).
    """

    kind: Literal["pndm"] = "pndm"
    order: Literal[1, 2, 3, 4] = 4
    """Noises that are combined; 1 is DDIM."""
    start: Literal["runge-kutta", "heun", "grow"] = "runge-kutta"
    """How the first hops do without enough noises before them."""

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3, 4):
            raise ValueError(f"pndm needs order 1 to 4, got {self.order}")

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
        memory: tuple[Image, ...] | None,
        at: Step,
    ) -> tuple[Image, tuple[Image, ...]]:
        """Combine, transfer; the memory is the noises before, the latest first."""
        here = denoise(x, now)
        known = (here.eps, *(memory or ()))[: self.order]
        if self.start == "runge-kutta" and len(known) < self.order:
            eps = _runge_kutta(denoise, x, here, now, to, at)
        elif self.start == "heun" and len(known) == 1 and self.order > 1:
            there = denoise(transfer(x, here, here.eps, now, to), to)
            eps = (here.eps + there.eps) / 2
        else:
            eps = combined(ADAMS[len(known) - 1], known)
        return transfer(x, here, eps, now, to), known


def combined(weights: Sequence[float], fields: Sequence[Image]) -> Image:
    """sum_i weights[i] fields[i]."""
    total = weights[0] * fields[0]
    for weight, each in zip(weights[1:], fields[1:], strict=True):
        total = total + weight * each
    return total


def _runge_kutta(
    denoise: Denoise, x: Image, here: Estimate, now: NoiseLevel, to: NoiseLevel, at: Step
) -> Image:
    """The classical four stages, each a transfer from `now`. Liu et al. 2022."""
    middle = at.level(t=(now.t + to.t) / 2)
    second = denoise(transfer(x, here, here.eps, now, middle), middle).eps
    third = denoise(transfer(x, here, second, now, middle), middle).eps
    fourth = denoise(transfer(x, here, third, now, to), to).eps
    return (here.eps + 2 * second + 2 * third + fourth) / 6
