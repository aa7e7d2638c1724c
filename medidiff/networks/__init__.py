"""The networks behind a denoiser, in 2-D and 3-D from one definition."""

from medidiff.diffusion.noise import take_unit_numbers_from
from medidiff.networks.autoencoder import Autoencoder, AutoencoderOptions
from medidiff.networks.choice import AnyNetwork, build, parameter_count
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
from medidiff.networks.encoder import Encoder, EncoderOptions
from medidiff.networks.graphs import Acceleration, accelerated, has_bf16
from medidiff.networks.kernels.philox import unit_numbers
from medidiff.networks.reach import Reach
from medidiff.networks.shape import NetworkShape
from medidiff.networks.spread_heads import (
    Head,
    HeadedNetwork,
    HeadForm,
    SpreadHead,
    build_head,
)
from medidiff.networks.tiling import Tiles
from medidiff.networks.unet import UNet, UNetOptions
from medidiff.networks.unrolled import UnrolledReconstruction

take_unit_numbers_from(unit_numbers)

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
    "Encoder",
    "EncoderOptions",
    "FittedAutoencoder",
    "FittedWavelet",
    "Head",
    "HeadForm",
    "HeadedNetwork",
    "IdentityCodec",
    "LatentCodec",
    "NetworkShape",
    "NumberCondition",
    "Reach",
    "SpreadHead",
    "Tiles",
    "UNet",
    "UNetOptions",
    "UnrolledReconstruction",
    "WaveletCodec",
    "WithCoordinates",
    "accelerated",
    "build",
    "build_head",
    "codec_of",
    "coordinates",
    "encode",
    "encode_batch",
    "has_bf16",
    "parameter_count",
    "patches",
]
