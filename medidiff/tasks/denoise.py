"""Denoising with an unconditional prior: enter the diffusion at the level whose noise matches the
scan's.

Gaussian noise of standard deviation s (model units): alpha * given is a sample of the diffusion at
the level with noise_ratio s, so one network call gives the posterior mean E[clean | given], and
walking down from there with an ancestral sampler gives posterior samples (Song et al. 2021,
arXiv:2011.13456; Efron 2011, Tweedie's formula).

Rician noise, m = |clean + s (n1 + i n2)|: the real channel y = m cos(phase) is unknown, its
expectation given the clean image is m I1(z)/I0(z) with z = m clean / s^2 (the von Mises mean).
Alternating this with the Gaussian posterior mean is expectation-maximisation over the phase
(Dempster et al. 1977); it removes the Rician floor that Gaussian denoisers leave in the background.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from medidiff.data.datasets import Case
from medidiff.diffusion import DDPM, KeyedNoise, NoiseLevel
from medidiff.errors import TaskError
from medidiff.evaluation.classical import DENOISERS, GAUSSIAN, RICIAN
from medidiff.evaluation.noise_level import estimate_gaussian, estimate_rician
from medidiff.model import Model, SamplingOptions, evaluating
from medidiff.tasks.base import Bench, Benchmarked, Needs, Problem, Solution, stack
from medidiff.tasks.restoration import RESTORATION_METRICS, TRUTH, WINDOW, restored, signal_zero


@dataclass(frozen=True)
class Denoising:
    """Remove Gaussian or Rician noise of known or estimated level."""

    kind: Literal["denoise"] = "denoise"
    noise: Literal["gaussian", "rician"] = "gaussian"
    sigma: float | Literal["estimate"] = "estimate"
    """Standard deviation of the noise in units of the model's intensity window (its width is 1)."""
    phase_iterations: int = 4
    """Rician only: rounds of expectation over the phase."""
    steps: int = 20
    """Ancestral steps of each posterior sample (used when n > 1)."""

    def __post_init__(self) -> None:
        if isinstance(self.sigma, float | int) and not 0 < self.sigma < 10:
            raise ValueError("sigma must lie between 0 and 10 window widths, or be estimate")
        if self.phase_iterations < 1 or self.steps < 1:
            raise ValueError("phase_iterations and steps must be at least 1")

    def needs(self) -> Needs:
        return Needs()

    def prepare(self, cases: Sequence[Case], model: Model) -> Problem:
        """Cases with the level of their noise, estimated from each image where it is not given."""
        given = stack(cases, model)
        levels = tuple(
            self._level(image, case) for image, case in zip(given.cpu(), cases, strict=True)
        )
        return Problem(given, tuple(cases), levels)

    def solve(self, problem: Problem, model: Model, n: int, seed: int) -> Solution:
        """The posterior mean: one network call for n = 1, the mean of n posterior samples
        otherwise."""
        with torch.no_grad(), evaluating(model.network):
            given, calls = self._gaussian_equivalent(problem, model)
            facts = {"noise": self.noise, "sigma": list(problem.levels)}
            if n <= 1:
                return Solution(self._mean(given, problem, model), calls + 1, facts=facts)
            samples, nfe = self._samples(given, problem, model, n, seed)
        return Solution(samples.mean(0), calls + nfe * n, samples, facts)

    def baselines(self) -> tuple[str, ...]:
        return tuple(baseline.name for baseline in DENOISERS)

    def metrics(self) -> Mapping[str, str]:
        return RESTORATION_METRICS

    def benchmark(self, bench: Bench) -> Benchmarked:
        """Noise of .05, .1 and .2 (or this head's own sigma) on the test scans, known to all."""
        levels = (0.05, 0.1, 0.2) if self.sigma == "estimate" else (float(self.sigma),)
        corrections = GAUSSIAN if self.noise == "gaussian" else RICIAN
        found = [
            restored(
                replace(self, sigma=sigma),
                sigma,
                f"{self.noise} {sigma:g}",
                bench,
                DENOISERS,
                corrections,
            )
            for sigma in levels
        ]
        rows = [row for part in found for row in part.rows]
        return Benchmarked(rows, [example for part in found for example in part.examples], TRUTH)

    def corrupt(self, clean: Tensor, cases: Sequence[Case], noise: KeyedNoise) -> Tensor:
        """Model-unit images with simulated noise of this head's sigma, for benchmarks.

        Errors: TaskError if sigma is "estimate".
        """
        if self.sigma == "estimate":
            raise TaskError("noise can only be added with a stated sigma")
        sigma = float(self.sigma)
        real = clean + WINDOW * sigma * noise(clean, 0)
        if self.noise == "gaussian":
            return real
        zero = signal_zero(cases, clean)
        imaginary = WINDOW * sigma * noise(clean, 0, draw=1)
        return torch.hypot(real - zero, imaginary) + zero

    def _level(self, image: Tensor, case: Case) -> float:
        if self.sigma != "estimate":
            return float(self.sigma)
        if self.noise == "gaussian":
            found = estimate_gaussian(image) / WINDOW
        else:
            found = (
                estimate_rician((image - signal_zero([case], image[None])[0]).clamp_min(0)) / WINDOW
            )
        if not 0 < found < 10:
            raise TaskError(
                f"the noise level of this image was estimated as {found:g} of the intensity "
                "window, which cannot be right (masked or denoised already?); state it with sigma"
            )
        return found

    def _gaussian_equivalent(self, problem: Problem, model: Model) -> tuple[Tensor, int]:
        """Images whose noise may be treated as Gaussian, and the network calls that this took."""
        if self.noise == "gaussian":
            return problem.given, 0
        zero = signal_zero(problem.cases, problem.given)
        magnitude = (problem.given - zero).clamp_min(0)
        variance = (_column(problem.levels, magnitude) * WINDOW) ** 2
        real = magnitude
        for _ in range(self.phase_iterations):
            clean = (self._mean(real + zero, problem, model) - zero).clamp_min(0)
            z = magnitude * clean / variance
            real = magnitude * torch.special.i1e(z) / torch.special.i0e(z)
        return real + zero, self.phase_iterations

    def _mean(self, given: Tensor, problem: Problem, model: Model) -> Tensor:
        """E[clean | given] by one network call. Efron 2011, eq. 2.8, as every denoiser estimates
        it."""
        level = self._begin(problem, model)
        return model.denoiser(problem.condition)(_at(given, level), level).clean

    def _samples(
        self, given: Tensor, problem: Problem, model: Model, n: int, seed: int
    ) -> tuple[Tensor, int]:
        sampling = SamplingOptions(DDPM(), model.spec.sampling.spacing, self.steps)
        drawn, nfe = [], 0
        for index in range(
            len(problem.cases)
        ):  # levels may differ between images, and a path has one
            one = Problem(
                given[index : index + 1],
                problem.cases[index : index + 1],
                problem.levels[index : index + 1],
            )
            level = self._begin(one, model)
            begin = NoiseLevel(level.t[0], level.alpha[0], level.sigma[0])
            noise = KeyedNoise(seed, [(one.keys[0], sample) for sample in range(n)])
            x = _at(one.given, level).expand(n, *one.given.shape[1:])
            images, nfe = model.walk_down(
                model.denoiser(), x, noise, sampling=sampling, begin=begin
            )
            drawn.append(images)
        return torch.stack(drawn, 1), nfe

    def _begin(self, problem: Problem, model: Model) -> NoiseLevel:
        """The level of the model's schedule whose noise ratio is that of each image."""
        ratio = WINDOW * torch.tensor(problem.levels, dtype=torch.float64)
        schedule = model.spec.schedule
        return schedule(schedule.time_of(-ratio.log()))


def _at(given: Tensor, level: NoiseLevel) -> Tensor:
    return given * level.alpha.to(given).view(-1, *[1] * (given.ndim - 1))


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(
        -1, *[1] * (like.ndim - 1)
    )
