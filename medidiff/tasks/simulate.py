"""Measurements simulated from clean scans, for benchmarks: never called real.

No inverse crime: what is measured is simulated on a grid twice as fine, the image brought to it by
cubic splines, sinograms with two rays a detector. No Hermitian crime: images have a smooth random
phase. Every draw is keyed by the case.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from medidiff.data.datasets import Case
from medidiff.data.intensity import Scale
from medidiff.diffusion import KeyedNoise
from medidiff.physics import ParallelBeam, Sampling, even_angles, to_kspace
from medidiff.physics.window import centred_on
from medidiff.tasks.radon import plane_spacing, projector_of

FINER = 2
PHASE_KNOTS = 4  # along each axis: phase that a shim leaves
PHASE_SPREAD = 1.0  # radians
COIL_RADIUS = 1.3  # of a ring of coils, in half fields of view


@dataclass(frozen=True)
class SimulatedMRI:
    """k-space of clean images: their phase, coils, sampling and noise."""

    acceleration: float
    centre_fraction: float
    coils: int = 1
    sigma: float = 0.01
    """Noise in the real and in the imaginary part of a sample, in widths of the window."""
    phase: Literal["hidden", "given"] = "hidden"
    """Given, it tells what not knowing it costs."""
    sampling: Literal["gaussian", "equispaced"] = "gaussian"
    """By which law places of k-space are left out: at random, most of them far out, or evenly, as
    parallel imaging does."""

    def __call__(self, cases: Sequence[Case], noise: KeyedNoise) -> list[Case]:
        """Cases with k-space, mask and (for several coils) maps; the signal is the intensity."""
        clean = torch.stack([case.scale.inverse(case.images, axis=0) for case in cases])
        widths = torch.tensor([case.scale.high[0] - case.scale.low[0] for case in cases])
        whole = self.whole(clean, widths, noise)
        space, each = tuple(clean.shape[2:]), range(len(cases))
        masks = [self.mask(space, seed_of(noise.take([index]))) for index in each]
        made = []
        for index, (case, mask) in enumerate(zip(cases, masks, strict=True)):
            beside = {"kspace": whole.kspace[index] * mask, "mask": mask}
            beside["sigma"] = whole.sigma[index]
            if whole.coils is not None:
                beside["coils"] = whole.coils[0]
            made.append(replace(case, images=torch.zeros_like(case.images), beside=beside))
        return made

    def whole(self, clean: Tensor, widths: Tensor, noise: KeyedNoise) -> WholeKspace:
        """Every sample of some images, wherever they lie.

        Shapes: clean (batch, 1, *space), widths of the window (batch,), in units of the signal.
        """
        space, dims = tuple(clean.shape[2:]), clean.ndim - 2
        fine = finer(clean, dims)
        phase = smooth_phase(fine, noise)
        maps = ring_of_coils(self.coils, tuple(fine.shape[2:])).to(fine.device)
        kspace = to_kspace(maps * torch.polar(fine, phase)) * FINER ** (-dims / 2)
        kspace = centred_on(kspace, space)
        sigma = self.sigma * widths
        kspace = kspace + sigma.view(-1, *[1] * (dims + 1)) * _complex(noise, kspace)
        on_grid = (..., *[slice(None, None, FINER)] * dims)
        coils = maps[on_grid] if self.coils > 1 else None
        return WholeKspace(kspace, sigma, phase[on_grid], coils)

    def noisier(self, times: float) -> SimulatedMRI:
        """The same with so many times the noise."""
        return replace(self, sigma=times * self.sigma)

    def mask(self, space: tuple[int, ...], seed: int) -> Tensor:
        """Where samples are kept: (1, *space)."""
        places = Sampling(self.sampling, self.acceleration, self.centre_fraction)
        return places.mask(space, seed)[None]


@dataclass(frozen=True, eq=False)
class WholeKspace:
    """Noisy k-space before any of it is left out, and what is known of it.

    Shapes: kspace (batch, coil, *space); sigma (batch,); phase (batch, 1, *space).
    """

    kspace: Tensor
    sigma: Tensor
    phase: Tensor
    """In radians."""
    coils: Tensor | None
    """(1, coil, *space); None for one coil that sees evenly."""


@dataclass(frozen=True)
class SimulatedRadon:
    """Sinograms of clean images taken for maps of attenuation."""

    views: int
    span: float = 180.0
    photons: float = 1e5
    attenuation: float = 0.02
    """Of the top of the window, 1/mm; its bottom has none."""

    def __call__(self, cases: Sequence[Case], noise: KeyedNoise) -> list[Case]:
        """Cases with sinograms, whose signal is the attenuation.

        Errors: TaskError for cases of other pixels than each other's.
        """
        images = torch.stack([case.images for case in cases])
        fine = finer((images + 1) / 2 * self.attenuation, 2, middle=True)
        angles = even_angles(self.views, self.span)
        high, wide = plane_spacing(cases)
        count = detectors((images.shape[-2] * high, images.shape[-1] * wide))
        beam = ParallelBeam(angles, FINER * count, 1.0 / FINER)
        shape = (fine.shape[-2], fine.shape[-1])
        integrals = projector_of(beam, shape, (high / FINER, wide / FINER)).forward(fine)
        pairs = integrals.unflatten(-1, (-1, FINER)).exp().reciprocal().mean(-1)
        expected = self.photons * pairs
        counted = (expected + expected.sqrt() * noise(expected, 0, draw=1)).clamp_min(1.0)
        sinogram = (self.photons / counted).log()
        return [
            replace(
                case,
                images=torch.zeros_like(case.images),
                scale=Scale((0.0,), (self.attenuation,)),
                beside={"sinogram": values, "angles": torch.tensor(angles, dtype=torch.float64)},
            )
            for case, values in zip(cases, sinogram, strict=True)
        ]

    def noisier(self, times: float) -> SimulatedRadon:
        """The same with so many times the noise where rays meet little."""
        return replace(self, photons=self.photons / times**2)


def detectors(sides_mm: tuple[float, float]) -> int:
    """Detectors 1 mm apart that see the whole of a picture from every side."""
    return math.ceil(math.hypot(*sides_mm)) + 2


def finer(images: Tensor, axes: int, middle: bool = False) -> Tensor:
    """Images on a grid twice as fine along the last axes, by cubic splines through the voxels.

    Voxel i lies on voxel 2 i, so that for an even n the voxels in the middle, n // 2, lie on each
    other, or with `middle` both grids have the same middle; beyond the last voxel comes the first.
    """
    values = images.double()
    for axis in range(images.ndim - axes, images.ndim):
        values = _along(values, axis, _twice(images.shape[axis], middle))
    return values.float()


def smooth_phase(like: Tensor, noise: KeyedNoise) -> Tensor:
    """A phase in radians that varies over the whole field of view: (batch, 1, *space)."""
    space = like.shape[2:]
    shape = (len(like), 1, *[PHASE_KNOTS] * len(space))
    phase = noise(torch.zeros(shape, device=like.device), 0, draw=2).double()
    for axis, n in enumerate(space, start=2):
        phase = _along(phase, axis, _between_knots(n))
    return PHASE_SPREAD * phase.to(like)


def _along(values: Tensor, axis: int, matrix: Tensor) -> Tensor:
    """What a matrix (to, from) makes of one axis."""
    return (values.movedim(axis, -1) @ matrix.T.to(values)).movedim(-1, axis)


@cache
def _twice(n: int, middle: bool) -> Tensor:
    """(2 n, n): what the splines make of each voxel."""
    from scipy import ndimage

    begin: Any = [(1 / FINER - 1) / 2 if middle else 0.0, 0.0]
    steps, shape = np.array([1 / FINER, 1.0]), (FINER * n, n)
    found = ndimage.affine_transform(
        np.eye(n), steps, begin, output_shape=shape, order=3, mode="grid-wrap"
    )
    return torch.from_numpy(found)


@cache
def _between_knots(n: int) -> Tensor:
    """(n, knots): cubic splines along one axis, level beyond the outermost knots."""
    from scipy import ndimage

    knots, zoom = np.eye(PHASE_KNOTS), (n / PHASE_KNOTS, 1)
    return torch.from_numpy(ndimage.zoom(knots, zoom, order=3, mode="nearest", grid_mode=True))


@cache
def ring_of_coils(count: int, space: tuple[int, ...]) -> Tensor:
    """(1, coil, *space) sensitivities of loops around the last two axes, their squares summing to
    1; one coil sees evenly. Each falls off with the distance to its loop, with the phase of the
    direction to it."""
    if count == 1:
        return torch.ones((1, 1, *space), dtype=torch.complex64)
    grid = [torch.linspace(-1, 1, n, dtype=torch.float64) for n in space]
    places = torch.meshgrid(*grid, indexing="ij")
    rows, columns = places[-2], places[-1]
    maps = []
    for coil in range(count):
        angle = 2 * math.pi * coil / count
        down = rows - COIL_RADIUS * math.sin(angle)
        across = columns - COIL_RADIUS * math.cos(angle)
        distance = torch.hypot(down, across)
        maps.append(torch.polar(1 / distance, torch.atan2(down, across)))
    stacked = torch.stack(maps)
    total = stacked.abs().square().sum(0).sqrt()
    return (stacked / total)[None].to(torch.complex64)


def seed_of(noise: KeyedNoise) -> int:
    """A seed for one member's mask."""
    return int(noise(torch.zeros(1, 1, 1), 0, draw=3).abs() * 2**24)


def _complex(noise: KeyedNoise, like: Tensor) -> Tensor:
    real = noise(like.real.contiguous(), 0, draw=0)
    return torch.complex(real, noise(like.real.contiguous(), 0, draw=1))
