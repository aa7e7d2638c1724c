"""Data distributions whose exact denoiser is known in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from medidiff.diffusion.levels import Estimate, NoiseLevel, scale
from medidiff.types import Image, Tensor


@dataclass(frozen=True, eq=False)
class Mixture:
    """Clean images from sum_k w_k N(mu_k, diag v_k): the exact denoiser, a `Denoise`.

    Shapes: weights (K,), means and variances (K, channel, *space).
    Source: Tweedie's formula for each component, weighted by its responsibility for x (Bayes).
    """

    weights: Tensor
    means: Tensor
    variances: Tensor

    def parts(self, x: Image, level: NoiseLevel) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Log p of x joint with each component (batch, K); responsibilities, residuals and
        variances of x for each component, (batch, K, channel, *space) or broadcasting to it."""
        alpha, sigma = (_column(each, x) for each in (level.alpha, level.sigma))
        variance = alpha**2 * self.variances + sigma**2
        residual = x[:, None] - alpha * self.means
        normaliser = (2 * math.pi * variance).log()
        joint = self.weights.log() - 0.5 * (residual**2 / variance + normaliser).flatten(2).sum(2)
        share = joint.softmax(1).reshape(joint.shape + (1,) * (x.ndim - 1))
        return joint, share, residual, variance

    def __call__(self, x: Image, level: NoiseLevel) -> Estimate:
        _, share, residual, variance = self.parts(x, level)
        alpha, sigma = (_column(each, x) for each in (level.alpha, level.sigma))
        clean = (share * (self.means + alpha * self.variances / variance * residual)).sum(1)
        return Estimate(clean, (share * sigma * residual / variance).sum(1))

    def log_density(self, x: Image, level: NoiseLevel) -> Tensor:
        """log p(x) at a level, in nats over all channels and voxels.

        Shapes: x (batch, channel, *space) -> (batch,).
        """
        return self.parts(x, level)[0].logsumexp(1)

    def eps_square(self, x: Image, level: NoiseLevel) -> Image:
        """E[eps^2 | x], elementwise: what the SN head of Extended Analytic-DPM learns.

        Source: Bao et al. 2022 (arXiv:2206.07309), section 3; each component's posterior of eps is
        Gaussian with mean sigma r / v_x and variance alpha^2 v / v_x.
        """
        _, share, residual, variance = self.parts(x, level)
        alpha, sigma = (_column(each, x) for each in (level.alpha, level.sigma))
        mean, spread = sigma * residual / variance, alpha**2 * self.variances / variance
        return (share * (mean**2 + spread)).sum(1)


@dataclass(frozen=True, eq=False)
class Posterior:
    """The mixture p(clean | y) of a linear measurement, flattened over channels and voxels.

    Shapes: log_evidence (batch,), weights (batch, K), means (batch, K, n), variances (K, n), the
    diagonals of the components' covariances, which do not depend on y.
    """

    log_evidence: Tensor
    weights: Tensor
    means: Tensor
    variances: Tensor

    @property
    def mean(self) -> Tensor:
        """E[clean | y], (batch, n)."""
        return (self.weights[..., None] * self.means).sum(1)

    @property
    def variance(self) -> Tensor:
        """Var[clean | y] of each voxel, (batch, n)."""
        around = self.means - self.mean[:, None]
        return (self.weights[..., None] * (self.variances + around**2)).sum(1)


def posterior(mixture: Mixture, matrix: Tensor, y: Tensor, sigma: float) -> Posterior:
    """The exact posterior of a mixture under y = matrix clean + sigma noise.

    Shapes: matrix (m, n), n all channels and voxels; y (batch, m).
    Source: Bishop 2006, "Pattern recognition and machine learning", section 2.3.3, for each
    component; the components' evidence weighs them.
    """
    means, variances = mixture.means.flatten(1), mixture.variances.flatten(1)
    noise = sigma**2 * torch.eye(len(matrix), dtype=matrix.dtype)
    # the covariance of y given a component, (K, m, m), and the gain that takes y to clean
    of_y = (matrix * variances[:, None]) @ matrix.T + noise
    gain = torch.linalg.solve(of_y, matrix * variances[:, None]).transpose(1, 2)
    residual = y[:, None] - means @ matrix.T
    evidence = torch.distributions.MultivariateNormal(torch.zeros_like(residual[0]), of_y)
    joint = mixture.weights.log() + evidence.log_prob(residual)
    return Posterior(
        joint.logsumexp(1),
        joint.softmax(1),
        means + torch.einsum("knm,bkm->bkn", gain, residual),
        variances - torch.einsum("knm,mn,kn->kn", gain, matrix, variances),
    )


def _column(coefficient: Tensor, x: Image) -> Tensor:
    """A level's number in a shape that broadcasts over (batch, K, channel, *space)."""
    return scale(coefficient, x[:, None])
