"""Where a model's field of view lies in a measured one that is larger.

In the middle, unless the head lies elsewhere: what is outside of the model's field cannot be drawn,
and the samples would be left unexplained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from medidiff.physics import from_kspace
from medidiff.physics.coils import calibration_box
from medidiff.physics.window import centred_on

LITTLE = 1e-3  # of the power, at either side
BACKGROUND = 0.5  # of the mean power along an axis: no signal, or a little beside the head


def offset_of(powers: Sequence[Tensor], size: tuple[int, ...]) -> tuple[int, ...]:
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


def rolled(beside: Mapping[str, Tensor], offset: tuple[int, ...]) -> dict[str, Tensor]:
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
