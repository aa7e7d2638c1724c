"""A network that tells made images from real ones, patch by patch, in 2-D and 3-D.

Source: Isola et al. 2017 (arXiv:1611.07004), section 3.2.2 and appendix. Differs: kernels of 3, so
that a small image leaves something at every layer; group normalisation, so that an image's score
does not depend on the others of its batch.
"""

from __future__ import annotations

import torch
from torch import nn

from medidiff.networks.blocks import Dims, make_conv, make_norm
from medidiff.types import Image, Tensor

GROUPS, EPS, SLOPE, WIDEST = 8, 1e-5, 0.2, 8


def patch_discriminator(
    dims: Dims, images: int, channels: int, layers: int, seed: int = 0
) -> nn.Sequential:
    """A score for each patch, with fresh weights, the same for the same seed.

    Shapes: (batch, images, *space) -> (batch, 1, *about space / 2^layers).
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        parts: list[nn.Module] = [make_conv(dims, images, channels, stride=2), nn.LeakyReLU(SLOPE)]
        width = channels
        for layer in range(1, layers + 1):
            wider = channels * min(2**layer, WIDEST)
            stride = 2 if layer < layers else 1
            parts += [
                make_conv(dims, width, wider, stride=stride),
                make_norm(wider, GROUPS, EPS),
                nn.LeakyReLU(SLOPE),
            ]
            width = wider
        return nn.Sequential(*parts, make_conv(dims, width, 1))


def scored(network: nn.Module, x: Image, wanted: float) -> Tensor:
    """The mean squared distance of each image's scores from `wanted`: 1 for real, 0 for made.

    Shapes: (batch,). Source: Mao et al. 2017 (LSGAN, arXiv:1611.04076), section 3.
    """
    return (network(x).float() - wanted).square().flatten(1).mean(1)
