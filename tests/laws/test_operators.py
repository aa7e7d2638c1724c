"""Laws of every linear operator: adjoint, decomposition, prox and inverse, in 2-D and 3-D."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from medidiff.physics import (
    BlockAverage,
    CartesianMRI,
    CircularBlur,
    ConjugateGradients,
    DenseOperator,
    FanBeam,
    FourierSampling,
    Mask,
    ParallelBeam,
    SenseMRI,
    SpectralOperator,
    Tomography,
    Weights,
    ZeroPaddedBlur,
    bicubic_downsampling,
    even_angles,
    gaussian_blur,
)
from medidiff.physics.window import Window


def drawn(shape: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def some(shape: tuple[int, ...], seed: int) -> Tensor:
    return (drawn(shape, seed) > 0).double()


TO_THE_END = ConjugateGradients(tolerance=1e-14, steps=2000)
COILS = drawn((1, 3, 6, 5), 20, torch.complex128)
VOLUME_COILS = drawn((1, 2, 4, 3, 5), 21, torch.complex128)


def phase(shape: tuple[int, ...]) -> Tensor:
    return 2 * drawn(shape, 22)


def tomography(beam: Any, spacing_mm: tuple[float, float] = (1.0, 1.0)) -> Tomography:
    return Tomography(beam, (6, 4), spacing_mm, TO_THE_END)


SENSE: list[tuple[str, Any, tuple[int, ...]]] = [
    ("coils", CartesianMRI(some((1, 5), 23), COILS, None, TO_THE_END), (1, 6, 5)),
    (
        "coils and a phase",
        CartesianMRI(some((6, 5), 24), COILS, phase((1, 1, 6, 5)), TO_THE_END),
        (1, 6, 5),
    ),
    (
        "one coil and a phase",
        CartesianMRI(some((6, 1), 25), None, phase((1, 1, 6, 5)), TO_THE_END),
        (1, 6, 5),
    ),
    (
        "coils of each image, a volume",
        CartesianMRI(
            some((4, 3, 1), 26),
            VOLUME_COILS * torch.tensor([1.0, 0.5, 2.0]).reshape(3, 1, 1, 1, 1),
            phase((3, 1, 4, 3, 5)),
            TO_THE_END,
        ),
        (1, 4, 3, 5),
    ),
]
BEAMS: list[tuple[str, Any, tuple[int, ...]]] = [
    ("parallel beam", tomography(ParallelBeam(even_angles(7), 9)), (1, 6, 4)),
    (
        "parallel beam, limited angle, channels",
        tomography(ParallelBeam(even_angles(4, 60.0, 10.0), 9, 0.8, 0.1), (1.2, 0.7)),
        (2, 6, 4),
    ),
    ("fan beam", tomography(FanBeam(even_angles(8, 360.0), 9, 1.5, 20.0, 10.0)), (1, 6, 4)),
    (
        "fan beam, slices of a volume",
        tomography(FanBeam(even_angles(5, 200.0), 7, 1.5, 20.0, 10.0, 0.2)),
        (2, 3, 6, 4),
    ),
]
FOURIER: list[tuple[str, Any, tuple[int, ...]]] = [
    ("sampled Fourier transform", CartesianMRI(some((1, 5), 27)), (1, 6, 5)),
    ("sampled Fourier transform of a volume", CartesianMRI(some((4, 3, 1), 28)), (2, 4, 3, 5)),
]
OPERATORS: list[tuple[str, Any, tuple[int, ...]]] = [
    ("mask", Mask(some((2, 6, 4), 1)), (2, 6, 4)),
    ("weights", Weights(some((2, 6, 4), 1) * drawn((2, 6, 4), 2).abs()), (2, 6, 4)),
    ("mask of a volume, one for all channels", Mask(some((4, 2, 6), 2)), (2, 4, 2, 6)),
    ("block average", BlockAverage((2, 2)), (2, 6, 4)),
    ("block average of other sizes", BlockAverage((3, 1)), (1, 6, 4)),
    ("block average of a volume", BlockAverage((2, 1, 3)), (2, 4, 2, 6)),
    ("wide matrix", DenseOperator(drawn((10, 48), 3), (2, 6, 4)), (2, 6, 4)),
    ("tall matrix", DenseOperator(drawn((30, 24), 4), (1, 6, 4)), (1, 6, 4)),
    (
        "matrix without full rank",
        DenseOperator(drawn((10, 3), 5) @ drawn((3, 24), 6), (1, 4, 6)),
        (1, 4, 6),
    ),
    (
        "complex matrix",
        DenseOperator(drawn((10, 24), 7, torch.complex128), (1, 4, 6)),
        (1, 4, 6),
    ),
    ("bicubic", bicubic_downsampling((6, 8), (2, 4)), (2, 6, 8)),
    ("bicubic of a volume", bicubic_downsampling((4, 3, 6), (2, 1, 3)), (1, 4, 3, 6)),
    ("Gaussian blur", gaussian_blur((7, 6), (0.6, 0.4)), (2, 7, 6)),
    ("Gaussian blur of a volume", gaussian_blur((4, 3, 6), (0.3, 0.5, 0.4)), (1, 4, 3, 6)),
    ("circular blur", CircularBlur(drawn((3, 5), 8), (6, 7)), (2, 6, 7)),
    ("circular blur of a volume", CircularBlur(drawn((3, 1, 3), 9), (4, 2, 6)), (1, 4, 2, 6)),
    (
        "zero-padded blur",
        ZeroPaddedBlur(drawn((3, 5), 8), (6, 7), TO_THE_END),
        (2, 6, 7),
    ),
    *FOURIER,
    *SENSE,
    *BEAMS,
]
operators = pytest.mark.parametrize(
    ("operator", "shape"), [each[1:] for each in OPERATORS], ids=[each[0] for each in OPERATORS]
)
dtypes = pytest.mark.parametrize(
    "dtype", [torch.float64, torch.complex128], ids=["real", "complex"]
)


def images(operator: Any, shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A batch of three and a measurement of it with noise, in a dtype that the operator knows."""
    if isinstance(operator, DenseOperator):
        dtype = operator.matrix.dtype
    elif isinstance(operator, FourierSampling):
        dtype = torch.complex128
    elif isinstance(operator, SenseMRI):
        dtype = operator.template.dtype
    x = drawn((3, *shape), 10, dtype)
    y = operator.forward(x)
    return x, y + 0.3 * drawn(tuple(y.shape), 11, y.dtype)


