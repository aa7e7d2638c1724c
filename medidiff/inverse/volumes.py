"""Volumes by priors of slices, and complex images by a prior of magnitudes: Denoise -> Denoise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch

from medidiff.diffusion.levels import Denoise, Estimate, NoiseLevel
from medidiff.types import Image, Tensor

Axis: TypeAlias = int
"""Of space: 0 is the first behind the channels."""


def of_slices(denoise: Denoise, axis: Axis) -> Denoise:
    """A prior of slices on volumes: each slice across `axis` is an image of its own.

    Shapes: volumes (batch, channel, *space); the prior sees (batch * slices, channel, *plane).
    """

    def ask(x: Image, level: NoiseLevel) -> Estimate:
        slices = x.movedim(2 + axis, 1)
        count = slices.shape[1]
        here = denoise(slices.flatten(0, 1), _repeated(level, count))
        return _each(here, lambda part: part.unflatten(0, (-1, count)).movedim(1, 2 + axis))

    return ask


def of_parts(denoise: Denoise) -> Denoise:
    """A prior of one channel on images of several, each an image of its own.

    With `complex_channels` it takes the real and the imaginary part of a complex image separately
    to a prior of magnitudes.
    Source: Chung & Ye 2022 (Score-MRI, arXiv:2110.05243), section on complex-valued images.
    """

    def ask(x: Image, level: NoiseLevel) -> Estimate:
        count = x.shape[1]
        here = denoise(x.flatten(0, 1)[:, None], _repeated(level, count))
        return _each(here, lambda part: part[:, 0].unflatten(0, (-1, count)))

    return ask


def two_planes(
    primary: Denoise, auxiliary: Denoise, levels: Sequence[NoiseLevel], ratio: float
) -> Denoise:
    """Two priors of perpendicular slices in turn: `ratio` steps of the first for one of the second.

    Both are denoisers of volumes (`of_slices`). Which of them is asked depends on the level's place
    on the path alone: it is the second at each place k with floor((k + 1) / (ratio + 1)) above
    floor(k / (ratio + 1)); levels between two of the path belong to the noisier one.
    Source: Lee et al. 2023 (TPDM, arXiv:2303.08440), for two perpendicular priors in turn; the
    ratio may be a fraction, as theirs.
    Errors: ValueError unless ratio > 0.
    """
    if not ratio > 0:
        raise ValueError(f"two planes need a ratio > 0, got {ratio}")
    ratios = torch.stack([level.noise_ratio.max().cpu() for level in levels])

    def ask(x: Image, level: NoiseLevel) -> Estimate:
        passed = int((ratios >= level.noise_ratio.max().cpu() * (1 - 1e-9)).sum())
        place = max(passed - 1, 0)
        second = int((place + 1) / (ratio + 1)) > int(place / (ratio + 1))
        return (auxiliary if second else primary)(x, level)

    return ask


def _each(here: Estimate, change: Callable[[Tensor], Tensor]) -> Estimate:
    spread = None if here.spread is None else change(here.spread)
    return Estimate(change(here.clean), change(here.eps), spread)


def _repeated(level: NoiseLevel, count: int) -> NoiseLevel:
    """An entry for each of `count` images that one of the batch became."""
    if level.t.ndim == 0:
        return level
    return NoiseLevel(*(v.repeat_interleave(count) for v in (level.t, level.alpha, level.sigma)))
