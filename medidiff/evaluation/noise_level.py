"""How strong the noise of an image is, from that image alone."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from medidiff.evaluation.count_noise import CountLaw, stabilised
from medidiff.evaluation.regions import otsu_threshold
from medidiff.evaluation.rician import rician_mean, rician_variance

Array = NDArray[np.floating]

# Daubechies 1992, table 6.1, N = 2: the high-pass filter of the wavelet with two vanishing moments
ROOT = np.sqrt(3.0)
DETAIL = np.array([1 - ROOT, -(3 - ROOT), 3 + ROOT, -(1 + ROOT)]) / (4 * np.sqrt(2.0))
SMOOTH = np.array([1 + ROOT, 3 + ROOT, 3 - ROOT, 1 - ROOT]) / (4 * np.sqrt(2.0))
MAD_TO_DEVIATION = 0.6744897501960817  # the median of |x| for x of unit Gaussian spread
EVEN = 1e-12  # of the largest value: details below it are the rounding of filters on an even area
SMALLEST_BACKGROUND = 0.05  # share of the image that a believable background fills
EVEN_FROM = 4.0  # counts from which Anscombe's root leaves a spread of 1
ROUNDS = 10  # of the counts' scale: each takes what is wrong to a few per cent of itself
RAYLEIGH_RATIO = np.sqrt(np.pi / (4 - np.pi))  # mean over deviation, 1.913


def estimate_gaussian(image: Tensor) -> float:
    """The standard deviation of white Gaussian noise, the mean over channels.

    Takes the median size of the finest diagonal wavelet coefficients in the flatter half of the
    image; what is even, such as padding or a masked background, is left out. What edges remain
    raise it, most in small images with little noise.
    Shapes: (channel, *space).
    Errors: ValueError for a constant image, or sides under 8 voxels: of a volume, two of them.
    Source: Donoho and Johnstone 1994 (doi:10.1093/biomet/81.3.425), section 4.
    Differs: undecimated coefficients, and those of the flatter half only. It is chosen by smooth
    coefficients, whose noise is independent of the detail's: the choice does not bias the median.
    """
    return float(np.mean([_flat_deviation(channel, None) for channel in _channels(image)]))


def estimate_rician(magnitude: Tensor) -> float:
    """The sigma of magnitude noise (that of its real and imaginary parts), the mean over channels.

    Where there is air, its magnitudes are Rayleigh distributed and their second moment is
    2 sigma^2. Where there is none (a crop, a masked scan), the spread inside the object is taken
    from wavelet coefficients and corrected for the low signal-to-noise ratio.

    Shapes: (channel, *space), with 0 where there is no signal.
    Errors: as `estimate_gaussian`; ValueError for negative values.
    Source: Koay and Basser 2006 (doi:10.1016/j.jmr.2006.01.016), eq. 14-18, for the correction;
    Coupe et al. 2010 (doi:10.1016/j.media.2010.03.001) for its use with wavelet coefficients.
    Differs: the background is found by iteration and only believed if its ratio of mean to
    deviation is Rayleigh's within 10 %.
    """
    return float(np.mean([_rician_of(channel) for channel in _channels(magnitude)]))


def estimate_counts(signal: Tensor, law: CountLaw) -> float:
    """The sigma of the noise of counts as `law` tells it, the mean over channels.

    The scale of the counts is that at which their stabilised noise has the spread 1, in the flatter
    half of where some EVEN_FROM and more were counted.
    Units: signal in widths of the window, 0 where there is none.
    Shapes: (channel, *space).
    Errors: ValueError for a constant image, sides under 8 voxels, or hardly any counts.
    """
    return float(np.mean([_sigma_of_counts(channel, law) for channel in _channels(signal)]))


def _sigma_of_counts(signal: Array, law: CountLaw) -> float:
    counts = law.counts(_flat_deviation(signal, None))
    for _ in range(ROUNDS):
        rate = law.rate(signal, counts)
        enough = ndimage.uniform_filter(rate, 5) >= EVEN_FROM
        # the variance of what is stabilised with a scale f times too large is f
        counts /= _flat_deviation(stabilised(rate), enough) ** 2
    return law.sigma(counts)


def _channels(image: Tensor) -> list[Array]:
    if image.ndim < 3:
        raise ValueError(f"expected (channel, *space); found the shape {tuple(image.shape)}")
    image = _without_short_side(image)
    if min(image.shape[1:]) < 8:
        raise ValueError(f"a noise level needs sides of 8 voxels; found {tuple(image.shape[1:])}")
    return list(image.detach().to("cpu", torch.float64).numpy())


def _without_short_side(image: Tensor) -> Tensor:
    """A volume of so few slices that no filter fits across them as its slices, one a channel; even
    ones, as of padding, are left out."""
    short = [axis for axis, n in enumerate(image.shape[1:], 1) if n < 8]
    if image.ndim != 4 or len(short) != 1:
        return image
    slices = image.movedim(short[0], 1).flatten(0, 1)
    uneven = slices.flatten(1).amin(1) < slices.flatten(1).amax(1)
    return slices[uneven] if bool(uneven.any()) else slices


def _rician_of(magnitude: Array) -> float:
    if magnitude.min() < 0:
        raise ValueError(f"magnitudes are not negative; found {magnitude.min():g}")
    background = _rayleigh_deviation(magnitude)
    return _object_deviation(magnitude) if background is None else background


def _rayleigh_deviation(magnitude: Array) -> float | None:
    """Sigma from the air around the object; None where none is found that looks like noise."""
    power = magnitude**2
    smooth = ndimage.uniform_filter(power, 5)
    # a window of `count` voxels has 2 sigma^2 (1 +- 1 / sqrt(count)) in air
    count = 5**magnitude.ndim
    tolerance = 1 + 3 / np.sqrt(count)
    level = float(np.quantile(smooth, SMALLEST_BACKGROUND))
    for _ in range(100):
        air = smooth <= level * tolerance
        previous, level = level, float(power[air].mean())
        if level == previous:
            break
    values = magnitude[smooth <= level * tolerance]
    if values.size < SMALLEST_BACKGROUND * magnitude.size or level == 0:
        return None
    deviation = values.std()
    if deviation == 0:
        return None
    ratio = values.mean() / deviation
    return float(np.sqrt(level / 2)) if abs(ratio / RAYLEIGH_RATIO - 1) < 0.1 else None


def _object_deviation(magnitude: Array) -> float:
    """Sigma from the brighter part: MAD of its details, divided by sd(m) at its signal."""
    inside = magnitude > otsu_threshold(magnitude)
    deviation = _flat_deviation(magnitude, inside)
    mean = float(magnitude[inside].mean())
    sigma = deviation
    for _ in range(100):
        signal = _signal_of(mean / sigma)
        sigma = deviation / float(np.sqrt(rician_variance(np.asarray(signal))))
    return sigma


def _signal_of(mean: float) -> float:
    table = np.linspace(0, max(10.0, mean + 1), 2001)
    return float(np.interp(mean, rician_mean(table), table))


def _flat_deviation(image: Array, inside: NDArray[np.bool_] | None) -> float:
    """The noise deviation by the median of details, in the flatter half of `inside`."""
    detail, approximation = _filtered(image, DETAIL), _filtered(image, SMOOTH)
    steepness = np.zeros_like(detail)
    for axis, size in enumerate(detail.shape):
        # two voxels apart, as smooth and detail filters are orthogonal at even shifts only
        ahead, behind = (np.clip(np.arange(size) + shift, 0, size - 1) for shift in (2, -2))
        step = np.take(approximation, ahead, axis) - np.take(approximation, behind, axis)
        steepness += step**2
    used = np.abs(detail) > EVEN * np.abs(image).max()
    if inside is not None:
        # the filters look one voxel back and two ahead
        used &= inside[tuple(slice(1, 1 + size) for size in detail.shape)]
    if not used.any():
        raise ValueError("a constant image has no noise to estimate")
    flat = used & (steepness <= np.median(steepness[used]))
    return float(np.median(np.abs(detail[flat]))) / MAD_TO_DEVIATION


def _filtered(image: Array, taps: Array) -> Array:
    """A separable filter at every voxel (undecimated), without results that cross a face."""
    for axis in range(image.ndim):
        image = np.lib.stride_tricks.sliding_window_view(image, len(taps), axis=axis) @ taps
    return image
