"""The classical methods for inverse problems that every reconstruction stands beside.

A reconstruction takes (operator, measurement, strength) for a batch at once, on any device; `tuned`
chooses the strength on validation scans. What needs no strength has a grid of one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from torch import Tensor

from medidiff.evaluation.distortion import psnr
from medidiff.evaluation.proximal import TotalVariation, WaveletSparsity, admm, fista
from medidiff.evaluation.tuning import best_strength
from medidiff.physics import (
    BlockAverage,
    LinearOperator,
    Mask,
    SeparableOperator,
    Tomography,
    filtered_back_projection,
    interpolation,
)
from medidiff.types import Image

Solve = Callable[[LinearOperator, Tensor, float], Image]

# With these couplings the image is within .1 dB of that of twice as many steps, measured at one
# strength on a brain slice each (Fourier samples at R=4, and 60 views)
STEPS = 40
SAMPLES, RAYS = 0.01, 0.03
# Wavelets still gain .6 dB from 100 to 200 steps on the same slices; more were not tried
GRADIENT_STEPS = 200
LOG_GRID = (3e-4, 1e-3, 3e-3)
# Keys's own, PyTorch's, sharper: on fourfold block averages .4 and .6 dB above the first
CUBICS = (0.5, 0.75, 1.0)


def zero_filled(operator: LinearOperator, y: Tensor, strength: float) -> Image:
    """The adjoint: what was not measured is taken for 0."""
    return operator.adjoint(y)


def least_squares(operator: LinearOperator, y: Tensor, strength: float) -> Image:
    """Tikhonov's image, with `strength` times the operator's squared norm as the ridge.

    With coils this is CG-SENSE. Source: Pruessmann et al. 2001 (doi:10.1002/mrm.1241).
    """
    return operator.pseudo_inverse(y, strength * operator.norm() ** 2)


def total_variation(operator: LinearOperator, y: Tensor, strength: float) -> Image:
    """The image of least total variation near the measurement, from the adjoint on.

    Source: Rudin, Osher and Fatemi 1992 (doi:10.1016/0167-2789(92)90242-F); Lustig et al. 2007
    (doi:10.1002/mrm.21391) for MRI.
    """
    start = operator.adjoint(y) / operator.norm() ** 2
    weight = _weight(operator, y, strength)
    return admm(operator, y, weight, TotalVariation(), start=start, coupling=SAMPLES, steps=STEPS)


def wavelets(operator: LinearOperator, y: Tensor, strength: float) -> Image:
    """The image of few wavelets near the measurement.

    Source: Lustig et al. 2007 (doi:10.1002/mrm.21391).
    """
    start = operator.adjoint(y) / operator.norm() ** 2
    weight = _weight(operator, y, strength)
    return fista(operator, y, weight, WaveletSparsity(), start=start, steps=GRADIENT_STEPS)


def positive_total_variation(operator: LinearOperator, y: Tensor, strength: float) -> Image:
    """Total variation of an attenuation that is not negative, from filtered back-projection on.

    Source: Sidky and Pan 2008 (doi:10.1088/0031-9155/53/17/021).
    """
    start = filtered_back_projection(cast(Tomography, operator), y, "hann").clamp_min(0)
    weight = _weight(operator, y, strength)
    return admm(operator, y, weight, TotalVariation(0.0), start=start, coupling=RAYS, steps=STEPS)


def back_projection(operator: LinearOperator, y: Tensor, strength: float) -> Image:
    """Filtered back-projection with Hann's window, which ends at `strength` of the frequencies."""
    return filtered_back_projection(cast(Tomography, operator), y, "hann", cutoff=strength)


