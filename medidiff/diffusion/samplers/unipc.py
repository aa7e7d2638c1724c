"""UniPC: a unified predictor and corrector of any order. Zhao et al. 2023 (arXiv:2302.04867)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch

from medidiff.diffusion.levels import Denoise, Estimate, NoiseLevel
from medidiff.diffusion.samplers.exponential import (
    Basis,
    Hop,
    behind_pure_noise,
    lagrange_shares,
    phi,
    phi_weight,
    polynomial_terms,
)
from medidiff.diffusion.sampling import Step
from medidiff.types import Image, Tensor

Weights: TypeAlias = Literal["bh1", "bh2", "varying", "varying-code"]


@dataclass(frozen=True, eq=False)
class Hopped:
    """The hop before: where it began, its order, and the estimates up to its beginning."""

    x: Image
    order: int
    levels: tuple[NoiseLevel, ...]
    estimates: tuple[Estimate, ...]


@dataclass(frozen=True)
class UniPC:
    """A multistep predictor, corrected at the next hop by the call that is made there anyway.

    One call a hop. The image after a hop is the predictor's; the last hop's is never corrected.
    Source: Zhao et al. 2023 (arXiv:2302.04867), section 3 and appendix C
    ("varying", UniPC_v).
    Differs: a hop from pure noise is of first order and is not corrected.
    """

    kind: Literal["unipc"] = "unipc"
    order: int = 3
    """Predictions that the predictor uses (p); the method is of order p + 1 with its corrector."""
    basis: Basis = "clean"
    """Which output is expanded."""
    weights: Weights = "bh2"
    """B(h) is h for bh1 and e^h - 1 for bh2; varying takes its coefficients from the exponential
    integral itself; varying-code as in the authors' code, whose corrector drops terms."""
    corrector: bool = True
    """Whether hops are corrected; without it this is UniP."""
    lower_order_final: bool = True
    """Whether a path ends by hops of orders ..., 2, 1."""

    def __post_init__(self) -> None:
        if self.order < 1:
            raise ValueError(f"unipc needs order >= 1, got {self.order}")

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
        memory: Hopped | None,
        at: Step,
    ) -> tuple[Image, Hopped]:
        """The correction of the hop before, then the prediction of this one."""
        here = denoise(x, now)
        levels, estimates = (now,), (here,)
        if memory is not None:
            if self.corrector:
                x = self._corrected(x, memory, now, here)
            levels, estimates = (now, *memory.levels), (here, *memory.estimates)
        kept = behind_pure_noise(levels)
        order = min(self.order, kept, self._most(at))
        hop = Hop(now, to, self.basis)
        past = [hop.prediction(each) for each in estimates[:order]]
        result = hop.first_order(x, here) + self._sum(hop, levels[:order], past, None)
        keep = self.order
        return result, Hopped(x, order, levels[:keep], estimates[:keep])

    def _most(self, at: Step) -> int:
        return 1 + len(at.ahead) if self.lower_order_final else self.order

    def _corrected(self, x: Image, before: Hopped, now: NoiseLevel, here: Estimate) -> Image:
        """The hop before, once more, with the prediction at its end."""
        hop = Hop(before.levels[0], now, self.basis)
        if not bool(hop.gap.isfinite().all()):
            return x
        levels = before.levels[: before.order]
        past = [hop.prediction(each) for each in before.estimates[: before.order]]
        again = hop.first_order(before.x, before.estimates[0])
        return again + self._sum(hop, levels, past, hop.prediction(here))

    def _sum(
        self,
        hop: Hop,
        levels: tuple[NoiseLevel, ...],
        past: list[Image],
        end: Image | None,
    ) -> Image | float:
        """gain B(h) sum_m rho_m D_m / r_m, with the prediction at the end for the corrector."""
        corrects = end is not None
        return polynomial_terms(
            hop, levels, past, end, lambda ratios: self._shares(hop, ratios, corrects)
        )

    def _shares(self, hop: Hop, ratios: Tensor, corrects: bool) -> Tensor:
        """B(h) rho: what multiplies D_m / r_m. Shapes: ratios (*batch, p) -> (*batch, p)."""
        count, z = ratios.shape[-1], hop.rate
        if self.weights.startswith("varying"):
            as_coded = corrects and self.weights == "varying-code"
            return _as_coded(ratios, z) if as_coded else lagrange_shares(ratios, z)
        size = z.abs() if self.weights == "bh1" else phi_weight(1, z)
        if count == 1:  # the paper's choice where the equation for one share holds to its order
            return size[..., None] / 2
        powers = torch.stack([ratios**power for power in range(count)], -2)
        aims = torch.stack(
            [math.factorial(power) * phi(power + 1, z) for power in range(1, count + 1)], -1
        )
        return z.abs()[..., None] * torch.linalg.solve(powers, aims[..., None])[..., 0]


def _as_coded(ratios: Tensor, z: Tensor) -> Tensor:
    """The corrector's shares in the authors' code, where `lagrange_shares` are the paper's.

    Differs: the share of the prediction at the hop's end is the last but one term of its row alone.
    """
    count = ratios.shape[-1]
    columns = [ratios**power / math.factorial(power + 1) for power in range(count)]
    inverse = torch.linalg.inv(torch.stack(columns, -1))
    weights = torch.stack([phi_weight(power + 1, z) for power in range(1, count + 1)], -1)
    shares = (weights[..., None, :-1] @ inverse[..., :-1, :])[..., 0, :]
    end = weights[..., -1] * inverse[..., max(count - 2, 0), -1]
    return torch.cat([shares[..., :-1], end[..., None]], -1)
