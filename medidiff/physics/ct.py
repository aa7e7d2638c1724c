"""Computed tomography: line integrals of an image along the rays of a beam."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from typing import Any

import torch

from medidiff.physics.beams import Beam, FanBeam
from medidiff.physics.iterative import ConjugateGradients, IterativeOperator
from medidiff.types import Image, Tensor

CT_SOLVER = ConjugateGradients(tolerance=1e-6, steps=100)


@dataclass(frozen=True, eq=False)
class Tomography(IterativeOperator):
    """Line integrals of pictures, or of a volume slice by slice.

    Shapes: `shape` is (rows, columns); images (batch, channel, *depth, rows, columns); sinograms
    (batch, channel, *depth, views, detectors).
    Units: integrals in the image's unit times mm, so an image in 1/mm gives attenuation.
    The rays' weights are a sparse matrix that is made at first use and kept with its transpose, for
    each precision and device: in single precision 32 bytes a ray and pixel of the longer side at
    most (60 views of 208 x 176 pixels: .06 GB; 720 of 512 x 512: 6 GB).
    Errors: ValueError for pixels without a size, for a fan whose source turns within the image, and
    for images and sinograms of another size.
    Source: Joseph 1982 (doi:10.1109/TMI.1982.4307572): a ray's sum of linear interpolations on each
    row, or column, that it crosses.
    """

    beam: Beam
    shape: tuple[int, int]
    spacing_mm: tuple[float, float] = (1.0, 1.0)
    solver: ConjugateGradients = CT_SOLVER
    _made: dict[Any, tuple[Tensor, Tensor]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        sides = [n * mm for n, mm in zip(self.shape, self.spacing_mm, strict=True)]
        if not (min(sides) > 0 and math.isfinite(max(sides))):
            raise ValueError(f"pixels have sides above 0, found {self.spacing_mm} mm")
        reach = math.hypot(*sides) / 2
        if isinstance(self.beam, FanBeam) and self.beam.source_mm <= reach:
            raise ValueError(
                f"the fan's source turns within the image: source_mm is {self.beam.source_mm:g}, "
                f"and the image's corners lie {reach:g} mm from its middle"
            )

    @property
    def template(self) -> Image:
        """Real zeros in double precision, on the CPU."""
        return torch.zeros((1, 1, *self.shape), dtype=torch.float64)

    def forward(self, x: Image) -> Tensor:
        """The sinogram."""
        if tuple(x.shape[-2:]) != tuple(self.shape):
            raise ValueError(f"a beam over {self.shape} pixels met images of {tuple(x.shape[-2:])}")
        matrix, transpose = self._matrices(x)
        return self._columns(x, matrix, transpose, (len(self.beam.angles), self.beam.detectors))

    def adjoint(self, y: Tensor) -> Image:
        """Each ray's value put back along it with the same weights."""
        self.check_sinogram(y)
        matrix, transpose = self._matrices(y)
        return self._columns(y, transpose, matrix, self.shape)

    def check_sinogram(self, y: Tensor) -> None:
        """Errors: ValueError for other views or detectors than the beam's."""
        expected = (len(self.beam.angles), self.beam.detectors)
        if tuple(y.shape[-2:]) != expected:
            raise ValueError(
                f"a beam of {expected} views and detectors met a sinogram of {tuple(y.shape[-2:])}"
            )

    def _columns(self, x: Tensor, matrix: Tensor, back: Tensor, size: tuple[int, int]) -> Tensor:
        """The matrix on the last two axes of x, for all others at once."""
        flat = x.flatten(-2).flatten(0, -2).T
        if x.is_complex():
            flat = torch.cat((flat.real, flat.imag), dim=1)
        applied = _Multiplied.apply(flat, matrix, back)
        if x.is_complex():
            applied = torch.complex(*applied.chunk(2, dim=1))
        return applied.T.reshape(*x.shape[:-2], *size)

    def _matrices(self, like: Tensor) -> tuple[Tensor, Tensor]:
        key = (like.dtype.to_real(), like.device)
        if key not in self._made:
            starts, pixels, weights = joseph_weights(self.beam, self.shape, self.spacing_mm)
            size = (len(self.beam.angles) * self.beam.detectors, math.prod(self.shape))
            matrix = _compressed(starts, pixels, weights.to(key[0]), size)
            self._made[key] = (matrix.to(key[1]), _transposed(matrix).to(key[1]))
        return self._made[key]


