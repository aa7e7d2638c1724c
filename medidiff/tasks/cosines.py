"""Smooth fields: products of a few cosines along each axis, applied axis by axis.

    B theta = sum_k theta_k prod_a cos(pi k_a (x_a + 1/2) / n_a)

The products are never formed: for 128^3 voxels they would fill 720 MiB.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import torch
from torch import Tensor

WAVES = {2: 12, 3: 5}  # cosines along each axis, by dimensions, at most
SHORTEST = 12  # voxels that a cosine's half period has at least


@dataclass(frozen=True, eq=False)
class Cosines:
    """B, by one small matrix an axis, (cosines, n).

    Of all products those whose half periods' vector lies in the ball that the axes allow: `chosen`,
    (waves,), their places among all, and `half_periods`, (waves,), its length.
    Shapes: fields (batch, 1, *space), coefficients (batch, waves).
    """

    along: tuple[Tensor, ...]
    chosen: Tensor
    half_periods: Tensor

    def to(self, like: Tensor) -> Cosines:
        """The same where `like` is and in its precision; `half_periods` stay in float64."""
        return Cosines(
            tuple(matrix.to(like) for matrix in self.along),
            self.chosen.to(like.device),
            self.half_periods.to(like.device),
        )

    def slopes(self, axis: int) -> Cosines:
        """Their differences along an axis of the space."""
        along = [m.diff(dim=1) if a == axis else m for a, m in enumerate(self.along)]
        return replace(self, along=tuple(along))

    def field(self, theta: Tensor) -> Tensor:
        """B theta."""
        counts = [len(matrix) for matrix in self.along]
        whole = theta.new_zeros(len(theta), math.prod(counts))
        whole[:, self.chosen] = theta
        return _contracted(whole.unflatten(1, counts), [m.T for m in self.along])[:, None]

    def transposed(self, fields: Tensor) -> Tensor:
        """B^T of fields."""
        return _contracted(fields[:, 0], self.along).flatten(1)[:, self.chosen]

    def gram(self, power: Tensor) -> Tensor:
        """B^T diag(power) B of each field of weights, (batch, waves, waves)."""
        found, axes = _contracted(power[:, 0], self._pairs), len(self.along)
        for axis in reversed(range(axes)):
            found = found.unflatten(axis + 1, [len(self.along[axis])] * 2)
        rows, columns = range(1, 2 * axes, 2), range(2, 2 * axes + 1, 2)
        found = found.permute(0, *rows, *columns)
        found = found.flatten(1 + axes).flatten(1, axes)
        return found[:, self.chosen][:, :, self.chosen]

    def coefficients(self, fields: Tensor) -> Tensor:
        """theta of fields B theta: the cosines are orthogonal."""
        exact, powers = self._exact
        return (exact.transposed(fields.double()) / powers).to(fields)

    @cached_property
    def _pairs(self) -> list[Tensor]:
        """Products of two cosines each, (cosines^2, n) along each axis."""
        return [(m[:, None] * m).flatten(0, 1) for m in self.along]

    @cached_property
    def _exact(self) -> tuple[Cosines, Tensor]:
        """In double precision, and the power of each product, (waves,)."""
        exact = self.to(self.along[0].double())
        powers = exact.along[0].new_ones(1)
        for matrix in exact.along:
            powers = (powers[:, None] * matrix.square().sum(1)).flatten()
        return exact, powers[self.chosen]


def _contracted(x: Tensor, matrices: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
    """x (batch, *n), each axis by its matrix (m, n): (batch, *m)."""
    for axis, matrix in enumerate(matrices, 1):
        x = (x.movedim(axis, -1) @ matrix.T).movedim(-1, axis)
    return x


def cosines_like(fields: Tensor) -> Cosines:
    """The lowest cosines of some fields, where those are and in their precision."""
    return _placed(tuple(fields.shape[2:]), fields.dtype, fields.device)


@lru_cache(maxsize=8)
def _placed(space: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Cosines:
    """Kept: a fit at every step asks for them, and each copy would make a GPU wait."""
    return cosines(space).to(torch.empty(0, dtype=dtype, device=device))


@lru_cache(maxsize=4)
def cosines(space: tuple[int, ...]) -> Cosines:
    """The lowest cosines of images of this size, in float64."""
    most, along = WAVES[len(space)], []
    squares = torch.zeros(1, dtype=torch.float64)
    for n in space:
        angle = math.pi * (torch.arange(n, dtype=torch.float64) + 0.5) / n
        half_periods = torch.arange(min(most, 1 + n // SHORTEST), dtype=torch.float64)
        along.append((half_periods[:, None] * angle).cos())
        squares = (squares[:, None] + half_periods**2).flatten()
    chosen = (squares < most**2).nonzero()[:, 0]
    return Cosines(tuple(along), chosen, squares[chosen].sqrt())
