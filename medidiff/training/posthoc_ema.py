"""Averages of the weights whose length is chosen after training.

Karras et al. 2024 (arXiv:2312.02696), section 3 and appendix C:

    average(t) = integral_0^t p(tau) weights(tau) dtau
    p(tau) = (gamma + 1) tau^gamma / t^(gamma + 1)

A power of time forgets the beginning without a scale of its own; its length is told by its relative
standard deviation. A few snapshots of two such averages span, nearly, that of any other length:
`posthoc_coefficients` finds the combination.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


class PowerAveragedWeights:
    """The power-function average of a network's parameters; buffers are the latest.

    Source: Karras et al. 2024 (arXiv:2312.02696), eq. 127 and algorithm 2.
    """

    def __init__(self, network: nn.Module, relative_std: float) -> None:
        self.exponent = power_exponent(relative_std)
        self.network = copy.deepcopy(network).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Take in the weights after optimiser step `step` (1, 2, ...)."""
        kept = power_decay(self.exponent, step)
        averages: list[Tensor] = list(self.network.parameters())
        torch._foreach_lerp_(averages, [value.detach() for value in network.parameters()], 1 - kept)
        for average, buffer in zip(self.network.buffers(), network.buffers(), strict=True):
            average.copy_(buffer)


def power_decay(exponent: float, step: int) -> float:
    """What is kept of the average in step `step`; 0 in the first.

    Source: Karras et al. 2024 (arXiv:2312.02696), eq. 127: (1 - 1/t)^(gamma + 1).
    Errors: ValueError if step < 1.
    """
    if step < 1:
        raise ValueError(f"steps of an average count from 1, got {step}")
    return (1 - 1 / step) ** (exponent + 1)


def power_exponent(relative_std: float) -> float:
    """gamma of the profile whose standard deviation is that part of the training.

    Source: Karras et al. 2024 (arXiv:2312.02696), eqs. 123 and 126, solved by bisection: the
    deviation sqrt((gamma + 1) / (gamma + 3)) / (gamma + 2) falls from 0.2887 at gamma 0.
    Errors: ValueError unless 0 < relative_std < 0.2886.

    >>> round(power_exponent(0.1), 2)
    6.94
    """
    if not 0 < relative_std < 0.2886:
        raise ValueError(f"an average's relative std lies in (0, 0.2886), got {relative_std}")
    low, high = 0.0, 1 / relative_std
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if power_std(middle) > relative_std else (low, middle)
    return (low + high) / 2


def power_std(exponent: float) -> float:
    """The relative standard deviation of a profile. Karras et al. 2024, eq. 123."""
    return math.sqrt((exponent + 1) / (exponent + 3)) / (exponent + 2)


def posthoc_coefficients(
    steps: Sequence[float],
    relative_stds: Sequence[float],
    target_step: float,
    target_std: float,
) -> Tensor:
    """What each snapshot counts in the average of another length: (snapshots,), float64.

    The snapshots were taken after `steps`, of averages of `relative_stds`. The combination's
    profile is nearest to the target's in the mean square over time.
    Source: Karras et al. 2024 (arXiv:2312.02696), algorithm 3.
    Errors: ValueError if the two lists differ in length, are empty, or lie after the target.
    """
    overlaps, wanted, _ = _overlaps(steps, relative_stds, target_step, target_std)
    # snapshots close in time are nearly parallel: least squares by singular values, not a solve
    return torch.linalg.lstsq(overlaps, wanted, driver="gelsd").solution[:, 0]


def profile_error(
    steps: Sequence[float],
    relative_stds: Sequence[float],
    target_step: float,
    target_std: float,
) -> float:
    """How far the combination's profile is from the target's: root mean square over time, relative.

    0 for a snapshot's own profile. Arguments and errors as `posthoc_coefficients`.
    """
    overlaps, wanted, whole = _overlaps(steps, relative_stds, target_step, target_std)
    found = posthoc_coefficients(steps, relative_stds, target_step, target_std)[:, None]
    rest = whole - 2 * found.T @ wanted + found.T @ overlaps @ found
    return math.sqrt(max(0.0, float(rest / whole)))


def combined(snapshots: Sequence[Mapping[str, Tensor]], coefficients: Tensor) -> dict[str, Tensor]:
    """The sum of snapshots times their coefficients, in float64, given in float32 or their dtype.

    What is not floating-point is the last snapshot's.
    Errors: ValueError if the counts differ or the snapshots hold different names.
    """
    if len(snapshots) != len(coefficients) or any(
        each.keys() != snapshots[0].keys() for each in snapshots
    ):
        raise ValueError("one coefficient for each snapshot, and all of one network")
    result = {}
    for name, last in snapshots[-1].items():
        if not last.is_floating_point():
            result[name] = last.clone()
            continue
        total = torch.zeros_like(last, dtype=torch.float64)
        for snapshot, coefficient in zip(snapshots, coefficients.tolist(), strict=True):
            total += coefficient * snapshot[name].double()
        result[name] = total.to(torch.promote_types(last.dtype, torch.float32))
    return result


def _overlaps(
    steps: Sequence[float],
    relative_stds: Sequence[float],
    target_step: float,
    target_std: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The integrals of products of profiles: among snapshots, with the target, of the target."""
    if not steps or len(steps) != len(relative_stds):
        raise ValueError(
            f"{len(steps)} steps and {len(relative_stds)} lengths of averages: need one each"
        )
    if max(steps) > target_step:
        raise ValueError(f"a snapshot of step {max(steps)} is later than step {target_step}")
    time = torch.tensor(steps, dtype=torch.float64)[:, None]
    power = torch.tensor([power_exponent(std) for std in relative_stds], dtype=torch.float64)
    power = power[:, None]
    wanted_time, wanted_power = (
        torch.tensor([[each]], dtype=torch.float64)
        for each in (target_step, power_exponent(target_std))
    )
    return (
        _overlap(time, power, time.T, power.T),
        _overlap(time, power, wanted_time, wanted_power),
        _overlap(wanted_time, wanted_power, wanted_time, wanted_power),
    )


def _overlap(time_a: Tensor, power_a: Tensor, time_b: Tensor, power_b: Tensor) -> Tensor:
    """The integral of the product of two profiles. Karras et al. 2024, eq. 151."""
    shrink = torch.where(
        time_a < time_b, (time_a / time_b) ** power_b, (time_b / time_a) ** power_a
    )
    scale = (power_a + 1) * (power_b + 1) / (power_a + power_b + 1)
    return scale * shrink / torch.maximum(time_a, time_b)
