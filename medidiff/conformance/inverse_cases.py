"""Inverse problems whose posterior is known in closed form, for any method to be judged by.

A Gaussian field seen through some of its Fourier coefficients, some of its values, or a blur; a
mixture of three Gaussians seen so coarsely that two of the three stay open.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from medidiff.conformance.oracles import Mixture, posterior
from medidiff.conformance.posteriors import (
    Discrepancy,
    discrepancy,
    gaussian_posterior,
    squared_exponential,
)
from medidiff.diffusion.levels import Denoise
from medidiff.diffusion.noise import KeyedNoise
from medidiff.diffusion.schedules import EDM
from medidiff.diffusion.times import AnySpacing, Karras, path
from medidiff.inverse import Gaussian, Posterior, sample_posterior
from medidiff.physics import DenseOperator
from medidiff.types import Tensor

COUNT = 64
EDM_LEVELS = Karras()
LENGTH = 4.0
"""Of the field's correlation, in values."""


@dataclass(frozen=True, eq=False)
class Case:
    """A prior, what is seen of it, and what is known of its posteriors."""

    name: str
    prior: Denoise
    matrix: Tensor
    noise_std: float
    truth: Tensor
    measurement: Tensor
    mean: Tensor
    std: Tensor
    exact: Callable[[Tensor], Tensor]
    """Draws (each, signals, n) of the posterior from unit Gaussian numbers."""
    modes: Callable[[Tensor], float] | None = None
    """Of draws (each, signals, n)."""


