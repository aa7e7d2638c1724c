"""Which steps of a table of N are visited: the spacings of discrete processes.

    rule(table, steps) -> steps numbers out of 1 .. table, rising; DDPM's index is one less

A respaced process is two levels of the whole one, so nothing is re-derived. On a schedule without
steps the numbers are those of `table` equal parts of its time; from an intermediate start, those of
the part of the table below it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch

from medidiff.diffusion.levels import NoiseLevel
from medidiff.diffusion.schedules import Discrete, Schedule
from medidiff.types import Tensor

TABLE = 1000
"""Steps of the table that stands for a schedule without one."""

Rule: TypeAlias = Callable[[int, int], list[int]]
"""(table, steps) -> the steps visited, rising, within 1 .. table."""


def leading_steps(table: int, steps: int) -> list[int]:
    """1, 1 + d, 1 + 2 d, ... with d = table // steps: ends below the noisiest level.

    Source: Song, Meng & Ermon 2021 (arXiv:2010.02502), appendix D.3 (linear); Lin et al. 2024
    (arXiv:2305.08891), table 2, for the name.
    """
    return [1 + index * (table // steps) for index in range(steps)]


def raised_leading_steps(table: int, steps: int) -> list[int]:
    """`leading_steps` with its last visit, step 1, moved up to the middle of its stride.

    The hop from step 1 + d to step 1 is the longest of all in log-SNR, 3.4 times as long as the one
    before it for 50 of 1000 steps: multistep methods extrapolate too far over it, and noise that a
    sampler leaves before it is too much for the plain denoise after it. Half a stride divides it.
    """
    return [1 + (table // steps) // 2, *leading_steps(table, steps)[1:]]


def trailing_steps(table: int, steps: int) -> list[int]:
    """table, table - table / steps, ..., rounded. Lin et al. 2024 (arXiv:2305.08891), table 2."""
    return [round(table - (steps - 1 - index) * table / steps) for index in range(steps)]


def linspace_steps(table: int, steps: int) -> list[int]:
    """Both ends and equal parts between them, rounded (half to even); one step is the last.

    Source: Bao et al. 2022 (arXiv:2201.06503), appendix G (even trajectory).
    """
    if steps == 1:
        return [table]
    return [round(1 + index * (table - 1) / (steps - 1)) for index in range(steps)]


def quadratic_steps(table: int, steps: int) -> list[int]:
    """Squares up to 0.8 of the table, crowding at the clean end; small ones repeat if many.

    Source: Song, Meng & Ermon 2021 (arXiv:2010.02502), appendix D.3 (quadratic).
    """
    top = math.sqrt(0.8 * table)
    if steps == 1:
        return [int(top**2) + 1]
    # torch's linspace and not index * top / (steps - 1): the last bit decides what int() gives
    roots = torch.linspace(0, top, steps, dtype=torch.float64).tolist()
    return [int(root**2) + 1 for root in roots]


def power_steps(table: int, steps: int, power: float) -> list[int]:
    """(1 - u)^(1 / power) in equal parts u, turned round: crowding at the clean end for power > 1.

    Source: Bao et al. 2022 (arXiv:2201.06503), their code's "power" trajectory.
    """
    if steps == 1:
        return [table]
    parts = [1 - (1 - index / (steps - 1)) ** (1 / power) for index in range(steps)]
    return [round(1 + (table - 1) * part) for part in parts]


def strided_steps(table: int, steps: int) -> list[int]:
    """1, 1 + d, 1 + 2 d, ... with the smallest d that gives exactly so many: iDDPM's "ddimN".

    Source: Nichol & Dhariwal 2021 (arXiv:2102.09672), their code.
    Errors: ValueError if no whole stride gives that count.
    """
    for stride in range(1, table + 1):
        if len(range(0, table, stride)) == steps:
            return [1 + index for index in range(0, table, stride)]
    raise ValueError(f"no whole stride takes {steps} steps out of {table}; use 'respaced-steps'")


def respaced_steps(table: int, sections: tuple[int, ...]) -> list[int]:
    """The table cut in equal sections, each visited in so many rounded equal steps.

    Source: Nichol & Dhariwal 2021 (arXiv:2102.09672), section 4; their code rounds half to even,
    and a section of one step visits its first.
    Errors: ValueError if a section asks for more steps than it has.
    """
    size, longer = divmod(table, len(sections))
    chosen, first = [], 0
    for index, count in enumerate(sections):
        length = size + (index < longer)
        if not 1 <= count <= length:
            raise ValueError(f"section {index} of {length} steps cannot be visited in {count}")
        stride = (length - 1) / (count - 1) if count > 1 else 1.0
        place = 0.0
        for _ in range(count):
            chosen.append(1 + first + round(place))
            place += stride
        first += length
    return chosen


@dataclass(frozen=True)
class LeadingSteps:
    """Equal strides from the clean end; the noisiest level is left out. DDIM's linear spacing.

    Source: Song, Meng & Ermon 2021 (arXiv:2010.02502), appendix D.3.
    Differs: by default the last level is not step 1 (see `raised_leading_steps`).
    """

    kind: Literal["leading-steps"] = "leading-steps"
    last: Literal["half-stride", "first-step"] = "half-stride"
    """The last noisy level: the middle of the first stride, or step 1 as the authors have it."""

    def times(self, schedule: Schedule, steps: int, start: NoiseLevel) -> list[Tensor]:
        """The times of `raised_leading_steps`, or of `leading_steps`."""
        rule = leading_steps if self.last == "first-step" else raised_leading_steps
        return _times(rule, schedule, steps, start)


@dataclass(frozen=True)
class TrailingSteps:
    """Equal strides down from the last step, rounded. Lin et al. 2024 (arXiv:2305.08891)."""

    kind: Literal["trailing-steps"] = "trailing-steps"

    def times(self, schedule: Schedule, steps: int, start: NoiseLevel) -> list[Tensor]:
        """The times of `trailing_steps`."""
        return _times(trailing_steps, schedule, steps, start)


@dataclass(frozen=True)
class LinspaceSteps:
    """Both ends of the table and equal parts between them. Bao et al. 2022 (arXiv:2201.06503)."""

    kind: Literal["linspace-steps"] = "linspace-steps"

    def times(self, schedule: Schedule, steps: int, start: NoiseLevel) -> list[Tensor]:
        """The times of `linspace_steps`."""
        return _times(linspace_steps, schedule, steps, start)


@dataclass(frozen=True)
class QuadraticSteps:
    """Squares, up to 0.8 of the table. Song, Meng & Ermon 2021 (arXiv:2010.02502), appendix D.3.

    Differs: steps that the authors' code would visit twice (from some 60 of 1000 on) are moved up
    to the next free one.
    """

    kind: Literal["quadratic-steps"] = "quadratic-steps"

    def times(self, schedule: Schedule, steps: int, start: NoiseLevel) -> list[Tensor]:
        """The times of `quadratic_steps`, none of them twice."""
        return _times(quadratic_steps, schedule, steps, start)


@dataclass(frozen=True)
class PowerSteps:
    """Steps that crowd at the clean end by a power. Bao et al. 2022 (arXiv:2201.06503), code."""

    kind: Literal["power-steps"] = "power-steps"
    power: float = 2.0
    """1 is even; larger crowds more."""

    def __post_init__(self) -> None:
        if not self.power > 0:
            raise ValueError(f"power-steps needs power > 0, got {self.power}")

    def times(self, schedule: Schedule, steps: int, start: NoiseLevel) -> list[Tensor]:
        """The times of `power_steps`."""
        return _times(lambda table, k: power_steps(table, k, self.power), schedule, steps, start)


@dataclass(frozen=True)
class RespacedSteps:
    """iDDPM's respacing. Nichol & Dhariwal 2021 (arXiv:2102.09672), section 4."""

    kind: Literal["respaced-steps"] = "respaced-steps"
    sections: tuple[int, ...] = ()
    """Steps in each equal section of the table, the clean end first; empty: one section."""

    def times(self, schedule: Schedule, steps: int, start: NoiseLevel) -> list[Tensor]:
        """The times of `respaced_steps`.

        Errors: ValueError if the sections do not add up to `steps`.
        """
        sections = self.sections or (steps,)
        if sum(sections) != steps:
            raise ValueError(
                f"respaced-steps: sections {sections} are {sum(sections)} steps, not {steps}"
            )
        return _times(lambda table, _: respaced_steps(table, sections), schedule, steps, start)


