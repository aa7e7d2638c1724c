"""How the posterior is drawn where a call does not say: chosen on validation subjects.

`benchmarks/tune_inverse.py` made the choice; its table is benchmarks/results/tune_inverse.json.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from pydantic import Field

from medidiff.diffusion import (
    AntitheticNoise,
    AnySpacing,
    Denoise,
    Karras,
    KeyedNoise,
    NoiseLevel,
    NoiseSource,
    path,
)
from medidiff.diffusion.schedules import Schedule
from medidiff.inverse import (
    DPS,
    Alternating,
    AnyLikelihood,
    AnyPosterior,
    DiffPIR,
    Drawn,
    MomentMatching,
    PiGDM,
    Refit,
    sample_posterior,
)
from medidiff.physics import LinearOperator
from medidiff.types import Image, Tensor


@dataclass(frozen=True)
class Posterior:
    """A posterior sampler with its path and its number of draws."""

    method: Annotated[AnyPosterior, Field(discriminator="kind")] = DiffPIR()
    steps: int = 25
    """Levels on the way of each sample."""
    draws: int = 2
    """Samples whose mean is the result where one result is asked for."""
    spacing: Annotated[AnySpacing, Field(discriminator="kind")] = Karras()
    """Where the levels lie."""
    last_ratio: float | None = None
    """The noise ratio of the last level, such as that of the measurement's own noise: finer levels
    cost calls and tell nothing. None: where the spacing ends."""
    first_ratio: float | None = None
    """The noise ratio of the first level. A measurement tells so much that levels far above the
    image's own spread, where the estimate is the population's mean, cost calls and tell nothing.
    None, or one above where the schedule begins: there, for noisier levels no network knows."""
    antithetic: bool = False
    """Draws in pairs whose noise is each other's, negated: what moves them apart cancels in their
    mean. For results that are a mean; samples that stand for themselves are better independent."""
    chunk: int | None = None
    """Images that the network sees at a time. Where gradients go through it, each part is computed
    again on the way back, which bounds memory by one part's activations. None: all that are drawn
    at once, which are as many as the memory holds."""

    pilots: int = 0
    """Where a phase is estimated: quick samples before, each of which makes it better."""
    pilot_steps: int = 8
    pilot: Annotated[AnyPosterior, Field(discriminator="kind")] = DiffPIR(fresh=1.0)
    """Their sampler: one whose single sample is near."""
    slack: float = 1.0
    """Where a phase is estimated: times the noise that is allowed for, for what it leaves wrong."""
    phase: Literal["kept", "fitted", "drawn"] = "drawn"
    """Where a phase is estimated: along a sample's way it is kept as the pilots left it, fitted
    again to every estimate, or drawn around that fit, so that samples differ by what is not known
    of it, too."""

    def __post_init__(self) -> None:
        if self.pilots < 0 or self.pilot_steps < 1 or self.slack < 1:
            raise ValueError("pilots is at least 0, pilot_steps and slack are at least 1")
        if self.chunk is not None and self.chunk < 1:
            raise ValueError("chunk is at least 1, or left out")
        if self.steps < 1 or self.draws < 1:
            raise ValueError("steps and draws must be at least 1")
        known = [each for each in (self.last_ratio, self.first_ratio) if each is not None]
        if any(each <= 0 for each in known) or known != sorted(set(known)):
            raise ValueError(
                "last_ratio and first_ratio are above 0 and last_ratio is the smaller one, found "
                f"{self.last_ratio} and {self.first_ratio}"
            )
        if self.last_ratio is not None and not hasattr(self.spacing, "end"):
            raise ValueError(f"{self.spacing.kind} has levels of its own: leave last_ratio out")

    @property
    def through_the_network(self) -> bool:
        """Whether gradients are taken through the network, whose activations are then kept."""
        match self.method:
            case DPS() | PiGDM():
                return self.method.gradient == "network"
            case MomentMatching():
                return True
        return False

    def levels(self, schedule: Schedule) -> list[NoiseLevel]:
        """From noise to clean."""
        spacing, start = self.spacing, None
        if self.last_ratio is not None:
            spacing = replace(spacing, end=float(_time(schedule, self.last_ratio)))  # type: ignore[call-arg]
        if self.first_ratio is not None:
            noisiest = torch.tensor(schedule.t_max, dtype=torch.float64)
            start = schedule(_time(schedule, self.first_ratio).minimum(noisiest))
        return path(spacing, schedule, self.steps, start)

    def noise(self, seed: int, members: Sequence[tuple[str, int]]) -> NoiseSource:
        """For samples of (case, number)."""
        return (AntitheticNoise if self.antithetic else KeyedNoise)(seed, members)

    def draw(
        self,
        denoise: Denoise,
        operator: LinearOperator,
        measurement: Tensor,
        likelihood: AnyLikelihood,
        like: Image,
        noise: NoiseSource,
        schedule: Schedule,
        progress: Callable[[int, int], None] | None = None,
        refit: Refit | None = None,
    ) -> Drawn:
        """One sample an image, with its cost; `progress(done, total)` is told of the steps.

        `refit`: how the operator is fitted on the way, where something of it is not known.
        """
        method = self.method
        if refit is not None and self.phase != "kept":
            method = Alternating(method, refit, self.phase == "drawn")
        return sample_posterior(
            denoise,
            operator,
            measurement,
            likelihood,
            method,
            like,
            noise,
            levels=self.levels(schedule),
            schedule=schedule,
            chunk=self.chunk,
            progress=progress,
        )


def _time(schedule: Schedule, noise_ratio: float) -> Tensor:
    return schedule.time_of(-torch.tensor(noise_ratio, dtype=torch.float64).log())


WELL_SPREAD = DiffPIR(weight=3.0, fresh=0.3)
"""Its draws differ about as much as they err: the central 90 % cover .88 to .90 of the truth on
validation scans. Levels go down to the finest: where they end early, what those would add to the
spread is missing (k-space of eight coils: .874 instead of .894)."""


def samples(weight: float) -> Posterior:
    """Fifty levels from where the measurement has something to say, and as much fresh noise as
    leaves the samples well spread: all of it is nearer still (by up to 2 dB) and covers .80 to .85.
    On validation scans single samples lie .1 to 1.4 dB nearer than `WELL_SPREAD`'s from the
    schedule's beginning, and cover as much."""
    return Posterior(DiffPIR(weight=weight, fresh=0.4), steps=50, first_ratio=4.0)


