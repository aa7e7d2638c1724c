"""Few-step samplers of consistency models, whose estimate is the end of the flow and not a mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from medidiff.diffusion.levels import Denoise, NoiseLevel, ddim_hop, scale
from medidiff.diffusion.sampling import Step, renoise
from medidiff.types import Image


@dataclass(frozen=True)
class Consistency:
    """The model's clean image with fresh noise up to the next level. One call a hop.

    Source: Song et al. 2023 (arXiv:2303.01469), algorithm 1; Luo et al. 2023 (arXiv:2310.04378)
    with `floor` 0 (latent consistency).
    Differs: for any alpha, through x / alpha.
    """

    kind: Literal["consistency"] = "consistency"
    floor: float = 0.0
    """The noise ratio at which the model is the identity (the paper's epsilon); the fresh noise
    is that much less than the level's."""

    def __post_init__(self) -> None:
        if not self.floor >= 0:
            raise ValueError(f"consistency needs floor >= 0, got {self.floor}")

    @property
    def finishes(self) -> bool:
        """The driver takes the last hop."""
        return False

    def step(
        self, denoise: Denoise, x: Image, now: NoiseLevel, to: NoiseLevel, memory: None, at: Step
    ) -> tuple[Image, None]:
        """alpha * clean + sqrt(sigma^2 - (alpha floor)^2) * noise."""
        fresh = (to.sigma**2 - (to.alpha * self.floor) ** 2).clamp_min(0).sqrt()
        return scale(to.alpha, x) * denoise(x, now).clean + scale(fresh, x) * at.noise(), None


@dataclass(frozen=True)
class TCD:
    """A deterministic hop beyond the next level, then noise back up to it. One call a hop.

    Source: Zheng et al. 2024 (arXiv:2402.19159), algorithm 4 (strategic stochastic sampling).
    gamma 0 is DDIM, gamma 1 the consistency sampler.
    """

    kind: Literal["tcd"] = "tcd"
    gamma: float = 0.3
    """How far beyond, as a part of the next level's time, 0 to 1."""

    def __post_init__(self) -> None:
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"tcd needs 0 <= gamma <= 1, got {self.gamma}")

    @property
    def finishes(self) -> bool:
        """The driver takes the last hop."""
        return False

    def step(
        self, denoise: Denoise, x: Image, now: NoiseLevel, to: NoiseLevel, memory: None, at: Step
    ) -> tuple[Image, None]:
        """To the level at (1 - gamma) of the next one's time, and back."""
        beyond = to if self.gamma == 0 else at.level(t=(1 - self.gamma) * to.t)
        x = ddim_hop(denoise(x, now), beyond)
        return (x if self.gamma == 0 else renoise(x, beyond, to, at.noise())), None