@dataclass(frozen=True)
class GivenSteps:
    """Steps by number, such as those of `optimal_steps` for a model or an align-your-steps list."""

    kind: Literal["given-steps"] = "given-steps"
    steps: tuple[int, ...] = ()
    """Steps of the table, rising, 1 the cleanest; empty is `linspace-steps`."""
    table: int = TABLE
    """Steps of the table that the numbers belong to."""

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in zip(self.steps, self.steps[1:], strict=False))
        if self.steps and not (rising and self.steps[0] >= 1 and self.steps[-1] <= self.table):
            raise ValueError(f"given-steps needs rising numbers within 1 .. {self.table}")

    def times(self, schedule: Schedule, steps: int, start: NoiseLevel) -> list[Tensor]:
        """The times of the given steps, as parts of the start's.

        Errors: ValueError if another count of steps is asked for.
        """
        if self.steps and len(self.steps) != steps:
            raise ValueError(f"given-steps holds {len(self.steps)} steps, asked for {steps}")
        chosen = self.steps or linspace_steps(max(self.table, steps), steps)
        top = max(self.table, steps)
        return [start.t * (step / top) for step in reversed(chosen)]


AnyStepSpacing: TypeAlias = (
    LeadingSteps
    | TrailingSteps
    | LinspaceSteps
    | QuadraticSteps
    | PowerSteps
    | RespacedSteps
    | GivenSteps
)


