"""One matrix an axis: bicubic down-sampling, and Gaussian blur with nothing beyond the edges."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from medidiff.physics.operators import SpectralOperator
from medidiff.types import Image, Tensor

CUBIC = -0.5  # Keys's choice, as Pillow and PyTorch take it when they prevent aliasing
GAUSSIAN_REACH = 4.0  # a Gaussian kernel ends after so many of its widths


@dataclass(frozen=True, eq=False)
class SeparableOperator(SpectralOperator):
    """The product of one matrix for each axis of space; its decomposition is that of the matrices.

    Shapes: matrices (m, n) each, real, one an axis; images (batch, channel, *n), measurements
    (batch, channel, *m).
    Errors: ValueError without matrices, and for images of another size.
    """

    matrices: tuple[Tensor, ...]

    def __post_init__(self) -> None:
        if not self.matrices or any(each.ndim != 2 for each in self.matrices):
            raise ValueError("a separable operator needs one matrix for each axis of space")

    @cached_property
    def _parts(self) -> tuple[tuple[Tensor, Tensor, Tensor], ...]:
        """U, s padded to the axis's length, and V* of each matrix."""
        return tuple(_decomposed(matrix.double()) for matrix in self.matrices)

    @property
    def singular_values(self) -> Tensor:
        """(*n): the products of the axes' singular values."""
        product = torch.ones((), dtype=torch.float64)
        for _, s, _ in self._parts:
            product = product[..., None] * s.to("cpu")
        return product

    def forward(self, x: Image) -> Tensor:
        """The matrices along their axes."""
        return _along(self.matrices, x)

    def adjoint(self, y: Tensor) -> Image:
        """Their transposes."""
        return _along([matrix.T for matrix in self.matrices], y)

    def spectrum(self, x: Image) -> Tensor:
        """(batch, channel, *n)."""
        return _along([vh for _, _, vh in self._parts], x)

    def image(self, spectrum: Tensor) -> Image:
        """(batch, channel, *n)."""
        return _along([vh.T for _, _, vh in self._parts], spectrum)

    def measured(self, y: Tensor) -> Tensor:
        """(batch, channel, *n), 0 behind the rank of each axis."""
        placed = _along([_fitted(u.T, len(s)) for u, s, _ in self._parts], y)
        return placed * (self.singular_values > 0).to(placed.device)


def bicubic_downsampling(shape: tuple[int, ...], factor: tuple[int, ...]) -> SeparableOperator:
    """A coarser grid by bicubic interpolation whose kernel is widened against aliasing.

    Shapes: `shape` of the fine image and the factor of each axis, which divides it.
    Errors: ValueError if it does not.
    Source: Keys 1981 (doi:10.1109/TASSP.1981.1163711); edges as in Pillow and PyTorch: the kernel
    is cut there and scaled to a sum of 1.
    """
    if len(shape) != len(factor) or any(n % f for n, f in zip(shape, factor, strict=True)):
        raise ValueError(f"a grid {factor} times coarser does not divide images of {shape}")
    return SeparableOperator(tuple(_bicubic(n, f) for n, f in zip(shape, factor, strict=True)))


def interpolation(
    shape: tuple[int, ...], factor: tuple[int, ...], cubic: float = CUBIC
) -> SeparableOperator:
    """Cubic interpolation onto a finer grid, of the coarse image's shape; edges as above.

    Source: Keys 1981, with `cubic` for its free parameter (-.5 there, -.75 PyTorch's without
    antialiasing); the lower it is the sharper.
    """
    pairs = zip(shape, factor, strict=True)
    return SeparableOperator(tuple(_finer(n, f, cubic) for n, f in pairs))


def gaussian_blur(shape: tuple[int, ...], sigma: tuple[float, ...]) -> SeparableOperator:
    """A Gaussian blur of images that are 0 beyond their edges.

    Units: sigma of each axis in voxels.
    Errors: ValueError for a width that is not positive.
    """
    if len(shape) != len(sigma) or min(sigma) <= 0:
        raise ValueError(f"a blur needs a width above 0 for each axis of {shape}, found {sigma}")
    return SeparableOperator(tuple(_gaussian(n, s) for n, s in zip(shape, sigma, strict=True)))


def _bicubic(size: int, factor: int) -> Tensor:
    fine = torch.arange(size, dtype=torch.float64) + 0.5
    centre = factor * (torch.arange(size // factor, dtype=torch.float64) + 0.5)
    weights = _keys((fine[None] - centre[:, None]) / factor, CUBIC)
    return weights / weights.sum(1, keepdim=True)


def _finer(size: int, factor: int, cubic: float) -> Tensor:
    centre = (torch.arange(size * factor, dtype=torch.float64) + 0.5) / factor
    coarse = torch.arange(size, dtype=torch.float64) + 0.5
    weights = _keys(coarse[None] - centre[:, None], cubic)
    return weights / weights.sum(1, keepdim=True)


def _keys(x: Tensor, cubic: float) -> Tensor:
    """Keys 1981, eq. 4 with a free parameter: a cubic in each unit, 0 beyond 2."""
    x = x.abs()
    near = (cubic + 2) * x**3 - (cubic + 3) * x**2 + 1
    far = cubic * (x**3 - 5 * x**2 + 8 * x - 4)
    return torch.where(x <= 1, near, torch.where(x < 2, far, 0.0))


def _gaussian(size: int, sigma: float) -> Tensor:
    reach = int(GAUSSIAN_REACH * sigma + 0.5)
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=torch.float64) / sigma) ** 2)
    apart = torch.arange(size)[:, None] - torch.arange(size)[None]
    inside = apart.abs() <= reach
    return torch.where(inside, taps[(apart + reach).clamp(0, 2 * reach)], 0.0) / taps.sum()


def _decomposed(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    u, s, vh = torch.linalg.svd(matrix, full_matrices=True)
    rounding = torch.finfo(s.dtype).eps * max(matrix.shape)
    padded = torch.zeros(matrix.shape[1], dtype=s.dtype, device=s.device)
    padded[: len(s)] = torch.where(s > rounding * s.max(), s, 0.0)
    return u, padded, vh


def _fitted(rows: Tensor, count: int) -> Tensor:
    """The first `count` rows, with rows of 0 where there are fewer."""
    missing = max(0, count - len(rows))
    return torch.cat((rows[:count], rows.new_zeros((missing, rows.shape[1]))))


def _along(matrices: tuple[Tensor, ...] | list[Tensor], x: Tensor) -> Tensor:
    """Each matrix on its axis of space."""
    sizes = tuple(matrix.shape[1] for matrix in matrices)
    if tuple(x.shape[2:]) != sizes:
        raise ValueError(f"one matrix an axis, for {sizes} values, met {tuple(x.shape[2:])}")
    for axis, matrix in enumerate(matrices, start=2):
        x = (x.movedim(axis, -1) @ matrix.to(x).T).movedim(-1, axis)
    return x
