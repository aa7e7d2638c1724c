"""Which loss a prior is trained by, and what its network therefore gives beside the prediction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

import torch
from pydantic import Field

from medidiff.diffusion import (
    AnySchedule,
    AnyTarget,
    AnyTimes,
    AnyWeight,
    ConsistencyTarget,
    DenoisingLoss,
    EDMTarget,
    HybridLoss,
    UniformSteps,
    UniformTimes,
    UniformWeight,
    VariationalLoss,
)
from medidiff.diffusion.objectives_consistency import ConsistencyLoss

Spread: TypeAlias = Literal["none", "learned", "learned-range"]
"""A network's second output: nothing, each value's log variance, or its place between beta-tilde
and beta (Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 15)."""


@dataclass(frozen=True)
class Denoising:
    """The weighted squared error of the prediction (Ho et al. 2020, arXiv:2006.11239, eq. 14)."""

    kind: Literal["denoising"] = "denoising"

    @property
    def spread(self) -> Spread:
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
    def spread(self) -> Spread:
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
    def spread(self) -> Spread:
        """A second head where the variance is learned."""
        return self.variance if self.variance in ("learned", "learned-range") else "none"


@dataclass(frozen=True)
class EasyGaps:
    """Two levels at any noise ratio whose gap shrinks in stages of equal length.

    Source: Geng et al. 2024 (arXiv:2406.14548), "easy consistency tuning".
    """

    kind: Literal["easy"] = "easy"
    factor: float = 256.0
    """By how much the gap shrinks from stage to stage (the paper's q)."""
    stages: int = 1
    """Stages. The single one of factor 256, the authors' for short trainings, is where four of
    factor 4 end."""

    def __post_init__(self) -> None:
        if not self.factor > 1 or self.stages < 1:
            raise ValueError("easy gaps need factor > 1 and at least one stage")


@dataclass(frozen=True)
class DoubledLevels:
    """Neighbours in a list of levels whose number is doubled at equal intervals.

    Source: Song & Dhariwal 2024 (arXiv:2310.14189), section 3.4.
    """

    kind: Literal["doubled"] = "doubled"
    first: int = 10
    """Levels at the beginning,"""
    last: int = 1280
    """and at the end."""

    def __post_init__(self) -> None:
        if not 2 <= self.first <= self.last:
            raise ValueError("doubled levels need 2 <= first <= last")


@dataclass(frozen=True)
class ConsistencyTraining:
    """A student that says in one call where the flow ends: for samples in one or two calls.

    With a parent (`--from`) it begins as the parent. The target is the parent's, `edm`; the model's
    own is then `consistency`.
    Source: Song et al. 2023 (arXiv:2303.01469), algorithms 2 (teacher) and 3 (none).
    """

    kind: Literal["consistency"] = "consistency"
    teacher: Literal["none", "parent"] = "none"
    """Who takes the step from a level to the cleaner one: nobody, it is the same noise on the same
    image; or the parent, by Heun's method along its flow (distillation)."""
    gaps: Annotated[EasyGaps | DoubledLevels, Field(discriminator="kind")] = EasyGaps()
    """How far apart the two levels are as training goes on."""
    held_decay: float = 0.0
    """Decay of the average of the student that is held fixed; 0 is the student itself."""
    distance: Literal["pseudo-huber", "squared"] = "pseudo-huber"
    """Of the two answers."""
    mean: float = -1.1
    """Mean of ln(noise_ratio) over the levels trained."""
    std: float = 2.0
    """Standard deviation of ln(noise_ratio)."""

    def __post_init__(self) -> None:
        if not 0 <= self.held_decay < 1:
            raise ValueError("held_decay lies between 0 and 1")
        if not self.std > 0:
            raise ValueError(f"consistency needs std > 0, got {self.std}")

    @property
    def spread(self) -> Spread:
        """A network of one head."""
        return "none"


@dataclass(frozen=True)
class AdversaryOptions:
    """A patch discriminator that an autoencoder's images must pass."""

    weight: float = 0.05
    """Weight of its opinion in the loss; 0 leaves it out."""
    start: int = 1000
    """The step from which it learns and counts; before, the images are not worth judging."""
    channels: int = 32
    """Channels of its first layer; each further layer has twice as many, up to 8 times."""
    layers: int = 3
    """Times that it halves the grid."""
    learning_rate: float = 1e-4

    def __post_init__(self) -> None:
        if self.weight < 0 or self.start < 0 or not self.learning_rate > 0:
            raise ValueError("weight and start are 0 or more, learning_rate is above 0")
        if self.channels < 1 or self.layers < 1:
            raise ValueError("channels and layers must be at least 1")


@dataclass(frozen=True)
class Autoencoding:
    """Not a prior but an autoencoder, for priors of latents: reconstruct, near a standard normal.

    Source: Rombach et al. 2022 (arXiv:2112.10752), section 3.1.
    """

    kind: Literal["autoencoder"] = "autoencoder"
    kl_weight: float = 1e-4
    """Weight of the latents' divergence from a standard normal, a mean over latents."""
    adversary: AdversaryOptions = AdversaryOptions()

    def __post_init__(self) -> None:
        if self.kl_weight < 0:
            raise ValueError(f"kl_weight must not be negative, not {self.kl_weight}")

    @property
    def spread(self) -> Spread:
        """No second head."""
        return "none"


AnyPriorObjective: TypeAlias = Denoising | Hybrid | Variational
AnyObjective: TypeAlias = AnyPriorObjective | ConsistencyTraining | Autoencoding
AnyLoss: TypeAlias = DenoisingLoss | HybridLoss | VariationalLoss


def student_target(target: AnyTarget, schedule: AnySchedule) -> ConsistencyTarget:
    """How a student of a model with this target is read: as the model, but for the boundary.

    Errors: ValueError for another target than `edm`.
    """
    if not isinstance(target, EDMTarget):
        raise ValueError(
            "the consistency objective needs a target of kind 'edm', the parent's own (found "
            f"{target.kind!r}): only that one is the identity at the end of the noise"
        )
    end = schedule(torch.tensor(schedule.t_min, dtype=torch.float64))
    floor = float(f"{float(end.noise_ratio):.12g}")  # 0.002 and not 0.0020000000000000013
    return ConsistencyTarget(data_std=target.data_std, floor=floor)


def consistency_loss(
    objective: ConsistencyTraining, target: AnyTarget, schedule: AnySchedule
) -> ConsistencyLoss:
    """The loss that the options say."""
    return ConsistencyLoss(
        student_target(target, schedule),
        schedule,
        distance=objective.distance,
        weight="edm" if isinstance(objective.gaps, EasyGaps) else "gap",
        mean=objective.mean,
        std=objective.std,
    )


def output_channels(objective: AnyObjective, channels: int) -> int:
    """Channels of the network's output for images of `channels`: twice as many with a spread."""
    return channels if objective.spread == "none" else 2 * channels


def check_loss(
    objective: AnyPriorObjective | ConsistencyTraining,
    target: AnyTarget,
    schedule: AnySchedule,
    times: AnyTimes,
    weight: AnyWeight,
) -> None:
    """Errors: ValueError for options that do not go together."""
    if not isinstance(objective, ConsistencyTraining):
        loss_of(objective, target, schedule, times, weight)
        return
    if times != UniformTimes() or weight != UniformWeight():
        raise ValueError(
            "the consistency objective has levels and a weight of its own (mean, std, gaps): "
            f"times {times.kind!r} and weight {weight.kind!r} would be ignored; leave them out"
        )
    student_target(target, schedule)


def loss_of(
    objective: Denoising | Hybrid | Variational,
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
    if isinstance(objective, Denoising):
        return DenoisingLoss(target, schedule, times, weight)
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