def optimal_steps(
    schedule: Discrete,
    gamma: Tensor,
    steps: int,
    above_one: Literal["split", "clamp"] = "split",
) -> list[int]:
    """The steps whose variational bound is least for a model with these Gammas.

    Shapes: gamma is (N + 1,), Gamma_n of steps 0 .. N, entry 0 unused.
    A Gamma above 1 (an estimate's error at high noise) makes costs that mean nothing: "split" takes
    twice that part of the table out and walks it in even steps, as the authors do; "clamp" holds
    Gamma at 1.
    Source: Bao et al. 2022 (arXiv:2201.06503), section 4, after Watson et al. 2021
    (arXiv:2106.03802).
    Errors: ValueError if more than half of the table would be taken out, or if steps does not fit.
    """
    if len(gamma) != schedule.steps + 1 or not 2 <= steps <= schedule.steps:
        raise ValueError(
            f"optimal steps needs {schedule.steps + 1} Gammas and 2 to {schedule.steps} steps, "
            f"got {len(gamma)} and {steps}"
        )
    gamma = gamma.double().cpu()
    if above_one == "clamp":
        gamma = gamma.clamp_max(1)
    top, below, above = split_steps(gamma, steps)
    chosen = _cheapest_path(hop_costs(schedule, gamma)[: top + 1, : top + 1], below)
    rest = schedule.steps - top
    return chosen + sorted(round(schedule.steps - rest / above * k) for k in range(above))


def split_steps(gamma: Tensor, steps: int) -> tuple[int, int, int]:
    """The last step that costs can be trusted for, and the steps to visit up to it and above.

    Source: Bao et al. 2022 (arXiv:2201.06503), their code: the part above 1 counts twice and gets
    0.8 of its share of the steps.
    Errors: ValueError if more than half of the Gammas are above 1.
    """
    table = len(gamma) - 1
    wrong = (gamma[1:] > 1).nonzero()
    bad = 2 * (table - int(wrong[0])) if len(wrong) else 0
    if bad >= table:
        raise ValueError(f"Gamma is above 1 from step {int(wrong[0]) + 1} of {table}; use 'clamp'")
    top = table - bad
    below = min(math.ceil((1 - 0.8 * bad / table) * steps), top)
    above = min(steps - below, bad)
    if bad and not above:
        above = 1
    return top, steps - above, above


def hop_costs(schedule: Discrete, gamma: Tensor) -> Tensor:
    """log(1 - beta_{r|s} Gamma_r / sigma_r^2) for the hop from step r to s, inf unless 1 <= s < r.

    Shapes: (N + 1, N + 1), [s, r], float64.
    Source: Bao et al. 2022 (arXiv:2201.06503).
    """
    log_bar = 2 * schedule.log_alphas
    beta = -torch.expm1(log_bar[None, :] - log_bar[:, None])
    cost = torch.log1p(-beta * gamma / -torch.expm1(log_bar))
    numbers = torch.arange(schedule.steps + 1)
    allowed = (numbers[:, None] >= 1) & (numbers[:, None] < numbers[None, :])
    return torch.where(allowed, cost, math.inf)


def _cheapest_path(cost: Tensor, count: int) -> list[int]:
    """The path of `count` steps from step 1 to the last with the least sum of costs."""
    best = torch.full((len(cost),), math.inf, dtype=torch.float64)
    best[1] = 0.0
    origins = []
    for _ in range(count - 1):
        best, origin = (best[:, None] + cost).min(0)
        origins.append(origin)
    chosen = [len(cost) - 1]
    for origin in reversed(origins):
        chosen.append(int(origin[chosen[-1]]))
    return chosen[::-1]


def _times(rule: Rule, schedule: Schedule, steps: int, start: NoiseLevel) -> list[Tensor]:
    """The rule's times below the start, noisiest first, each image by its own start."""
    whole = schedule.steps if isinstance(schedule, Discrete) else TABLE
    starts = start.t.double().reshape(-1).tolist()
    rows = [_member(rule, t, whole, steps) for t in starts]
    columns = torch.tensor(rows, dtype=torch.float64).T
    return [column.reshape(start.t.shape) for column in columns]


def _member(rule: Rule, start: float, whole: int, steps: int) -> list[float]:
    table = max(round(start * whole), steps)
    return [start * step / table for step in reversed(_distinct(rule(table, steps)))]


def _distinct(steps: list[int]) -> list[int]:
    """The steps with repeated ones moved up to the next free one."""
    for index in range(1, len(steps)):
        steps[index] = max(steps[index], steps[index - 1] + 1)
    return steps