class _Multiplied(torch.autograd.Function):
    """A sparse matrix times columns; its derivative is the transpose that is kept beside it."""

    @staticmethod
    def forward(columns: Tensor, matrix: Tensor, transpose: Tensor) -> Tensor:
        return matrix @ columns

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.matrix, ctx.transpose = inputs[1:]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _Multiplied.apply(gradients[0], ctx.transpose, ctx.matrix), None, None


def joseph_weights(
    beam: Beam, shape: tuple[int, int], spacing_mm: tuple[float, float]
) -> tuple[Tensor, Tensor, Tensor]:
    """Each ray's pixels and their weights in mm, one ray after the other.

    Shapes: where each ray starts (rays + 1,), pixels and weights (entries,).
    """
    parts = [_view(*each, shape, spacing_mm) for each in zip(*beam.rays(), strict=True)]
    counts, pixels, weights = (torch.cat(each) for each in zip(*parts, strict=True))
    return torch.cat((counts.new_zeros(1), counts.cumsum(0))), pixels, weights


def _view(
    point: Tensor, direction: Tensor, shape: tuple[int, int], spacing_mm: tuple[float, float]
) -> tuple[Tensor, Tensor, Tensor]:
    """Where the rays of one view cross each row, or each column if they lie flatter.

    Shapes: the number of entries of each ray (detectors,), pixels and weights (entries,).
    """
    sizes = torch.tensor(shape)
    scale = torch.tensor([-1 / spacing_mm[0], 1 / spacing_mm[1]], dtype=torch.float64)
    start, step = point.flip(-1) * scale + (sizes - 1) / 2, direction.flip(-1) * scale
    # the axis whose lines are crossed, and the one along them
    crossed = (step[:, 1].abs() > step[:, 0].abs()).long()[:, None]
    along = 1 - crossed
    line = torch.arange(max(shape))
    pace = 1 / step.gather(1, crossed)
    place = start.gather(1, along) + (line - start.gather(1, crossed)) * pace * step.gather(
        1, along
    )
    low = place.floor()
    share = place - low
    ends = torch.stack((low, low + 1), -1).long()
    weights = torch.stack((1 - share, share), -1) * pace.abs()[..., None]
    inside = (ends >= 0) & (ends < sizes[along][..., None]) & (weights > 0)
    inside &= (line < sizes[crossed])[..., None]
    strides = torch.tensor([shape[1], 1])
    pixels = (line * strides[crossed])[..., None] + ends * strides[along][..., None]
    return inside.flatten(1).sum(1), pixels[inside].int(), weights[inside]


def _compressed(starts: Tensor, columns: Tensor, values: Tensor, size: tuple[int, int]) -> Tensor:
    """A sparse matrix by rows."""
    with warnings.catch_warnings():
        # "beta state": the products used here are tested
        warnings.simplefilter("ignore", UserWarning)
        return torch.sparse_csr_tensor(
            starts.int(), columns.int(), values, size, check_invariants=False
        )


def _transposed(matrix: Tensor) -> Tensor:
    """The transpose, by rows too: what is compressed by columns is its transpose by rows."""
    by_columns = matrix.to_sparse_csc()
    return _compressed(
        by_columns.ccol_indices(),
        by_columns.row_indices(),
        by_columns.values(),
        (matrix.shape[1], matrix.shape[0]),
    )