NEAREST = DiffPIR(weight=3.0, fresh=1.0)
"""The mean of its draws is nearer to the truth (fourfold super-resolution and holes: by 1.2 to 1.5
dB), but they differ too little."""


def pair(weight: float, first_ratio: float, last_ratio: float) -> Posterior:
    """Two draws of opposite noise, fifty levels each: nearer on validation scans than four of 25
    or eight of 12, and .4 dB nearer than independent ones."""
    method = replace(NEAREST, weight=weight)
    return Posterior(method, 50, 2, first_ratio=first_ratio, last_ratio=last_ratio, antithetic=True)


ONE_RESULT: tuple[tuple[str, Posterior], ...] = (
    ("mri", pair(2.0, 4.0, 0.03)),
    ("radon", pair(1.0, 4.0, 0.05)),
    ("super-resolution", pair(1.0, 4.0, 0.05)),
    ("inpaint", pair(1.0, 4.0, 0.1)),
    ("", pair(2.0, 4.0, 0.05)),
)
"""(beginning of the measurement's kind, choice) where one image is asked for."""

SAMPLES: tuple[tuple[str, Posterior], ...] = (
    ("mri", samples(3.0)),
    ("radon", samples(1.0)),
    ("super-resolution", samples(1.0)),
    ("inpaint", samples(1.0)),
    ("", Posterior(WELL_SPREAD)),
)
"""The same where samples and maps are asked for."""


def chosen_for(kind: str, n: int = 1) -> Posterior:
    """The choice for a kind of measurement, such as "mri 8 coils R=4", and `n` samples."""
    table = ONE_RESULT if n == 1 else SAMPLES
    return next(how for start, how in table if kind.startswith(start))