def field_cases(signals: int) -> list[Case]:
    """The Gaussian field, seen in three ways, each by other draws of it."""
    generator = torch.Generator().manual_seed(0)
    prior = squared_exponential(COUNT, LENGTH)
    seen = torch.randperm(COUNT, generator=generator)[: COUNT // 4].sort().values
    unit = torch.eye(COUNT, dtype=torch.float64)
    operators = {
        "fourier R=4": (fourier_rows(generator), 0.05),
        "quarter seen": (unit[seen], 0.05),
        "blur": (circular_blur(), 0.1),
    }
    cases = []
    for name, (matrix, noise_std) in operators.items():
        truth = prior.draw(torch.randn((signals, COUNT), generator=generator, dtype=torch.float64))
        y = measured(truth, matrix, noise_std, generator)
        known = gaussian_posterior(prior, matrix, y, noise_std)
        cases.append(
            Case(name, prior, matrix, noise_std, truth, y, known.mean, known.std, known.draw)
        )
    return cases


def fourier_rows(generator: torch.Generator) -> Tensor:
    """Real and imaginary parts of 16 Fourier coefficients of the field times a smooth phase: the
    five lowest, the others drawn."""
    place = torch.arange(COUNT, dtype=torch.float64)
    phase = (2 * torch.pi * place / COUNT + 0.7).sin() + 0.6 * (4 * torch.pi * place / COUNT).cos()
    lowest = torch.tensor([0, 1, 2, COUNT - 1, COUNT - 2])
    order = torch.randperm(COUNT, generator=generator)
    kept = torch.cat((lowest, order[~torch.isin(order, lowest)]))[: COUNT // 4]
    whole = torch.fft.fft(torch.eye(COUNT, dtype=torch.complex128), norm="ortho")
    rows = (whole * torch.polar(torch.ones_like(phase), phase))[kept]
    return torch.cat((rows.real, rows.imag))


def circular_blur(width: float = 2.0) -> Tensor:
    """A Gaussian of `width` values on a circle, of unit sum."""
    place = torch.arange(COUNT, dtype=torch.float64)
    apart = (place[:, None] - place).abs()
    weight = (-(torch.minimum(apart, COUNT - apart) ** 2) / (2 * width**2)).exp()
    return weight / weight.sum(1, keepdim=True)


def mixture_cases(signals: int) -> list[Case]:
    """Three Gaussians of which the operator tells one apart from the other two."""
    place = torch.arange(16, dtype=torch.float64)
    wave = (2 * torch.pi * place / 16).sin()
    fine = torch.where(place % 2 == 0, 0.6, -0.6)
    means = torch.stack((wave + fine, wave - fine, -wave))
    variances = 0.05 + 0.1 * torch.stack((place, place.flip(0), torch.full_like(place, 8))) / 16
    weights = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
    prior = Mixture(weights, means[:, None], variances[:, None])
    pairs = (torch.eye(8, dtype=torch.float64).repeat_interleave(2, 1)) / 2
    sampled = torch.eye(16, dtype=torch.float64)[[0, 5, 10, 15]]
    generator = torch.Generator().manual_seed(1)
    return [
        _mixture_case(name, prior, matrix, noise_std, signals, generator)
        for name, matrix, noise_std in (("pairs", pairs, 0.1), ("four seen", sampled, 0.3))
    ]


def _mixture_case(
    name: str,
    prior: Mixture,
    matrix: Tensor,
    noise_std: float,
    signals: int,
    generator: torch.Generator,
) -> Case:
    means, variances = prior.means.flatten(1), prior.variances.flatten(1)
    part = torch.multinomial(prior.weights, signals, replacement=True, generator=generator)
    unit = torch.randn((signals, means.shape[1]), generator=generator, dtype=torch.float64)
    truth = means[part] + variances[part].sqrt() * unit
    y = measured(truth, matrix, noise_std, generator)
    known = posterior(prior, matrix, y, noise_std)

    def exact(unit: Tensor) -> Tensor:
        parts = torch.Generator().manual_seed(3)  # the same at every call
        chosen = torch.multinomial(known.weights, len(unit), True, generator=parts).T
        precision = torch.diag_embed(1 / variances) + matrix.T @ matrix / noise_std**2
        root = torch.linalg.cholesky(torch.linalg.inv(precision))[chosen]
        centre = known.means[torch.arange(signals), chosen]
        return centre + (root @ unit[..., None])[..., 0]

    def modes(draws: Tensor) -> float:
        around = (draws[:, :, None] - means) ** 2 / variances + variances.log()
        nearest = (prior.weights.log() - 0.5 * around.sum(-1)).argmax(-1)
        share = torch.nn.functional.one_hot(nearest, len(means)).double().mean(0)
        return float((share - known.weights).abs().sum(1).mean() / 2)

    return Case(
        f"mixture, {name}", prior, matrix, noise_std, truth, y,
        known.mean, known.variance.sqrt(), exact, modes,
    )  # fmt: skip


def measured(truth: Tensor, matrix: Tensor, noise_std: float, generator: torch.Generator) -> Tensor:
    """matrix truth + noise."""
    y = truth @ matrix.T
    return y + noise_std * torch.randn(y.shape, generator=generator, dtype=y.dtype)


def drawn(
    case: Case, method: Posterior, each: int, steps: int, spacing: AnySpacing = EDM_LEVELS
) -> tuple[Tensor, float]:
    """Draws (each, signals, n) of a method along EDM's schedule, and their cost.

    Errors: ValueError if the method refuses the operator or the noise.
    """
    signals, size = case.truth.shape
    members = [(f"signal {signal}", draw) for draw in range(each) for signal in range(signals)]
    found = sample_posterior(
        case.prior,
        DenseOperator(case.matrix, (1, size)),
        case.measurement.repeat(each, 1),
        Gaussian(case.noise_std),
        method,
        torch.zeros((len(members), 1, size), dtype=torch.float64),
        KeyedNoise(0, members),
        levels=path(spacing, EDM(), steps),
        schedule=EDM(),
    )
    return found.images.reshape(each, signals, size), found.forward_equivalents


def judged(case: Case, draws: Tensor) -> Discrepancy:
    """How far draws (each, signals, n) are from what is known of the case."""
    residual = case.measurement - draws @ case.matrix.T
    return discrepancy(draws, case.truth, case.mean, case.std, residual, case.noise_std)
