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
    HybridLoss,
    UniformSteps,
    UniformTimes,
    UniformWeight,
    VariationalLoss,
)

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

    Source: Nichol & Dhariwal 2021 (arXiv:2102.09672), eq. 16.
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
AnyObjective: TypeAlias = AnyPriorObjective | Autoencoding
AnyLoss: TypeAlias = DenoisingLoss | HybridLoss | VariationalLoss


def output_channels(objective: AnyObjective, channels: int) -> int:
    """Channels of the network's output for images of `channels`: twice as many with a spread."""
    return channels if objective.spread == "none" else 2 * channels


def loss_of(
    objective: AnyPriorObjective,
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
