"""Lesions put into any image: what changes, what does not, and the mask of it."""

from __future__ import annotations

import numpy as np
import pytest

from medidiff.data.lesions import AnyLesion, Contrast, MassEffect, SameIntensity, insert_lesion
from medidiff.errors import DataError

EVERY = (Contrast(contrast=0.4), Contrast(contrast=-0.4), SameIntensity(), MassEffect())


def scan(dims: int) -> tuple[np.ndarray, np.ndarray]:
    """A noisy picture with structure, and where lesions may lie."""
    shape = (64, 56) if dims == 2 else (28, 32, 30)
    axes = np.meshgrid(*(np.linspace(-1, 1, size) for size in shape), indexing="ij")
    radius = np.sqrt(sum(axis**2 for axis in axes))
    image = np.cos(9 * axes[0]) * np.cos(7 * axes[-1]) * (radius < 0.9)
    noise = np.random.default_rng(3).normal(0, 0.05, shape)
    return (image + noise).astype(np.float32), radius < 0.8


def inserted(lesion: AnyLesion, dims: int, seed: int = 0, radius_mm: float = 6.0):
    image, where = scan(dims)
    random = np.random.default_rng(seed)
    spacing = [1.0, 1.2] if dims == 2 else [1.5, 1.0, 1.2]
    return (
        image,
        where,
        insert_lesion(image, where, lesion, radius_mm=radius_mm, spacing_mm=spacing, random=random),
    )


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("lesion", EVERY, ids=str)
def test_a_lesion_is_of_its_size_and_in_its_place(lesion: AnyLesion, dims: int) -> None:
    sizes = []
    for seed in range(6):
        image, where, made = inserted(lesion, dims, seed)
        assert made.image.shape == image.shape
        assert not (made.mask & ~where).any()
        assert not np.array_equal(made.image[made.mask], image[made.mask])
        sizes.append(made.mask.sum() * np.prod([1.0, 1.2] if dims == 2 else [1.5, 1.0, 1.2]))
    ball = np.pi * 6**2 if dims == 2 else 4 / 3 * np.pi * 6**3
    assert 0.6 * ball < np.mean(sizes) < 1.3 * ball


@pytest.mark.parametrize("lesion", EVERY, ids=str)
def test_a_volume_of_one_slice_gets_the_lesion_of_the_slice(lesion: AnyLesion) -> None:
    image, where = scan(2)
    flat, solid = (
        insert_lesion(
            *(image[lead], where[lead], lesion),
            radius_mm=6.0,
            spacing_mm=spacing,
            random=np.random.default_rng(1),
        )
        for lead, spacing in ((..., [1.0, 1.2]), (None, [1.2, 1.0, 1.2]))
    )
    assert flat.mask.any()
    assert np.array_equal(solid.mask[0], flat.mask)
    assert np.allclose(solid.image[0], flat.image, atol=1e-5)


def test_the_image_given_is_not_changed() -> None:
    for lesion in EVERY:
        before = scan(2)[0]
        assert np.array_equal(inserted(lesion, 2)[0], before)


def test_contrast_is_what_was_asked_for_and_noise_shows_through() -> None:
    for contrast in (0.4, -0.4):
        image, _, made = inserted(Contrast(contrast=contrast, texture=0.0), 2)
        from scipy import ndimage

        core = ndimage.binary_erosion(made.mask, iterations=2)
        change = (made.image - image)[core]
        assert change.mean() == pytest.approx(contrast, abs=0.02)
        assert change.std() < 0.02
    image, _, made = inserted(Contrast(contrast=0.4, texture=0.0, detail=0.0), 2)
    core = ndimage.binary_erosion(made.mask, iterations=2)
    assert made.image[core].std() < 0.2 * image[core].std()


@pytest.mark.parametrize("dims", [2, 3])
def test_a_texture_swap_keeps_every_intensity_and_touches_nothing_else(dims: int) -> None:
    image, _, made = inserted(SameIntensity(), dims)
    assert np.array_equal(np.sort(made.image[made.mask]), np.sort(image[made.mask]))
    assert np.array_equal(made.image[~made.mask], image[~made.mask])
    moved = (made.image != image)[made.mask].mean()
    assert moved > 0.8


@pytest.mark.parametrize("strength", [0.3, 0.8, 0.99])
def test_mass_effect_pushes_outwards_and_folds_nothing(strength: float) -> None:
    # an image of its own coordinate: what a voxel shows is where it came from
    line = np.tile(np.arange(121, dtype=np.float32), (121, 1))
    where = np.zeros((121, 121), dtype=bool)
    where[60, 60] = True
    made = insert_lesion(
        line,
        where,
        MassEffect(strength=strength),
        radius_mm=20,
        spacing_mm=(1, 1),
        random=np.random.default_rng(0),
    )
    source = made.image[60]
    assert (np.diff(source) > 0).all()
    assert (source[61:100] <= np.arange(61, 100)).all()  # from nearer to the centre
    assert np.max(np.arange(121) - source) > 0.35 * strength * 20 / 1.5
    assert np.array_equal(source[:10], line[60, :10])


def test_the_same_random_numbers_give_the_same_lesion() -> None:
    for lesion in EVERY:
        first, again, other = (inserted(lesion, 2, seed)[2] for seed in (1, 1, 2))
        assert np.array_equal(first.image, again.image)
        assert not np.array_equal(first.mask, other.mask)


def test_whole_numbers_become_floats() -> None:
    image = np.full((40, 40), 100, dtype=np.uint8)
    made = insert_lesion(
        image,
        image > 0,
        Contrast(contrast=200.0),
        radius_mm=6,
        spacing_mm=(1, 1),
        random=np.random.default_rng(0),
    )
    assert made.image.max() > 256  # a byte would have wrapped round


def test_what_cannot_be_inserted_is_told() -> None:
    image = np.zeros((20, 20), dtype=np.float32)
    nowhere, somewhere = image > 1, image == 0
    random = np.random.default_rng(0)
    for where, lesion, radius, message in (
        (nowhere, Contrast(), 5.0, "where it may lie is empty"),
        (somewhere, MassEffect(strength=1.0), 5.0, "between 0 and 1"),
        (somewhere, SameIntensity(grain_mm=0.0), 5.0, "above 0"),
    ):
        with pytest.raises(DataError, match=message):
            insert_lesion(image, where, lesion, radius_mm=radius, spacing_mm=(1, 1), random=random)
