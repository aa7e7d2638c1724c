"""Which networks there are, and making one."""

from __future__ import annotations

import math
from typing import TypeAlias, overload

import torch

from medidiff.networks.encoder import Encoder, EncoderOptions
from medidiff.networks.shape import NetworkShape
from medidiff.networks.unet import UNet, UNetOptions

AnyNetwork: TypeAlias = UNetOptions | EncoderOptions


@overload
def build(options: UNetOptions, shape: NetworkShape, seed: int = 0) -> UNet: ...
@overload
def build(options: AnyNetwork, shape: NetworkShape, seed: int = 0) -> UNet | Encoder: ...
def build(options: AnyNetwork, shape: NetworkShape, seed: int = 0) -> UNet | Encoder:
    """A network with fresh weights, the same for the same seed; no global generator moves."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return _made(options, shape)


def parameter_count(options: AnyNetwork, shape: NetworkShape) -> int:
    """The number of weights that `build` would make, without making them."""
    with torch.device("meta"):
        return sum(math.prod(weight.shape) for weight in _made(options, shape).parameters())


def _made(options: AnyNetwork, shape: NetworkShape) -> UNet | Encoder:
    if isinstance(options, EncoderOptions):
        return Encoder(options, shape)
    return UNet(options, shape)
