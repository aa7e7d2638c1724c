"""Tables of betas: the noise that DDPM adds in each of its N steps.

    beta[n], n = 0 .. N-1;   alpha_step = 1 - beta;   alpha_bar[n] = prod_{k <= n} alpha_step[k]

Only here are DDPM's own symbols used; `schedules.Discrete` turns a table into levels, with
alpha = sqrt(alpha_bar) at t = (n + 1) / N.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
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


@dataclass(frozen=True)
class RescaledLinearBetas:
    """Linear betas whose ends grow as the steps get fewer, so that the last level stays the same.

    Source: Nichol & Dhariwal 2021 (arXiv:2102.09672), section 3.1; their code's "linear", which
    multiplies both ends by 1000 / steps.
    Errors: ValueError if the steps are so few that a beta reaches 1.
    """

    kind: Literal["rescaled-linear"] = "rescaled-linear"
    beta_start: float = 1e-4
    """The first beta of a process of `reference_steps`."""
    beta_end: float = 0.02
    """The last beta of a process of `reference_steps`."""
    reference_steps: int = 1000
    """Steps of the process for which the ends are given."""

    def __post_init__(self) -> None:
        _check_ends(self.kind, self.beta_start, self.beta_end)
        if self.reference_steps < 1:
            raise ValueError(f"{self.kind} betas needs reference_steps >= 1")

    def __call__(self, steps: int) -> Tensor:
        growth = self.reference_steps / steps
        if growth * self.beta_end >= 1:
            raise ValueError(
                f"{self.kind} betas of {steps} steps would end at {growth * self.beta_end:.3g}; "
                f"use more than {self.reference_steps * self.beta_end:g} steps"
            )
        first, last = growth * self.beta_start, growth * self.beta_end
        return torch.linspace(first, last, steps, dtype=torch.float64)


@dataclass(frozen=True)
class WarmupBetas:
    """Linear up to beta_end over the first part of the steps, then constant.

    Source: Ho et al. 2020 (arXiv:2006.11239), their code's "warmup10" and "warmup50".
    """

    kind: Literal["warmup"] = "warmup"
    beta_start: float = 1e-4
    """The first step's beta."""
    beta_end: float = 0.02
    """The beta after the warm-up."""
    share: float = 0.1
    """Part of the steps that rise: 0.1 or 0.5 in the paper's code."""

    def __post_init__(self) -> None:
        _check_ends(self.kind, self.beta_start, self.beta_end)
        if not 0 <= self.share <= 1:
            raise ValueError(f"warmup betas needs 0 <= share <= 1, got {self.share}")

    def __call__(self, steps: int) -> Tensor:
        rising = int(steps * self.share)
        ramp = torch.linspace(self.beta_start, self.beta_end, rising, dtype=torch.float64)
        flat = torch.full((steps - rising,), self.beta_end, dtype=torch.float64)
        return torch.cat([ramp, flat])


@dataclass(frozen=True)
class ConstantBetas:
    """The same beta in every step. Ho et al. 2020 (arXiv:2006.11239), their code's "const"."""

    kind: Literal["constant"] = "constant"
    beta: float = 0.02
    """Every step's beta."""

    def __post_init__(self) -> None:
        _check_ends(self.kind, self.beta, self.beta)

    def __call__(self, steps: int) -> Tensor:
        return torch.full((steps,), self.beta, dtype=torch.float64)


@dataclass(frozen=True)
class JSDBetas:
    """1 / steps, 1 / (steps - 1), ..., 1/2, 1: each step takes the same amount of signal away.

    Source: Sohl-Dickstein et al. 2015 (arXiv:1503.03585), section 2.4.1; DDPM's code's "jsd".
    The last level is pure noise (alpha 0).
    """

    kind: Literal["jsd"] = "jsd"

    def __call__(self, steps: int) -> Tensor:
        return 1 / torch.arange(steps, 0, -1, dtype=torch.float64)


@dataclass(frozen=True)
class SigmoidBetas:
    """A sigmoid's rise from beta_start to beta_end.

    Source: Song, Meng & Ermon 2021 (arXiv:2010.02502), their code's "sigmoid".
    """

    kind: Literal["sigmoid"] = "sigmoid"
    beta_start: float = 1e-4
    """The beta far below the rise."""
    beta_end: float = 0.02
    """The beta far above it."""
    width: float = 6.0
    """The sigmoid is taken over [-width, width]."""

    def __post_init__(self) -> None:
        _check_ends(self.kind, self.beta_start, self.beta_end)
        if not self.width > 0:
            raise ValueError(f"sigmoid betas needs width > 0, got {self.width}")

    def __call__(self, steps: int) -> Tensor:
        rise = torch.linspace(-self.width, self.width, steps, dtype=torch.float64).sigmoid()
        return self.beta_start + (self.beta_end - self.beta_start) * rise


PlainBetas: TypeAlias = (
    LinearBetas
    | ScaledLinearBetas
    | CosineBetas
    | RescaledLinearBetas
    | WarmupBetas
    | ConstantBetas
    | JSDBetas
    | SigmoidBetas
)


@dataclass(frozen=True)
class ZeroTerminalBetas:
    """Other betas, changed so that the last level is pure noise (alpha 0).

    Source: Lin et al. 2024 (arXiv:2305.08891), algorithm 1: sqrt(alpha_bar) is shifted to end at 0
    and scaled to keep its first value. The noise alone says nothing at the last level: train with
    `v` or `clean`, and visit the levels by a spacing that begins there.
    """

    kind: Literal["zero-terminal"] = "zero-terminal"
    betas: PlainBetas = field(default_factory=ScaledLinearBetas)
    """The betas to change."""

    def __call__(self, steps: int) -> Tensor:
        if steps < 2:
            raise ValueError(f"zero-terminal betas needs at least 2 steps, got {steps}")
        alpha = (1 - self.betas(steps)).cumprod(0).sqrt()
        alpha_bar = ((alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])) ** 2
        before = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])
        return 1 - alpha_bar / before


AnyBetas: TypeAlias = PlainBetas | ZeroTerminalBetas


def _check_ends(kind: str, beta_start: float, beta_end: float) -> None:
    if not 0 < beta_start <= beta_end < 1:
        raise ValueError(
            f"{kind} betas need 0 < beta_start <= beta_end < 1, got {beta_start}, {beta_end}"
        )
