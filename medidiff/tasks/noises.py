"""What the head `denoise` knows of a kind of noise: how much of it an image has, how it is added,
and how an image with it is estimated where the prior knows one level of Gaussian noise at a time.

Even Gaussian noise is here; magnitudes (`magnitudes.py`) and counts (`counted.py`) are a file each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from medidiff.data.datasets import Case
from medidiff.diffusion import KeyedNoise
from medidiff.evaluation.classical import GAUSSIAN, BiasCorrection
from medidiff.evaluation.noise_level import estimate_gaussian
from medidiff.inverse import AnyLikelihood
from medidiff.physics import Mask
from medidiff.tasks.base import Measurement, Problem
from medidiff.tasks.restoration import WINDOW

STRUCTURE = 0.05
"""Window widths: above it an estimate is of noise. Structure alone was estimated as up to .03 of
even noise and .04 of counts in volumes of 35 x 50 x 35, as .003 to .02 in larger images."""

Denoise = Callable[[Tensor, Sequence[float]], Tensor]
"""(images in model units, level of the Gaussian noise of each in window widths) -> the prior's
estimates, by one network call."""


class Noise(Protocol):
    """A kind of noise. Its level is a standard deviation in window widths."""

    @property
    def name(self) -> str: ...

    @property
    def stated_by(self) -> Literal["sigma", "counts"]:
        """The option that states its level."""
        ...

    @property
    def corrections(self) -> tuple[BiasCorrection, ...]:
        """What a classical filter may do about it."""
        ...

    @property
    def structure(self) -> float:
        """The most that structure without noise is estimated as."""
        ...

    @property
    def drawing(self) -> Mapping[str, object]:
        """What the samples' spread depends on besides a sampler."""
        ...

    def sigma(self, stated: float) -> float:
        """The level that an option states."""
        ...

    def stated(self, sigma: float) -> float:
        """The option that states a level."""
        ...

    def added(
        self, clean: Tensor, cases: Sequence[Case], stated: float, noise: KeyedNoise
    ) -> Tensor:
        """Model-unit images with noise of a stated level."""
        ...

    def level(self, image: Tensor, case: Case) -> float:
        """Estimated from an image (channel, *space) in model units.

        Errors: ValueError where it cannot be told.
        """
        ...

    def measurement(self, problem: Problem) -> Measurement:
        """The images as measurements of themselves."""
        ...

    def mean(self, denoise: Denoise, problem: Problem, seed: int) -> tuple[Tensor, int]:
        """(posterior mean, network calls), in model units."""
        ...


class EvenNoise(Noise, Protocol):
    """Noise that a level of the diffusion matches, once an image is told as such a level has it."""

    def starts(
        self, problem: Problem, point: Tensor, members: Sequence[tuple[int, int]], seed: int
    ) -> Tensor:
        """Images with Gaussian noise of the problem's levels where posterior samples of some
        (case, sample) begin, in model units; `point`: the estimate of each case."""
        ...


@dataclass(frozen=True)
class GaussianNoise:
    """Additive and even."""

    name: Literal["gaussian"] = "gaussian"
    stated_by: Literal["sigma"] = "sigma"
    corrections: tuple[BiasCorrection, ...] = GAUSSIAN
    structure: float = STRUCTURE

    @property
    def drawing(self) -> dict[str, object]:
        return {}

    def sigma(self, stated: float) -> float:
        return stated

    def stated(self, sigma: float) -> float:
        return sigma

    def added(
        self, clean: Tensor, cases: Sequence[Case], stated: float, noise: KeyedNoise
    ) -> Tensor:
        return clean + WINDOW * stated * noise(clean, 0)

    def level(self, image: Tensor, case: Case) -> float:
        return estimate_gaussian(image) / WINDOW

    def measurement(self, problem: Problem) -> Measurement:
        return every_voxel(problem, problem.given, self.name)

    def mean(self, denoise: Denoise, problem: Problem, seed: int) -> tuple[Tensor, int]:
        return denoise(problem.given, problem.levels), 1

    def starts(
        self, problem: Problem, point: Tensor, members: Sequence[tuple[int, int]], seed: int
    ) -> Tensor:
        return problem.given[[case for case, _ in members]]


def every_voxel(
    problem: Problem,
    values: Tensor,
    name: str,
    likelihood: Callable[[Sequence[int]], AnyLikelihood] | None = None,
) -> Measurement:
    """Values measured of every voxel of the problem's images, with noise of its levels."""
    given = problem.given
    return Measurement(
        lambda members: Mask(torch.ones_like(given[[*members]])),
        values,
        WINDOW * torch.tensor(problem.levels, dtype=torch.float64),
        torch.full((len(given),), float(given[0].numel()), dtype=torch.float64),
        (kind_of(name),) * len(given),
        likelihood=likelihood,
    )


def kind_of(name: str) -> str:
    """The measurement's, of a kind of noise."""
    return f"{name} noise"
