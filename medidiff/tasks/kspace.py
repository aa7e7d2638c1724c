"""What the samples of k-space tell of themselves: their noise, their pattern, how bright the image
is."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from medidiff.errors import TaskError
from medidiff.evaluation.noise_level import MAD_TO_DEVIATION
from medidiff.physics import from_kspace
from medidiff.physics.coils import calibration_box
from medidiff.physics.masks import is_equispaced
from medidiff.physics.window import centred_on

BRIGHT = 0.99  # this quantile of a low-resolution magnitude lies at the top of the window
OUTER = 0.02  # share of the samples, those farthest out, that the noise level is taken from,
FEWEST = 200  # real numbers: as many samples as give these,
MOST = 0.1  # but no larger a share
ENOUGH = 1_000_000  # values that a quantile is taken from


def noise_level(kspace: Tensor, mask: Tensor) -> float:
    """The standard deviation of the real numbers of the samples farthest from the middle.

    By the median, which what is left of the image there moves little: simulated heads of one coil
    are estimated 4 % too high (a tenth of the samples: 18 %).

    Shapes: kspace (coil, *space), mask (1 or coil, *space).
    Source: Donoho and Johnstone 1994 (doi:10.1093/biomet/81.3.425), section 4, for the median.
    Errors: TaskError where the outermost samples are all 0.
    """
    space = kspace.shape[1:]
    ends = torch.zeros(space, device=kspace.device)
    for axis, n in enumerate(space):
        along = ((torch.arange(n, device=kspace.device) - n // 2).abs() / (n / 2)) ** 2
        ends = ends + along.reshape([-1 if other == axis else 1 for other in range(len(space))])
    seen = mask[0] > 0
    numbers = 2 * len(kspace) * int(seen.sum())
    share = min(max(OUTER, FEWEST / max(numbers, 1)), MOST)
    limit = quantile(ends[seen], 1 - share)
    outer = kspace[:, seen & (ends >= limit.to(ends))]
    values = torch.view_as_real(outer.resolve_conj()).abs().flatten()
    found = float(values.median()) / MAD_TO_DEVIATION
    if not found > 0:
        raise TaskError(
            "the outermost samples of the k-space are 0, so its noise level is not to be seen; "
            "state it with measurement.sigma"
        )
    return found


def kind_of(mask: Tensor, coils: int) -> str:
    """Such as "mri 8 coils R=4, 1-D mask": what is measured, at which acceleration to the nearest
    whole, left out along how many axes, and by which pattern of lines if they are evenly spaced or
    nothing but the middle.

    Shapes: mask (*space), on the CPU.
    """
    seen = mask > 0
    acceleration = seen.numel() / max(int(seen.sum()), 1)
    axes = [axis for axis in range(seen.ndim) if (seen != seen.narrow(axis, 0, 1)).any()]
    box = calibration_box(seen)
    law = "mask"
    if math.prod(box) == int(seen.sum()) and axes:
        law = "middle"
    elif len(axes) == 1:
        line = seen.movedim(axes[0], -1).flatten(0, -2)[0]
        law = "equispaced mask" if is_equispaced(line, box[axes[0]]) else law
    number = f"{coils} {'coil' if coils == 1 else 'coils'}"
    return f"mri {number} R={round(acceleration)}, {len(axes)}-D {law}"


def sampled_middle(mask: Tensor) -> tuple[int, ...]:
    """The fully sampled box in the middle of k-space, voxels along each axis.

    Errors: TaskError where there is none.
    """
    box = calibration_box(mask)
    if min(box) < 1:
        raise TaskError(
            "the middle of the k-space (n // 2 along each axis) was not sampled: there is nothing "
            "to take brightness and phase from. Is zero frequency in the middle?"
        )
    return box


def brightness(kspace: Tensor, boxes: Sequence[tuple[int, ...]], coils: Tensor | None) -> Tensor:
    """The bright end of each magnitude at low resolution, (batch,)."""
    grid = tuple(kspace.shape[2:])
    found = []
    for index, box in enumerate(boxes):
        middle = centred_on(kspace[index, None], box)
        images = from_kspace(centred_on(middle, grid))
        if coils is not None:
            images = (coils[index, None].conj() * images).sum(1, keepdim=True)
        found.append(quantile(images.abs().flatten(), BRIGHT))
    return torch.stack(found)


def quantile(values: Tensor, part: float) -> Tensor:
    """On the CPU; of many values, from some that lie evenly among them."""
    step = max(1, len(values) // ENOUGH)  # torch's own takes 16 million at most
    return torch.quantile(values[::step].float().cpu(), part)
