"""DDPM's ancestral sampler, for any two levels. Ho, Jain & Abbeel 2020 (arXiv:2006.11239)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from medidiff.diffusion.levels import Denoise, NoiseLevel, half_log_snr_gap, scale
from medidiff.diffusion.sampling import Step
from medidiff.types import Image


@dataclass(frozen=True)
class DDPM:
    """A draw from q(x_to | x_now, clean), with the clean image replaced by its estimate.

    Source: Ho et al. 2020 (arXiv:2006.11239), eqs. 6, 7 and section 3.2 for the two variances.
    Differs: for any alpha and sigma (Kingma et al. 2021, arXiv:2107.00630, eq. 25) and any two
    levels, so a respaced path is nothing special; written in h, the gap in half-log-SNR, so that
    pure noise (alpha = 0, h = inf) is an ordinary level.
    """

    kind: Literal["ddpm"] = "ddpm"
    variance: Literal["small", "large"] = "small"
    """small: the posterior variance given the clean image; large: the forward step's, beta."""

    @property
    def finishes(self) -> bool:
        """The driver takes the last hop."""
        return False

    def step(
        self, denoise: Denoise, x: Image, now: NoiseLevel, to: NoiseLevel, memory: None, at: Step
    ) -> tuple[Image, None]:
        """Posterior mean plus noise."""
        gap = half_log_snr_gap(now, to)
        renewed = -torch.expm1(-2 * gap)
        spread = (to.sigma if self.variance == "small" else now.sigma) * renewed.sqrt()
        mean = (
            scale(to.alpha * renewed, x) * denoise(x, now).clean
            + scale(to.sigma / now.sigma * (-gap).exp(), x) * x
        )
        return mean + scale(spread, x) * at.noise(), None
