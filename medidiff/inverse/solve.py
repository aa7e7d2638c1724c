"""The one entry: draw clean images that fit a measurement, and say what it cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from medidiff.diffusion.levels import Denoise, Estimate, NoiseLevel
from medidiff.diffusion.noise import NoiseSource
from medidiff.diffusion.sampling import walk
from medidiff.diffusion.schedules import Schedule
from medidiff.inverse.likelihoods import AnyLikelihood
from medidiff.inverse.problem import Posterior, Problem
from medidiff.physics.operators import LinearOperator
from medidiff.types import Image, Tensor

Progress = Callable[[int, int], None]
BACKWARD = 2.0
"""Forward passes that a backward pass counts as."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """Images of a posterior and their cost, an image."""

    images: Image
    calls: int
    """Network calls."""
    backwards: int
    """Gradients taken through the network."""
    forward_equivalents: float
    """Calls, and backwards at two calls each (three where activations are computed again)."""


def sample_posterior(
    denoise: Denoise,
    operator: LinearOperator,
    measurement: Tensor,
    likelihood: AnyLikelihood,
    method: Posterior,
    like: Image,
    noise: NoiseSource,
    *,
    levels: Sequence[NoiseLevel],
    schedule: Schedule | None = None,
    chunk: int | None = None,
    progress: Progress | None = None,
) -> Drawn:
    """One image of p(clean | measurement) for each measurement of the batch, by `method`.

    denoise: the prior; methods that go through its gradient need it differentiable in x.
    like: an image of the shape, dtype and device of the result; it is only looked at.
    noise: keyed noise with one member an image; a batch gives what its members give.
    levels: the path from noise to clean, as `diffusion.path` makes it.
    schedule: what samplers need that visit levels between those of the path.
    chunk: images of the batch that the network sees at a time; gradients through it are then taken
        by computing each chunk again, which bounds memory by one chunk's activations.
    Shapes: measurement (batch, ...), as operator.forward(like).
    Range: the prior's network units, which the operator and the measurement must be in, too.
    Errors: ValueError if the measurement does not fit the operator, or the operator the images.
    """
    check_fits(operator, measurement, like)
    tally = Tally(denoise if chunk is None else in_chunks(denoise, chunk))
    plan = method.plan(Problem(operator, measurement, likelihood), tally, levels)
    with torch.no_grad():
        x = plan.begin(levels[0], noise, like)
        for index, state in walk(plan.denoise, x, plan.levels, plan.sampler, noise, schedule):
            x = state
            if progress is not None:
                progress(index + 1, len(plan.levels) - 1)
    each = BACKWARD if chunk is None else BACKWARD + 1
    return Drawn(x, tally.calls, tally.backwards, tally.calls + each * tally.backwards)


def check_fits(operator: LinearOperator, measurement: Tensor, like: Image) -> None:
    """Errors: ValueError as in `sample_posterior`."""
    with torch.no_grad():
        predicted = operator.forward(torch.zeros_like(like))
        back = operator.adjoint(predicted)
    if predicted.shape != measurement.shape:
        raise ValueError(
            f"the operator measures {tuple(predicted.shape)} of images {tuple(like.shape)}, "
            f"the measurement is {tuple(measurement.shape)}"
        )
    if back.is_complex() and not like.is_complex():
        raise ValueError(
            "the operator's adjoint is complex and the images are real: give it a phase "
            "(real images), or wrap it in ComplexChannels (real and imaginary channels)"
        )


@dataclass(eq=False)
class Tally:
    """A `Denoise` that counts its calls and the gradients taken through its clean estimate."""

    denoise: Denoise
    calls: int = field(default=0, init=False)
    backwards: int = field(default=0, init=False)

    def __call__(self, x: Image, level: NoiseLevel) -> Estimate:
        self.calls += 1
        here = self.denoise(x, level)
        if here.clean.requires_grad:
            here.clean.register_hook(self._count)
        return here

    def _count(self, gradient: Tensor) -> None:
        self.backwards += 1


def in_chunks(denoise: Denoise, size: int) -> Denoise:
    """`denoise` that asks for at most `size` images at a time and keeps no activations.

    Where a gradient is wanted each chunk is computed again in the backward pass.
    Source: Chen et al. 2016 (arXiv:1604.06174) for computing again.
    Errors: ValueError for a size below 1.
    """
    if size < 1:
        raise ValueError(f"a chunk needs at least one image, got {size}")

    def ask(x: Image, level: NoiseLevel) -> Estimate:
        parts = [
            _again(denoise, x[first : first + size], _part(level, first, size))
            for first in range(0, len(x), size)
        ]
        spreads = [part.spread for part in parts if part.spread is not None]
        return Estimate(
            torch.cat([part.clean for part in parts]),
            torch.cat([part.eps for part in parts]),
            torch.cat(spreads) if spreads else None,
        )

    return ask


def _again(denoise: Denoise, x: Image, level: NoiseLevel) -> Estimate:
    if not (torch.is_grad_enabled() and x.requires_grad):
        return denoise(x, level)

    def call(x: Image) -> tuple[Any, ...]:
        here = denoise(x, level)
        return here.clean, here.eps, here.spread

    return Estimate(*checkpoint(call, x, use_reentrant=False, preserve_rng_state=False))


def _part(level: NoiseLevel, first: int, size: int) -> NoiseLevel:
    if level.t.ndim == 0:
        return level
    cut = slice(first, first + size)
    return NoiseLevel(level.t[cut], level.alpha[cut], level.sigma[cut])
