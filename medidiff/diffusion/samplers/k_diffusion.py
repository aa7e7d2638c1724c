"""Two-stage stochastic samplers of DPM-Solver++ as k-diffusion made them known (Crowson 2022).

    now --first order--> middle --estimate there--> to: from `now` by that estimate, and noise

Both follow Lu et al. 2022 (arXiv:2211.01095), DPM-Solver++ 2S, whose second estimate stands for
the whole hop. The multistep relatives (2M SDE, 3M SDE) are `DPMSolverPP` with eta.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from medidiff.diffusion.levels import Denoise, NoiseLevel, chosen, scale
from medidiff.diffusion.samplers.edm import split_noise, stage_level
from medidiff.diffusion.sampling import Step
from medidiff.types import Image, Tensor


@dataclass(frozen=True)
class DPMSolverPPAncestral:
    """DPM-Solver++ 2S down to where the kept noise stands, then fresh noise. Two calls a hop.

    Source: Lu et al. 2022 (arXiv:2211.01095), with the ancestral step of k-diffusion's
    "dpmpp_2s_ancestral"; eta 0 is 2S itself.
    From pure noise the hop is of first order.
    """

    kind: Literal["dpm-solver++-2s-ancestral"] = "dpm-solver++-2s-ancestral"
    eta: float = 1.0
    """Share of fresh noise, 0 to 1."""

    def __post_init__(self) -> None:
        _check_eta(self.kind, self.eta)

    @property
    def finishes(self) -> bool:
        """The driver takes the last hop."""
        return False

    def step(
        self, denoise: Denoise, x: Image, now: NoiseLevel, to: NoiseLevel, memory: None, at: Step
    ) -> tuple[Image, None]:
        """The hop by the clean estimate of its middle."""
        kept, fresh = split_noise(now, to, self.eta)
        middle = stage_level(now, to, kept, 0.5, at)
        start = denoise(x, now).clean
        there = denoise(_toward(x, start, now, middle.alpha, middle.sigma), middle).clean
        x = _toward(x, _unless_pure(now, there, start), now, to.alpha, kept)
        return (x + scale(fresh, x) * at.noise() if self.eta > 0 else x), None


@dataclass(frozen=True)
class DPMSolverPPSDE:
    """A two-stage solver of the reverse SDE: the stage, too, gets its noise. Two calls a hop.

    Source: k-diffusion's "dpmpp_sde" (Crowson 2022), the stochastic form of Lu et al. 2022
    (arXiv:2211.01095), their 2S; with `BrownianNoise` the noise of the stage is a part of the
    hop's, as there.
    From pure noise the hop is of first order.
    """

    kind: Literal["dpm-solver++-2s-sde"] = "dpm-solver++-2s-sde"
    eta: float = 1.0
    """Share of the reverse SDE's noise, 0 (the ODE) to 1."""
    second_at: float = 0.5
    """Where in the hop, in half-log-SNR, the second call stands."""

    def __post_init__(self) -> None:
        _check_eta(self.kind, self.eta)
        if not 0 < self.second_at <= 1:
            raise ValueError(f"{self.kind} needs 0 < second_at <= 1, got {self.second_at}")

    @property
    def finishes(self) -> bool:
        """The driver takes the last hop."""
        return False

    def step(
        self, denoise: Denoise, x: Image, now: NoiseLevel, to: NoiseLevel, memory: None, at: Step
    ) -> tuple[Image, None]:
        """A noisy stage, then the hop by a blend of its estimate and the first one.

        Draw 0 is the whole hop's noise, draw 1 the stage's.
        """
        middle = stage_level(now, to, to.sigma, self.second_at, at)
        start = denoise(x, now).clean
        kept, fresh = split_noise(now, middle, self.eta)
        stage = _toward(x, start, now, middle.alpha, kept)
        if self.eta > 0:
            stage = stage + scale(fresh, x) * at.noise(1, stage=middle)
        there = _unless_pure(now, denoise(stage, middle).clean, start)
        share = 1 / (2 * self.second_at)
        kept, fresh = split_noise(now, to, self.eta)
        x = _toward(x, (1 - share) * start + share * there, now, to.alpha, kept)
        return (x + scale(fresh, x) * at.noise() if self.eta > 0 else x), None


def _toward(x: Image, clean: Image, now: NoiseLevel, alpha: Tensor, sigma: Tensor) -> Image:
    """The first-order hop to x = alpha clean + sigma eps, for a given clean image.

    Source: Lu et al. 2022 (arXiv:2211.01095).
    """
    carry = sigma / now.sigma
    return scale(carry, x) * x + scale(alpha - carry * now.alpha, x) * clean


def _unless_pure(now: NoiseLevel, there: Image, start: Image) -> Image:
    """The later estimate; from pure noise the first, the only one of its order."""
    pure = now.alpha == 0
    if not bool(pure.any()):
        return there
    return chosen(pure, start, there)


def _check_eta(kind: str, eta: float) -> None:
    if not 0 <= eta <= 1:
        raise ValueError(f"{kind} needs 0 <= eta <= 1, got {eta}")
