"""An operator whose grid is another than the image's: a part of it, or more than it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from medidiff.physics.iterative import ConjugateGradients, IterativeOperator
from medidiff.physics.operators import LinearOperator
from medidiff.types import Image, Tensor

PLACED_SOLVER = ConjugateGradients(tolerance=1e-4, steps=30)


@dataclass(frozen=True, eq=False)
class Window:
    """`operator` on a box of the image; the rest is not measured.

    Shapes: `size` is the image's; the box is its first voxels along each axis, as many as `box`.
    Errors: ValueError for a box that is larger than the image.
    """

    operator: LinearOperator
    size: tuple[int, ...]
    box: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.size) != len(self.box) or any(
            not 0 < b <= n for b, n in zip(self.box, self.size, strict=True)
        ):
            raise ValueError(f"a box of {self.box} does not lie in an image of {self.size}")

    def forward(self, x: Image) -> Tensor:
        """What the operator measures in the box."""
        return self.operator.forward(self._inside(x))

    def adjoint(self, y: Tensor) -> Image:
        """The operator's adjoint in the box, 0 around it."""
        return self._placed(self.operator.adjoint(y))

    def normal(self, x: Image) -> Image:
        """A* A x."""
        return self._placed(self.operator.normal(self._inside(x)))

    def prox(self, z: Image, y: Tensor, rho: float | Tensor) -> Image:
        """The operator's own in the box, z around it."""
        found = z.clone()
        self._inside(found)[:] = self.operator.prox(self._inside(z), y, rho)
        return found

    def pseudo_inverse(self, y: Tensor, ridge: float | Tensor = 0.0) -> Image:
        """The operator's own in the box, 0 around it."""
        return self._placed(self.operator.pseudo_inverse(y, ridge))

    def norm(self) -> float:
        """The operator's own."""
        return self.operator.norm()

    def norms(self, like: Image) -> Tensor:
        """The operator's own."""
        return self.operator.norms(self._inside(like))

    def _inside(self, x: Image) -> Image:
        return x[(..., *(slice(length) for length in self.box))]

    def _placed(self, part: Image) -> Image:
        whole = torch.zeros((*part.shape[:2], *self.size), dtype=part.dtype, device=part.device)
        self._inside(whole)[:] = part
        return whole


@dataclass(frozen=True, eq=False)
class Placed(IterativeOperator):
    """`operator` on a larger or smaller grid around the same middle voxel (n // 2).

    What the larger grid holds around the image is 0 in it; what the smaller one cuts off is not
    measured.
    Shapes: `size` is the image's, `grid` the operator's.
    """

    operator: LinearOperator
    size: tuple[int, ...]
    grid: tuple[int, ...]
    like: Image
    """Zeros (1 or batch, channel, *size) of the images' precision and device."""
    solver: ConjugateGradients = PLACED_SOLVER

    @property
    def template(self) -> Image:
        """`like`."""
        return self.like

    def forward(self, x: Image) -> Tensor:
        """What the operator measures of the placed image."""
        return self.operator.forward(centred_on(x, self.grid))

    def adjoint(self, y: Tensor) -> Image:
        """The operator's adjoint, placed back."""
        return centred_on(self.operator.adjoint(y), self.size)


@dataclass(frozen=True, eq=False)
class Weighted(IterativeOperator):
    """weight * (A x): measurements brought to one noise level, each by its own weight.

    Shapes: weight broadcasts over the measurements, real and not negative.
    """

    operator: LinearOperator
    weight: Tensor
    like: Image
    """Zeros (1 or batch, channel, *space) of the images' precision and device."""
    solver: ConjugateGradients = PLACED_SOLVER

    @property
    def template(self) -> Image:
        """`like`."""
        return self.like

    def forward(self, x: Image) -> Tensor:
        """The weighted measurement."""
        return self.weight * self.operator.forward(x)

    def adjoint(self, y: Tensor) -> Image:
        """The operator's adjoint of what is weighted."""
        return self.operator.adjoint(self.weight * y)


def centred_on(x: Image, grid: tuple[int, ...]) -> Image:
    """The image cropped or padded with 0 to a grid, voxel n // 2 on voxel n // 2.

    It is its own adjoint with the two grids exchanged.
    """
    source, target = [], []
    for n, m in zip(x.shape[2:], grid, strict=True):
        shift = m // 2 - n // 2
        source.append(slice(max(0, -shift), min(n, m - shift)))
        target.append(slice(max(0, shift), min(m, n + shift)))
    placed = torch.zeros((*x.shape[:2], *grid), dtype=x.dtype, device=x.device)
    placed[(..., *target)] = x[(..., *source)]
    return placed
