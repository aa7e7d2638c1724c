"""An operator that sees a part of the image."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from medidiff.physics.operators import LinearOperator
from medidiff.types import Image, Tensor


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

    def pseudo_inverse(self, y: Tensor, ridge: float = 0.0) -> Image:
        """The operator's own in the box, 0 around it."""
        return self._placed(self.operator.pseudo_inverse(y, ridge))

    def norm(self) -> float:
        """The operator's own."""
        return self.operator.norm()

    def _inside(self, x: Image) -> Image:
        return x[(..., *(slice(length) for length in self.box))]

    def _placed(self, part: Image) -> Image:
        whole = torch.zeros((*part.shape[:2], *self.size), dtype=part.dtype, device=part.device)
        self._inside(whole)[:] = part
        return whole
