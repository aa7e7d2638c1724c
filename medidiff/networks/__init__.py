"""The networks behind a denoiser, in 2-D and 3-D from one definition."""

from medidiff.networks.autoencoder import Autoencoder, AutoencoderOptions
from medidiff.networks.build import AnyNetwork, build, parameter_count
from medidiff.networks.conditions import (
    AnyCondition,
    ClassCondition,
    NumberCondition,
    encode,
    encode_batch,
)
from medidiff.networks.graphs import Acceleration, accelerated, has_bf16
from medidiff.networks.shape import NetworkShape
from medidiff.networks.unet import UNet, UNetOptions

__all__ = [
    "Acceleration",
    "AnyCondition",
    "AnyNetwork",
    "Autoencoder",
    "AutoencoderOptions",
    "ClassCondition",
    "NetworkShape",
    "NumberCondition",
    "UNet",
    "UNetOptions",
    "accelerated",
    "build",
    "encode",
    "encode_batch",
    "has_bf16",
    "parameter_count",
]
