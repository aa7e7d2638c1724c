"""Coil sensitivities, phase and noise as they are promised."""

from __future__ import annotations

import numpy as np
import pytest

from medidiff.data.coils import coil_sensitivities, complex_noise, multi_coil, smooth_phase


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize(("shape", "coils"), [((40, 36), 8), ((12, 20, 16), 12), ((16, 16), 1)])
def test_sensitivities_are_normalised_smooth_and_differ(shape: tuple[int, ...], coils: int) -> None:
    maps = coil_sensitivities(shape, coils, random())
    assert maps.shape == (coils, *shape)
    assert maps.dtype == np.complex64
    assert np.allclose((np.abs(maps) ** 2).sum(axis=0), 1, atol=1e-5)
    axes = np.meshgrid(*(np.linspace(-1, 1, size) for size in shape), indexing="ij")
    inside = np.sqrt(axes[-1] ** 2 + axes[-2] ** 2) < 0.95  # coils lie beyond
    for axis in range(1, maps.ndim):
        steps = np.abs(np.diff(maps * inside, axis=axis))
        both = np.diff(inside.astype(int), axis=axis - 1) == 0
        assert steps[:, both].max() < 4 / shape[axis - 1]
    if coils > 1:
        brightest = [np.unravel_index(np.abs(each).argmax(), shape) for each in maps]
        assert len(set(brightest)) == coils  # every coil sees its own part best
        assert np.abs(maps).max() > 1.3 * np.abs(maps).min()


def test_another_draw_gives_other_coils() -> None:
    first, again, other = (coil_sensitivities((16, 16), 4, random(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.allclose(first, other)


@pytest.mark.parametrize(("coils", "distance"), [(0, 1.5), (4, 1.0)])
def test_coils_that_cannot_be(coils: int, distance: float) -> None:
    with pytest.raises(ValueError, match="outside of 1"):
        coil_sensitivities((8, 8), coils, random(), distance=distance)


@pytest.mark.parametrize("shape", [(32, 40), (12, 14, 16)])
def test_phase_is_smooth_and_spans_the_turns_asked_for(shape: tuple[int, ...]) -> None:
    phase = smooth_phase(shape, random(), turns=0.5)
    assert np.allclose(np.abs(phase), 1, atol=1e-6)
    unwrapped = np.unwrap(np.angle(phase).astype(float))
    for axis in range(len(shape) - 1):
        unwrapped = np.unwrap(unwrapped, axis=axis)
    assert np.ptp(unwrapped) == pytest.approx(np.pi, rel=0.05)


def test_noise_has_its_standard_deviation_in_both_parts() -> None:
    noise = complex_noise((200, 200), 0.3, random())
    assert noise.real.std() == pytest.approx(0.3, rel=0.02)
    assert noise.imag.std() == pytest.approx(0.3, rel=0.02)
    assert abs(np.mean(noise.real * noise.imag)) < 0.003


@pytest.mark.parametrize("shape", [(32, 30), (8, 10, 12)])
def test_k_space_keeps_energy_and_has_its_zero_in_the_middle(shape: tuple[int, ...]) -> None:
    image = random(1).uniform(1, 2, shape)
    maps, phase = coil_sensitivities(shape, 5, random()), np.ones(shape, dtype=np.complex64)
    kspace = multi_coil(image, maps, phase, np.zeros(maps.shape, dtype=np.complex64))
    assert np.sum(np.abs(kspace) ** 2) == pytest.approx(np.sum(image**2), rel=1e-4)
    total = np.abs(kspace).sum(axis=0)
    assert np.unravel_index(total.argmax(), shape) == tuple(size // 2 for size in shape)
