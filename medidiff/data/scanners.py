"""What a scanner makes of drawn anatomy: partial volume, blur, shading, noise, whole numbers."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medidiff.data.shapes import Array, along_axis, apart


def averaged(image: Array, factor: int) -> Array:
    """The mean over blocks of `factor` voxels a side: partial volume at every border."""
    for axis in range(image.ndim):
        every = [image[(*[slice(None)] * axis, slice(n, None, factor))] for n in range(factor)]
        total = every[0] + every[1] if factor > 1 else every[0]
        for each in every[2:]:
            total += each
        image = total / factor
    return image


def blurred(image: Array, sigma: float) -> Array:
    """A Gaussian blur of `sigma` voxels, mirrored at the edges."""
    for axis, size in enumerate(image.shape):
        image = along_axis(_blur(size, sigma), image, axis)
    return image


@lru_cache(maxsize=32)
def _blur(size: int, sigma: float) -> NDArray[np.float32]:
    """The blur of a line as a matrix: for small pictures far quicker than a filter."""
    return ndimage.gaussian_filter1d(np.eye(size), sigma, axis=0).astype(np.float32)


def mr_magnitude(brightness: Array, random: np.random.Generator) -> NDArray[np.int16]:
    """Blur, coil shading, Rician noise of 1 %, an arbitrary gain."""
    seen = blurred(brightness, 0.35)
    axes = [np.linspace(-1, 1, n, dtype=np.float32) for n in brightness.shape]
    shading = np.zeros_like(brightness)
    for axis in np.meshgrid(*axes, indexing="ij", sparse=True):
        shading += random.normal(0, 0.03) * axis + random.normal(0, 0.02) * axis**2
    real, imaginary = random.normal(0, 0.010, (2, *brightness.shape)).astype(np.float32)
    seen *= 1 + shading
    seen += real
    magnitude = apart(seen, imaginary)
    magnitude *= 850 * random.normal(1.0, 0.05)
    return np.clip(np.round(magnitude), 0, 32767).astype(np.int16)


def ct_image(hu: Array, random: np.random.Generator) -> NDArray[np.int16]:
    """Blur, and noise of 8 to 22 HU that neighbours share, in whole Hounsfield units."""
    noise = blurred(random.normal(0, 1, hu.shape).astype(np.float32), 0.6)
    noise *= random.uniform(8, 22) / noise.std()
    noise += blurred(hu, 0.35)
    return np.clip(np.round(noise), -1024, 3071).astype(np.int16)
