"""Copies are told from images that are merely alike, and pieces of one scan by their lattice."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, zoom

from medidiff.data.fingerprints import detail_correlation, fingerprint, lattice_step
from medidiff.data.leakage import NEAR_BITS, NEAR_CORRELATION

RANDOM = np.random.default_rng(11)


def body(seed: int, size: int = 128) -> np.ndarray:
    """Images that share one coarse shape and differ in their detail, as heads in an atlas do."""
    place = np.linspace(-1, 1, size)
    coarse = 400 * np.exp(-3 * (place[:, None] ** 2 + 1.3 * place**2))
    fine = gaussian_filter(np.random.default_rng(seed).normal(size=(size, size)), 1.5)
    return (coarse + 300 * fine).astype(np.float32)


def near(one: np.ndarray, other: np.ndarray) -> bool:
    first, second = fingerprint(one[None]), fingerprint(other[None])
    close = (first.bits != second.bits).mean() <= NEAR_BITS
    return close and detail_correlation(first.detail, second.detail) >= NEAR_CORRELATION


@pytest.mark.parametrize(
    "changed",
    [
        lambda x: 2.5 * x + 70,
        lambda x: np.clip(x - x.min(), 0, None) ** 0.8,
        lambda x: x + RANDOM.normal(size=x.shape) * 8,
        lambda x: np.round(x / 8) * 8,
        lambda x: np.roll(x, 2, axis=1),
        lambda x: zoom(x, 1.25, order=1),
        lambda x: gaussian_filter(x, 0.7),
    ],
    ids=["gain", "gamma", "noise", "fewer levels", "shift", "resampled", "blurred"],
)
def test_a_changed_copy_is_near(changed) -> None:
    image = body(1)
    assert near(image, changed(image).astype(np.float32))


def test_two_bodies_of_one_shape_are_not_near() -> None:
    assert not any(near(body(1), body(seed)) for seed in range(2, 8))


def test_volumes_and_pictures_are_not_compared() -> None:
    volume = np.stack([body(seed, 32) for seed in range(32)])
    flat, solid = fingerprint(volume[:1]), fingerprint(volume[None])
    assert detail_correlation(flat.detail, solid.detail) == 0.0
    assert len(solid.bits) == 3 * len(flat.bits)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_lattice_is_found_in_every_piece_of_a_scan(dtype: type) -> None:
    counts = RANDOM.integers(0, 900, (30, 30, 30))
    scan = (counts * 6.4007341).astype(dtype)
    first, second = lattice_step(scan[:15]), lattice_step(scan[15:, 3:])
    assert first == pytest.approx(6.4007341, rel=1e-7)
    assert first == pytest.approx(second, rel=1e-8)


@pytest.mark.parametrize("step", [1, 0.5, 16, 1 / 255, 1 / 4095, 0.125])
def test_conventions_are_no_lattice(step: float) -> None:
    assert lattice_step((RANDOM.integers(0, 900, (30, 30)) * step).astype(np.float32)) is None


def test_values_on_no_lattice_have_none() -> None:
    assert lattice_step(RANDOM.normal(size=(30, 30)).astype(np.float32)) is None
    assert lattice_step(RANDOM.integers(0, 900, (30, 30))) is None
    assert lattice_step(np.zeros((30, 30), np.float32)) is None
    assert lattice_step(np.float32([[0, 3.3], [6.6, 9.9]])) is None  # too few levels to tell
