"""Laws of every linear operator: adjoint, decomposition, prox and inverse, in 2-D and 3-D."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from medidiff.physics import BlockAverage, DenseOperator, Mask


def drawn(shape: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def some(shape: tuple[int, ...], seed: int) -> Tensor:
    return (drawn(shape, seed) > 0).double()


OPERATORS: list[tuple[str, Any, tuple[int, ...]]] = [
    ("mask", Mask(some((2, 6, 4), 1)), (2, 6, 4)),
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
    x = drawn((3, *shape), 10, dtype)
    y = operator.forward(x)
    return x, y + 0.3 * drawn(tuple(y.shape), 11, y.dtype)


def inner(one: Tensor, other: Tensor) -> Tensor:
    return (one.flatten(1).conj() * other.flatten(1)).sum(1)


@operators
@dtypes
def test_the_adjoint_is_exact(operator: Any, shape: Any, dtype: torch.dtype) -> None:
    x, y = images(operator, shape, dtype)
    left, right = inner(operator.forward(x), y), inner(x, operator.adjoint(y))
    assert torch.allclose(left, right, rtol=1e-12, atol=1e-12)


@operators
def test_the_adjoint_is_exact_to_1e_6_in_single_precision(operator: Any, shape: Any) -> None:
    if isinstance(operator, DenseOperator):
        if operator.matrix.is_complex():
            pytest.skip("complex64 is the same code")
        operator = DenseOperator(operator.matrix.float(), operator.shape)
    x, y = (each.float() for each in images(operator, shape, torch.float64))
    left, right = inner(operator.forward(x), y), inner(x, operator.adjoint(y))
    size = operator.forward(x).flatten(1).norm(dim=1) * y.flatten(1).norm(dim=1)
    assert float(((left - right).abs() / size).max()) < 1e-6


@operators
@dtypes
def test_the_decomposition_is_that_of_the_operator(operator: Any, shape: Any, dtype: Any) -> None:
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
    for _ in range(300):
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
    assert bool((inner(x - operator.pseudo_inverse(operator.forward(x)), best).abs() < 1e-8).all())


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
        alone = slice(index, index + 1)
        assert torch.allclose(operator.forward(x)[alone], operator.forward(x[alone]), rtol=1e-12)
        assert torch.allclose(operator.adjoint(y)[alone], operator.adjoint(y[alone]), rtol=1e-12)


def test_a_block_average_is_each_block_s_mean() -> None:
    x = torch.arange(16, dtype=torch.float64).reshape(1, 1, 4, 4)
    seen = BlockAverage((2, 2)).forward(x)
    assert seen.tolist() == [[[[2.5, 4.5], [10.5, 12.5]]]]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Mask(torch.tensor([0.0, 0.5])),
        lambda: BlockAverage(()),
        lambda: BlockAverage((0, 2)),
        lambda: BlockAverage((3, 2)).forward(torch.zeros(1, 1, 4, 4)),
        lambda: BlockAverage((2,)).forward(torch.zeros(1, 1, 4, 4)),
        lambda: DenseOperator(torch.zeros(3, 5), (2, 2)),
    ],
)
def test_operators_that_do_not_fit_are_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"mask|block|matrix"):
        wrong()
