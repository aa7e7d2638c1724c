"""Super-resolution: the scan on a grid some times finer, drawn from the prior given its averages.

The input has voxels `factor` times as large as the model's; the result lies on the input's own grid
with each voxel cut into `factor` along each axis, whose affine says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medidiff.data.datasets import Case
from medidiff.data.images import Original
from medidiff.diffusion import KeyedNoise
from medidiff.errors import TaskError
from medidiff.evaluation.classical_inverse import CUBICS, bicubic
from medidiff.model import Model
from medidiff.physics import BlockAverage, LinearOperator
from medidiff.physics.window import Window
from medidiff.tasks.base import (
    Bench,
    Benchmarked,
    Measurement,
    Needs,
    Problem,
    Solution,
    Target,
    stack,
)
from medidiff.tasks.defaults import Posterior
from medidiff.tasks.measured import check_image_space, solved
from medidiff.tasks.restoration import RESTORATION_METRICS, WINDOW
from medidiff.tasks.settings import Rival, Setting, judged


@dataclass(frozen=True)
class SuperResolution:
    """Bring a scan with large voxels onto the model's grid."""

    kind: Literal["super_resolution"] = "super_resolution"
    factor: int | tuple[int, ...] = 4
    """How many of the model's voxels lie along an input voxel, one number or one an axis of the
    model's grid; slices that a model of slices takes one by one stay as thick as they are."""
    sigma: float = 0.002
    """Standard deviation of the input's noise in window widths; 8 bits alone leave .001."""
    posterior: Posterior | None = None
    """How samples are drawn; None: as validation subjects said."""
    result: Literal["all", "mean", "sample"] = "all"
    """The image with every sample, the image alone, or one sample in its place; maps come with
    n > 1."""

    def __post_init__(self) -> None:
        factors = (self.factor,) if isinstance(self.factor, int) else self.factor
        if min(factors) < 1 or max(factors) < 2:
            raise ValueError(f"factor must be at least 2 along some axis, not {self.factor}")
        if not 0 < self.sigma < 10:
            raise ValueError("sigma must lie between 0 and 10 window widths")

    def needs(self) -> Needs:
        return Needs(coarser=self.factor)

    def prepare(self, cases: Sequence[Case], model: Model) -> Problem:
        """Cases on the coarse grid, with the fine one that their results lie on.

        Errors: TaskError for a model behind a codec, and for cases on another grid.
        """
        check_image_space(model, "super-resolution")
        size = model.spec.space.size
        factor = factors(self.factor, len(size), axes_of(model))
        seen = coarse_size(size, factor)
        coarse = stack(cases, model)
        if tuple(coarse.shape[2:]) != seen:
            raise TaskError(
                f"an input of {tuple(coarse.shape[2:])} voxels is not the model's grid {size} "
                f"made {factor} times coarser"
            )
        measurement = Measurement(
            lambda members: operator(factor, size),
            coarse,
            torch.full((len(cases),), WINDOW * self.sigma, dtype=torch.float64),
            torch.full((len(cases),), float(coarse[0].numel()), dtype=torch.float64),
            ("super-resolution x" + "x".join(map(str, factor)),) * len(cases),
        )
        blank = torch.zeros((*coarse.shape[:2], *size), dtype=coarse.dtype, device=coarse.device)
        fine = tuple(refined(case, factor) for case in cases)
        return Problem(blank, fine, (self.sigma,) * len(cases), measurement=measurement)

    def solve(self, problem: Problem, model: Model, n: int, seed: int) -> Solution:
        """Posterior samples on the model's grid."""
        return solved(self, problem, model, n, seed)

    def baselines(self) -> tuple[str, ...]:
        return ("bicubic",)

    def metrics(self) -> Mapping[str, str]:
        return RESTORATION_METRICS

    def benchmark(self, bench: Bench) -> Benchmarked:
        """Test scans averaged over blocks, with this head's noise."""
        return judged(self.settings_of(bench), bench)

    def settings_of(self, bench: Bench) -> list[Setting]:
        """The one that its factor says."""
        factor = factors(self.factor, bench.model.spec.space.dims)
        name = "x".join(map(str, sorted(set(factor))))
        rivals = (Rival("bicubic", interpolated, CUBICS),)
        targets = (Target(f"x{name}", ("bicubic",), 2.0),)
        return [Setting(f"x{name}", self, self.simulate, rivals, targets)]

    def simulate(self, cases: Sequence[Case], noise: KeyedNoise) -> list[Case]:
        """Clean cases as a scanner with larger voxels sees them."""
        images = torch.stack([case.images for case in cases])
        size = tuple(images.shape[2:])
        factor = factors(self.factor, len(size))
        coarse = operator(factor, size).forward(images)
        coarse = coarse + WINDOW * self.sigma * noise(coarse, 0)
        return [coarsened(case, image, factor) for case, image in zip(cases, coarse, strict=True)]


