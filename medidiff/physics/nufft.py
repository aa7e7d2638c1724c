"""MRI along any trajectory, through the optional package torchkbnufft."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from medidiff.errors import TaskError
from medidiff.physics.iterative import ConjugateGradients, IterativeOperator
from medidiff.types import Image, Tensor

NUFFT_SOLVER = ConjugateGradients(tolerance=1e-5, steps=50)


@dataclass(frozen=True, eq=False)
class NonCartesianMRI(IterativeOperator):
    """k-space at the points of a trajectory: y = F(coils * x), radial, spiral or any other.

    Shapes: trajectory (axes, points); coils (1 or batch, coil, *space), complex, which say the
    image's size too; images (batch, 1, *space), complex; samples (batch, coil, points).
    Units: the trajectory in radians a voxel, from -pi to pi; the transform is unitary on a full
    Cartesian grid.
    Errors: TaskError without torchkbnufft; ValueError for shapes that do not fit.
    Source: Fessler and Sutton 2003 (doi:10.1109/TSP.2002.807005), by Kaiser-Bessel interpolation.
    """

    trajectory: Tensor
    coils: Tensor
    solver: ConjugateGradients = NUFFT_SOLVER

    def __post_init__(self) -> None:
        axes = self.coils.ndim - 2
        if (
            axes not in (2, 3)
            or not self.coils.is_complex()
            or self.trajectory.shape[:1] != (axes,)
        ):
            raise ValueError(
                "non-Cartesian MRI needs complex coils (1 or batch, coil, *space) and a trajectory "
                f"(axes, points); found {tuple(self.coils.shape)}, {tuple(self.trajectory.shape)}"
            )

    @property
    def template(self) -> Image:
        """Complex zeros."""
        shape = (len(self.coils), 1, *self.coils.shape[2:])
        return torch.zeros(shape, dtype=self.coils.dtype, device=self.coils.device)

    def forward(self, x: Image) -> Tensor:
        """The samples."""
        to_samples, _ = self._transforms
        return to_samples(self._scale * self.coils * x, self.trajectory)

    def adjoint(self, y: Tensor) -> Image:
        """Every sample put back, without density compensation."""
        _, to_image = self._transforms
        images = to_image(self._scale * y, self.trajectory)
        return (self.coils.conj() * images).sum(1, keepdim=True)

    @property
    def _scale(self) -> float:
        return math.prod(self.coils.shape[2:]) ** -0.5

    @cached_property
    def _transforms(self) -> tuple[Any, Any]:
        try:
            import torchkbnufft
        except ImportError as absent:
            raise TaskError(
                "non-Cartesian MRI needs the package torchkbnufft: pip install 'medidiff[nufft]'"
            ) from absent
        size, like = tuple(self.coils.shape[2:]), self.coils
        made = (torchkbnufft.KbNufft(size), torchkbnufft.KbNufftAdjoint(size))
        return tuple(each.to(like.device, like.dtype) for each in made)  # type: ignore[return-value]
