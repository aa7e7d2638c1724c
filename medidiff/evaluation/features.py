"""Features of images that need no download: responses of fixed random filters at several scales.

Distances on them rank generators of the same images; they are not the published FID or KID, whose
features were learned on photographs, and are never to be compared with such figures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from medidiff.types import Image

Features = Callable[[Image], Tensor]  # (batch, channel, *space) -> (batch, features)

FILTERS = 16
TAPS = 5
COARSEST = 8  # halve the image while its shortest side stays at least this
CHUNK = 16


def random_features(images: Image, seed: int = 0) -> Tensor:
    """Texture and layout of each image, (batch, features) in float64.

    At each scale 16 random 5-tap-wide filters of zero mean look at the image (channels summed with
    random weights); kept are the mean and the deviation of their absolute responses over the image
    and in its halves along each axis, and the image's own mean in the same parts. The same seed,
    channels and size give the same features on every machine.

    Source: random filters with pooled magnitudes as texture statistics go back to Heeger and Bergen
    1995 (doi:10.1145/218380.218446); untrained ones suffice, Ustyuzhaninov et al. 2017
    (arXiv:1606.00021).
    """
    parts = images.split(CHUNK)
    return torch.cat([_features(part.detach().to("cpu", torch.float32), seed) for part in parts])


def _features(images: Image, seed: int) -> Tensor:
    dims = images.ndim - 2
    convolve = {2: functional.conv2d, 3: functional.conv3d}[dims]
    shrink = {2: functional.avg_pool2d, 3: functional.avg_pool3d}[dims]
    pool = {2: functional.adaptive_avg_pool2d, 3: functional.adaptive_avg_pool3d}[dims]
    generator = torch.Generator().manual_seed(seed)
    found = []
    while min(images.shape[2:]) >= COARSEST:
        filters = _filters(images.shape[1], dims, generator)
        size = convolve(images, filters, padding=TAPS // 2).abs()
        for parts in (1, 2):
            mean = pool(size, parts)
            deviation = (pool(size**2, parts) - mean**2).clamp_min(0).sqrt()
            found += [mean.flatten(1), deviation.flatten(1), pool(images, parts).flatten(1)]
        images = shrink(images, 2)
    if not found:
        raise ValueError(f"features need sides of at least {COARSEST} voxels")
    return torch.cat(found, 1).double()


def _filters(channels: int, dims: int, generator: torch.Generator) -> Tensor:
    filters = torch.randn(FILTERS, channels, *[TAPS] * dims, generator=generator)
    axes = tuple(range(1, filters.ndim))
    filters = filters - filters.mean(axes, keepdim=True)
    return filters / filters.square().sum(axes, keepdim=True).sqrt()


@dataclass(frozen=True)
class FeatureScale:
    """Centre and spread that bring features to a common scale; fitted once, on real images."""

    mean: Tensor
    deviation: Tensor

    @staticmethod
    def fit(features: Tensor) -> FeatureScale:
        """The scale of real images, best those of training: the compared sets then share it.

        Errors: ValueError for fewer than two images.
        """
        if len(features) < 2:
            raise ValueError(f"a scale needs at least two images; found {len(features)}")
        deviation = features.std(0)
        # a feature that never varies (a filter over air) has nothing to be measured in
        return FeatureScale(features.mean(0), deviation.masked_fill(deviation < 1e-8, torch.inf))

    def __call__(self, features: Tensor) -> Tensor:
        return (features - self.mean) / self.deviation