def inner(one: Tensor, other: Tensor) -> Tensor:
    return (one.flatten(1).conj() * other.flatten(1)).sum(1)


def linear(operator: Any, value: Tensor) -> Tensor:
    """What a law holds for: the real part alone where real images have complex measurements."""
    return value.real if isinstance(operator, SenseMRI) and operator.phase is not None else value


@operators
@dtypes
def test_the_adjoint_is_exact(operator: Any, shape: Any, dtype: torch.dtype) -> None:
    x, y = images(operator, shape, dtype)
    left, right = inner(operator.forward(x), y), inner(x, operator.adjoint(y))
    assert operator.adjoint(y).dtype == x.dtype
    assert torch.allclose(linear(operator, left), right, rtol=1e-12, atol=1e-12)


def single(values: Tensor) -> Tensor:
    return values.to(torch.complex64 if values.is_complex() else torch.float32)


@operators
def test_the_adjoint_is_exact_to_1e_6_in_single_precision(operator: Any, shape: Any) -> None:
    x, y = (single(each) for each in images(operator, shape, torch.float64))
    if isinstance(operator, DenseOperator):
        operator = DenseOperator(single(operator.matrix), operator.shape)
    if isinstance(operator, SenseMRI):
        angle = None if operator.phase is None else single(operator.phase)
        operator = CartesianMRI(operator.mask, single(operator.coils), angle)
    left, right = inner(operator.forward(x), y), inner(x, operator.adjoint(y))
    assert left.dtype.to_real() == right.dtype.to_real() == torch.float32
    left = linear(operator, left)
    size = operator.forward(x).flatten(1).norm(dim=1) * y.flatten(1).norm(dim=1)
    assert float(((left - right).abs() / size).max()) < 1e-6


@operators
@dtypes
def test_the_decomposition_is_that_of_the_operator(operator: Any, shape: Any, dtype: Any) -> None:
    if not isinstance(operator, SpectralOperator):
        pytest.skip("known by its map and adjoint alone")
    x, y = images(operator, shape, dtype)
    spectrum = operator.spectrum(x)
    assert spectrum[0].numel() == x[0].numel()
    assert torch.allclose(operator.image(spectrum), x)
    assert torch.allclose(spectrum.flatten(1).norm(dim=1), x.flatten(1).norm(dim=1))
    seen = operator.measured(operator.forward(x))
    assert torch.allclose(seen, operator.singular_values * spectrum, atol=1e-10)
    back = operator.spectrum(operator.adjoint(y))
    assert torch.allclose(back, operator.singular_values * operator.measured(y), atol=1e-10)


@operators
@dtypes
def test_the_normal_map_is_the_adjoint_after_the_operator(
    operator: Any, shape: Any, dtype: Any
) -> None:
    x, _ = images(operator, shape, dtype)
    assert torch.allclose(operator.normal(x), operator.adjoint(operator.forward(x)))
    assert operator.norm() == pytest.approx(_largest(operator, x), rel=1e-6)


def _largest(operator: Any, x: Tensor) -> float:
    """The largest singular value by the power method, of the three starts together."""
    for _ in range(2000):
        x = operator.normal(x)
        x = x / x.flatten(1).norm(dim=1).reshape(-1, *(1,) * (x.ndim - 1))
    return float(operator.forward(x).flatten(1).norm(dim=1).max())


@operators
@dtypes
@pytest.mark.parametrize("rho", [0.05, torch.tensor([0.01, 1.0, 20.0], dtype=torch.float64)])
def test_the_prox_has_no_gradient_left(operator: Any, shape: Any, dtype: Any, rho: Any) -> None:
    z, y = images(operator, shape, dtype)
    x = operator.prox(z, y, rho)
    weight = rho if isinstance(rho, float) else rho.reshape(-1, *(1,) * len(shape))
    left = operator.adjoint(operator.forward(x) - y) + weight * (x - z)
    assert float(left.abs().max()) < 1e-10


