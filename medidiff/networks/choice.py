"""Which networks there are, and making one."""

from __future__ import annotations

import math
from typing import TypeAlias, overload

import torch

from medidiff.networks.autoencoder import Autoencoder, AutoencoderOptions
from medidiff.networks.encoder import Encoder, EncoderOptions
from medidiff.networks.shape import NetworkShape
from medidiff.networks.unet import UNet, UNetOptions

AnyNetwork: TypeAlias = UNetOptions | EncoderOptions | AutoencoderOptions


@overload
def build(options: UNetOptions, shape: NetworkShape, seed: int = 0) -> UNet: ...
@overload
def build(options: AutoencoderOptions, shape: NetworkShape, seed: int = 0) -> Autoencoder: ...
@overload
def build(
    options: AnyNetwork, shape: NetworkShape, seed: int = 0
) -> UNet | Encoder | Autoencoder: ...
def build(options: AnyNetwork, shape: NetworkShape, seed: int = 0) -> UNet | Encoder | Autoencoder:
    """A network with fresh weights, the same for the same seed; no global generator moves."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return made(options, shape)


def parameter_count(options: AnyNetwork, shape: NetworkShape) -> int:
    """The number of weights that `build` would make, without making them."""
    with torch.device("meta"):
        return sum(math.prod(weight.shape) for weight in made(options, shape).parameters())


@overload
def made(options: UNetOptions, shape: NetworkShape) -> UNet: ...
@overload
def made(options: AutoencoderOptions, shape: NetworkShape) -> Autoencoder: ...
@overload
def made(options: AnyNetwork, shape: NetworkShape) -> UNet | Encoder | Autoencoder: ...
def made(options: AnyNetwork, shape: NetworkShape) -> UNet | Encoder | Autoencoder:
    """A network as the options say, its weights drawn from the global generator."""
    if isinstance(options, EncoderOptions):
        return Encoder(options, shape)
    if isinstance(options, AutoencoderOptions):
        return Autoencoder(options, shape)
    return UNet(options, shape)
