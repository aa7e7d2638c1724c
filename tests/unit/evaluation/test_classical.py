import csv
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from medidiff.evaluation.block_matching import match_blocks
from medidiff.evaluation.classical import (
    DENOISERS,
    RICIAN,
    Baseline,
    PCAGaussian,
    tune,
)
from medidiff.evaluation.distortion import psnr
from medidiff.evaluation.regions import head_region


@pytest.mark.parametrize("baseline", DENOISERS, ids=lambda b: b.name)
@pytest.mark.parametrize(("size", "dims"), [(48, 2), (20, 3)])
def test_every_denoiser_brings_an_image_nearer_to_the_truth(heads, baseline, size, dims):
    clean = heads(1, size, dims)
    generator = torch.Generator().manual_seed(0)
    noisy = clean + 0.1 * torch.randn(clean.shape, generator=generator, dtype=clean.dtype)
    result = baseline(noisy[0], 0.1)[None]
    assert result.shape == noisy.shape
    assert result.dtype == noisy.dtype
    gain = psnr(result, clean, data_range=1.0) - psnr(noisy, clean, data_range=1.0)
    assert float(gain) > 2.0


@pytest.mark.parametrize("baseline", DENOISERS, ids=lambda b: b.name)
def test_channels_are_filtered_one_by_one_and_units_do_not_matter(heads, baseline):
    noisy = heads(2, 32)[:, 0] + 0.05 * torch.randn(
        2, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    together = baseline(noisy, 0.05)
    torch.testing.assert_close(together[1:], baseline(noisy[1:], 0.05))
    scaled = baseline(noisy * 40, 0.05 * 40) / 40
    torch.testing.assert_close(scaled, together, atol=2e-3, rtol=0)


def test_blocks_alike_are_found_wherever_they_lie():
    stripes = np.tile(np.repeat([0.0, 1.0], 4), (40, 5))
    noisy = stripes + 0.3 * np.random.default_rng(0).standard_normal(stripes.shape)
    assert np.abs(match_blocks(noisy, 0.3) - stripes).mean() < 0.05
    with pytest.raises(ValueError, match="16 x 16"):
        match_blocks(np.zeros((8, 40)), 0.1)


@pytest.mark.parametrize("baseline", DENOISERS, ids=lambda b: b.name)
def test_correction_takes_out_the_floor_of_magnitudes(magnitudes, baseline):
    air = magnitudes(torch.zeros(1, 48, 48, dtype=torch.float64), 0.1)
    left = {
        correction: float(replace(baseline, correction=correction)(air, 0.1).mean())
        for correction in RICIAN
    }
    assert left["none"] == pytest.approx(0.125, abs=0.01)
    assert left["rician"] < 0.04
    assert left["rician-stabilised"] < 0.04


def shift(noisy: np.ndarray, sigma: float, strength: float) -> np.ndarray:
    return noisy + sigma * strength


def test_tuning_finds_the_best_strength_inside_the_grid_and_beyond_it(heads):
    clean = heads(2, 16)
    baseline = Baseline("shift", shift, grid=(0.5, 1.0, 2.0))
    for best, expected in ((1.1, 1.0), (4.0, 3.90625), (0.26, 0.256)):
        (tuned,) = tune([baseline], clean - 0.1 * best, clean, sigma=0.1)
        assert tuned.strength == pytest.approx(expected)


def test_tuning_chooses_the_correction_and_looks_into_the_region_only(heads, magnitudes):
    clean = heads(2, 32)
    given = magnitudes(clean, 0.2)
    baseline = replace(DENOISERS[1], grid=(0.8, 1.2))
    (tuned,) = tune([baseline], given, clean, sigma=0.2, corrections=RICIAN)
    assert tuned.correction != "none"
    region = head_region(clean)
    spoilt = torch.where(region, clean, torch.nan)
    (inside,) = tune([baseline], given, spoilt, sigma=0.2, region=region)
    assert inside.correction == "none"
    with pytest.raises(ValueError, match="empty"):
        tune([baseline], given[:0], clean[:0], sigma=0.2)


def test_drawn_images_have_the_mean_and_covariance_of_those_fitted():
    generator = torch.Generator().manual_seed(0)
    basis = torch.randn(6, 16, generator=generator)
    images = (torch.randn(300, 6, generator=generator) @ basis + 3).view(300, 1, 4, 4)
    model = PCAGaussian.fit(images)
    drawn = model.sample(4000, seed=1)
    assert drawn.shape == (4000, 1, 4, 4)
    torch.testing.assert_close(drawn.mean(0), images.mean(0), atol=0.15, rtol=0)
    first, second = drawn.flatten(1).T.cov(), images.flatten(1).T.cov()
    assert float((first - second).norm() / second.norm()) < 0.1
    assert torch.equal(drawn, model.sample(4000, seed=1))
    assert not torch.equal(drawn, model.sample(4000, seed=2))


def test_few_components_keep_the_total_variance():
    images = torch.randn(200, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    drawn = PCAGaussian.fit(images, components=3).sample(3000)
    total = images.flatten(1).var(0).sum()
    assert float(drawn.flatten(1).var(0).sum()) == pytest.approx(float(total), rel=0.05)


def validation_slices(shared_data, count):
    folder = shared_data / "ixi_t1_slices"
    with (folder / "manifest.csv").open() as lines:
        names = [row["image"] for row in csv.DictReader(lines) if row["split"] == "val"][:count]
    pictures = [np.asarray(Image.open(folder / name))[12:220, 10:186] / 255 for name in names]
    return torch.from_numpy(np.stack(pictures))[:, None]


@pytest.mark.slow
def test_on_real_scans_the_plain_filters_reach_their_known_figures(shared_data, magnitudes):
    clean = validation_slices(shared_data, 4)
    given = magnitudes(clean, 0.1)
    means, _, blocks = tune(DENOISERS, given[:1], clean[:1], sigma=0.1)
    for baseline, least in ((means, 22.3), (blocks, 22.8)):
        result = torch.stack([baseline(image, 0.1) for image in given[1:]])
        assert float(psnr(result, clean[1:], data_range=1.0).mean()) > least


@pytest.mark.slow
@pytest.mark.parametrize("sigma", [0.05, 0.1, 0.2])
def test_block_matching_is_as_good_as_the_authors_package(shared_data, sigma):
    bm3d = pytest.importorskip("bm3d")
    clean = validation_slices(shared_data, 2)
    generator = torch.Generator().manual_seed(7)
    noisy = clean + sigma * torch.randn(clean.shape, generator=generator, dtype=torch.float64)
    pictures = [picture[0].numpy() for picture in noisy]
    ours = np.stack([match_blocks(picture, sigma) for picture in pictures])[:, None]
    theirs = np.stack([bm3d.bm3d(picture, sigma) for picture in pictures])[:, None]
    gain = [float(psnr(torch.from_numpy(e), clean, data_range=1.0).mean()) for e in (ours, theirs)]
    assert gain[0] > gain[1] - 0.1
