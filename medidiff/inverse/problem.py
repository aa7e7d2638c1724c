"""What was measured, and what a method makes of it: a denoiser, a sampler, a path, a start."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch

from medidiff.diffusion.levels import Denoise, NoiseLevel
from medidiff.diffusion.noise import NoiseSource
from medidiff.diffusion.sampling import PathItem, Sampler, start
from medidiff.inverse.likelihoods import AnyLikelihood, Gaussian
from medidiff.physics.image import Mask, Weights
from medidiff.physics.iterative import ConjugateGradients
from medidiff.physics.operators import LinearOperator
from medidiff.physics.window import Weighted
from medidiff.types import Image, Tensor

WEIGHED_SOLVER = ConjugateGradients(tolerance=1e-5, steps=50)

Begin: TypeAlias = Callable[[NoiseLevel, NoiseSource, Image], Image]
"""(first level, noise, like) -> x at that level, as `start` gives it."""


@dataclass(frozen=True, eq=False)
class LinearProblem:
    """y = A x + noise_std n: what every method for Gaussian noise works on.

    Shapes: noise_std is () or (batch,), float64, of each real number of the measurement.
    """

    operator: LinearOperator
    measurement: Tensor
    noise_std: Tensor

    def residual(self, clean: Image) -> Tensor:
        """y - A clean."""
        return self.measurement - self.operator.forward(clean)


@dataclass(frozen=True, eq=False)
class Problem:
    """One measurement an image of the batch, with its operator and the law of its noise."""

    operator: LinearOperator
    measurement: Tensor
    likelihood: AnyLikelihood

    def linearised(self, clean: Image) -> LinearProblem:
        """Itself if its noise is Gaussian, else the problem that stands for it at `clean`.

        Noise that differs from value to value is made even by weighing the operator's rows.
        """
        if isinstance(self.likelihood, Gaussian):
            return LinearProblem(self.operator, self.measurement, self.likelihood.std)
        predicted = self.operator.forward(clean)
        target, std = self.likelihood.surrogate(predicted, self.measurement)
        if std.ndim <= 1:
            return LinearProblem(self.operator, target, std)
        return LinearProblem(
            weighed(self.operator, 1 / std, torch.zeros_like(clean)),
            target / std,
            torch.ones((), dtype=torch.float64),
        )


def weighed(operator: LinearOperator, weight: Tensor, like: Image) -> LinearOperator:
    """weight * (A x); of a mask it keeps the known decomposition."""
    if isinstance(operator, Mask):
        return Weights(operator.mask.to(weight) * weight)
    return Weighted(operator, weight, like, WEIGHED_SOLVER)


@dataclass(frozen=True, eq=False)
class Plan:
    """All that a walk needs."""

    denoise: Denoise
    sampler: Sampler
    levels: Sequence[PathItem]
    begin: Begin = start


class Posterior(Protocol):
    """A method: frozen options that make a plan of a problem."""

    @property
    def kind(self) -> str: ...

    def plan(self, problem: Problem, denoise: Denoise, levels: Sequence[NoiseLevel]) -> Plan: ...
