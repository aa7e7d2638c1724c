"""EDM's second-order sampler. Karras et al. 2022 (arXiv:2206.00364)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch

from medidiff.diffusion.levels import Denoise, NoiseLevel, scale
from medidiff.diffusion.sampling import Step, renoise
from medidiff.types import Image


@dataclass(frozen=True)
class Heun:
    """Heun's method in the noise ratio, with EDM's churn. Two network calls a hop.

    Source: Karras et al. 2022 (arXiv:2206.00364), algorithm 2 (algorithm 1 at churn 0).
    Differs: for any alpha, through x / alpha, where noise_ratio is the paper's sigma. From pure
    noise (alpha = 0) that quotient does not exist and the hop is an Euler one; one hop of
    lower order leaves the order of the whole.
    """

    kind: Literal["heun"] = "heun"
    churn: float = 0.0
    """How much noise is added back over the whole path (S_churn); 0 is deterministic."""
    churn_min: float = 0.0
    """Smallest noise ratio at which noise is added back."""
    churn_max: float = math.inf
    """Largest noise ratio at which noise is added back."""
    noise_scale: float = 1.0
    """Standard deviation of the noise that is added back (S_noise)."""

    def __post_init__(self) -> None:
        if self.churn < 0 or self.noise_scale < 0 or not self.churn_min <= self.churn_max:
            raise ValueError(
                "heun needs churn >= 0, noise_scale >= 0 and churn_min <= churn_max, got "
                f"{self.churn}, {self.noise_scale}, {self.churn_min}, {self.churn_max}"
            )

    @property
    def finishes(self) -> bool:
        """With churn the last hop, too, begins by adding noise."""
        return self.churn > 0

    def step(
        self, denoise: Denoise, x: Image, now: NoiseLevel, to: NoiseLevel, memory: None, at: Step
    ) -> tuple[Image, None]:
        """Churn, an Euler step, and its correction by the noise estimate at its end."""
        x, now = self._churned(x, now, at)
        here = denoise(x, now)
        euler = scale(to.alpha, x) * here.clean + scale(to.sigma, x) * here.eps
        if to.is_clean:
            return euler, None
        there = denoise(euler, to)
        # alpha * (change of the noise ratio) / 2; 0 from pure noise, where the ratio is infinite
        half = (to.sigma - to.alpha * now.noise_ratio) / 2
        half = torch.where(now.alpha == 0, 0.0, half)
        return euler + scale(half, x) * (there.eps - here.eps), None

    def _churned(self, x: Image, now: NoiseLevel, at: Step) -> tuple[Image, NoiseLevel]:
        ratio = now.noise_ratio
        chosen = (ratio >= self.churn_min) & (ratio <= self.churn_max) & ratio.isfinite()
        if self.churn == 0 or not bool(chosen.any()):
            return x, now
        gain = min(self.churn / at.count, math.sqrt(2) - 1)
        raised = at.level(noise_ratio=ratio * (1 + gain))
        up = NoiseLevel(
            torch.where(chosen, raised.t, now.t),
            torch.where(chosen, raised.alpha, now.alpha),
            torch.where(chosen, raised.sigma, now.sigma),
        )
        return renoise(x, now, up, self.noise_scale * at.noise()), up