@operators
@dtypes
def test_the_pseudo_inverse_has_moore_and_penrose_s_properties(
    operator: Any, shape: Any, dtype: Any
) -> None:
    x, y = images(operator, shape, dtype)
    best = operator.pseudo_inverse(y)
    # what is left of y is not in the range, and the image has nothing in the null space
    assert float(operator.adjoint(operator.forward(best) - y).abs().max()) < 1e-9
    assert torch.allclose(operator.pseudo_inverse(operator.forward(best)), best, atol=1e-9)
    unseen = x - operator.pseudo_inverse(operator.forward(x))
    assert bool((linear(operator, inner(unseen, best)).abs() < 1e-8).all())


@operators
def test_a_ridge_is_the_prox_around_zero(operator: Any, shape: Any) -> None:
    x, y = images(operator, shape, torch.float64)
    assert torch.allclose(operator.pseudo_inverse(y, 0.3), operator.prox(0 * x, y, 0.3))


@pytest.mark.parametrize("operator", [BlockAverage((2, 2)), Mask(some((2, 6, 4), 1))])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
@pytest.mark.parametrize("rho", [0.05, torch.tensor([0.01, 1.0, 20.0], dtype=torch.float64)])
def test_images_keep_their_precision(operator: Any, dtype: torch.dtype, rho: Any) -> None:
    z, y = images(operator, (2, 6, 4), dtype)
    assert operator.prox(z, y, rho).dtype == operator.pseudo_inverse(y, 0.1).dtype == dtype


@operators
def test_a_batch_equals_its_members_one_by_one(operator: Any, shape: Any) -> None:
    x, y = images(operator, shape, torch.float64)
    for index in range(3):
        alone, one = slice(index, index + 1), member(operator, index)
        assert torch.allclose(operator.forward(x)[alone], one.forward(x[alone]), rtol=1e-12)
        assert torch.allclose(operator.adjoint(y)[alone], one.adjoint(y[alone]), rtol=1e-12)
        assert torch.allclose(operator.prox(x, y, 0.2)[alone], one.prox(x[alone], y[alone], 0.2))


@operators
def test_each_image_s_norm_is_that_of_its_own_part(operator: Any, shape: Any) -> None:
    x, _ = images(operator, shape, torch.float64)
    found = operator.norms(x)
    own = isinstance(operator, SenseMRI) and len(operator.coils) > 1
    assert found.shape == ((3,) if own else ())
    assert float(found.max()) == pytest.approx(operator.norm(), rel=1e-12)
    for index, norm in enumerate(found.expand(3).tolist()):
        alone = member(operator, index)
        assert float(alone.norms(x[index : index + 1])) == pytest.approx(norm, rel=1e-9)


def test_masks_and_weights_of_each_image_have_norms_of_their_own() -> None:
    weight = torch.tensor([1.0, 3.0]).reshape(2, 1, 1, 1) * torch.ones(2, 1, 4, 4)
    x = torch.zeros(2, 1, 4, 4)
    assert Weights(weight).norms(x).tolist() == [1.0, 3.0]
    # of channels, which all images share
    assert Weights(weight[:, 0]).norms(torch.zeros(5, 2, 4, 4)).tolist() == 3.0
    assert Window(Weights(weight), (5, 4), (4, 4)).norms(torch.zeros(2, 1, 5, 4)).tolist() == [1, 3]


def member(operator: Any, index: int) -> Any:
    """The operator of one image of a batch, where each has its own coils."""
    if isinstance(operator, SenseMRI) and len(operator.coils) > 1:
        assert operator.phase is not None
        alone = slice(index, index + 1)
        return replace(operator, coils=operator.coils[alone], phase=operator.phase[alone])
    return operator


def test_a_block_average_is_each_block_s_mean() -> None:
    x = torch.arange(16, dtype=torch.float64).reshape(1, 1, 4, 4)
    seen = BlockAverage((2, 2)).forward(x)
    assert seen.tolist() == [[[[2.5, 4.5], [10.5, 12.5]]]]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Mask(torch.tensor([0.0, 0.5])),
        lambda: Weights(torch.tensor([1.0, -0.5])),
        lambda: BlockAverage(()),
        lambda: BlockAverage((0, 2)),
        lambda: BlockAverage((3, 2)).forward(torch.zeros(1, 1, 4, 4)),
        lambda: BlockAverage((2,)).forward(torch.zeros(1, 1, 4, 4)),
        lambda: DenseOperator(torch.zeros(3, 5), (2, 2)),
        lambda: CircularBlur(torch.ones(3, 3), (4, 4)).forward(torch.zeros(1, 1, 4, 5)),
        lambda: ZeroPaddedBlur(torch.ones(3, 3), (4, 4)).adjoint(torch.zeros(1, 1, 3, 4)),
    ],
)
def test_operators_that_do_not_fit_are_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"mask|weights|block|matrix|blur"):
        wrong()
