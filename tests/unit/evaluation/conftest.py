"""Small heads for these tests: an ellipse of skin, bone, brain and fluid in air."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor


@pytest.fixture(scope="session")
def heads() -> Callable[..., Tensor]:
    """heads(count, size=64, dims=2) -> (count, 1, *space) in [0, 1]."""
    return _heads


@pytest.fixture(scope="session")
def magnitudes() -> Callable[..., Tensor]:
    """magnitudes(clean, sigma, seed=0) -> the same with Rician noise."""
    return _magnitudes


def _heads(count: int, size: int = 64, dims: int = 2) -> Tensor:
    steps = torch.linspace(-1, 1, size, dtype=torch.float64)
    axes = torch.meshgrid(*[steps] * dims, indexing="ij")
    return torch.stack([_head(axes, index) for index in range(count)])[:, None]


def _magnitudes(clean: Tensor, sigma: float, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    real = clean + sigma * torch.randn(clean.shape, generator=generator, dtype=clean.dtype)
    other = sigma * torch.randn(clean.shape, generator=generator, dtype=clean.dtype)
    return torch.hypot(real, other)


def _head(axes: tuple[Tensor, ...], index: int) -> Tensor:
    radius = sum(
        (axis / (0.7 + 0.02 * ((index + place) % 4))) ** 2 for place, axis in enumerate(axes)
    )
    assert isinstance(radius, Tensor)
    radius = radius.sqrt()
    soft = 0.03
    skin, bone, brain, fluid = (
        torch.sigmoid((limit - radius) / soft) for limit in (1.0, 0.9, 0.82, 0.25)
    )
    folds = 0.1 * torch.sin(7 * axes[0] + index) * torch.cos(math.pi * 2 * axes[1])
    return 0.8 * skin - 0.65 * bone + (0.55 + folds) * brain - 0.5 * fluid
