"""Which loss a prior is trained by, and what its network therefore gives beside the prediction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from medidiff.diffusion import (
    AnySchedule,
    AnyTarget,
    AnyTimes,
    AnyWeight,
    DenoisingLoss,
    Discrete,
    HybridLoss,
    SpreadLoss,
    UniformSteps,
    UniformTimes,
    UniformWeight,
    VariationalLoss,
)
from medidiff.training.objectives.alignment import Alignment
from medidiff.training.objectives.autoencoder import Autoencoding
from medidiff.training.objectives.classifier import Classifier
from medidiff.training.objectives.consistency import ConsistencyTraining, check_student
from medidiff.training.objectives.importance import Importance
from medidiff.training.objectives.spread import Spread
from medidiff.training.objectives.uncertainty import Uncertainty

SecondHead: TypeAlias = Literal["none", "learned", "learned-range"]
"""A network's second output: nothing, each value's log variance, or its place between beta-tilde
and beta (Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 15)."""


@dataclass(frozen=True)
class Denoising:
    """The weighted squared error of the prediction (Ho et al. 2020, arXiv:2006.11239, eq. 14)."""

    kind: Literal["denoising"] = "denoising"

    @property
    def spread(self) -> SecondHead:
        """A network of one head."""
        return "none"


@dataclass(frozen=True)
class Hybrid:
    """The simple loss for the mean, a little of the bound for the variance.

    Source: Nichol & Dhariwal 2021 (arXiv:2102.09672).
    """

    kind: Literal["hybrid"] = "hybrid"
    variance: Literal["learned", "learned-range"] = "learned-range"
    """What the network's second head says."""
    bound_share: float = 0.001
    """Weight of the bound of all steps, in bits a value."""

    def __post_init__(self) -> None:
        if not self.bound_share > 0:
            raise ValueError(f"hybrid needs bound_share > 0, got {self.bound_share}")

    @property
    def spread(self) -> SecondHead:
        """A second head for the variance."""
        return self.variance


@dataclass(frozen=True)
class Variational:
    """The bound's term of one step, for mean and variance together.

    Source: Ho et al. 2020 (arXiv:2006.11239), eq. 5; Nichol & Dhariwal 2021 (arXiv:2102.09672).
    """

    kind: Literal["variational"] = "variational"
    variance: Literal["small", "large", "learned", "learned-range"] = "learned-range"
    """small and large are fixed and need no second head."""

    @property
    def spread(self) -> SecondHead:
        """A second head where the variance is learned."""
        return self.variance if self.variance in ("learned", "learned-range") else "none"


OfPrior: TypeAlias = Denoising | Hybrid | Variational | Uncertainty | Spread
OfEncoder: TypeAlias = Classifier | Alignment
AnyObjective: TypeAlias = OfPrior | ConsistencyTraining | OfEncoder | Autoencoding
AnyLoss: TypeAlias = DenoisingLoss | HybridLoss | VariationalLoss | SpreadLoss


def output_channels(objective: AnyObjective, channels: int, classes: int = 0) -> int:
    """Channels of the network's output for images of `channels`: twice as many with a spread; a
    classifier's are its classes, an encoder's its width."""
    if isinstance(objective, Classifier):
        return classes
    if isinstance(objective, Alignment):
        return objective.width
    return channels if objective.spread == "none" else 2 * channels


def loss_of(
    objective: OfPrior,
    target: AnyTarget,
    schedule: AnySchedule,
    times: AnyTimes,
    weight: AnyWeight,
) -> AnyLoss:
    """The loss that the options say.

    The bound is of a process of discrete steps: 1000 equal ones unless the times are
    `uniform-steps` or the schedule has its own.
    Errors: ValueError for times or a weight that this loss has no use for.
    """
    if isinstance(objective, Denoising | Uncertainty):
        return DenoisingLoss(target, schedule, times, weight)
    if isinstance(objective, Spread):
        _refuse_weight(objective, weight)
        return SpreadLoss(target, schedule, objective.source, times)
    if not isinstance(times, UniformTimes | UniformSteps) or weight != UniformWeight():
        raise ValueError(
            f"the {objective.kind} objective trains the steps of a process as the bound weighs "
            f"them: times {times.kind!r} and weight {weight.kind!r} would be ignored; leave "
            "them out, or give times of kind 'uniform-steps'"
        )
    steps = times if isinstance(times, UniformSteps) else UniformSteps()
    if isinstance(objective, Hybrid):
        return HybridLoss(target, schedule, objective.variance, objective.bound_share, steps)
    return VariationalLoss(target, schedule, objective.variance, times=steps)


def check_objective(
    objective: OfPrior | ConsistencyTraining | OfEncoder,
    target: AnyTarget,
    schedule: AnySchedule,
    times: AnyTimes,
    weight: AnyWeight,
    importance: Importance | None,
) -> None:
    """Errors: ValueError for options that the objective has no use for."""
    if isinstance(objective, Classifier | Alignment):
        _refuse_weight(objective, weight)
    elif isinstance(objective, ConsistencyTraining):
        check_student(target, schedule, times, weight)
    else:
        loss_of(objective, target, schedule, times, weight)
    if importance is not None:
        importance_steps(objective, times, schedule)


def importance_steps(objective: AnyObjective, times: AnyTimes, schedule: AnySchedule) -> int:
    """Steps of the process whose losses are remembered for importance sampling.

    Errors: ValueError for an objective or times that it is not made for.
    """
    if not isinstance(objective, Denoising | Hybrid | Variational):
        raise ValueError(
            f"importance draws the steps of a prior's loss; the {objective.kind} objective has "
            "none of it: leave importance out"
        )
    if not isinstance(times, UniformTimes | UniformSteps):
        raise ValueError(
            f"importance draws the steps itself: times {times.kind!r} would be ignored; leave "
            "them out, or give times of kind 'uniform-steps'"
        )
    if isinstance(schedule, Discrete):
        return schedule.steps
    return (times if isinstance(times, UniformSteps) else UniformSteps()).steps


def _refuse_weight(objective: AnyObjective, weight: AnyWeight) -> None:
    if weight != UniformWeight():
        raise ValueError(
            f"the {objective.kind} objective has no weight: weight {weight.kind!r} would be "
            "ignored; leave it out"
        )
