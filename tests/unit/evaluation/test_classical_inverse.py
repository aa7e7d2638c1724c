import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional

from medidiff.evaluation.classical_inverse import (
    CT,
    CUBICS,
    MRI,
    Reconstruction,
    bicubic,
    biharmonic,
    magnitude,
    population_mean,
    tuned,
)
from medidiff.evaluation.distortion import psnr
from medidiff.evaluation.proximal import TotalVariation, admm, divergence, gradient
from medidiff.evaluation.regions import head_region
from medidiff.evaluation.tuning import best_strength
from medidiff.evaluation.wavelets import analysed, shrunk, synthesised
from medidiff.physics import (
    BlockAverage,
    CartesianMRI,
    DenseOperator,
    Mask,
    ParallelBeam,
    Sampling,
    Tomography,
    bicubic_downsampling,
    even_angles,
)
from medidiff.tasks import SuperResolution

BICUBIC = Reconstruction("bicubic", bicubic)
BIHARMONIC = Reconstruction("biharmonic", biharmonic)


def drawn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def quality(estimate, clean):
    return float(psnr(magnitude(estimate, clean), clean, data_range=1.0).mean())


def test_the_divergence_is_the_adjoint_of_the_gradient():
    x, dual = drawn(2, 1, 5, 4, 6), drawn(3, 2, 1, 5, 4, 6, seed=1)
    left, right = (gradient(x) * dual).sum(), (x * divergence(dual)).sum()
    torch.testing.assert_close(left, right)


def variation(x):
    return gradient(x).square().sum(0).sqrt().flatten(1).sum(1)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_proximal_map_of_total_variation_is_a_minimum(dims):
    z, weight = drawn(2, 1, *(6, 5, 4)[:dims]), torch.tensor([0.2, 0.7], dtype=torch.float64)
    x, memory = z, None
    for step in range(300):
        x, memory = TotalVariation()(z, weight, step, memory)

    def objective(x):
        return 0.5 * (x - z).square().flatten(1).sum(1) + weight * variation(x)

    for seed in range(20):
        off = 1e-3 * drawn(*z.shape, seed=seed)
        assert bool((objective(x + off) > objective(x) - 1e-9).all())


def test_scikit_image_has_the_same_total_variation_denoiser():
    from skimage.restoration import denoise_tv_chambolle

    noisy = drawn(1, 1, 20, 24)
    theirs = denoise_tv_chambolle(noisy[0, 0].numpy(), weight=0.5, eps=1e-9, max_num_iter=5000)
    identity = Mask(torch.ones(20, 24))
    ours = admm(
        identity, noisy, torch.tensor([0.5]), TotalVariation(), start=noisy, coupling=1.0, steps=400
    )
    torch.testing.assert_close(ours[0, 0], torch.from_numpy(theirs), atol=2e-3, rtol=0)


def test_regularised_least_squares_is_at_its_minimum_for_any_operator():
    operator = DenseOperator(drawn(12, 30) / 4, (1, 5, 6))
    truth = torch.arange(30, dtype=torch.float64).reshape(1, 1, 5, 6) % 7
    y, weight = operator.forward(truth), torch.tensor([0.05], dtype=torch.float64)
    start = operator.adjoint(y)
    x = admm(operator, y, weight, TotalVariation(0.0), start=start, coupling=0.02, steps=1500)
    assert float(x.min()) >= 0

    def objective(x):
        return float(0.5 * (operator.forward(x) - y).square().sum() + weight * variation(x))

    for seed in range(20):
        other = (x + 1e-3 * drawn(*x.shape, seed=seed)).clamp_min(0)
        assert objective(other) > objective(x) - 1e-7
    for other in (0.99 * x, 1.01 * x, x + 0.01 * (truth - x)):
        assert objective(other) > objective(x) - 1e-7


