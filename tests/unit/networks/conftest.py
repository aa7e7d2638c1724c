"""Small networks whose every layer has an effect."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from medidiff.networks.build import build
from medidiff.networks.shape import NetworkShape
from medidiff.networks.unet import UNet, UNetOptions


def _awake(options: UNetOptions, shape: NetworkShape) -> UNet:
    network = build(options, shape)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    return network


@pytest.fixture(scope="session")
def awake() -> Callable[[UNetOptions, NetworkShape], UNet]:
    """A network as after some training: nothing in it is zero any more."""
    return _awake


@pytest.fixture
def small() -> UNetOptions:
    return UNetOptions(channels=(8, 16), blocks=1, attention=(False, True), groups=4)


@pytest.fixture
def random() -> torch.Generator:
    return torch.Generator().manual_seed(0)
