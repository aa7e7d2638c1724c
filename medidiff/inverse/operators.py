"""Complex images as real channels, around any operator."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from medidiff.physics.operators import LinearOperator, SpectralOperator
from medidiff.types import Image, Tensor


def as_complex(x: Image) -> Tensor:
    """(batch, 2 c, *space) real to (batch, c, *space) complex: real parts first."""
    real, imaginary = x.chunk(2, dim=1)
    return torch.complex(real, imaginary)


def as_channels(x: Tensor) -> Image:
    """The inverse of `as_complex`."""
    return torch.cat((x.real, x.imag), dim=1)


def complex_channels(operator: LinearOperator) -> LinearOperator:
    """`operator` on complex images, for priors of their real and imaginary parts as channels.

    One with a known decomposition keeps it.
    Shapes: images (batch, 2 c, *space), real parts first.
    """
    if isinstance(operator, SpectralOperator):
        return SpectralComplexChannels(operator)
    return ComplexChannels(operator)


@dataclass(frozen=True, eq=False)
class ComplexChannels:
    """A linear operator of complex images as one of twice as many real channels."""

    operator: LinearOperator

    def forward(self, x: Image) -> Tensor:
        """A of the complex image."""
        return self.operator.forward(as_complex(x))

    def adjoint(self, y: Tensor) -> Image:
        """The parts of A* y: the adjoint for the real inner product."""
        return as_channels(self.operator.adjoint(y))

    def normal(self, x: Image) -> Image:
        """A* A x."""
        return as_channels(self.operator.normal(as_complex(x)))

    def prox(self, z: Image, y: Tensor, rho: float | Tensor) -> Image:
        """As the operator's own: |.|^2 of a complex image is that of its parts."""
        return as_channels(self.operator.prox(as_complex(z), y, rho))

    def pseudo_inverse(self, y: Tensor, ridge: float | Tensor = 0.0) -> Image:
        """As the operator's own."""
        return as_channels(self.operator.pseudo_inverse(y, ridge))

    def norm(self) -> float:
        """The largest singular value."""
        return self.operator.norm()

    def norms(self, like: Image) -> Tensor:
        """The operator's own."""
        return self.operator.norms(as_complex(like))


@dataclass(frozen=True, eq=False)
class SpectralComplexChannels(SpectralOperator):
    """The same for an operator whose decomposition is known; its spectrum stays complex."""

    operator: SpectralOperator

    @property
    def singular_values(self) -> Tensor:
        """The operator's own."""
        return self.operator.singular_values

    def forward(self, x: Image) -> Tensor:
        """A of the complex image."""
        return self.operator.forward(as_complex(x))

    def adjoint(self, y: Tensor) -> Image:
        """The parts of A* y."""
        return as_channels(self.operator.adjoint(y))

    def spectrum(self, x: Image) -> Tensor:
        """Of the complex image."""
        return self.operator.spectrum(as_complex(x))

    def image(self, spectrum: Tensor) -> Image:
        """The parts of the complex image."""
        return as_channels(self.operator.image(spectrum))

    def measured(self, y: Tensor) -> Tensor:
        """The operator's own."""
        return self.operator.measured(y)