@pytest.mark.parametrize("size", [4, 6, 16, 22])
def test_wavelets_are_orthogonal_and_blind_to_lines(size):
    x = drawn(1, 1, size, size)
    smooth, detail = analysed(x, 2)
    torch.testing.assert_close(synthesised(smooth, detail, 2), x)
    power = smooth.square().sum() + detail.square().sum()
    torch.testing.assert_close(power, x.square().sum())
    if size > 8:
        _, line = analysed(torch.arange(size, dtype=torch.float64).reshape(1, 1, -1, 1), 2)
        assert float(line[:, :, : size // 2 - 4].abs().max()) < 1e-8


def test_wavelets_are_pywavelets_s():
    pywt = pytest.importorskip("pywt")
    x = drawn(1, 1, 16, 12)
    # their first place is one voxel and one coefficient further
    smooth, detail = (half.roll(1, 2)[0, 0] for half in analysed(x.roll(1, 2), 2))
    theirs = pywt.dwt(x[0, 0].numpy(), "db4", mode="periodization", axis=0)
    torch.testing.assert_close(smooth, torch.from_numpy(theirs[0]), atol=1e-8, rtol=0)
    torch.testing.assert_close(detail.abs(), torch.from_numpy(theirs[1]).abs(), atol=1e-8, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_shrinking_is_the_proximal_map_of_the_details(dtype):
    x = drawn(1, 1, 16, 8, dtype=dtype)
    torch.testing.assert_close(shrunk(x, 0.0), x)
    flat = torch.full_like(x, 2.0)
    torch.testing.assert_close(shrunk(flat, 100.0), flat)
    assert float(shrunk(x, 0.3).abs().square().sum()) < float(x.abs().square().sum())
    assert shrunk(drawn(1, 1, 7, 6, 5), 0.1).shape == (1, 1, 7, 6, 5)


def test_the_best_strength_is_found_wherever_it_lies():
    for best in (1e-5, 0.02, 3.0, 900.0):
        found = best_strength(lambda s, b=best: -10 * math.log(s / b) ** 2, (0.1, 1.0, 10.0))
        assert abs(math.log(found / best)) < 0.6
    with pytest.raises(ValueError, match="empty"):
        best_strength(lambda s: s, ())


def sampled(clean, dims, seed, coils=None):
    shape = tuple(clean.shape[2:])
    mask = Sampling("gaussian", 3, 0.12, (-1,) if dims == 2 else (-1, -2)).mask(shape, seed)
    operator = CartesianMRI(mask, coils)
    phase = torch.linspace(0, 2, shape[-1], dtype=clean.dtype).expand_as(clean)
    y = operator.forward(torch.polar(clean, phase))
    noise = torch.complex(drawn(*y.shape, seed=seed + 1), drawn(*y.shape, seed=seed + 2))
    return operator, mask * (y + 0.01 * noise)


@pytest.mark.parametrize(("size", "dims"), [(32, 2), (12, 3)])
def test_mri_baselines_gain_on_zero_filling_and_know_no_unit(heads, size, dims):
    clean = heads(1, size, dims)
    operator, y = sampled(clean, dims, 3)
    found = [each(operator, y) for each in MRI]
    zero, _, smooth, sparse = (quality(estimate, clean) for estimate in found)
    assert smooth > zero + 1
    assert sparse > zero + 0.3 * (dims == 2)
    for each, estimate in zip(MRI[1:], found[1:], strict=True):
        torch.testing.assert_close(each(operator, 50 * y) / 50, estimate, atol=1e-6, rtol=1e-6)


def test_tuning_looks_into_the_region_only(heads):
    clean = heads(2, 32)
    operator = Mask(torch.ones(32, 32))
    dimmed = Reconstruction("dimmed", lambda _, y, strength: strength * y, 1.0, (0.25, 0.5, 1.0))
    assert tuned(dimmed, operator, clean / 0.4, clean).strength == pytest.approx(0.4, rel=0.1)
    region = head_region(clean)
    spoilt = torch.where(region, clean, torch.nan)
    inside = tuned(dimmed, operator, 3 * clean, spoilt, region=region)
    assert inside.strength == pytest.approx(1 / 3, rel=0.1)
    fixed = MRI[0]
    assert tuned(fixed, operator, clean, clean) == fixed


def test_coils_without_and_with_regularisation(heads):
    clean = heads(1, 32)
    angle = torch.linspace(0, 3, 32, dtype=torch.float64)
    ramp = torch.linspace(0.2, 1, 32, dtype=torch.float64)
    maps = torch.polar(
        torch.stack((ramp.expand(32, 32), ramp.flip(0).expand(32, 32))), angle.expand(2, 32, 32)
    )
    coils = (maps / maps.abs().square().sum(0).sqrt())[None]
    operator, y = sampled(clean, 2, 3, coils)
    zero, sense, smooth, _ = (quality(each(operator, y), clean) for each in MRI)
    assert sense > zero
    assert smooth > zero + 1


@pytest.mark.parametrize(("views", "span"), [(24, 180.0), (30, 90.0)])
def test_ct_baselines_see_a_head_from_few_views(heads, views, span):
    clean = heads(1, 32)
    operator = Tomography(ParallelBeam(even_angles(views, span), 48), (32, 32))
    y = operator.forward(clean)
    y = y + 0.2 * drawn(*y.shape, seed=5)
    back, smooth = (tuned(each, operator, y, clean)(operator, y) for each in CT)
    assert quality(smooth, clean) > quality(back, clean) + 2
    assert float(smooth.min()) >= 0


@pytest.mark.parametrize("coarse", [BlockAverage((2, 2)), bicubic_downsampling((32, 32), (2, 2))])
def test_bicubic_goes_back_to_the_fine_grid(heads, coarse):
    clean = heads(2, 32)
    fine = BICUBIC(coarse, coarse.forward(clean))
    nearest = coarse.forward(clean).repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert fine.shape == clean.shape
    assert quality(fine, clean) > quality(nearest, clean)
    flat = torch.ones_like(clean)
    torch.testing.assert_close(BICUBIC(coarse, coarse.forward(flat)), flat)


def test_bicubic_is_pytorch_s_and_its_kernel_is_chosen(heads):
    clean, operator = heads(2, 32), BlockAverage((4, 4))
    coarse = operator.forward(clean)
    ours = replace(BICUBIC, strength=0.75)(operator, coarse)
    theirs = functional.interpolate(coarse, scale_factor=4, mode="bicubic", align_corners=False)
    inner = (..., slice(8, -8), slice(8, -8))  # at edges kernels are cut, there edges go on
    torch.testing.assert_close(ours[inner], theirs[inner])
    chosen = tuned(replace(BICUBIC, grid=CUBICS), operator, coarse, clean)
    assert chosen.strength > CUBICS[0]
    assert quality(chosen(operator, coarse), clean) >= quality(theirs, clean)


def test_super_resolution_tunes_the_kernel_it_is_compared_with():
    model = SimpleNamespace(spec=SimpleNamespace(space=SimpleNamespace(dims=2)))
    (setting,) = SuperResolution().settings_of(SimpleNamespace(model=model))  # type: ignore[arg-type]
    assert [rival.grid for rival in setting.rivals] == [CUBICS]


def test_holes_are_filled_and_nothing_else(heads):
    clean = heads(3, 32)
    mask = torch.ones(32, 32, dtype=torch.float64)
    mask[12:18, 10:16] = 0
    operator = Mask(mask)
    y = operator.forward(clean)
    mean = Reconstruction("population mean", population_mean(clean.mean(0, keepdim=True)))
    for each in (BIHARMONIC, mean):
        filled = each(operator, y)
        assert quality(filled, clean) > quality(y, clean)
        torch.testing.assert_close(filled * mask, y)


def test_a_method_refuses_an_operator_that_is_not_its_own():
    y = torch.zeros(1, 1, 8, 8)
    for each, name in ((BICUBIC, "interpolation"), (BIHARMONIC, "mask")):
        with pytest.raises(ValueError, match=name):
            each(CartesianMRI(torch.ones(8, 8)), y)
