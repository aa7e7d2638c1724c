"""DDPM's ancestral sampler, for any two levels. Ho, Jain & Abbeel 2020 (arXiv:2006.11239)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from medidiff.diffusion.levels import Denoise, Estimate, NoiseLevel
from medidiff.diffusion.sampling import Step
from medidiff.diffusion.variance import (
    OptimalVariance,
    StepVariance,
    Transition,
    ddpm_transition,
    hold_noise,
)
from medidiff.types import Image, Tensor


@dataclass(frozen=True)
class DDPM:
    """A draw from q(x_to | x_now, clean), with the clean image replaced by its estimate.

    Source: Ho et al. 2020 (arXiv:2006.11239), eqs. 6, 7 and section 3.2 for the two variances.
    Differs: for any alpha and sigma (Kingma et al. 2021, arXiv:2107.00630) and any two
    levels, so a respaced path is nothing special; written in h, the gap in half-log-SNR, so that
    pure noise (alpha = 0, h = inf) is an ordinary level.
    """

    kind: Literal["ddpm"] = "ddpm"
    variance: StepVariance | OptimalVariance = "small"
    """small: the posterior variance given the clean image; large: the forward step's, beta;
    learned: the model's log variance; learned-range: the model's place between the two; or
    Analytic-DPM's optimal variance."""
    last_noise: float | None = None
    """Largest mean size of the last noisy hop's noise in network units (Bao et al. 2022,
    arXiv:2201.06503, appendix F: 2 * 2 / 255 or 2 / 255); None leaves it."""

    def __post_init__(self) -> None:
        check_last_noise(self.kind, self.last_noise)

    @property
    def finishes(self) -> bool:
        """The driver takes the last hop."""
        return False

    def transition(
        self,
        x: Image,
        here: Estimate,
        now: NoiseLevel,
        to: NoiseLevel,
        last: Tensor | None = None,
    ) -> Transition:
        """The Gaussian that `step` draws from; `last` as in `ddpm_transition`."""
        return ddpm_transition(x, here, now, to, self.variance, last)

    def step(
        self, denoise: Denoise, x: Image, now: NoiseLevel, to: NoiseLevel, memory: None, at: Step
    ) -> tuple[Image, None]:
        """Posterior mean plus noise."""
        return drawn(self.transition(x, denoise(x, now), now, to), self.last_noise, at), None


def drawn(transition: Transition, last_noise: float | None, at: Step) -> Image:
    """A draw from the transition, held at the last noisy hop (of a path that ends clean)."""
    if last_noise is not None and at.index == at.count - 2:
        transition = hold_noise(transition, last_noise)
    return transition.mean + transition.variance.sqrt() * at.noise()


def check_last_noise(kind: str, last_noise: float | None) -> None:
    """Errors: ValueError unless it is None or above 0."""
    if last_noise is not None and not last_noise > 0:
        raise ValueError(f"{kind} needs last_noise > 0 or none, got {last_noise}")
