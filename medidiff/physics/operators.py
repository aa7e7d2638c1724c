"""What a measurement operator is, and what its singular value decomposition gives for nothing."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, overload

import torch

from medidiff.sending import sent
from medidiff.types import Image, Tensor


class LinearOperator(Protocol):
    """A linear map A from images to measurements, for a batch at once.

    Shapes: images (batch, channel, *space), real or complex; measurements (batch, ...).
    Tests hold <A x, y> = <x, A* y> and every other method to `forward`.
    """

    def forward(self, x: Image) -> Tensor:
        """A x."""
        ...

    def adjoint(self, y: Tensor) -> Image:
        """A* y, exactly the adjoint of `forward` (not an inverse)."""
        ...

    def normal(self, x: Image) -> Image:
        """A* A x."""
        ...

    def prox(self, z: Image, y: Tensor, rho: float | Tensor) -> Image:
        """The x that minimises |A x - y|^2 + rho |x - z|^2; rho is one number or one an image."""
        ...

    def pseudo_inverse(self, y: Tensor, ridge: float | Tensor = 0.0) -> Image:
        """The smallest x that explains y best; ridge > 0 divides by s^2 + ridge, not by s^2; it is
        one number or one an image."""
        ...

    def norm(self) -> float:
        """The largest singular value."""
        ...

    def norms(self, like: Image) -> Tensor:
        """That of each image's own part of the operator, where images such as `like` have parts of
        their own: (batch,), else (); float64, on the CPU."""
        ...


class SpectralOperator(ABC):
    """A linear operator A = U diag(s) V* whose decomposition is known, with what follows from it.

    `spectrum` and `image` are V* and V, `measured` is U* with zeros where nothing is measured, and
    `singular_values` broadcasts over the spectrum: measured(A x) = singular_values * spectrum(x).
    """

    @property
    @abstractmethod
    def singular_values(self) -> Tensor:
        """s, real and not negative, 0 where nothing is measured; broadcasts over the spectrum."""

    @abstractmethod
    def forward(self, x: Image) -> Tensor:
        """A x."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Image:
        """A* y."""

    @abstractmethod
    def spectrum(self, x: Image) -> Tensor:
        """V* x, one coefficient a value of x: (batch, ...)."""

    @abstractmethod
    def image(self, spectrum: Tensor) -> Image:
        """V of a spectrum: the inverse of `spectrum`, for V is unitary."""

    @abstractmethod
    def measured(self, y: Tensor) -> Tensor:
        """U* y in the spectrum's places."""

    def normal(self, x: Image) -> Image:
        """A* A x."""
        return self.adjoint(self.forward(x))

    def prox(self, z: Image, y: Tensor, rho: float | Tensor) -> Image:
        """(A* A + rho)^-1 (A* y + rho z)."""
        spectrum = self.spectrum(z)
        s, weight = _as_real(self.singular_values, spectrum), per_image(rho, spectrum)
        mixed = s * self.measured(y) + weight * spectrum
        return self.image(mixed / (s**2 + weight))

    def pseudo_inverse(self, y: Tensor, ridge: float | Tensor = 0.0) -> Image:
        """V diag(s / (s^2 + ridge)) U* y, with 0 where nothing is measured."""
        measured = self.measured(y)
        s = _as_real(self.singular_values, measured)
        gain = torch.where(s > 0, s / (s**2 + per_image(ridge, measured)), 0.0)
        return self.image(gain * measured)

    def norm(self) -> float:
        """The largest singular value."""
        return float(self.singular_values.max())

    def norms(self, like: Image) -> Tensor:
        """The largest singular value of each image's own part, (batch,); () if they share one."""
        s = self.singular_values
        own = s.ndim > 2 and len(s) > 1 and s.ndim == self.spectrum(like[:1]).ndim
        return (s.flatten(1).amax(1) if own else s.max()).double().cpu()


@dataclass(frozen=True, eq=False)
class DenseOperator(SpectralOperator):
    """Any small matrix, on the image's values in their order in memory.

    Shapes: matrix (m, n), real or complex; `shape` is the image's (channel, *space) of n values;
    measurements (batch, m).
    Singular values below the matrix's rounding error are 0.
    Errors: ValueError if the matrix and the shape do not fit.
    """

    matrix: Tensor
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.matrix.ndim != 2 or self.matrix.shape[1] != math.prod(self.shape):
            raise ValueError(
                f"a matrix for images of shape {self.shape} has {math.prod(self.shape)} columns, "
                f"got {tuple(self.matrix.shape)}"
            )

    @cached_property
    def _parts(self) -> tuple[Tensor, Tensor, Tensor]:
        u, s, vh = torch.linalg.svd(self.matrix, full_matrices=True)
        rounding = torch.finfo(s.dtype).eps * max(self.matrix.shape)
        known = torch.where(s > rounding * s.max(), s, 0.0)
        padded = torch.zeros(self.matrix.shape[1], dtype=s.dtype, device=s.device)
        padded[: len(s)] = known
        return u, padded, vh

    @property
    def singular_values(self) -> Tensor:
        """All n of them, in falling order."""
        return self._parts[1]

    def forward(self, x: Image) -> Tensor:
        """matrix @ x, (batch, m)."""
        return x.flatten(1) @ self.matrix.T

    def adjoint(self, y: Tensor) -> Image:
        """The conjugate transpose of the matrix @ y."""
        return (y @ self.matrix.conj()).reshape(-1, *self.shape)

    def spectrum(self, x: Image) -> Tensor:
        """(batch, n)."""
        return x.flatten(1) @ self._parts[2].T

    def image(self, spectrum: Tensor) -> Image:
        """(batch, *shape)."""
        return (spectrum @ self._parts[2].conj()).reshape(-1, *self.shape)

    def measured(self, y: Tensor) -> Tensor:
        """(batch, n), 0 behind the matrix's rank."""
        u, s, _ = self._parts
        count = min(self.matrix.shape)
        placed = torch.zeros((len(y), len(s)), dtype=(y @ u.conj()).dtype, device=y.device)
        placed[:, :count] = (y @ u.conj())[:, :count]
        return torch.where(s > 0, placed, 0.0)


def check_mask(mask: Tensor) -> None:
    """Errors: ValueError for any value but 0 and 1; true and false are not looked at."""
    if mask.dtype != torch.bool and not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError("a mask holds 0 (missing) and 1 (measured) only")


@overload
def per_image(value: Tensor, like: Tensor) -> Tensor: ...


@overload
def per_image(value: float | Tensor, like: Tensor) -> float | Tensor: ...


def per_image(value: float | Tensor, like: Tensor) -> float | Tensor:
    """One number as it is, one an image in a shape that broadcasts over the batch.

    A tensor is real, where `like` is and in its precision, so that it does not widen it.
    """
    if not isinstance(value, Tensor):
        return value
    real = _as_real(value, like)
    return real.reshape(-1, *(1,) * (like.ndim - 1)) if real.ndim == 1 else real


def _as_real(values: Tensor, like: Tensor) -> Tensor:
    """Real values where `like` is and in its precision, so that they do not widen it."""
    return sent(values.to(like.dtype.to_real()), like.device)
