"""Denoising diffusion null-space models. Wang, Yu & Zhang 2023 (arXiv:2212.00490)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from medidiff.diffusion.levels import Denoise, NoiseLevel, scale
from medidiff.diffusion.sampling import Step
from medidiff.inverse.jumps import check_jumps, with_jumps
from medidiff.inverse.problem import LinearProblem, Plan, Problem
from medidiff.physics.operators import SpectralOperator, per_image
from medidiff.types import Image


@dataclass(frozen=True)
class DDNM:
    """What the measurement says of the estimate is replaced, what it does not see is kept.

        clean <- clean - A+ (A clean - y),    x_to = alpha clean + sigma (eps, of it a share fresh)

    form "noisy" (DDNM+) takes each coefficient of the operator's spectrum over only so far as the
    hop's fresh noise covers the noise that comes with it, and draws that much less:

        share = min(1, fresh s / (alpha sigma_y)),   drawn^2 = fresh^2 - (alpha share sigma_y / s)^2

    alpha = sqrt(alpha_bar) of the level to reach, fresh = eta sigma. One call a step, no gradient.
    Source: Wang et al. 2023 (arXiv:2212.00490), algorithm 1 and section 3.3.
    Differs: the pseudo-inverse is regularised (`ridge`), without which an ill-conditioned operator
    diverges; the authors' code has alpha_bar in the place of alpha in DDNM+.
    """

    kind: Literal["ddnm"] = "ddnm"
    form: Literal["noisy", "noise-free"] = "noisy"
    """DDNM+ or DDNM."""
    eta: float = 0.85
    """Share of fresh noise, 0 to 1."""
    ridge: float = 1e-3
    """Of the pseudo-inverse, over the operator's largest singular value squared."""
    jump_length: int = 1
    """Hops that are gone back for a time travel."""
    repeats: int = 1
    """How often each stretch of the path is walked; 1 is no time travel."""

    def __post_init__(self) -> None:
        check_jumps(self.kind, self.jump_length, self.repeats)
        if not (0 <= self.eta <= 1 and self.ridge >= 0):
            raise ValueError(f"ddnm needs 0 <= eta <= 1, ridge >= 0, got {self.eta}, {self.ridge}")
        if self.form == "noisy" and self.eta == 0:
            raise ValueError(
                "ddnm's noisy form needs eta above 0: without fresh noise it sees no y"
            )

    def plan(self, problem: Problem, denoise: Denoise, levels: Sequence[NoiseLevel]) -> Plan:
        """Its own steps along the path and its time travels.

        Errors: ValueError for the noisy form on an operator without a known decomposition.
        """
        if self.form == "noisy" and not isinstance(problem.operator, SpectralOperator):
            raise ValueError(
                "ddnm's noisy form needs an operator whose singular value decomposition is known, "
                f"got {type(problem.operator).__name__}: use form 'noise-free', diffpir or daps"
            )
        return Plan(
            denoise, DDNMSampler(problem, self), with_jumps(levels, self.jump_length, self.repeats)
        )


@dataclass(frozen=True, eq=False)
class DDNMSampler:
    """The steps of `DDNM`."""

    problem: Problem
    options: DDNM

    @property
    def finishes(self) -> bool:
        """The last estimate, too, takes the measurement over."""
        return True

    def step(
        self, denoise: Denoise, x: Image, now: NoiseLevel, to: NoiseLevel, memory: None, at: Step
    ) -> tuple[Image, None]:
        """Estimate, replacement, noise."""
        here, eta, z = denoise(x, now), self.options.eta, at.noise()
        linear = self.problem.linearised(here.clean)
        if self.options.form == "noisy":
            clean, fresh = self._shared(linear, here.clean, z, to)
        else:
            clean, fresh = here.clean + self._back(linear, here.clean), scale(to.sigma, x) * eta * z
        kept = scale(to.sigma * (1 - eta**2) ** 0.5, x) * here.eps
        return scale(to.alpha, x) * clean + kept + fresh, None

    def _back(self, linear: LinearProblem, clean: Image) -> Image:
        """A+ (y - A clean)."""
        ridge = self.options.ridge * linear.operator.norms(clean) ** 2
        return linear.operator.pseudo_inverse(linear.residual(clean), ridge)

    def _shared(
        self, linear: LinearProblem, clean: Image, z: Image, to: NoiseLevel
    ) -> tuple[Image, Image]:
        operator = linear.operator
        assert isinstance(operator, SpectralOperator)  # the plan refused it
        residual = operator.measured(linear.residual(clean))
        s = operator.singular_values.to(residual.device, residual.dtype.to_real())
        std = per_image(linear.noise_std, residual)
        alpha, fresh = (per_image(v, residual) for v in (to.alpha, self.options.eta * to.sigma))
        ridge = per_image(self.options.ridge * operator.norms(clean) ** 2, residual)
        gain = torch.where(s > 0, s / (s**2 + ridge), 0.0)
        brought = alpha * std * gain  # noise of y, in x_to
        share = torch.where(brought > fresh, fresh / brought, 1.0)
        drawn = (fresh**2 - (share * brought) ** 2).clamp_min(0).sqrt()
        noise = operator.image(drawn * operator.spectrum(z))
        return clean + operator.image(share * gain * residual), noise
