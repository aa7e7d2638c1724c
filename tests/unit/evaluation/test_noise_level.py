import pytest
import torch

from medidiff.evaluation.noise_level import estimate_gaussian, estimate_rician

LEVELS = [0.05, 0.1, 0.2]


@pytest.mark.parametrize("sigma", LEVELS)
@pytest.mark.parametrize(("size", "dims"), [(64, 2), (128, 2), (40, 3)])
def test_both_kinds_of_noise_are_found_within_a_tenth(heads, magnitudes, sigma, size, dims):
    clean = heads(3, size, dims)
    gaussian = clean + sigma * torch.randn(
        clean.shape, generator=torch.Generator().manual_seed(1), dtype=clean.dtype
    )
    for image in gaussian:
        assert estimate_gaussian(image) == pytest.approx(sigma, rel=0.1)
    for image in magnitudes(clean, sigma):
        assert estimate_rician(image) == pytest.approx(sigma, rel=0.1)


@pytest.mark.parametrize("sigma", [0.05, 0.1])
def test_rician_noise_is_found_without_air(heads, magnitudes, sigma):
    inner = magnitudes(heads(3, 200), sigma)[..., 60:140, 60:140]
    masked = torch.where(heads(3, 200) > 0.3, magnitudes(heads(3, 200), sigma), 0)
    for image in (*inner, *masked):
        assert estimate_rician(image) == pytest.approx(sigma, rel=0.15)


def test_the_level_follows_the_units_and_averages_channels(heads, magnitudes):
    image = magnitudes(heads(1), 0.1)[0]
    assert estimate_rician(image * 700) == pytest.approx(700 * estimate_rician(image), rel=1e-3)
    both = torch.cat([image, image * 3])
    assert estimate_gaussian(both) == pytest.approx(2 * estimate_gaussian(image))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(1, 16, 16), "constant"),
        (torch.rand(1, 4, 16), "8 voxels"),
        (torch.rand(16, 16), "channel"),
    ],
)
def test_an_image_that_tells_nothing_is_refused(image, message):
    with pytest.raises(ValueError, match=message):
        estimate_gaussian(image)


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_a_volume_of_few_slices_is_taken_slice_by_slice(axis):
    volume = 0.1 * torch.randn(1, 64, 64, 5, generator=torch.Generator().manual_seed(0))
    volume[..., 0] = 0  # padding
    assert estimate_gaussian(volume.movedim(3, axis)) == pytest.approx(0.1, rel=0.05)
    with pytest.raises(ValueError, match="8 voxels"):
        estimate_gaussian(volume[:, :5])


def test_negative_magnitudes_are_refused():
    with pytest.raises(ValueError, match="not negative"):
        estimate_rician(torch.rand(1, 16, 16) - 0.5)


def test_texture_in_a_part_of_the_image_does_not_count_as_noise():
    generator = torch.Generator().manual_seed(0)
    image = 0.1 * torch.randn(1, 128, 128, generator=generator, dtype=torch.float64)
    texture = torch.rand(1, 20, 60, generator=generator, dtype=torch.float64)
    image[:, :60, :120] += texture.repeat_interleave(3, 1).repeat_interleave(2, 2)
    assert estimate_gaussian(image) == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize("value", [-1.0, 0.3])
def test_what_is_even_is_left_out_whatever_its_value(value):
    noisy = 0.1 * torch.randn(1, 64, 64, generator=torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(noisy, (32, 32, 32, 32), value=value)  # three quarters
    assert estimate_gaussian(padded) == pytest.approx(0.1, rel=0.1)
