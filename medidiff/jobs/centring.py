"""Where a model's field of view lies in a measured one that is larger.

In the middle, unless the head lies elsewhere: what is outside of the model's field cannot be drawn,
and the samples would be left unexplained. Where the middle of the signal's power would leave out a
head's narrow end, though the field could hold it, it moves there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medidiff.data.survey import SPECKS
from medidiff.physics import from_kspace
from medidiff.physics.coils import calibration_box
from medidiff.physics.window import centred_on

Offset = tuple[int, ...]
LITTLE = 1e-3  # of the power, at either side
BACKGROUND = 0.5  # of the mean power along an axis: no signal, or a little beside the head


def offset_of(powers: Sequence[Tensor], size: tuple[int, ...]) -> Offset:
    """How far along each axis the middle of the model's field, of `size` voxels, is to lie from
    that of the measured one, by the power of each slice; the same for all of them, 0 where the
    measured field is not larger.

    The signal's middle, as far as the measured field allows: the margins are then alike.
    """
    power = sum(powers)
    assert isinstance(power, Tensor)
    axes = range(power.ndim)
    found = []
    for axis, n in enumerate(size):
        others = [other for other in axes if other != axis]
        found.append(_offset(power.sum(others) if others else power, n))
    return tuple(found)


def holding(there: NDArray[np.bool_], size: tuple[int, ...], offset: tuple[int, ...]) -> Offset:
    """An offset moved along each axis where the model's field would leave out some of what is
    there, (slices, *grid): to the middle of the places that hold the most of it."""
    found = []
    for axis, (n, away) in enumerate(zip(size, offset, strict=True), start=1):
        others = tuple(other for other in range(there.ndim) if other != axis)
        found.append(_holding(there.sum(others), n, away))
    return tuple(found)


def _holding(counts: NDArray[np.integer], n: int, away: int) -> int:
    """Of a window of n voxels, along one axis."""
    length = len(counts)
    if length <= n:
        return away
    sums = np.concatenate([[0], counts.cumsum()])
    held = sums[n:] - sums[:-n]
    middle = n // 2 - length // 2  # of the window that starts at 0
    if held[away - middle] >= (1 - SPECKS) * sums[-1]:
        return away
    best = np.flatnonzero(held == held.max())
    return int(best[len(best) // 2]) + middle


def rolled(beside: Mapping[str, Tensor], offset: Offset) -> dict[str, Tensor]:
    """A measurement as if what lies `offset` from the middle lay in the middle."""
    if not any(offset):
        return dict(beside)
    axes, back = tuple(range(1, 1 + len(offset))), tuple(-away for away in offset)
    made = dict(beside)
    for name in ("coils", "phase"):
        if name in made:
            made[name] = made[name].roll(back, axes)
    for axis, away in zip(axes, offset, strict=True):
        n = made["kspace"].shape[axis]
        turn = 2 * torch.pi * away * (torch.arange(n) - n // 2) / n
        shape = [-1 if a == axis else 1 for a in range(made["kspace"].ndim)]
        made["kspace"] = made["kspace"] * torch.polar(torch.ones(n), turn).view(shape)
    return made


def power_of(kspace: Tensor, mask: Tensor) -> Tensor:
    """Of the image of the fully sampled middle, all coils together, (*space); whole axes where
    there is none."""
    box = calibration_box(mask[0])
    middle = centred_on(kspace[None], box if min(box) > 1 else tuple(mask.shape[1:]))
    images = from_kspace(centred_on(middle, tuple(mask.shape[1:])))
    return images.abs().square().sum((0, 1))


def _offset(power: Tensor, n: int) -> int:
    """Of a window of n voxels, along one axis."""
    length = len(power)
    if length <= n:
        return 0
    signal = (power - BACKGROUND * power.mean()).clamp_min(0).double()
    share = signal.cumsum(0) / signal.sum().clamp_min(1e-30)
    inside = ((share > LITTLE) & (share < 1 - LITTLE)).nonzero()[:, 0]
    middle = (int(inside[0]) + int(inside[-1]) + 1) // 2 if len(inside) else length // 2
    start = min(max(0, middle - n // 2), length - n)
    return start + n // 2 - length // 2
