"""The networks behind a denoiser, in 2-D and 3-D from one definition."""

from medidiff.networks.autoencoder import Autoencoder, AutoencoderOptions
from medidiff.networks.build import AnyNetwork, build, parameter_count
from medidiff.networks.codec import (
    AnyCodec,
    AnyFittedCodec,
    AutoencoderCodec,
    Codec,
    FittedAutoencoder,
    FittedWavelet,
    IdentityCodec,
    LatentCodec,
    WaveletCodec,
    codec_of,
)
from medidiff.networks.conditions import (
    AnyCondition,
    ClassCondition,
    NumberCondition,
    encode,
    encode_batch,
)
from medidiff.networks.coordinates import WithCoordinates, coordinates, patches
from medidiff.networks.graphs import Acceleration, accelerated, has_bf16
from medidiff.networks.shape import NetworkShape
from medidiff.networks.tiling import Tiles
from medidiff.networks.unet import UNet, UNetOptions

__all__ = [
    "Acceleration",
    "AnyCodec",
    "AnyCondition",
    "AnyFittedCodec",
    "AnyNetwork",
    "Autoencoder",
    "AutoencoderCodec",
    "AutoencoderOptions",
    "ClassCondition",
    "Codec",
    "FittedAutoencoder",
    "FittedWavelet",
    "IdentityCodec",
    "LatentCodec",
    "NetworkShape",
    "NumberCondition",
    "Tiles",
    "UNet",
    "UNetOptions",
    "WaveletCodec",
    "WithCoordinates",
    "accelerated",
    "build",
    "codec_of",
    "coordinates",
    "encode",
    "encode_batch",
    "has_bf16",
    "parameter_count",
    "patches",
]
