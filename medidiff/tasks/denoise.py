"""Denoising with an unconditional prior, which knows one level of Gaussian noise at a time.

Even noise: the diffusion is entered at the level that matches the scan's (`matched.py`), for the
posterior mean and for samples; of magnitudes a real channel is drawn first (`magnitudes.py`). Noise
of counts (poisson: of emission; transmission: of what an object lets through) differs from voxel to
voxel, and no level matches it: `counted.py` for the mean, a posterior sampler for samples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from medidiff import options
from medidiff.data.datasets import Case
from medidiff.diffusion import DDPM, KeyedNoise, UniformTime
from medidiff.errors import TaskError
from medidiff.evaluation.classical import DENOISERS
from medidiff.evaluation.count_noise import Emission, Transmission
from medidiff.model import Model, evaluating
from medidiff.spec import SamplingOptions
from medidiff.tasks.base import (
    Bench,
    Benchmarked,
    Limit,
    Needs,
    Problem,
    Solution,
    Target,
    stack,
)
from medidiff.tasks.calibrated import verdict
from medidiff.tasks.counted import CountNoise
from medidiff.tasks.defaults import Posterior
from medidiff.tasks.levels import Level, doubted, level_of
from medidiff.tasks.magnitudes import MagnitudeNoise
from medidiff.tasks.matched import mean_at, noise_scale, samples_from
from medidiff.tasks.measured import (
    POSTERIOR_MEAN,
    Cost,
    check_image_space,
    sampler_and_chunk,
    solved,
)
from medidiff.tasks.noises import EvenNoise, GaussianNoise, kind_of
from medidiff.tasks.restoration import RESTORATION_METRICS, SPREAD, TRUTH, restored

LEVELS = {
    "gaussian": (0.05, 0.1, 0.2),
    "rician": (0.05, 0.1, 0.2),
    "poisson": (400.0, 100.0, 25.0),  # at the top of the window as much noise as those
    "transmission": (2000.0, 500.0, 100.0),
}
"""Of a benchmark, from little noise to much."""
GAINS = {"rician 0.05": 2.5, "rician 0.1": 4.0, "rician 0.2": 6.0}
"""Decibels in the head that were aimed at above block matching with the noise made even."""
BACKGROUND = 0.1
"""Sigmas: the mean error outside the head that magnitude noise may leave."""


@dataclass(frozen=True)
class Denoising:
    """Remove Gaussian or Rician noise, or that of counts, of known or estimated level."""

    kind: Literal["denoise"] = "denoise"
    noise: Literal["gaussian", "rician", "poisson", "transmission"] = "gaussian"
    """poisson: of counts in proportion to the intensity (emission); transmission: of an image of
    line integrals, -log(counted / counts) over `attenuation`, such as a radiograph."""
    sigma: float | Literal["estimate"] = "estimate"
    """Standard deviation of gaussian and rician noise in units of the model's intensity window (its
    width is 1)."""
    counts: float | Literal["estimate"] = "estimate"
    """Counts expected of a voxel: of poisson noise at the top of the window, of transmission in the
    open beam (at intensity 0)."""
    attenuation: float = 3.0
    """Transmission only: the line integral that the top of the window stands for."""
    phase_draws: int = 8
    """Rician only: draws of the phase, a network call each."""
    count_draws: int = 2
    """Noise of counts only: draws at its typical level, a network call each, in opposite pairs."""
    steps: int = 40
    """Ancestral steps of each posterior sample (used when n > 1 and the noise is even)."""
    variance: Literal["small", "large"] = "large"
    """Of the noise that each of these steps renews (Ho et al. 2020, arXiv:2006.11239, section 3.2):
    small where the image were known exactly, large where it could be anything. Samples of few small
    steps differ too little, of few large ones too much."""
    posterior: Posterior | None = None
    """Samples by this sampler from the law of the noise itself (of Rician noise its own); None:
    from the level of the diffusion that matches the noise, and for noise of counts, which no level
    matches, by the default sampler from its law."""
    result: Literal["all", "mean", "sample"] = "all"
    """The image with every sample, the image alone, or one sample in its place; maps come with
    n > 1."""

    def __post_init__(self) -> None:
        if isinstance(self.sigma, float | int) and not 0 < self.sigma < 10:
            raise ValueError(
                "sigma must lie between 0 and 10 window widths, or be estimate "
                f"(found {self.sigma})"
            )
        if isinstance(self.counts, float | int) and not 0 < self.counts < math.inf:
            raise ValueError(f"counts must be above 0, or be estimate (found {self.counts})")
        right = self.noise_law.stated_by
        wrong, found = ("sigma", self.sigma) if right == "counts" else ("counts", self.counts)
        if found != "estimate":
            raise ValueError(f"{self.noise} noise has no {wrong}; state {right}")
        if min(self.phase_draws, self.count_draws, self.steps) < 1:
            raise ValueError("phase_draws, count_draws and steps must be at least 1")
        if not 0 < self.attenuation < math.inf:
            raise ValueError("attenuation must be above 0")

    def needs(self) -> Needs:
        return Needs()

    def prepare(self, cases: Sequence[Case], model: Model) -> Problem:
        """Cases with the level of their noise, estimated from each image where it is not given.

        Errors: TaskError for a model behind whose codec the noise is no longer white and Gaussian.
        """
        noise_scale(model)
        given = stack(cases, model)
        levels = tuple(map(self.level, given.cpu(), cases))
        return Problem(given, tuple(cases), levels)

    def solve(self, problem: Problem, model: Model, n: int, seed: int) -> Solution:
        """The posterior mean, by one network call or the few that the noise asks for, whatever n;
        posterior samples besides for n > 1. Where the options state a sampler, the mean of its
        samples; where `result` is "sample", the first of them."""
        found = self._found(problem, model, n, seed)
        levels = {
            "sigma": [*problem.levels],
            self.noise_law.stated_by: [*map(self.noise_law.stated, problem.levels)],
        }
        return replace(found, facts={**found.facts, **levels})

    def _found(self, problem: Problem, model: Model, n: int, seed: int) -> Solution:
        law, single = self.noise_law, self.result == "sample"
        sampler, chunk = sampler_and_chunk(self.posterior)
        if sampler is not None or (single and isinstance(law, CountNoise)):
            return solved(self, self._measured(problem, model), model, n, seed)
        with torch.no_grad(), evaluating(model.network):
            point, calls = law.mean(
                lambda images, levels: mean_at(images, levels, model), problem, seed
            )
            if n == 1 and not single:
                return Solution(point, calls, facts={"estimate": POSTERIOR_MEAN})
            if not isinstance(law, CountNoise):
                return self._entered(law, point, calls, problem, model, n, seed, chunk)
        known = point, Cost(calls, calls)
        return solved(self, self._measured(problem, model), model, n, seed, known)

    def _entered(
        self,
        law: EvenNoise,
        point: Tensor,
        calls: int,
        problem: Problem,
        model: Model,
        n: int,
        seed: int,
        chunk: int | None,
    ) -> Solution:
        """Samples from the matching level on; `point` and `calls`: the mean and what it took."""
        samples, nfe = samples_from(
            lambda members: law.starts(problem, point, members, seed),
            problem,
            model,
            self._sampling,
            n,
            seed,
            chunk,
        )
        single = self.result == "sample"
        return Solution(
            samples[0].to(point) if single else point,
            calls + nfe * n,
            samples if n > 1 else None,
            self._sampling,
            {"estimate": "one sample" if single else POSTERIOR_MEAN}
            | (self._spread_told(problem, model) if n > 1 else {}),
            kept=self.result,
        )

    def doubts(self, problem: Problem) -> list[str | None]:
        """A stated level that is far from what is estimated of an image."""
        stated = self._stated
        if stated == "estimate":
            return [None] * len(problem.cases)
        images = zip(problem.given.cpu(), problem.cases, strict=True)
        return [doubted(self.noise_law, stated, image, case) for image, case in images]

    def baselines(self) -> tuple[str, ...]:
        return tuple(baseline.name for baseline in DENOISERS)

    def metrics(self) -> Mapping[str, str]:
        return RESTORATION_METRICS

    def benchmark(self, bench: Bench) -> Benchmarked:
        """Noise of three levels (or this head's own) on the test scans, known to all."""
        law, heads = self.noise_law, [self]
        if self._stated == "estimate":
            heads = [replace(self, **{law.stated_by: level}) for level in LEVELS[self.noise]]
        levels = [head.level(bench.test[0].images, bench.test[0]) for head in heads]
        names = [f"{self.noise} {head._stated:g}" for head in heads]
        found = [
            restored(head, level, name, bench, DENOISERS, law.corrections)
            for head, level, name in zip(heads, levels, names, strict=True)
        ]
        return Benchmarked(
            [row for part in found for row in part.rows],
            [example for part in found for example in part.examples],
            TRUTH,
            [Target(name, ("block matching",), GAINS[name]) for name in names if name in GAINS],
            [
                Limit(name, "background_bias", BACKGROUND * level)
                for name, level in zip(names, levels, strict=True)
                if self.noise == "rician"
            ],
            [each for part in found for each in part.accounts],
            calibrated=[each for part in found for each in part.calibrated],
            labels=[label for part in found for label in part.labels],
            maps=(SPREAD,),
        )

    def corrupt(self, clean: Tensor, cases: Sequence[Case], noise: KeyedNoise) -> Tensor:
        """Model-unit images with simulated noise of this head's sigma or counts, for benchmarks.

        Errors: TaskError if that is "estimate".
        """
        if self._stated == "estimate":
            raise TaskError(f"noise can only be added with stated {self.noise_law.stated_by}")
        return self.noise_law.added(clean, cases, float(self._stated), noise)

    def level(self, image: Tensor, case: Case) -> float:
        """Of an image's noise, in window widths: as stated, or as estimated.

        Errors: TaskError where it cannot be estimated.
        """
        return level_of(self.noise_law, self._stated, image, case)

    @property
    def noise_law(self) -> GaussianNoise | MagnitudeNoise | CountNoise:
        """The noise with its options."""
        match self.noise:
            case "gaussian":
                return GaussianNoise()
            case "rician":
                return MagnitudeNoise(self.phase_draws)
            case "poisson":
                return CountNoise(Emission(), self.count_draws)
            case "transmission":
                return CountNoise(Transmission(self.attenuation), self.count_draws)

    @property
    def measured_as(self) -> str:
        """The kind of the measurement that a noisy scan is."""
        return kind_of(self.noise)

    @property
    def drawn_by(self) -> dict[str, object]:
        """How samples are drawn that start at the noise's level."""
        return {"sampling": options.tree(self._sampling), **self.noise_law.drawing}

    @property
    def _stated(self) -> Level:
        return self.sigma if self.noise_law.stated_by == "sigma" else self.counts

    @property
    def _sampling(self) -> SamplingOptions:
        # uniform in time: the one spacing that may start at any level, however clean
        return SamplingOptions(DDPM(variance=self.variance), UniformTime(), self.steps)

    def _spread_told(self, problem: Problem, model: Model) -> dict[str, object]:
        """What the provenance says of such samples."""
        kinds = (self.measured_as,) * len(problem.levels)
        uncertainty = verdict(model, kinds, problem.levels, self.drawn_by)
        return {
            "measurement": self.measured_as,
            "posterior": self.drawn_by,
            "uncertainty": uncertainty,
        }

    def _measured(self, problem: Problem, model: Model) -> Problem:
        """The scans as measurements of themselves.

        Errors: TaskError for a model behind a codec.
        """
        check_image_space(model, "denoising by a posterior sampler")
        return replace(problem, measurement=self.noise_law.measurement(problem))