def bicubic(operator: LinearOperator, y: Tensor, strength: float) -> Image:
    """Cubic interpolation from the coarse grid to the fine one, by Keys's kernel with -`strength`.

    Errors: ValueError for another operator than one that makes the grid coarser.
    """
    if isinstance(operator, BlockAverage):
        factor = operator.factor
    elif isinstance(operator, SeparableOperator):
        factor = tuple(m.shape[1] // m.shape[0] for m in operator.matrices)
    else:
        raise ValueError(f"interpolation undoes a coarser grid, not a {type(operator).__name__}")
    return interpolation(tuple(y.shape[2:]), factor, -strength).forward(y)


def biharmonic(operator: LinearOperator, y: Tensor, strength: float) -> Image:
    """Holes filled by the smoothest surface that fits their edges (scikit-image's).

    Source: Damelin and Hoang 2018 (doi:10.1155/2018/3950312).
    Errors: ValueError for another operator than a mask.
    """
    from skimage.restoration import inpaint_biharmonic

    missing = _missing(operator, y)
    filled = [
        [inpaint_biharmonic(channel, hole) for channel, hole in zip(image, holes, strict=True)]
        for image, holes in zip(
            y.detach().cpu().double().numpy(), missing.cpu().numpy(), strict=True
        )
    ]
    return torch.from_numpy(np.asarray(filled)).to(y)


def population_mean(mean: Image) -> Solve:
    """What is missing taken from the mean of other subjects' images, (1, channel, *space)."""

    def solve(operator: LinearOperator, y: Tensor, strength: float) -> Image:
        return torch.where(_missing(operator, y), mean.to(y), y)

    return solve


@dataclass(frozen=True)
class Reconstruction:
    """A classical reconstruction at one strength; call it with the operator and the measurement."""

    name: str
    solve: Solve
    strength: float = 1.0
    grid: tuple[float, ...] = (1.0,)
    """The strengths that `tuned` begins with, rising."""

    def __call__(self, operator: LinearOperator, y: Tensor) -> Image:
        return self.solve(operator, y, self.strength)


ZERO_FILLED = Reconstruction("zero-filled", zero_filled)
MRI = (
    ZERO_FILLED,
    Reconstruction("CG-SENSE", least_squares, 1e-2, (1e-4, 1e-3, 1e-2, 1e-1)),
    Reconstruction("total variation", total_variation, 1e-3, LOG_GRID),
    Reconstruction("l1-wavelet", wavelets, 1e-3, LOG_GRID),
)
CT = (
    Reconstruction("filtered back-projection", back_projection, 1.0, (0.4, 0.6, 0.9)),
    Reconstruction("total variation", positive_total_variation, 1e-4, (3e-5, 1e-4, 3e-4)),
)


def tuned(
    reconstruction: Reconstruction,
    operator: LinearOperator,
    measurement: Tensor,
    clean: Image,
    *,
    region: Tensor | None = None,
) -> Reconstruction:
    """It at the strength of the highest mean PSNR on validation images, where results are judged.

    Shapes: `clean` (batch, channel, *space), real; of complex results the magnitude is judged.
    """
    if len(reconstruction.grid) == 1:
        return replace(reconstruction, strength=reconstruction.grid[0])

    def score(strength: float) -> float:
        estimate = magnitude(reconstruction.solve(operator, measurement, strength), clean)
        return float(psnr(estimate, clean, data_range=1.0, region=region).mean())

    return replace(reconstruction, strength=best_strength(score, reconstruction.grid))


def magnitude(estimate: Image, clean: Image) -> Image:
    """The magnitude of complex estimates; real ones as they are."""
    return (estimate.abs() if estimate.is_complex() else estimate).to(clean)


def _weight(operator: LinearOperator, y: Tensor, strength: float) -> Tensor:
    """`strength` as a share of each image's largest value of A* y, which frees it of units."""
    return strength * operator.adjoint(y).abs().flatten(1).amax(1)


def _missing(operator: LinearOperator, y: Tensor) -> Tensor:
    if not isinstance(operator, Mask):
        raise ValueError(f"holes are filled behind a mask, not behind a {type(operator).__name__}")
    return (operator.mask == 0).to(y.device).expand_as(y)
