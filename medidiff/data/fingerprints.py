"""What betrays that two images are one, or of one scan: a perceptual hash, fine detail, a lattice.

The hash finds pairs worth a second look among many; the correlation of their detail decides. Coarse
brightness does not: two heads from one atlas space look alike until one looks at what is fine.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn
from scipy.ndimage import gaussian_filter, zoom

Bits = NDArray[np.bool_]
Picture = NDArray[np.floating]
HASH_SIDE, HASH_TERMS = 32, 8
DETAIL_SIDE = 96
COARSE_SIGMA = 2.0  # of the detail pictures' pixels: what is smoother is no detail
LATTICE_RATIO = 1e-7  # two steps of one lattice agree this well (float32 values, refined)
LEAST_LEVELS = 16
NICE_MULTIPLES, NICE_LIMIT = 16, 128.0


@dataclass(frozen=True)
class Fingerprint:
    """One image in a few kilobytes.

    `bits`: the hash, 63 bits for each view. `detail`: each view's fine structure, of zero mean and
    unit norm, (view, side, side), float16. `lattice`: the step that all values are multiples of,
    None where there is none or it says nothing (whole numbers and simple fractions).
    """

    bits: Bits
    detail: Picture
    lattice: float | None


def fingerprint(array: NDArray[np.generic]) -> Fingerprint:
    """The fingerprint of an image (channel, *space); its first channel is looked at."""
    values = np.asarray(array[0], np.float32)
    views = [values] if values.ndim == 2 else _middle_slices(values)
    bits = np.concatenate([perceptual_hash(view) for view in views])
    return Fingerprint(bits, np.stack([_detail(view) for view in views]), lattice_step(array[0]))


def perceptual_hash(view: Picture) -> Bits:
    """63 bits that survive scaling, brightness and compression: the signs of low DCT terms.

    Source: the "pHash" scheme (Zauner 2010, "Implementation and benchmarking of perceptual image
    hash functions", section 3.2.1).
    """
    low, high = np.percentile(view, [1, 99])
    small = _resized(np.clip(view, low, max(high, low + 1e-6)), HASH_SIDE)
    terms = np.asarray(dctn(small, norm="ortho"))[:HASH_TERMS, :HASH_TERMS].ravel()[1:]
    return terms > np.median(terms)


def detail_correlation(one: Picture, other: Picture) -> float:
    """The largest correlation of two images' detail over all shifts; the least of their views.

    1 for the same image, shifted or not. Different views are of different numbers of pictures: 0.
    """
    if one.shape != other.shape:
        return 0.0
    first, second = one.astype(np.float32), other.astype(np.float32)
    spectra = np.fft.rfft2(first) * np.conj(np.fft.rfft2(second))
    shifted = np.fft.irfft2(spectra, s=one.shape[1:])
    return float(shifted.max(axis=(1, 2)).min())


def lattice_step(values: NDArray[np.generic]) -> float | None:
    """The step that all values are whole multiples of, refined over all of them.

    A scan that was stored as whole numbers and scaled by a factor of its own keeps that factor in
    every piece cut from it. None for whole numbers, simple fractions, and values on no lattice.
    """
    if values.dtype.kind != "f":
        return None
    levels = np.unique(values.astype(np.float64))
    levels = levels - levels[np.abs(levels).argmin()]
    gaps = np.diff(levels)
    if len(levels) < LEAST_LEVELS or not np.isfinite(gaps).all():
        return None
    step = float(gaps[gaps > 1e-6 * np.abs(levels).max()].min(initial=np.inf))
    return _refined(levels, step) if np.isfinite(step) else None


def _refined(levels: NDArray[np.float64], step: float) -> float | None:
    order = np.argsort(np.abs(levels))
    for count in (LEAST_LEVELS, 4 * LEAST_LEVELS, len(levels)):  # far multiples need a better step
        near = levels[order[:count]]
        whole = np.round(near / step)
        if not whole.any():
            return None
        step = float((near * whole).sum() / (whole * whole).sum())
    off = np.abs(levels / step - np.round(levels / step)).max()
    if off > 0.05 or _is_nice(step):
        return None
    return abs(step)


def _is_nice(step: float) -> bool:
    """Whether a step is a convention (1, 0.5, 1/255, 1/4095), not the mark of one scan."""
    if abs(1 / step - round(1 / step)) < LATTICE_RATIO / step:
        return True
    multiples = step * np.arange(1, NICE_MULTIPLES + 1)
    multiples = multiples[: max(1, int(np.sum(multiples < NICE_LIMIT)))]
    return bool((np.abs(multiples - np.round(multiples)) < LATTICE_RATIO * multiples).any())


def _middle_slices(volume: Picture) -> list[Picture]:
    return [volume.take(volume.shape[axis] // 2, axis) for axis in range(3)]


def _detail(view: Picture) -> Picture:
    picture = _resized(view, DETAIL_SIDE)
    fine = picture - gaussian_filter(picture, COARSE_SIGMA)
    limit = 4 * float(fine.std())
    fine = np.clip(fine, -limit, limit)  # a few bright edges must not decide
    fine = fine - fine.mean()
    return (fine / max(float(np.linalg.norm(fine)), 1e-12)).astype(np.float16)


def _resized(view: Picture, side: int) -> Picture:
    """To a square picture, smoothed first where it becomes smaller."""
    factors = [side / count for count in view.shape]
    sigmas = [0.4 / factor if factor < 1 else 0.0 for factor in factors]
    smooth = gaussian_filter(view.astype(np.float32), sigmas)
    return np.asarray(zoom(smooth, factors, order=1, grid_mode=True, mode="nearest"))
