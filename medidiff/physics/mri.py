"""Cartesian MRI: samples of the Fourier transform, seen by one coil or several."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from medidiff.physics.fourier import Filter, from_kspace, to_kspace
from medidiff.physics.iterative import ConjugateGradients, IterativeOperator
from medidiff.physics.operators import SpectralOperator, check_mask
from medidiff.types import Image, Tensor

SENSE_SOLVER = ConjugateGradients(tolerance=1e-6, steps=100)


def CartesianMRI(  # noqa: N802 - it makes an operator, whichever of the two it is
    mask: Tensor,
    coils: Tensor | None = None,
    phase: Tensor | None = None,
    solver: ConjugateGradients | None = None,
) -> FourierSampling | SenseMRI:
    """k-space at the places of a mask: y = mask * F(coils * exp(i phase) * x).

    With neither coils nor phase the Fourier transform diagonalises it (`FourierSampling`) and the
    images are complex. Otherwise it is `SenseMRI`; with a phase its images are real.
    Shapes: mask broadcasts over k-space (batch, coil, *space); coils (1 or batch, coil, *space),
    complex; phase (1 or batch, 1, *space).
    Units: phase in radians.
    Errors: ValueError if they do not fit.
    """
    if coils is None and phase is None:
        return FourierSampling(mask)
    return SenseMRI(mask, _ones(phase) if coils is None else coils, phase, solver or SENSE_SOLVER)


@dataclass(frozen=True, eq=False)
class FourierSampling(SpectralOperator):
    """mask * F x: one coil of even sensitivity, complex images, and its own decomposition.

    Shapes: mask broadcasts over the images; k-space has the images' shape, 0 where the mask is.
    Errors: ValueError for a mask with other values than 0 and 1.
    """

    mask: Tensor

    def __post_init__(self) -> None:
        check_mask(self.mask)

    @property
    def singular_values(self) -> Tensor:
        """The mask."""
        return self.mask

    def forward(self, x: Image) -> Tensor:
        """The sampled k-space."""
        return self.measured(to_kspace(x))

    def adjoint(self, y: Tensor) -> Image:
        """The zero-filled image."""
        return from_kspace(self.measured(y))

    def normal(self, x: Image) -> Image:
        """A* A x, by one mask for the two."""
        return self._kept(x)

    @cached_property
    def _kept(self) -> Filter:
        return Filter(self.mask)

    def spectrum(self, x: Image) -> Tensor:
        """The whole k-space."""
        return to_kspace(x)

    def image(self, spectrum: Tensor) -> Image:
        """The image of a whole k-space."""
        return from_kspace(spectrum)

    def measured(self, y: Tensor) -> Tensor:
        """y where it is sampled."""
        return y * self.mask.to(y.device, y.dtype.to_real())


@dataclass(frozen=True, eq=False)
class SenseMRI(IterativeOperator):
    """mask * F(coils * exp(i phase) * x), with real images if there is a phase, else complex ones.

    A real image times a known phase has half the unknowns of a complex one: it is right only where
    the phase is known well enough (`tasks.phase` estimates it).
    Shapes: as `CartesianMRI`; images (batch, 1, *space), k-space (batch, coil, *space).
    Errors: ValueError for shapes that do not fit, and for another mask than of 0 and 1.
    Source: Pruessmann et al. 1999 (Magn. Reson. Med. 42:952) for the model; 2001
    (doi:10.1002/mrm.1241) for conjugate gradients on any sampling.
    """

    mask: Tensor
    coils: Tensor
    phase: Tensor | None = None
    solver: ConjugateGradients = SENSE_SOLVER

    def __post_init__(self) -> None:
        check_mask(self.mask)
        if self.coils.ndim < 4 or not self.coils.is_complex():
            raise ValueError(
                "coils are complex, (1 or batch, coil, *space); "
                f"found {self.coils.dtype} {tuple(self.coils.shape)}"
            )
        if self.phase is not None and self.phase.shape[2:] != self.coils.shape[2:]:
            raise ValueError(
                f"a phase is (1 or batch, 1, *space) like the coils {tuple(self.coils.shape)}; "
                f"found {tuple(self.phase.shape)}"
            )

    @property
    def template(self) -> Image:
        """Zeros, real if there is a phase."""
        sensitivity = self._sensitivity
        shape = (len(sensitivity), 1, *sensitivity.shape[2:])
        dtype = sensitivity.dtype if self.phase is None else sensitivity.dtype.to_real()
        return torch.zeros(shape, dtype=dtype, device=sensitivity.device)

    def forward(self, x: Image) -> Tensor:
        """(batch, coil, *space)."""
        return self._sampled(to_kspace(self._sensitivity * x))

    def adjoint(self, y: Tensor) -> Image:
        """The coils' images combined; its real part if there is a phase."""
        return self._combined(from_kspace(self._sampled(y)))

    def normal(self, x: Image) -> Image:
        """A* A x, by one mask for the two."""
        return self._combined(self._kept(self._sensitivity * x))

    def _sampled(self, kspace: Tensor) -> Tensor:
        return kspace * self.mask.to(kspace.device, kspace.dtype.to_real())

    def _combined(self, images: Tensor) -> Image:
        seen = self._conjugate * images
        combined = seen if seen.shape[1] == 1 else seen.sum(1, keepdim=True)
        return combined if self.phase is None else combined.real

    @cached_property
    def _kept(self) -> Filter:
        return Filter(self.mask)

    @cached_property
    def _conjugate(self) -> Tensor:
        """Of the sensitivity; in memory, for it is used at every step."""
        return self._sensitivity.conj().resolve_conj()

    @cached_property
    def _sensitivity(self) -> Tensor:
        """coils * exp(i phase)."""
        if self.phase is None:
            return self.coils
        return self.coils * torch.polar(torch.ones_like(self.phase), self.phase).to(self.coils)


def _ones(phase: Tensor | None) -> Tensor:
    assert phase is not None
    return torch.ones_like(torch.complex(phase, phase)[:1])
