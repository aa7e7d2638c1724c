"""Tables of betas: the noise that DDPM adds in each of its N steps.

    beta[n], n = 0 .. N-1;   alpha_step = 1 - beta;   alpha_bar[n] = prod_{k <= n} alpha_step[k]

Only here are DDPM's own symbols used; `schedules.Discrete` turns a table into levels, with
alpha = sqrt(alpha_bar) at t = (n + 1) / N.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import torch

from medidiff.types import Tensor


class Betas(Protocol):
    """steps -> the betas of a process of that many steps.

    Shapes: (steps,), float64, each in (0, 1].
    """

    def __call__(self, steps: int) -> Tensor: ...


@dataclass(frozen=True)
class LinearBetas:
    """Equal steps from beta_start to beta_end. Ho et al. 2020 (arXiv:2006.11239), section 4."""

    kind: Literal["linear"] = "linear"
    beta_start: float = 1e-4
    """The first step's beta."""
    beta_end: float = 0.02
    """The last step's beta."""

    def __post_init__(self) -> None:
        _check_ends(self.kind, self.beta_start, self.beta_end)

    def __call__(self, steps: int) -> Tensor:
        return torch.linspace(self.beta_start, self.beta_end, steps, dtype=torch.float64)


@dataclass(frozen=True)
class ScaledLinearBetas:
    """Equal steps in sqrt(beta): DDPM's code's "quad", latent diffusion's "scaled_linear".

    Source: Rombach et al. 2022 (arXiv:2112.10752), appendix, for the defaults.
    """

    kind: Literal["scaled-linear"] = "scaled-linear"
    beta_start: float = 0.00085
    """The first step's beta."""
    beta_end: float = 0.012
    """The last step's beta."""

    def __post_init__(self) -> None:
        _check_ends(self.kind, self.beta_start, self.beta_end)

    def __call__(self, steps: int) -> Tensor:
        first, last = math.sqrt(self.beta_start), math.sqrt(self.beta_end)
        return torch.linspace(first, last, steps, dtype=torch.float64) ** 2


@dataclass(frozen=True)
class CosineBetas:
    """Betas whose alpha_bar is a squared cosine.

    Source: Nichol & Dhariwal 2021 (arXiv:2102.09672), eq. 17, with betas held below max_beta.
    """

    kind: Literal["cosine"] = "cosine"
    offset: float = 0.008
    """The paper's s: keeps the first betas from being too small."""
    max_beta: float = 0.999
    """Where the last betas are cut, so that the last level keeps some signal."""

    def __post_init__(self) -> None:
        if not 0 < self.offset < 1 or not 0 < self.max_beta <= 1:
            raise ValueError(
                "cosine betas need 0 < offset < 1 and 0 < max_beta <= 1, got "
                f"{self.offset}, {self.max_beta}"
            )

    def __call__(self, steps: int) -> Tensor:
        t = torch.arange(steps + 1, dtype=torch.float64) / steps
        alpha_bar = ((t + self.offset) / (1 + self.offset) * math.pi / 2).cos() ** 2
        return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp_max(self.max_beta)


AnyBetas: TypeAlias = LinearBetas | ScaledLinearBetas | CosineBetas


def _check_ends(kind: str, beta_start: float, beta_end: float) -> None:
    if not 0 < beta_start <= beta_end < 1:
        raise ValueError(
            f"{kind} betas need 0 < beta_start <= beta_end < 1, got {beta_start}, {beta_end}"
        )
