"""How far a result is from the truth: PSNR, SSIM, MS-SSIM, NRMSE and MAE, one number an image.

Every function takes the data range explicitly. A range left to a default (2 for floats in
scikit-image) raises SSIM by up to 0.14 on a head scan that lies in [0, 1], and nobody notices.
Where a region is given, its policy belongs into the table: the empty background of a head scan is
worth several dB.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from medidiff.types import Image

SSIM_WIDTH = 1.5  # standard deviation of the Gaussian window, in voxels
SSIM_RADIUS = 5  # window of 11 voxels
K1, K2 = 0.01, 0.03
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def psnr(
    estimate: Image, clean: Image, *, data_range: float | Tensor, region: Tensor | None = None
) -> Tensor:
    """Peak signal-to-noise ratio of each image, over all its channels.

    Shapes: images (batch, channel, *space); `data_range` a number or (batch,); `region` boolean,
    broadcastable to the images, such as (batch, 1, *space). Gives (batch,) in float64.
    Units: dB. Infinite where the two are equal.
    Errors: ValueError for unequal shapes, a range that is not positive, an empty region.
    """
    squared = mean_in_region((estimate.double() - clean.double()) ** 2, region, like=clean)
    return 10 * torch.log10(_range_of(data_range, clean) ** 2 / squared)


def nrmse(
    estimate: Image, clean: Image, *, data_range: float | Tensor, region: Tensor | None = None
) -> Tensor:
    """Root mean squared error of each image as a fraction of the data range.

    Shapes and Errors: as `psnr`.
    Differs: others divide by the norm or the mean of the truth; this one says by what it divides.
    """
    squared = mean_in_region((estimate.double() - clean.double()) ** 2, region, like=clean)
    return squared.sqrt() / _range_of(data_range, clean)


def mae(
    estimate: Image, clean: Image, *, data_range: float | Tensor, region: Tensor | None = None
) -> Tensor:
    """Mean absolute error of each image as a fraction of the data range.

    Shapes and Errors: as `psnr`.
    Units: with `data_range=1` those of the images, such as Hounsfield units.
    """
    absolute = mean_in_region((estimate.double() - clean.double()).abs(), region, like=clean)
    return absolute / _range_of(data_range, clean)


def ssim(
    estimate: Image, clean: Image, *, data_range: float | Tensor, region: Tensor | None = None
) -> Tensor:
    """Structural similarity of each image, the mean of its channels.

    The window is a Gaussian of width 1.5 cut at 11 voxels, in 2-D and 3-D. Without a region, the
    border of 5 voxels, where the window leaves the image, is left out of the mean, as in
    scikit-image; with one, all its voxels count and the image goes on mirrored.

    Shapes and Errors: as `psnr`; ValueError too for a side shorter than 11 voxels.
    Source: Wang et al. 2004 (doi:10.1109/TIP.2003.819861), eq. 13.
    """
    similarity, _ = _ssim_maps(estimate, clean, _range_of(data_range, clean))
    if region is not None:
        return mean_in_region(similarity, region, like=clean)
    return _without_border(similarity).flatten(1).mean(1)


def ms_ssim(estimate: Image, clean: Image, *, data_range: float | Tensor) -> Tensor:
    """Structural similarity over several scales, the mean of the channels of each image.

    Shapes and Errors: as `ssim`.
    Source: Wang, Simoncelli and Bovik 2003 (doi:10.1109/ACSSC.2003.1292216), eq. 7.
    Differs: an image too small for all five scales uses the first ones that fit, with their weights
    made to sum to one (three scales at 64 voxels); negative terms count as zero.
    """
    weights = MS_SSIM_WEIGHTS[: scales_that_fit(clean.shape[2:])]
    total = sum(weights)
    span = _range_of(data_range, clean)
    pool = {2: functional.avg_pool2d, 3: functional.avg_pool3d}[clean.ndim - 2]
    first, second = estimate.double(), clean.double()
    product = torch.ones(clean.shape[:2], dtype=torch.float64, device=clean.device)
    for scale, weight in enumerate(weights):
        similarity, contrast = _ssim_maps(first, second, span)
        term = similarity if scale == len(weights) - 1 else contrast
        mean = _without_border(term).flatten(2).mean(2)
        product = product * mean.clamp_min(0) ** (weight / total)
        first, second = pool(first, 2), pool(second, 2)
    return product.mean(1)


def scales_that_fit(space: tuple[int, ...]) -> int:
    """The number of MS-SSIM scales, at most five, at which every side holds the window."""
    shortest = min(space)
    if shortest < 2 * SSIM_RADIUS + 1:
        raise ValueError(
            f"SSIM needs sides of at least {2 * SSIM_RADIUS + 1} voxels; found {tuple(space)}"
        )
    return min(len(MS_SSIM_WEIGHTS), 1 + int(math.log2(shortest / (2 * SSIM_RADIUS + 1))))


def mean_in_region(values: Tensor, region: Tensor | None, *, like: Image) -> Tensor:
    """The mean of `values` over channels and the region of each image, (batch,).

    Errors: ValueError where `values` and `like` differ in shape, or a region holds no voxel.
    """
    if values.shape != like.shape:
        raise ValueError(f"the shapes differ: {tuple(values.shape)} and {tuple(like.shape)}")
    if region is None:
        return values.flatten(1).mean(1)
    inside = region.to(device=values.device, dtype=torch.bool).expand_as(values)
    count = inside.flatten(1).sum(1)
    if bool((count == 0).any()):
        raise ValueError(f"the region of image {int((count == 0).nonzero()[0])} holds no voxel")
    # not values * inside: a voxel outside may be infinite or not a number
    return torch.where(inside, values, 0).flatten(1).sum(1) / count


def _range_of(data_range: float | Tensor, clean: Image) -> Tensor:
    span = torch.as_tensor(data_range, dtype=torch.float64, device=clean.device)
    if span.ndim > 1 or (span.ndim == 1 and len(span) != len(clean)):
        raise ValueError(f"data_range is a number or one an image; its shape is {(*span.shape,)}")
    if not bool((span > 0).all()):
        raise ValueError("data_range must be positive")
    return span.expand(len(clean))


def _ssim_maps(first: Image, second: Image, span: Tensor) -> tuple[Tensor, Tensor]:
    """The similarity at each voxel and its contrast-structure part alone, float64."""
    if first.shape != second.shape:
        raise ValueError(f"the shapes differ: {tuple(first.shape)} and {tuple(second.shape)}")
    scales_that_fit(second.shape[2:])
    x, y = first.double(), second.double()
    mean_x, mean_y = _blur(x), _blur(y)
    variance_x = _blur(x * x) - mean_x**2
    variance_y = _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    span = span.reshape(-1, *[1] * (x.ndim - 1))
    c1, c2 = (K1 * span) ** 2, (K2 * span) ** 2
    contrast = (2 * covariance + c2) / (variance_x + variance_y + c2)
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return luminance * contrast, contrast


def _blur(x: Tensor) -> Tensor:
    """A separable Gaussian over the axes of space; the image goes on mirrored at its faces."""
    offset = torch.arange(-SSIM_RADIUS, SSIM_RADIUS + 1, dtype=x.dtype, device=x.device)
    window = torch.exp(-0.5 * (offset / SSIM_WIDTH) ** 2)
    window = window / window.sum()
    for axis in range(2, x.ndim):
        size = x.shape[axis]
        inside = torch.arange(size, device=x.device)
        mirrored = torch.cat(
            [inside[:SSIM_RADIUS].flip(0), inside, inside[size - SSIM_RADIUS :].flip(0)]
        )
        windows = x.index_select(axis, mirrored).unfold(axis, len(window), 1)
        x = windows @ window
    return x


def _without_border(values: Tensor) -> Tensor:
    inner = slice(SSIM_RADIUS, -SSIM_RADIUS)
    return values[(slice(None), slice(None), *[inner] * (values.ndim - 2))]
