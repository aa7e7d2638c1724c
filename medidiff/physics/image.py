"""Operators of the image itself: what is missing from it, and what a coarser grid sees of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from medidiff.physics.operators import SpectralOperator, check_mask
from medidiff.types import Image, Tensor


class _Diagonal(SpectralOperator):
    """weight * x, its own decomposition; the singular values are the weights, at least 0."""

    def forward(self, x: Image) -> Tensor:
        """Each voxel times its weight."""
        return self.singular_values.to(x) * x

    def adjoint(self, y: Tensor) -> Image:
        """The same."""
        return self.forward(y)

    def spectrum(self, x: Image) -> Tensor:
        """x itself."""
        return x

    def image(self, spectrum: Tensor) -> Image:
        """The spectrum itself."""
        return spectrum

    def measured(self, y: Tensor) -> Tensor:
        """y where it has a weight, 0 elsewhere."""
        return torch.where(self.singular_values.to(y.device) > 0, y, 0.0)


@dataclass(frozen=True, eq=False)
class Mask(_Diagonal):
    """mask * x: inpainting, or any sampling of the grid. It is its own decomposition.

    Shapes: mask broadcasts over the images and holds 0 and 1; measurements are images, 0 where the
    mask is.
    Errors: ValueError for any other value in the mask.
    """

    mask: Tensor

    def __post_init__(self) -> None:
        check_mask(self.mask)

    @property
    def singular_values(self) -> Tensor:
        """The mask."""
        return self.mask


@dataclass(frozen=True, eq=False)
class Weights(_Diagonal):
    """weight * x: voxels seen with a weight each, 0 where they are not seen.

    Shapes: weight broadcasts over the images; measurements are images.
    Errors: ValueError for a weight below 0.
    """

    weight: Tensor

    def __post_init__(self) -> None:
        if not bool((self.weight >= 0).all()):
            raise ValueError("weights of voxels need to be at least 0")

    @property
    def singular_values(self) -> Tensor:
        """The weights."""
        return self.weight


@dataclass(frozen=True, eq=False)
class BlockAverage(SpectralOperator):
    """The mean of each block of voxels: an ideal detector on a grid `factor` times coarser.

    Shapes: factor has one entry an axis of space; measurements (batch, channel, *coarse space).
    A block's spectrum is its reflection that takes the constant onto the first coefficient
    (Householder): the mean is that coefficient over the root of the block's size, the rest is not
    seen.
    Errors: ValueError if an axis is not a multiple of its factor.
    """

    factor: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.factor or min(self.factor) < 1:
            raise ValueError(f"block averages need factors of at least 1, got {self.factor}")

    @property
    def singular_values(self) -> Tensor:
        """(block size,): 1 / sqrt(block size), then zeros."""
        values = torch.zeros(self._size, dtype=torch.float64)
        values[0] = self._size**-0.5
        return values

    def forward(self, x: Image) -> Tensor:
        """Each block's mean."""
        return self._blocks(x).mean(-1)

    def adjoint(self, y: Tensor) -> Image:
        """Each value over its whole block, divided by the block's size."""
        return self._unblocked((y / self._size)[..., None].expand(*y.shape, self._size))

    def spectrum(self, x: Image) -> Tensor:
        """(batch, channel, *coarse space, block size)."""
        return self._reflected(self._blocks(x))

    def image(self, spectrum: Tensor) -> Image:
        """A reflection is its own inverse."""
        return self._unblocked(self._reflected(spectrum))

    def measured(self, y: Tensor) -> Tensor:
        """y in each block's first coefficient."""
        placed = torch.zeros((*y.shape, self._size), dtype=y.dtype, device=y.device)
        placed[..., 0] = y
        return placed

    @property
    def _size(self) -> int:
        return math.prod(self.factor)

    def _blocks(self, x: Image) -> Tensor:
        space, axes = x.shape[2:], len(self.factor)
        if len(space) != axes or any(n % f for n, f in zip(space, self.factor, strict=True)):
            raise ValueError(f"blocks of {self.factor} do not fill images of {tuple(space)}")
        cut = [each for n, f in zip(space, self.factor, strict=True) for each in (n // f, f)]
        order = [0, 1, *range(2, 2 + 2 * axes, 2), *range(3, 3 + 2 * axes, 2)]
        return x.reshape(*x.shape[:2], *cut).permute(order).flatten(-axes)

    def _unblocked(self, blocks: Tensor) -> Image:
        axes, coarse = len(self.factor), blocks.shape[2:-1]
        pairs = [each for axis in range(axes) for each in (2 + axis, 2 + axes + axis)]
        whole = [n * f for n, f in zip(coarse, self.factor, strict=True)]
        apart = blocks.reshape(*blocks.shape[:-1], *self.factor)
        return apart.permute(0, 1, *pairs).reshape(*blocks.shape[:2], *whole)

    def _reflected(self, blocks: Tensor) -> Tensor:
        """v - 2 w (w v) / (w w), w the first axis less the block's unit constant."""
        if self._size == 1:
            return blocks
        unit = self._size**-0.5
        # w v, and 2 / (w w) = 1 / (1 - unit)
        along = (blocks[..., :1] - unit * blocks.sum(-1, keepdim=True)) / (1 - unit)
        reflected = blocks + unit * along
        return torch.cat((reflected[..., :1] - along, reflected[..., 1:]), dim=-1)
