"""Magnitude (Rician) noise for the head `denoise`: m = |clean + s (n1 + i n2)|.

Given the clean image, the phase of the complex value is von Mises distributed with concentration
m clean / s^2. Drawing it gives a real channel m cos(phase) with Gaussian noise of just the level s,
which the prior denoises; the mean of such estimates gives the next phases (stochastic
expectation-maximisation, Celeux and Diebolt 1985). Taking the phase's mean instead of a draw would
leave less noise than the prior is told, and a floor in the background.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from medidiff.data.datasets import Case
from medidiff.diffusion import KeyedNoise
from medidiff.evaluation.classical import RICIAN, BiasCorrection
from medidiff.evaluation.noise_level import estimate_rician
from medidiff.evaluation.rician import invert_mean
from medidiff.inverse import Rician
from medidiff.physics.operators import per_image
from medidiff.tasks.base import Measurement, Problem
from medidiff.tasks.noises import STRUCTURE, Denoise, every_voxel
from medidiff.tasks.restoration import WINDOW, signal_zero

PHASE_POINTS = 129  # of the table that a von Mises angle is looked up in
ANGLES = 2**17  # at a time: their tables take a gigabyte


@dataclass(frozen=True)
class MagnitudeNoise:
    """Of a magnitude image, whose level is that of its real and of its imaginary part."""

    phase_draws: int
    name: Literal["rician"] = "rician"
    stated_by: Literal["sigma"] = "sigma"
    corrections: tuple[BiasCorrection, ...] = RICIAN
    structure: float = STRUCTURE

    @property
    def drawing(self) -> dict[str, object]:
        return {"phase_draws": self.phase_draws}

    def sigma(self, stated: float) -> float:
        return stated

    def stated(self, sigma: float) -> float:
        return sigma

    def added(
        self, clean: Tensor, cases: Sequence[Case], stated: float, noise: KeyedNoise
    ) -> Tensor:
        return noisy_magnitude(clean, signal_zero(cases, clean), WINDOW * stated, noise)

    def level(self, image: Tensor, case: Case) -> float:
        signal = image - signal_zero([case], image[None])[0]
        return estimate_rician(signal.clamp_min(0)) / WINDOW

    def measurement(self, problem: Problem) -> Measurement:
        zero = signal_zero(problem.cases, problem.given)
        spread = WINDOW * torch.tensor(problem.levels, dtype=torch.float64)
        magnitude = (problem.given - zero).clamp_min(0)
        return every_voxel(
            problem,
            magnitude,
            self.name,
            lambda members: Rician(spread[[*members]], -zero[[*members]]),
        )

    def mean(self, denoise: Denoise, problem: Problem, seed: int) -> tuple[Tensor, int]:
        """The mean of the prior's estimates from real channels, whose phases are drawn as the
        estimates before say."""
        estimate = denoise(problem.given, problem.levels)
        zero = signal_zero(problem.cases, problem.given)
        sigma = _spread(problem)
        # begin with the magnitude's own estimate, its mean bias taken out
        biased = ((estimate - zero) / sigma).clamp_min(0).cpu().double().numpy()
        clean = torch.from_numpy(invert_mean(biased, 1.0)).to(estimate) * sigma
        total = torch.zeros_like(clean)
        noise = KeyedNoise(seed, [(f"phase {key}", 0) for key in problem.keys])
        for draw in range(self.phase_draws):
            part = draw / self.phase_draws
            real = real_channel(problem, clean + zero, noise, part)
            total += denoise(real, problem.levels) - zero
            clean = total / (draw + 1)
        return clean + zero, 1 + self.phase_draws

    def starts(
        self, problem: Problem, point: Tensor, members: Sequence[tuple[int, int]], seed: int
    ) -> Tensor:
        """Real channels, whose phases are drawn as the estimates say."""
        chosen, keys = [case for case, _ in members], problem.keys
        noise = KeyedNoise(seed, [(f"sample phase {keys[case]}", nth) for case, nth in members])
        some = replace(
            problem,
            given=problem.given[chosen],
            cases=tuple(problem.cases[case] for case in chosen),
            levels=tuple(problem.levels[case] for case in chosen),
        )
        return real_channel(some, point[chosen], noise, 0.0)


def real_channel(problem: Problem, clean: Tensor, noise: KeyedNoise, part: float) -> Tensor:
    """The given magnitudes with phases drawn as if `clean` were true, in model units; `part` of
    the way around the phase's quantiles from the first draw."""
    zero = signal_zero(problem.cases, problem.given)
    magnitude = (problem.given - zero).clamp_min(0)
    concentration = magnitude * (clean - zero).clamp_min(0) / _spread(problem) ** 2
    unit = further(noise(magnitude, 0), part)
    return magnitude * cos_of_von_mises(concentration, unit) + zero


def _spread(problem: Problem) -> Tensor:
    """Of each image's noise, in model units, to be spread over it."""
    levels = torch.tensor(problem.levels, dtype=torch.float64)
    return per_image(levels, problem.given) * WINDOW


def noisy_magnitude(
    clean: Tensor, zero: Tensor | float, spread: Tensor | float, noise: KeyedNoise
) -> Tensor:
    """|clean + complex noise| where `zero` is no signal; all in model units."""
    real = clean + spread * noise(clean, 0)
    return torch.hypot(real - zero, spread * noise(clean, 0, draw=1)) + zero


def further(unit: Tensor, part: float) -> Tensor:
    """Standard Gaussian draws whose quantiles are those of `unit` moved on by `part`, around.

    Draws at parts k / n are stratified: each is a draw by itself, and their mean scatters less than
    that of n independent ones. Source: McKay, Beckman & Conover 1979 (doi:10.2307/1268522).
    """
    if part == 0:
        return unit
    quantile = (torch.special.ndtr(unit.double()) + part) % 1
    return torch.special.ndtri(quantile.clamp(1e-12, 1 - 1e-12)).to(unit)


def cos_of_von_mises(concentration: Tensor, unit: Tensor) -> Tensor:
    """The cosine of von Mises angles about 0, drawn by inverting the distribution function.

    Shapes: `concentration` (>= 0) and `unit`, a standard Gaussian field whose quantiles are the
    draws, are alike. Evans et al. 1993, "Statistical distributions", ch. 41, for the density.
    """
    pairs = zip(concentration.flatten().split(ANGLES), unit.flatten().split(ANGLES), strict=True)
    return torch.cat([_cosines(kappa.double(), each) for kappa, each in pairs]).view(unit.shape)


def _cosines(kappa: Tensor, unit: Tensor) -> Tensor:
    """Of angles with so much concentration, whose quantiles are those of `unit`; flat."""
    # beyond ten spreads nothing is left; the grid then is fine enough at any concentration
    reach = (10 / kappa.clamp_min(1e-9).sqrt()).clamp_max(math.pi)[..., None]
    part = torch.linspace(0, 1, PHASE_POINTS, dtype=kappa.dtype, device=kappa.device)
    density = torch.exp(kappa[..., None] * ((reach * part).cos() - 1))
    rising = functional.pad(torch.cumulative_trapezoid(density, dim=-1), (1, 0))
    wanted = torch.special.ndtr(unit.double())[..., None] * rising[..., -1:]
    upper = torch.searchsorted(rising, wanted).clamp(1, PHASE_POINTS - 1)
    low, high = rising.gather(-1, upper - 1), rising.gather(-1, upper)
    between = ((wanted - low) / (high - low).clamp_min(1e-300)).clamp(0, 1)
    angle = reach * (upper - 1 + between) / (PHASE_POINTS - 1)
    return angle[..., 0].cos().to(unit.dtype)
