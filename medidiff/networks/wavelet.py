"""The Haar wavelet transform of images: half the grid, 4 (2-D) or 8 (3-D) bands for each channel.

Orthonormal: lengths and white noise stay what they are, and the inverse is the transpose.
Source: Haar 1910 (Mathematische Annalen 69); as a grid for diffusion in 3-D, Friedrich et al. 2024
(WDM, arXiv:2402.19043).
"""

from __future__ import annotations

import torch

from medidiff.types import Image, Tensor

HALF = 0.5**0.5


def haar(x: Image) -> Tensor:
    """The bands of an image, those low along every axis first.

    Shapes: (batch, C, *space), every axis even -> (batch, 2^dims C, *space / 2). The band of index
    b is high along axis i of space where bit i of b is set.
    """
    for axis in range(2, x.ndim):
        even, odd = x.unflatten(axis, (-1, 2)).unbind(axis + 1)
        x = torch.cat([even + odd, even - odd], dim=1) * HALF
    return x


def inverse_haar(bands: Tensor) -> Image:
    """The image of its bands. Shapes: (batch, 2^dims C, *space) -> (batch, C, *2 space)."""
    for axis in reversed(range(2, bands.ndim)):
        low, high = (bands * HALF).chunk(2, dim=1)
        bands = torch.stack([low + high, low - high], dim=axis + 1).flatten(axis, axis + 1)
    return bands
