"""Denoising with an unconditional prior: enter the diffusion at the level whose noise matches the
scan's.

Gaussian noise of standard deviation s (model units): alpha * given is a sample of the diffusion at
the level with noise_ratio s, so one network call gives the posterior mean E[clean | given], and
walking down from there with an ancestral sampler gives posterior samples (Song et al. 2021,
arXiv:2011.13456; Efron 2011, Tweedie's formula).

Rician noise, m = |clean + s (n1 + i n2)|: given the clean image, the phase of the complex value is
von Mises distributed with concentration m clean / s^2. Drawing it gives a real channel
m cos(phase) with Gaussian noise of just the level s, which the prior denoises; the mean of such
estimates gives the next phases (stochastic expectation-maximisation, Celeux and Diebolt 1985).
Taking the phase's mean instead of a draw would leave less noise than the prior is told, and a
floor in the background.

Noise of counts (poisson: of emission; transmission: of what an object lets through) differs from
voxel to voxel: `counted.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from medidiff import options
from medidiff.data.datasets import Case
from medidiff.diffusion import DDPM, KeyedNoise, NoiseLevel, UniformTime
from medidiff.errors import TaskError
from medidiff.evaluation.classical import DENOISERS, GAUSSIAN, RICIAN, BiasCorrection
from medidiff.evaluation.count_noise import Emission, Transmission
from medidiff.evaluation.noise_level import estimate_gaussian, estimate_rician
from medidiff.evaluation.rician import invert_mean
from medidiff.inverse import Rician
from medidiff.model import Model, evaluating
from medidiff.physics import Mask
from medidiff.spec import SamplingOptions
from medidiff.tasks.base import (
    Bench,
    Benchmarked,
    Limit,
    Measurement,
    Needs,
    Problem,
    Solution,
    Target,
    stack,
)
from medidiff.tasks.calibrated import verdict
from medidiff.tasks.counted import CountNoise, count_mean
from medidiff.tasks.defaults import Posterior
from medidiff.tasks.measured import POSTERIOR_MEAN, Cost, check_image_space, solved
from medidiff.tasks.restoration import (
    RESTORATION_METRICS,
    SPREAD,
    TRUTH,
    WINDOW,
    restored,
    signal_zero,
)
from medidiff.tasks.room import at_once, parts_of

LEAST = 1e-6  # window widths; an image that is even has the noise of its rounding
PHASE_POINTS = 129  # of the table that a von Mises angle is looked up in
ANGLES = 2**17  # at a time: their tables take a gigabyte
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
        told, other = ("sigma", self.sigma) if self._counted else ("counts", self.counts)
        if other != "estimate":
            raise ValueError(f"{self.noise} noise has no {told}; state {_told_by(self.noise)}")
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
        _noise_scale(model)
        given = stack(cases, model)
        levels = tuple(
            self._level(image, case) for image, case in zip(given.cpu(), cases, strict=True)
        )
        return Problem(given, tuple(cases), levels)

    def solve(self, problem: Problem, model: Model, n: int, seed: int) -> Solution:
        """The posterior mean, by one network call or the few that the noise asks for, whatever n;
        posterior samples besides for n > 1. Where the options state a sampler, the mean of its
        samples; where `result` is "sample", the first of them."""
        facts, single = self._noise_told(problem), self.result == "sample"
        if self.posterior is not None or (single and self._counted is not None):
            found = solved(self, self._as_measured(problem, model), model, n, seed)
            return replace(found, facts={**found.facts, **facts})
        with torch.no_grad(), evaluating(model.network):
            point, calls = self._point(problem, model, seed)
            if n == 1 and not single:
                return Solution(point, calls, facts=facts | {"estimate": POSTERIOR_MEAN})
            if self._counted is not None:
                known = point, Cost(calls, calls)
                measured = self._as_measured(problem, model)
                found = solved(self, measured, model, n, seed, known)
                return replace(found, facts={**found.facts, **facts})
            samples, nfe = self._samples(point, problem, model, n, seed)
        facts |= {"estimate": "one sample" if single else POSTERIOR_MEAN}
        return Solution(
            samples[0].to(point) if single else point,
            calls + nfe * n,
            samples if n > 1 else None,
            self._sampling(),
            facts | (self._spread_told(problem, model) if n > 1 else {}),
            kept=self.result,
        )

    def baselines(self) -> tuple[str, ...]:
        return tuple(baseline.name for baseline in DENOISERS)

    def metrics(self) -> Mapping[str, str]:
        return RESTORATION_METRICS

    def benchmark(self, bench: Bench) -> Benchmarked:
        """Noise of three levels (or this head's own) on the test scans, known to all."""
        if self._level_told == "estimate":
            field = _told_by(self.noise)
            heads = [replace(self, **{field: level}) for level in LEVELS[self.noise]]
        else:
            heads = [self]
        levels = [head._level(bench.test[0].images, bench.test[0]) for head in heads]
        names = [f"{self.noise} {head._level_told:g}" for head in heads]
        found = [
            restored(head, level, name, bench, DENOISERS, self._corrections)
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
        if self._level_told == "estimate":
            raise TaskError(f"noise can only be added with stated {_told_by(self.noise)}")
        if self._counted is not None:
            return self._counted.counted(clean, cases, float(self.counts), noise)
        spread = WINDOW * float(self.sigma)
        if self.noise == "gaussian":
            return clean + spread * noise(clean, 0)
        return noisy_magnitude(clean, signal_zero(cases, clean), spread, noise)

    @property
    def _counted(self) -> CountNoise | None:
        """The noise of counts, if that is this head's."""
        match self.noise:
            case "poisson":
                return CountNoise(Emission())
            case "transmission":
                return CountNoise(Transmission(self.attenuation))
        return None

    @property
    def _kind(self) -> str:
        """Of the measurement."""
        return f"{self.noise} noise"

    @property
    def _level_told(self) -> float | Literal["estimate"]:
        return self.sigma if self._counted is None else self.counts

    @property
    def _corrections(self) -> tuple[BiasCorrection, ...]:
        if self._counted is not None:
            return (self._counted.law,)
        return GAUSSIAN if self.noise == "gaussian" else RICIAN

    def _noise_told(self, problem: Problem) -> dict[str, object]:
        """What the provenance says of the noise of each image."""
        sigma = list(problem.levels)
        if self._counted is None:
            return {"sigma": sigma}
        law = self._counted.law
        return {"sigma": sigma, "counts": [float(f"{law.counts(s):.6g}") for s in sigma]}

    @property
    def _how(self) -> dict[str, object]:
        """How samples are drawn that start at the noise's level."""
        drawn: dict[str, object] = {"sampling": options.tree(self._sampling())}
        return drawn | ({"phase_draws": self.phase_draws} if self.noise == "rician" else {})

    def _spread_told(self, problem: Problem, model: Model) -> dict[str, object]:
        """What the provenance says of such samples."""
        kinds = (self._kind,) * len(problem.levels)
        uncertainty = verdict(model, kinds, problem.levels, self._how)
        return {"measurement": self._kind, "posterior": self._how, "uncertainty": uncertainty}

    def _as_measured(self, problem: Problem, model: Model) -> Problem:
        """The scans as measurements of themselves.

        Errors: TaskError for a model behind a codec.
        """
        check_image_space(model, "denoising by a posterior sampler")
        if self._counted is not None:
            return replace(problem, measurement=self._counted.measurement(problem))
        given, count = problem.given, float(problem.given[0].numel())
        spread = WINDOW * torch.tensor(problem.levels, dtype=torch.float64)
        zero = signal_zero(problem.cases, given)
        magnitude = (given - zero).clamp_min(0)
        rician = self.noise == "rician"
        measurement = Measurement(
            lambda members: Mask(torch.ones_like(given[[*members]])),
            magnitude if rician else given,
            spread,
            torch.full((len(given),), count, dtype=torch.float64),
            (self._kind,) * len(given),
            likelihood=(
                (lambda members: Rician(spread[[*members]], -zero[[*members]])) if rician else None
            ),
        )
        return replace(problem, measurement=measurement)

    def _level(self, image: Tensor, case: Case) -> float:
        if self._level_told != "estimate":
            told = float(self._level_told)
            return told if self._counted is None else self._counted.law.sigma(told)
        try:
            found = self._estimated(image, case)
        except ValueError as error:  # of an image that is even, or too small
            raise TaskError(
                f"the noise level of this image cannot be estimated ({error}); state it with "
                f"{_told_by(self.noise)}"
            ) from None
        if not LEAST < found < 10:
            raise TaskError(
                f"the noise level of this image was estimated as {found:g} of the intensity "
                "window, which cannot be right (masked or denoised already?); state it with "
                f"{_told_by(self.noise)}"
            )
        return found

    def _estimated(self, image: Tensor, case: Case) -> float:
        """In window widths."""
        if self._counted is not None:
            return self._counted.level(image, case)
        if self.noise == "gaussian":
            return estimate_gaussian(image) / WINDOW
        signal = image - signal_zero([case], image[None])[0]
        return estimate_rician(signal.clamp_min(0)) / WINDOW

    def _point(self, problem: Problem, model: Model, seed: int) -> tuple[Tensor, int]:
        """(posterior mean, network calls), in model units."""
        if self._counted is not None:
            measured = replace(problem, measurement=self._counted.measurement(problem))

            def denoise(images: Tensor, noise: Tensor) -> Tensor:
                ratios = tuple((noise / WINDOW).tolist())
                return self._mean(images, replace(problem, levels=ratios), model)

            return count_mean(denoise, measured, self.count_draws, seed), 1 + self.count_draws
        estimate = self._mean(problem.given, problem, model)
        if self.noise == "gaussian":
            return estimate, 1
        zero = signal_zero(problem.cases, problem.given)
        sigma = _column(problem.levels, problem.given) * WINDOW
        # begin with the magnitude's own estimate, its mean bias taken out
        biased = ((estimate - zero) / sigma).clamp_min(0).cpu().double().numpy()
        clean = torch.from_numpy(invert_mean(biased, 1.0)).to(estimate) * sigma
        total = torch.zeros_like(clean)
        for draw in range(self.phase_draws):
            part = draw / self.phase_draws
            noise = [(f"phase {key}", 0) for key in problem.keys]
            real = self._real_channel(problem, clean + zero, KeyedNoise(seed, noise), part)
            total += self._mean(real, problem, model) - zero
            clean = total / (draw + 1)
        return clean + zero, 1 + self.phase_draws

    def _real_channel(
        self, problem: Problem, clean: Tensor, noise: KeyedNoise, part: float
    ) -> Tensor:
        """The given magnitudes with phases drawn as if `clean` were true, in model units; `part` of
        the way around the phase's quantiles from the first draw."""
        zero = signal_zero(problem.cases, problem.given)
        magnitude = (problem.given - zero).clamp_min(0)
        sigma = _column(problem.levels, magnitude) * WINDOW
        concentration = magnitude * (clean - zero).clamp_min(0) / sigma**2
        unit = further(noise(magnitude, 0), part)
        return magnitude * cos_of_von_mises(concentration, unit) + zero

    def _starts(
        self, problem: Problem, point: Tensor, members: Sequence[tuple[int, int]], seed: int
    ) -> Tensor:
        """Where posterior samples of some (case, sample) begin, in model units."""
        chosen = [case for case, _ in members]
        if self.noise == "gaussian":
            return problem.given[chosen]
        keys = problem.keys
        noise = KeyedNoise(seed, [(f"sample phase {keys[case]}", nth) for case, nth in members])
        some = replace(
            problem,
            given=problem.given[chosen],
            cases=tuple(problem.cases[case] for case in chosen),
            levels=tuple(problem.levels[case] for case in chosen),
        )
        return self._real_channel(some, point[chosen], noise, 0.0)

    def _sampling(self) -> SamplingOptions:
        # uniform in time: the one spacing that may start at any level, however clean
        return SamplingOptions(DDPM(variance=self.variance), UniformTime(), self.steps)

    def _mean(self, given: Tensor, problem: Problem, model: Model) -> Tensor:
        """E[clean | given] by one network call. Efron 2011, eq. 2.8, as every denoiser estimates
        it."""
        level = self._begin(problem, model)
        x = model.codec.encode(given)
        clean = model.denoiser(problem.condition)(_at(x, level), level).clean
        return model.codec.decode(clean, given.shape[2:])

    def _samples(
        self, point: Tensor, problem: Problem, model: Model, n: int, seed: int
    ) -> tuple[Tensor, int]:
        """(n posterior samples of each case in the host's memory, network calls of each);
        `point`: their estimate."""
        levels, keys, given = self._begin(problem, model), problem.keys, problem.given
        members = [(case, sample) for case in range(len(keys)) for sample in range(n)]
        parts = [*parts_of(members, at_once(model, given[0]))]
        made = torch.empty((len(members), *given.shape[1:]), dtype=given.dtype)
        done, nfe = 0, 0
        for index, part in enumerate(parts):
            cases = [case for case, _ in part]
            level = NoiseLevel(levels.t[cases], levels.alpha[cases], levels.sigma[cases])
            condition = None if problem.condition is None else problem.condition[cases]
            images, nfe = model.walk_down(
                model.denoiser(condition),
                _at(model.codec.encode(self._starts(problem, point, part, seed)), level),
                KeyedNoise(seed, [(keys[case], sample) for case, sample in part]),
                sampling=self._sampling(),
                begin=level,
                progress=_steps_told(problem, index, len(parts)),
            )
            made[done : done + len(part)] = model.codec.decode(images, given.shape[2:]).cpu()
            done += len(part)
        return made.unflatten(0, (len(keys), n)).transpose(0, 1), nfe

    def _begin(self, problem: Problem, model: Model) -> NoiseLevel:
        """The level of the model's schedule whose noise ratio is that of each image."""
        ratio = WINDOW * torch.tensor(problem.levels, dtype=torch.float64) * _noise_scale(model)
        schedule = model.spec.schedule
        return schedule(schedule.time_of(-ratio.log()))


def _steps_told(problem: Problem, index: int, parts: int) -> Callable[[int, int], None]:
    """Tells of the steps of one part of the samples as some of those of all."""
    return lambda done, steps: problem.progress("sampling", index * steps + done, parts * steps)


def noisy_magnitude(
    clean: Tensor, zero: Tensor | float, spread: Tensor | float, noise: KeyedNoise
) -> Tensor:
    """|clean + complex noise| where `zero` is no signal; all in model units."""
    real = clean + spread * noise(clean, 0)
    return torch.hypot(real - zero, spread * noise(clean, 0, draw=1)) + zero


def _noise_scale(model: Model) -> float:
    """What noise of standard deviation 1 in an image is in the space of the prior."""
    found = model.codec.noise_scale(model.spec.space.size)
    if found is None:
        raise TaskError(
            f"{model.spec.name} works behind a codec ({model.spec.codec.kind}) that does not leave "
            "white noise white, so it cannot tell a scan's noise from its content. Denoise with a "
            "model of images, or with one whose codec is {kind: wavelet, scale: one} on a grid of "
            "even size."
        )
    return found


def _told_by(noise: str) -> Literal["sigma", "counts"]:
    """The option that states the level of a kind of noise."""
    return "sigma" if noise in ("gaussian", "rician") else "counts"


def _at(given: Tensor, level: NoiseLevel) -> Tensor:
    return given * level.alpha.to(given).view(-1, *[1] * (given.ndim - 1))


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(
        -1, *[1] * (like.ndim - 1)
    )


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
