"""What measured cases are given with: what lies beside each, and the line between the units of the
signal and the model's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medidiff.data.datasets import Case
from medidiff.data.intensity import Scale
from medidiff.errors import TaskError
from medidiff.model import Model


def is_stated(cases: Sequence[Case], name: str) -> bool:
    """Whether it lies beside any of the cases; `stacked` then asks for it of all."""
    return any(name in case.beside for case in cases)


def stacked(cases: Sequence[Case], name: str, model: Model) -> Tensor:
    """What lies beside each case, on the model's device.

    Errors: TaskError for cases without it or of different shapes.
    """
    found = [case.beside[name] for case in cases if name in case.beside]
    if len(found) < len(cases) or len({each.shape for each in found}) > 1:
        raise TaskError(f"the cases of a batch need {name} of one shape each")
    return torch.stack(found).to(model.device)


def scale_of(model: Model, bright: float) -> Scale:
    """The line between signal and model units where `bright` lies at the top of the window.

    Errors: TaskError where nothing is bright.
    """
    if not bright > 0:
        raise TaskError("the measurement holds no signal: there is nothing to take brightness from")
    typical = model.spec.intensity.typical
    gain = typical.high[0] / bright
    return Scale((typical.low[0] / gain,), (typical.high[0] / gain,))


def lines(cases: Sequence[Case]) -> tuple[Tensor, Tensor]:
    """(gain, offset) of each case: model = gain * signal + offset, (batch,) in float64."""
    low, high = (
        torch.tensor([ends[0] for ends in pair], dtype=torch.float64)
        for pair in zip(*((case.scale.low, case.scale.high) for case in cases), strict=True)
    )
    gain = 2 / (high - low)
    return gain, -1 - gain * low
