"""Blur by any kernel: around the edges (its own decomposition), or with nothing beyond them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch

from medidiff.physics.iterative import ConjugateGradients, IterativeOperator
from medidiff.physics.operators import SpectralOperator
from medidiff.types import Image, Tensor

BLUR_SOLVER = ConjugateGradients(tolerance=1e-6, steps=200)


@dataclass(frozen=True, eq=False)
class CircularBlur(SpectralOperator):
    """Convolution with a real kernel on a grid that goes on at its other side.

    Shapes: a kernel of odd sides, one an axis of `shape`; images (batch, channel, *shape).
    The discrete Hartley transform diagonalises A* A and keeps real images real; what the kernel
    does to phases belongs to U.
    Errors: ValueError for another kernel, and for images of another size.
    """

    kernel: Tensor
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        _check(self.kernel, self.shape)

    @cached_property
    def _response(self) -> Tensor:
        """The kernel's Fourier transform, 0 where rounding is all that it is."""
        response = torch.fft.fftn(_around_origin(self.kernel.double(), self.shape))
        size = response.abs()
        rounding = torch.finfo(torch.float64).eps * math.prod(self.shape)
        return torch.where(size > rounding * size.max(), response, 0.0)

    @property
    def singular_values(self) -> Tensor:
        """The size of the response at each frequency."""
        return self._response.abs()

    def forward(self, x: Image) -> Tensor:
        """The blurred images."""
        _check_size(x, self.shape)
        return _filtered(x, self._response)

    def adjoint(self, y: Tensor) -> Image:
        """Blurred with the kernel turned around."""
        _check_size(y, self.shape)
        return _filtered(y, self._response.conj())

    def spectrum(self, x: Image) -> Tensor:
        """The Hartley transform."""
        return _hartley(x)

    def image(self, spectrum: Tensor) -> Image:
        """The same again: it is its own inverse."""
        return _hartley(spectrum)

    def measured(self, y: Tensor) -> Tensor:
        """The transform of y with the kernel's phases taken out."""
        return _hartley(_filtered(y, torch.sgn(self._response).conj()))


@dataclass(frozen=True, eq=False)
class ZeroPaddedBlur(IterativeOperator):
    """Convolution with a real kernel of images that are 0 beyond their edges.

    Shapes: as `CircularBlur`. (`gaussian_blur` is one of these in closed form.)
    Errors: ValueError for another kernel.
    """

    kernel: Tensor
    shape: tuple[int, ...]
    solver: ConjugateGradients = BLUR_SOLVER

    def __post_init__(self) -> None:
        _check(self.kernel, self.shape)

    @property
    def template(self) -> Image:
        """Real zeros in the kernel's precision."""
        return torch.zeros((1, 1, *self.shape), dtype=self.kernel.dtype, device=self.kernel.device)

    @cached_property
    def _response(self) -> Tensor:
        sides = zip(self.shape, self.kernel.shape, strict=True)
        return torch.fft.fftn(
            _around_origin(self.kernel.double(), tuple(n + k // 2 for n, k in sides))
        )

    def forward(self, x: Image) -> Tensor:
        """The blurred images, as large as they were."""
        return self._cut(_filtered(self._padded(x), self._response))

    def adjoint(self, y: Tensor) -> Image:
        """Blurred with the kernel turned around."""
        return self._cut(_filtered(self._padded(y), self._response.conj()))

    def _padded(self, x: Tensor) -> Tensor:
        _check_size(x, self.shape)
        reach = [each // 2 for each in reversed(self.kernel.shape)]
        return torch.nn.functional.pad(x, [side for each in reach for side in (0, each)])

    def _cut(self, x: Tensor) -> Tensor:
        return x[(..., *(slice(0, size) for size in self.shape))]


def _around_origin(kernel: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The kernel with its middle at the first voxel of a grid that goes on at its other side."""
    whole = torch.zeros(shape, dtype=kernel.dtype, device=kernel.device)
    whole[tuple(slice(0, side) for side in kernel.shape)] = kernel
    axes = tuple(range(kernel.ndim))
    return whole.roll([-(side // 2) for side in kernel.shape], axes)


def _filtered(x: Tensor, response: Tensor) -> Tensor:
    axes = tuple(range(2, x.ndim))
    response = response.to(x.device, x.dtype.to_complex())
    filtered = torch.fft.ifftn(torch.fft.fftn(x, dim=axes) * response, dim=axes)
    return filtered if x.is_complex() else filtered.real


def _hartley(x: Tensor) -> Tensor:
    """Re F - Im F of a real image, unitary, real and its own inverse; of a complex one by parts."""
    if x.is_complex():
        return torch.complex(_hartley(x.real), _hartley(x.imag))
    frequencies = torch.fft.fftn(x, dim=tuple(range(2, x.ndim)), norm="ortho")
    return frequencies.real - frequencies.imag


def _check_size(x: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(x.shape[2:]) != tuple(shape):
        raise ValueError(f"a blur of images of {tuple(shape)} met one of {tuple(x.shape[2:])}")


def _check(kernel: Tensor, shape: tuple[int, ...]) -> None:
    fits = kernel.ndim == len(shape) and all(
        side % 2 == 1 and side <= size for side, size in zip(kernel.shape, shape, strict=True)
    )
    if not fits or kernel.is_complex():
        raise ValueError(
            f"a kernel for images of {shape} is real with odd sides that are no longer; "
            f"found {tuple(kernel.shape)}"
        )
