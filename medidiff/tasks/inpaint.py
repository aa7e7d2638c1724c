"""Inpainting: what is missing from a scan, drawn from the prior given what is there.

Where the scan is noise-free the result is the scan itself outside of the hole, voxel by voxel on
the input's grid, and the samples differ inside the hole alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from medidiff.data.datasets import Case, inside, restore
from medidiff.diffusion import KeyedNoise
from medidiff.diffusion.noise import uniforms
from medidiff.errors import TaskError
from medidiff.evaluation.classical_inverse import Solve, biharmonic, population_mean
from medidiff.evaluation.regions import head_region
from medidiff.model import Model
from medidiff.physics import Mask
from medidiff.tasks.base import (
    Bench,
    Benchmarked,
    Filled,
    Measurement,
    Needs,
    Problem,
    Solution,
    Target,
    noise_key,
    stack,
)
from medidiff.tasks.defaults import Posterior
from medidiff.tasks.measured import check_image_space, solved
from medidiff.tasks.restoration import RESTORATION_METRICS, WINDOW
from medidiff.tasks.settings import Rival, Setting, judged
from medidiff.warned import warn

QUANTISED = 1e-3  # of the window: what 8 bits leave unknown; less is no use to a sampler
LARGEST_HOLE = 40  # voxels along each axis of a hole that is not stated
MOST = 0.5  # of a scan that is missing: masks of what is there look like that
SHARE = 4  # and at most this part of the grid


@dataclass(frozen=True)
class Inpainting:
    """Fill in the part of a scan that a mask names."""

    kind: Literal["inpaint"] = "inpaint"
    hole: tuple[int, ...] | None = None
    """Without a mask: voxels along each axis of the model's grid of a box that lies somewhere in
    the head, the same place for the same scan; None is 40, or a quarter of the grid where that is
    less."""
    sigma: float = 0.0
    """Standard deviation of the noise of what is there, in window widths; above 0 it is removed."""
    posterior: Posterior | None = None
    """How samples are drawn; None: as validation subjects said."""
    result: Literal["all", "mean", "sample"] = "all"
    """The image with every sample, the image alone, or one sample in its place; maps come with
    n > 1."""

    def __post_init__(self) -> None:
        if not 0 <= self.sigma < 10:
            raise ValueError("sigma must lie between 0 and 10 window widths")
        if self.hole is not None and (not self.hole or min(self.hole) < 1):
            raise ValueError(f"hole has positive numbers of voxels, not {self.hole}")

    def needs(self) -> Needs:
        return Needs(beside=("mask",), around="background" if self.sigma else "scan")

    def prepare(self, cases: Sequence[Case], model: Model) -> Problem:
        """Cases with what is known of each; the mask beside a case is 1 where it is missing.

        Errors: TaskError for a model behind a codec, for a hole of other dims than the grid.
        """
        check_image_space(model, "inpainting")
        if self.hole is None and any("mask" not in case.beside for case in cases):
            warn(
                "no mask says what is missing: a box somewhere in the head is filled in, as a "
                "test; give the part to fill with mask=FILE (not 0 where the scan is missing), or "
                "the size of a box to test with hole",
                stacklevel=2,
            )
        given = stack(cases, model)
        holes = torch.stack([self._hole(case) for case in cases]).to(given.device)
        _check_known(cases, holes)
        known = (~holes).to(given.dtype)
        spread = self.sigma or QUANTISED
        measurement = Measurement(
            lambda members: Mask(known[[*members]]),
            known * given,
            torch.full((len(cases),), WINDOW * spread, dtype=torch.float64),
            known.expand_as(given).flatten(1).sum(1).cpu().double(),
            tuple(f"inpaint, {_missing(hole):g} % missing" for hole in holes),
        )
        levels = (self.sigma,) * len(cases)
        return Problem(given, tuple(cases), levels, measurement=measurement)

    def solve(self, problem: Problem, model: Model, n: int, seed: int) -> Solution:
        """The hole filled, the rest as it is; with noise, all of it cleaned."""
        found = solved(self, problem, model, n, seed)
        if self.sigma:
            return found
        hole, samples = hole_of(problem), found.samples
        inside = hole.cpu()
        return replace(
            found,
            point=torch.where(hole, found.point, problem.given),
            samples=None if samples is None else samples.where(inside, problem.given.cpu()),
            filled=tuple(map(filled_in, problem.cases, inside)),
        )

    def baselines(self) -> tuple[str, ...]:
        return ("population mean", "biharmonic")

    def metrics(self) -> Mapping[str, str]:
        return {
            "psnr_region": "dB, in the hole, data range = the intensity window; higher",
            **RESTORATION_METRICS,
        }

    def benchmark(self, bench: Bench) -> Benchmarked:
        """A hole in each test scan, somewhere in the head."""
        return judged(self.settings_of(bench), bench)

    def settings_of(self, bench: Bench) -> list[Setting]:
        """The one that its hole says."""
        setting = Setting(
            f"hole {'x'.join(map(str, self._size(bench.test[0])))}",
            self,
            self.simulate,
            (Rival("population mean", mean_of(bench)), Rival("biharmonic", smoothest)),
            region=hole_of,
        )
        names = ("population mean", "biharmonic")
        target = Target(setting.name, names, 0.0, "psnr_region")
        return [replace(setting, targets=(target,))]

    def simulate(self, cases: Sequence[Case], noise: KeyedNoise) -> list[Case]:
        """Clean cases with the hole's content taken out, and noise where this head expects some."""
        images = torch.stack([case.images for case in cases])
        noisy = images + WINDOW * self.sigma * noise(images, 0)
        holes = [drawn_hole(case, self._size(case)) for case in cases]
        return [
            replace(case, images=image.masked_fill(hole, 0.0), beside={"mask": hole})
            for case, image, hole in zip(cases, noisy, holes, strict=True)
        ]

    def _hole(self, case: Case) -> Tensor:
        """(1, *space), true where the scan is missing."""
        mask = case.beside.get("mask")
        if mask is not None:
            return mask.reshape(1, *case.images.shape[1:]) > 0
        return drawn_hole(case, self._size(case))

    def _size(self, case: Case) -> tuple[int, ...]:
        space = case.images.shape[1:]
        size = self.hole or tuple(min(LARGEST_HOLE, max(1, n // SHARE)) for n in space)
        if len(size) != len(space) or any(h >= n for h, n in zip(size, space, strict=True)):
            raise TaskError(f"a hole of {size} voxels does not lie in a grid of {tuple(space)}")
        return size


def _check_known(cases: Sequence[Case], holes: Tensor) -> None:
    """Errors: TaskError for a mask that leaves nothing; most of a scan missing is warned of."""
    given = [(case, hole) for case, hole in zip(cases, holes, strict=True) if "mask" in case.beside]
    # on the scan's own grid: around a small scan the model's holds more, which is no part of it
    largest = max((_share(case.beside.get("hole", hole)) for case, hole in given), default=0.0)
    if largest == 1 or any(_share(hole) == 1 for _, hole in given):
        raise TaskError(
            "the mask names all of the scan as missing, and nothing is left to fill it in from: "
            "it is not 0 where the scan is missing, 0 where it is there"
        )
    if largest > MOST:
        warn(
            f"the mask names {largest:.0%} of the scan as missing: it is not 0 where the scan is "
            "missing. If it is the other way round, give 1 - mask",
            stacklevel=4,
        )


def _share(hole: Tensor) -> float:
    return float(hole.double().mean())


def hole_of(problem: Problem) -> Tensor:
    """(batch, 1, *space), true in the holes."""
    assert problem.measurement is not None
    whole = torch.ones_like(problem.given[:, :1])
    return problem.measurement.operator(range(len(problem.cases))).forward(whole) == 0


def mean_of(bench: Bench) -> Callable[[Problem, float], Tensor]:
    """The mean of the validation scans in the holes."""
    fill = population_mean(torch.stack([case.images for case in bench.validation]).mean(0)[None])
    return lambda problem, strength: _filled(fill, problem, strength)


def smoothest(problem: Problem, strength: float) -> Tensor:
    """The biharmonic surface in the holes."""
    return _filled(biharmonic, problem, strength)


def _filled(solve: Solve, problem: Problem, strength: float) -> Tensor:
    assert problem.measurement is not None
    operator = problem.measurement.operator(range(len(problem.cases)))
    return solve(operator, problem.measurement.values, strength)


def filled_in(case: Case, hole: Tensor) -> Filled | None:
    """What stays of the input: all of it but the part of its hole that the model sees; None where
    the case does not hold its scan. `hole` is (channel, *space) on the model's grid."""
    scan = case.beside.get("scan")
    if scan is None:
        return None
    given = case.beside.get("hole")
    back = restore(case, hole[:1].float(), "label")[0][0] if given is None else given.numpy()
    return Filled(scan.numpy(), (back > 0) & inside(case))


def _missing(hole: Tensor) -> float:
    """Per cent of the voxels, to one digit."""
    return float(f"{100 * float(hole.double().mean()):.1g}")


def drawn_hole(case: Case, size: tuple[int, ...]) -> Tensor:
    """(1, *space): a box around a voxel of the head, the same one for the same case."""
    try:
        inside = head_region(case.images[None])[0, 0].nonzero()
    except ValueError:  # of a constant image
        raise TaskError(
            "nothing is seen in this image to put a hole in: give it (mask=...)"
        ) from None
    chance = float(uniforms(0, [("hole", noise_key(case))])[0, 0])
    centre = inside[int(chance * len(inside))].tolist()
    hole = torch.zeros(1, *case.images.shape[1:], dtype=torch.bool)
    box = [slice(None)]
    for middle, length, n in zip(centre, size, hole.shape[1:], strict=True):
        first = min(max(middle - length // 2, 0), n - length)
        box.append(slice(first, first + length))
    hole[tuple(box)] = True
    return hole
