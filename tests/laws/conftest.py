"""Oracles: the one case in which everything is known, Gaussian data."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from torch import Tensor

from medidiff.diffusion import Estimate, NoiseLevel, scale


@dataclass(frozen=True)
class Gaussian:
    """Clean voxels from N(mean, std^2): the exact denoiser and the exact solution of the flow."""

    mean: float = 0.5
    std: float = 0.2

    def __call__(self, x: Tensor, level: NoiseLevel) -> Estimate:
        alpha, sigma = level.alpha, level.sigma
        power = (alpha * self.std) ** 2 + sigma**2
        rest = x - scale(alpha, x) * self.mean
        clean = self.mean + scale(alpha * self.std**2 / power, x) * rest
        return Estimate(clean, scale(sigma / power, x) * rest)

    def flow(self, x: Tensor, now: NoiseLevel, to: NoiseLevel) -> Tensor:
        """Where the deterministic flow takes x: (x - alpha mean) / its deviation stays."""
        gain = self._std_at(to) / self._std_at(now)
        return scale(to.alpha, x) * self.mean + scale(gain, x) * (
            x - scale(now.alpha, x) * self.mean
        )

    def _std_at(self, level: NoiseLevel) -> Tensor:
        return ((level.alpha * self.std) ** 2 + level.sigma**2).sqrt()


@pytest.fixture(scope="session")
def gaussian_denoise() -> Gaussian:
    """The exact denoiser of N(.5, .2^2)."""
    return Gaussian()
