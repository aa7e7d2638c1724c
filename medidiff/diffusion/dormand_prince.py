"""An adaptive Runge-Kutta pair of order 5(4), in torch, for a batch of independent states.

Dormand & Prince 1980 ("A family of embedded Runge-Kutta formulae", J. Comp. Appl. Math. 6); the
control of the step is that of Hairer, Norsett & Wanner, "Solving ordinary differential equations I"
(1993), section II.4, with the constants of scipy's RK45.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch

from medidiff.types import Tensor

Slope: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""(elapsed (batch,), y (batch, n)) -> dy / d elapsed (batch, n)."""

_NODES = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0)
_STAGES = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
)
_HIGH = (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84)
# fifth minus fourth order; the seventh slope is the first one of the next step
_ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
_SAFETY, _SHRINK, _GROW, _POWER = 0.9, 0.2, 10.0, 1 / 5
_FEWEST = 10 * torch.finfo(torch.float64).eps


@dataclass(frozen=True)
class ErrorControl:
    """How large an adaptive step may be."""

    relative: float = 1e-5
    """Allowed error of a step relative to the state."""
    absolute: float = 1e-5
    """Allowed error of a step where the state is near 0."""
    over: Literal["sample", "batch"] = "sample"
    """Whose root mean square decides: each image's own, so that a batch equals its members, or the
    whole batch's with one step for all, as in scipy and the authors' code."""

    def __post_init__(self) -> None:
        if not (self.relative > 0 and self.absolute > 0):
            raise ValueError(
                f"error control needs tolerances > 0, got {self.relative}, {self.absolute}"
            )


def integrate(slope: Slope, y: Tensor, length: Tensor, control: ErrorControl) -> Tensor:
    """y after `length`, with steps chosen by the estimated error.

    Shapes: y (batch, n), length (batch,) float64 and >= 0 on y's device; each image has its own
    clock, and one that has arrived waits with steps of 0.
    Errors: ArithmeticError if a step would fall below what float64 resolves.
    """
    elapsed, first = torch.zeros_like(length), slope(torch.zeros_like(length), y)
    step = _first_step(slope, y, first, length, control)
    rejected = torch.zeros_like(length, dtype=torch.bool)
    while bool((elapsed < length).any()):
        step = torch.minimum(step, length - elapsed)
        if bool((~(step >= _FEWEST * length) & (elapsed < length - _FEWEST * length)).any()):
            raise ArithmeticError(
                "the adaptive step has become too small: the equation is stiff here or the model "
                "is not finite; loosen the tolerances or use a fixed sampler"
            )
        proposed, last, error = _attempt(slope, y, first, elapsed, step)
        size = control.absolute + torch.maximum(y.abs(), proposed.abs()) * control.relative
        found = _rms(error / size, control)
        accepted = found < 1
        gain = (_SAFETY * found**-_POWER).clamp(_SHRINK, _GROW)
        gain = torch.where(found.isnan(), _SHRINK, gain)
        gain = torch.where(rejected, gain.clamp_max(1.0), gain)
        column = accepted[:, None]
        y, first = torch.where(column, proposed, y), torch.where(column, last, first)
        elapsed = torch.where(accepted, elapsed + step, elapsed)
        step, rejected = step * gain, ~accepted
        # what is left over by rounding is no step of its own
        elapsed = torch.where(length - elapsed <= _FEWEST * length, length, elapsed)
    return y


def _attempt(
    slope: Slope, y: Tensor, first: Tensor, elapsed: Tensor, step: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The state after `step`, the slope there, and the estimated error."""
    wide = step.to(y.dtype)[:, None]
    slopes = [first]
    for node, row in zip(_NODES[1:], _STAGES[1:], strict=True):
        slopes.append(slope(elapsed + node * step, y + wide * _sum(row, slopes)))
    proposed = y + wide * _sum(_HIGH, slopes)
    slopes.append(slope(elapsed + step, proposed))
    return proposed, slopes[-1], wide * _sum(_ERROR, slopes)


def _sum(weights: tuple[float, ...], slopes: list[Tensor]) -> Tensor:
    total = torch.zeros_like(slopes[0])
    for weight, each in zip(weights, slopes, strict=True):
        if weight:
            total = total + weight * each
    return total


def _first_step(
    slope: Slope, y: Tensor, first: Tensor, length: Tensor, control: ErrorControl
) -> Tensor:
    """Hairer, Norsett & Wanner 1993, section II.4, "Starting step size"."""
    size = control.absolute + y.abs() * control.relative
    of_y, of_slope = _rms(y / size, control), _rms(first / size, control)
    small = (of_y < 1e-5) | (of_slope < 1e-5)
    guess = torch.minimum(torch.where(small, 1e-6, 0.01 * of_y / of_slope), length)
    there = slope(guess, y + guess.to(y.dtype)[:, None] * first)
    bend = _rms((there - first) / size, control) / guess.clamp_min(_FEWEST)
    steepest = torch.maximum(of_slope, bend)
    second = torch.where(
        steepest <= 1e-15, (guess * 1e-3).clamp_min(1e-6), (0.01 / steepest) ** _POWER
    )
    return torch.minimum(torch.minimum(100 * guess, second), length)


def _rms(field: Tensor, control: ErrorControl) -> Tensor:
    """(batch,) float64, without a gradient: the size of a step is not differentiated."""
    square = field.detach().double().square().mean(1)
    if control.over == "batch":
        square = square.mean().expand_as(square)
    return square.sqrt()
