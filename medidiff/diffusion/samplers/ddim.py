"""DDIM. Song, Meng & Ermon 2021 (arXiv:2010.02502)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from medidiff.diffusion.levels import Denoise, NoiseLevel, half_log_snr_gap, scale
from medidiff.diffusion.sampling import Step
from medidiff.types import Image


@dataclass(frozen=True)
class DDIM:
    """The clean estimate, noised again to the next level with partly the same noise.

    Source: Song et al. 2021 (arXiv:2010.02502), eqs. 12 and 16.
    eta 0 is deterministic (Euler in the noise ratio), eta 1 is DDPM with the small variance.
    """

    kind: Literal["ddim"] = "ddim"
    eta: float = 0.0
    """Share of fresh noise, 0 to 1."""

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"ddim needs 0 <= eta <= 1, got {self.eta}")

    @property
    def finishes(self) -> bool:
        """The driver takes the last hop."""
        return False

    def step(
        self, denoise: Denoise, x: Image, now: NoiseLevel, to: NoiseLevel, memory: None, at: Step
    ) -> tuple[Image, None]:
        """alpha * clean + sqrt(sigma^2 - fresh^2) * eps + fresh * noise."""
        here = denoise(x, now)
        fresh = self.eta**2 * -torch.expm1(-2 * half_log_snr_gap(now, to))
        x = scale(to.alpha, x) * here.clean + scale(to.sigma * (1 - fresh).sqrt(), x) * here.eps
        if self.eta > 0:
            x = x + scale(to.sigma * fresh.sqrt(), x) * at.noise()
        return x, None