def interpolated(problem: Problem, strength: float) -> Tensor:
    """Cubic interpolation of some sharpness; behind the last whole block the last voxel goes on."""
    assert problem.measurement is not None
    whole = problem.measurement.operator([0])
    blocks = whole.operator if isinstance(whole, Window) else whole
    fine = bicubic(blocks, problem.measurement.values, strength)
    for axis, n in enumerate(problem.given.shape[2:], start=2):
        places = torch.arange(n, device=fine.device).clamp_max(fine.shape[axis] - 1)
        fine = fine.index_select(axis, places)
    return fine


def coarsened(case: Case, image: Tensor, factor: tuple[int, ...]) -> Case:
    """The case with an image on the grid `factor` times coarser, as if it had come on that."""
    affine = coarser_affine(case.affine, factor)
    came = Original(
        tuple(image.shape[1:]), affine, True, case.original.modality, case.original.background
    )
    return replace(case, images=image, affine=affine, original=came)


def axes_of(model: Model) -> int:
    """Along how many axes the model makes voxels finer: of a volume whose slices it takes one by
    one, not across them."""
    return model.spec.space.dims - (len(model.reach.slices) == 1)


def factors(factor: int | tuple[int, ...], dims: int, finer: int | None = None) -> tuple[int, ...]:
    """One factor an axis, 1 behind the first `finer` of them where none are stated.

    Errors: TaskError for another number of them than axes.
    """
    axes = dims if finer is None else finer
    stated = (factor,) * axes if isinstance(factor, int) else factor
    found = (*stated, *[1] * (dims - axes)) if len(stated) == axes else stated
    if len(found) != dims:
        raise TaskError(f"factor has one number, or one for each of {axes} axes, not {factor}")
    return found


def coarse_size(size: tuple[int, ...], factor: tuple[int, ...]) -> tuple[int, ...]:
    """How many whole blocks of `factor` voxels lie along each axis of a grid.

    Errors: TaskError where there is none.
    """
    found = tuple(n // f for n, f in zip(size, factor, strict=True))
    if min(found) < 1:
        raise TaskError(
            f"a factor of {' x '.join(map(str, factor))} leaves nothing of the model's grid of "
            f"{' x '.join(map(str, size))} voxels; give a smaller one"
        )
    return found


def operator(factor: tuple[int, ...], size: tuple[int, ...]) -> LinearOperator:
    """The averages of whole blocks; voxels behind the last whole block are not seen.

    Errors: TaskError for blocks that are larger than the image.
    """
    box = tuple(n * f for n, f in zip(coarse_size(size, factor), factor, strict=True))
    blocks = BlockAverage(factor)
    return blocks if box == size else Window(blocks, size, box)


def refined(case: Case, factor: tuple[int, ...]) -> Case:
    """The case with its grids `factor` times finer: the model's, and that of its results."""
    grid, original = case.affine, case.original
    here = _in_input_order(case, factor)
    shape = tuple(n * f for n, f in zip(original.shape, here, strict=True))
    finer = Original(
        shape,
        finer_affine(original.affine, here),
        original.known,
        original.modality,
        original.background,
        original.sized,
    )
    return replace(case, affine=finer_affine(grid, factor), original=finer)


def finer_affine(affine: NDArray[np.float64], factor: tuple[int, ...]) -> NDArray[np.float64]:
    """The affine of the grid whose voxels fill each voxel of a grid, `factor` along each axis."""
    step = np.eye(4)
    for axis, f in enumerate(factor):
        step[axis, axis] = 1 / f
        step[axis, 3] = (1 / f - 1) / 2  # the first of f voxels lies that far before the middle
    return affine @ step


def coarser_affine(affine: NDArray[np.float64], factor: tuple[int, ...]) -> NDArray[np.float64]:
    """The affine of the grid of blocks of `factor` voxels: undoes `finer_affine`."""
    step = np.eye(4)
    for axis, f in enumerate(factor):
        step[axis, axis] = f
        step[axis, 3] = (f - 1) / 2
    return affine @ step


def _in_input_order(case: Case, factor: tuple[int, ...]) -> tuple[int, ...]:
    """The factors along the axes of the input, which may lie otherwise than the model's."""
    dims = len(factor)
    between = np.abs(np.linalg.inv(case.original.affine[:3, :3]) @ case.affine[:3, :3])
    turns = between[:dims, :dims] / np.linalg.norm(case.affine[:3, :3], axis=0)[:dims]
    return tuple(factor[int(row.argmax())] for row in turns)
