import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from medidiff.evaluation.distortion import mae, ms_ssim, nrmse, psnr, scales_that_fit, ssim


def pair(*shape: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    clean = torch.rand(shape, generator=generator, dtype=torch.float64)
    return clean + 0.1 * torch.randn(shape, generator=generator, dtype=torch.float64), clean


@pytest.mark.parametrize("shape", [(3, 1, 24, 31), (2, 1, 13, 14, 15)])
def test_each_image_has_the_numbers_of_scikit_image(shape):
    estimate, clean = pair(*shape)
    ours_ssim = ssim(estimate, clean, data_range=1.0)
    ours_psnr = psnr(estimate, clean, data_range=1.0)
    for index in range(len(clean)):
        first, second = estimate[index, 0].numpy(), clean[index, 0].numpy()
        peer = structural_similarity(
            first,
            second,
            data_range=1.0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        assert ours_ssim[index] == pytest.approx(peer, abs=1e-6)
        peer = peak_signal_noise_ratio(second, first, data_range=1.0)
        assert ours_psnr[index] == pytest.approx(peer, abs=1e-6)


def test_ssim_in_a_region_is_the_mean_of_scikit_images_map_there():
    estimate, clean = pair(1, 1, 24, 31)
    region = torch.zeros(1, 1, 24, 31, dtype=torch.bool)
    region[..., :9, 3:20] = True
    _, similarity = structural_similarity(
        estimate[0, 0].numpy(),
        clean[0, 0].numpy(),
        data_range=2.0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    expected = np.asarray(similarity)[region[0, 0].numpy()].mean()
    found = ssim(estimate, clean, data_range=2.0, region=region)
    assert float(found) == pytest.approx(expected, abs=1e-6)


def test_the_data_range_has_no_default():
    estimate, clean = pair(1, 1, 16, 16)
    for measure in (psnr, ssim, nrmse, mae, ms_ssim):
        with pytest.raises(TypeError, match="data_range"):
            measure(estimate, clean)  # type: ignore[call-arg]


def test_a_range_an_image_equals_one_image_at_a_time():
    estimate, clean = pair(3, 2, 16, 17)
    ranges = torch.tensor([1.0, 2.0, 5.0])
    for measure in (psnr, ssim, nrmse, mae, ms_ssim):
        together = measure(estimate, clean, data_range=ranges)
        alone = [
            measure(estimate[i : i + 1], clean[i : i + 1], data_range=float(ranges[i]))
            for i in range(3)
        ]
        torch.testing.assert_close(together, torch.cat(alone))


def test_errors_are_fractions_of_the_range():
    clean = torch.zeros(1, 1, 4, 4)
    estimate = clean + 20
    assert float(nrmse(estimate, clean, data_range=200.0)) == pytest.approx(0.1)
    assert float(mae(estimate, clean, data_range=1.0)) == pytest.approx(20)
    assert float(psnr(estimate, clean, data_range=200.0)) == pytest.approx(20)
    assert float(psnr(clean, clean, data_range=200.0)) == float("inf")


def test_what_lies_outside_the_region_does_not_count():
    estimate, clean = pair(2, 1, 16, 16)
    region = torch.zeros(2, 1, 16, 16, dtype=torch.bool)
    region[..., 4:12, 4:12] = True
    spoilt = torch.where(region, estimate, torch.nan)
    for measure in (psnr, nrmse, mae):
        cropped = measure(estimate[..., 4:12, 4:12], clean[..., 4:12, 4:12], data_range=1.0)
        torch.testing.assert_close(measure(spoilt, clean, data_range=1.0, region=region), cropped)


def test_multiscale_similarity_uses_the_scales_that_fit():
    assert [scales_that_fit((n, 300)) for n in (11, 22, 64, 175, 176)] == [1, 2, 3, 4, 5]
    estimate, clean = pair(1, 1, 16, 16)
    single = ssim(estimate, clean, data_range=1.0)
    torch.testing.assert_close(ms_ssim(estimate, clean, data_range=1.0), single)
    estimate, clean = pair(2, 1, 64, 64)
    torch.testing.assert_close(
        ms_ssim(clean, clean, data_range=1.0), torch.ones(2, dtype=torch.float64)
    )
    assert bool((ms_ssim(estimate, clean, data_range=1.0) < 1).all())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data_range": 0.0}, "positive"),
        ({"data_range": torch.ones(3)}, "one an image"),
        ({"data_range": 1.0, "region": torch.zeros(2, 1, 16, 16)}, "holds no voxel"),
    ],
)
def test_a_wrong_call_is_refused(change, message):
    estimate, clean = pair(2, 1, 16, 16)
    with pytest.raises(ValueError, match=message):
        psnr(estimate, clean, **change)


def test_unequal_shapes_and_small_images_are_refused():
    with pytest.raises(ValueError, match="shapes differ"):
        ssim(torch.zeros(1, 1, 16, 16), torch.zeros(2, 1, 16, 16), data_range=1.0)
    with pytest.raises(ValueError, match="at least 11"):
        ssim(torch.zeros(1, 1, 10, 16), torch.zeros(1, 1, 10, 16), data_range=1.0)
