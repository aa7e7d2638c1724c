"""How the posterior is drawn where a call does not say: chosen on validation subjects.

`benchmarks/tune_inverse.py` made the choice; its table is in benchmarks/results.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from medidiff.diffusion import AnySpacing, Denoise, Karras, KeyedNoise, path
from medidiff.diffusion.schedules import Schedule
from medidiff.inverse import AnyLikelihood, AnyPosterior, DiffPIR, Drawn, sample_posterior
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

    pilots: int = 5
    """Where a phase is estimated: quick samples before, each of which makes it better."""
    pilot_steps: int = 8
    slack: float = 1.5
    """Where a phase is estimated: times the noise that is allowed for, for what it leaves wrong."""

    def __post_init__(self) -> None:
        if self.pilots < 0 or self.pilot_steps < 1 or self.slack < 1:
            raise ValueError("pilots is at least 0, pilot_steps and slack are at least 1")
        if self.steps < 1 or self.draws < 1:
            raise ValueError("steps and draws must be at least 1")

    def draw(
        self,
        denoise: Denoise,
        operator: LinearOperator,
        measurement: Tensor,
        likelihood: AnyLikelihood,
        like: Image,
        noise: KeyedNoise,
        schedule: Schedule,
    ) -> Drawn:
        """One sample an image, with its cost."""
        return sample_posterior(
            denoise,
            operator,
            measurement,
            likelihood,
            self.method,
            like,
            noise,
            levels=path(self.spacing, schedule, self.steps),
            schedule=schedule,
        )


CHOSEN: tuple[tuple[str, Posterior], ...] = ()
"""(beginning of the measurement's kind, choice); the first that fits counts."""


def chosen_for(kind: str) -> Posterior:
    """The choice for a kind of measurement, such as "mri 8 coils"."""
    return next((how for start, how in CHOSEN if kind.startswith(start)), Posterior())
