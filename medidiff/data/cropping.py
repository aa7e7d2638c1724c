"""What of a scan a model's grid cuts off: how much of it is not air.

A result comes back with the scan's background where the model's grid does not reach, so whoever
puts it back has to know whether anything was there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from medidiff.data.images import Original
from medidiff.data.survey import AIR_HU, SPECKS
from medidiff.data.transforms import covers, inside_space

Values = NDArray[np.floating]

MEAN = 3  # voxels along each axis: single ones that are bright are noise
DARKEST, BRIGHTEST = 0.5, 99.5  # percentiles that bound a scan's own values
APART = 0.5  # of the range of all other values: a smallest value that far below them is padding
ENOUGH = 2**18  # voxels tell the threshold


@dataclass(frozen=True)
class Cropped:
    """Voxels of a scan that are not air: those beyond the model's grid, of how many."""

    voxels: int = 0
    of: int = 0

    @property
    def share(self) -> float:
        """Of what is not air."""
        return self.voxels / self.of if self.of else 0.0

    @property
    def matters(self) -> bool:
        """Whether it is more than specks of noise: a thousandth."""
        return self.share > SPECKS

    def __str__(self) -> str:
        """Such as "about 1969 voxels that are not air (6.6 % of them)"."""
        return f"about {self.voxels} voxels that are not air ({100 * self.share:.2g} % of them)"


def cropped(
    channels: Sequence[Tensor],
    size: tuple[int, ...],
    affine: NDArray[np.float64],
    original: Original,
    hounsfield: bool = False,
) -> Cropped:
    """What of the channels, (*space) each on the grid of `original`, lies beyond a grid of `size`
    voxels whose `affine` is given, and comes back as background.

    `hounsfield`: whether the values are those of CT.
    """
    if covers(size, affine, original):
        return Cropped()
    there = np.zeros(original.shape, np.bool_)
    for channel in channels:
        there |= not_air(channel.numpy(), hounsfield)
    return beyond(there, size, affine, original)


def beyond(
    there: NDArray[np.bool_],
    size: tuple[int, ...],
    affine: NDArray[np.float64],
    original: Original,
) -> Cropped:
    """How many of the voxels that are true, (..., *space) on the grid of `original`, lie beyond a
    grid of `size` voxels whose `affine` is given."""
    lost = there & ~inside_space(size, affine, original).numpy()
    return Cropped(int(lost.sum()), int(there.sum()))


def not_air(values: Values, hounsfield: bool = False) -> NDArray[np.bool_]:
    """Where the mean over 3 voxels along each axis lies above Otsu's threshold of these means; of
    CT that reaches below it, above -500 HU.

    Noise does not move it: the threshold lies midway between air, however noisy, and tissue.
    Padding is air, whatever its value: the smallest value where that lies apart from all others,
    and what fills a whole face of the array.
    Source: Otsu 1979 (doi:10.1109/TSMC.1979.4310076) for the threshold.
    """
    from skimage.filters import threshold_otsu  # takes a while to import

    smooth = ndimage.uniform_filter(_without_padding(values), MEAN, mode="nearest")
    if hounsfield and smooth.min() < AIR_HU:
        return smooth > AIR_HU
    some = _some(smooth)
    some = np.minimum(some, np.percentile(some, BRIGHTEST))
    if some.max() <= some.min():
        return np.zeros(values.shape, np.bool_)
    return smooth > threshold_otsu(some)


def _without_padding(values: Values) -> Values:
    """With the lowest of the other values in its place."""
    low = values.min()
    for axis in range(values.ndim):
        for face in (values.take(0, axis), values.take(-1, axis)):
            value = face.flat[0]
            if value != low and (face == value).all():
                values = np.where(values == value, low, values)
    rest = values[values > low]
    if not len(rest):
        return values
    lowest, high = np.percentile(_some(rest), (DARKEST, BRIGHTEST))
    far = high > lowest and lowest - low > APART * (high - lowest)
    return np.maximum(values, lowest) if far else values


def _some(values: Values) -> Values:
    """Evenly spread."""
    flat = values.reshape(-1)
    return flat[:: -(-len(flat) // ENOUGH)]
