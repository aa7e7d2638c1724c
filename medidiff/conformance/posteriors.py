"""Inverse problems whose posterior is known in closed form, and how far draws are from it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from medidiff.diffusion.levels import Estimate, NoiseLevel, eps_of, scale
from medidiff.types import Image, Tensor

RANK_BINS = 10


@dataclass(frozen=True, eq=False)
class GaussianField:
    """Clean images from N(0, covariance): the exact denoiser, a `Denoise`.

    Shapes: covariance (n, n), n all of an image's values in their order in memory.
    """

    covariance: Tensor

    @cached_property
    def parts(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues (n,) and eigenvectors (n, n)."""
        values, vectors = torch.linalg.eigh(self.covariance)
        return values.clamp_min(0), vectors

    def __call__(self, x: Image, level: NoiseLevel) -> Estimate:
        values, vectors = self.parts
        flat = x.flatten(1)
        alpha, sigma = scale(level.alpha, flat), scale(level.sigma, flat)
        gain = alpha * values / (alpha**2 * values + sigma**2)
        clean = ((flat @ vectors * gain) @ vectors.T).reshape(x.shape)
        return Estimate(clean, eps_of(x, clean, level))

    def draw(self, unit: Tensor) -> Tensor:
        """Images (batch, n) of unit Gaussian numbers (batch, n)."""
        values, vectors = self.parts
        return (unit * values.sqrt()) @ vectors.T


def squared_exponential(count: int, length: float, nugget: float = 1e-3) -> GaussianField:
    """A line of `count` values of unit variance, correlated over `length` of them.

    nugget is the variance of what is not correlated.
    """
    place = torch.arange(count, dtype=torch.float64)
    kernel = (-((place[:, None] - place) ** 2) / (2 * length**2)).exp()
    return GaussianField((1 - nugget) * kernel + nugget * torch.eye(count, dtype=torch.float64))


@dataclass(frozen=True, eq=False)
class GaussianPosterior:
    """p(clean | y) of a field. Shapes: mean (batch, n), covariance (n, n)."""

    mean: Tensor
    covariance: Tensor

    @property
    def std(self) -> Tensor:
        """Of each value, (n,)."""
        return self.covariance.diagonal().clamp_min(0).sqrt()

    def draw(self, unit: Tensor) -> Tensor:
        """Exact draws (each, batch, n) of unit Gaussian numbers of that shape."""
        values, vectors = torch.linalg.eigh(self.covariance)
        return self.mean + (unit * values.clamp_min(0).sqrt()) @ vectors.T


def gaussian_posterior(
    field: GaussianField, matrix: Tensor, y: Tensor, noise_std: float
) -> GaussianPosterior:
    """The exact posterior of a field under y = matrix clean + noise_std n.

    Shapes: matrix (m, n) real, y (batch, m).
    Source: Bishop 2006, "Pattern recognition and machine learning", section 2.3.3.
    """
    cross = matrix @ field.covariance
    of_y = cross @ matrix.T + noise_std**2 * torch.eye(len(matrix), dtype=matrix.dtype)
    gain = torch.linalg.solve(of_y, cross).T
    return GaussianPosterior(y @ gain.T, field.covariance - gain @ cross)


@dataclass(frozen=True)
class Discrepancy:
    """How draws differ from a posterior; exact draws have 0, 1, about 1, and 0 but for chance."""

    bias: float
    """Root mean square of (mean of the draws - posterior mean) / posterior deviation, less what
    the draws' number alone makes of it."""
    spread: float
    """Root mean square of deviation of the draws / posterior deviation."""
    residual: float
    """Root mean square of (y - A draw) / noise_std."""
    rank: float
    """L1 distance of the truth's rank among the draws from even, over RANK_BINS bins."""


def discrepancy(
    draws: Tensor,
    truth: Tensor,
    mean: Tensor,
    std: Tensor,
    residual: Tensor,
    noise_std: float,
) -> Discrepancy:
    """Of draws from a posterior of known mean and deviation.

    Shapes: draws (each, signals, n); truth and mean (signals, n); std broadcasts to them; residual
    any, real.
    Values that the posterior leaves no room (std = 0) are not looked at.
    """
    each = len(draws)
    open_ = (std > 1e-6 * std.max()).expand_as(mean)
    safe = torch.where(open_, std, 1.0)
    off = ((draws.mean(0) - mean) / safe)[open_]
    bias = (off.square().mean() - 1 / each).clamp_min(0).sqrt()
    spread = (draws.var(0) / safe**2)[open_].mean().sqrt()
    fit = residual.square().mean().sqrt() / noise_std
    ranks = (draws < truth).sum(0)[open_]
    return Discrepancy(float(bias), float(spread), float(fit), rank_distance(ranks, each))


def rank_distance(ranks: Tensor, draws: int, bins: int = RANK_BINS) -> float:
    """Sum over bins of |share of ranks in it - its share of the draws + 1 possible ranks|."""
    edges = torch.arange(draws + 1) * bins // (draws + 1)
    even = torch.bincount(edges, minlength=bins).double() / (draws + 1)
    found = torch.bincount(edges[ranks], minlength=bins).double() / ranks.numel()
    return float((found - even).abs().sum())
