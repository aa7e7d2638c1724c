"""What can be chosen about a training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from medidiff.networks import Acceleration
from medidiff.training.posthoc_ema import profile_error

SPANNED = 0.1
"""Largest error of an average's profile, relative in the mean square, that counts as found."""


@dataclass(frozen=True)
class EarlyStop:
    """Stop when the validation loss has risen while the training loss went on falling."""

    patience: int = 5
    """Validations without a new best before stopping; 0 never stops early, and `rise` then bars
    no step from being the best."""
    tolerance: float = 0.0
    """Relative improvement that counts as a new best."""
    rise: float = 0.05
    """How far the validation loss of one noise level must be above its lowest, relative to it,
    with its training loss lower than then: `patience` validations in a row so stop the training,
    and none of them is the best."""

    def __post_init__(self) -> None:
        if self.patience < 0 or self.tolerance < 0 or self.rise < 0:
            raise ValueError("patience, tolerance and rise must be 0 or more")


@dataclass(frozen=True)
class ExponentialAverage:
    """One moving average that forgets at a constant rate."""

    kind: Literal["exponential"] = "exponential"
    decay: float = 0.999
    """What is kept of the average in a step; less in the first ones."""

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay lies between 0 and 1, found {self.decay}")


@dataclass(frozen=True)
class PowerAverages:
    """Averages whose length grows with the training, with snapshots out of which the average of any
    length is made afterwards. Karras et al. 2024 (arXiv:2312.02696), section 3.

    A snapshot takes two bytes a parameter for each of `stds`.
    """

    kind: Literal["power"] = "power"
    stds: tuple[float, ...] = (0.05, 0.1)
    """Lengths of the averages that are kept: relative standard deviations, in shares of the
    training so far. The first one is validated and sampled as training goes on."""
    snapshots: int = 12
    """Snapshots, evenly spaced over the steps; one more is kept of the best step."""
    lengths: tuple[float, ...] = (0.05, 0.07, 0.1, 0.14, 0.2)
    """Lengths tried when the training is done: the one with the lowest validation loss becomes the
    model. A single one is a choice made beforehand."""

    def __post_init__(self) -> None:
        if not self.stds or not self.lengths or self.snapshots < 1:
            raise ValueError("stds and lengths need at least one number, snapshots is 1 or more")
        if len({*self.stds}) < len(self.stds):
            raise ValueError(f"stds must differ, found {list(self.stds)}")
        steps = [part + 1.0 for part in range(self.snapshots)] * len(self.stds)
        stds = [std for std in self.stds for _ in range(self.snapshots)]
        for length in self.lengths:
            error = profile_error(steps, stds, self.snapshots, length)
            if error > SPANNED:
                raise ValueError(
                    f"an average of length {length} cannot be found from {self.snapshots} "
                    f"snapshots of lengths {list(self.stds)} (its profile would be off by "
                    f"{error:.0%}); take more snapshots or lengths nearer to them"
                )


AnyAverage: TypeAlias = ExponentialAverage | PowerAverages


@dataclass(frozen=True)
class TrainOptions:
    """Optimisation, precision, and how often the run saves, validates and draws samples."""

    steps: int = 20_000
    batch: int = 32
    learning_rate: float = 2e-4
    weight_decay: float = 0.0
    warmup_steps: int = 500
    """Steps over which the learning rate rises linearly."""
    rate: Literal["cosine", "constant"] = "cosine"
    """After the warm-up: fall to zero along a half cosine, or stay."""
    clip_norm: float = 1.0
    """Largest norm of the whole gradient."""
    ema: Annotated[AnyAverage, Field(discriminator="kind")] = ExponentialAverage()
    """The averaged weights that are validated, sampled and saved."""
    condition_dropout: float = 0.1
    """Share of training images whose whole condition is hidden (for guidance); each single value
    is also
    hidden with this probability, so that a condition may be given in part."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """auto: bf16 on a GPU that has it, fp16 with a loss scaler on one that has not, fp32 on a
    CPU."""
    acceleration: Acceleration = "auto"
    """CUDA graphs and fused kernels where a GPU has them; "none" is plain torch."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    seed: int = 0
    minutes: float | None = None
    """Wall-clock budget of this start; the run stops cleanly with a checkpoint and can be
    resumed."""
    log_every: int = 50
    save_every: int = 1000
    validate_every: int = 500
    validation_levels: int = 8
    """Noise levels at which the validation loss is measured."""
    validation_images: int = 64
    """Images of each split that the validation loss is measured on."""
    sample_every: int = 2500
    """Steps between sample grids (same seed each time); 0 draws none."""
    sample_images: int = 8
    early_stop: EarlyStop = EarlyStop()
    keep: Literal["best", "last"] = "best"
    """Which averaged weights become the model: those of the step with the lowest validation loss
    (mean over the noise levels) or of the last. With several averages the step is that of the
    first one, and the length is then chosen at this step."""

    def __post_init__(self) -> None:
        positive = ("steps", "batch", "log_every", "save_every", "validate_every")
        for name in (*positive, "validation_levels", "validation_images", "sample_images"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        if self.learning_rate <= 0 or self.clip_norm <= 0:
            raise ValueError("learning_rate and clip_norm must be above 0")
        if not 0 <= self.condition_dropout <= 1:
            raise ValueError("condition_dropout is a share between 0 and 1")
        if self.warmup_steps < 0 or self.sample_every < 0 or self.weight_decay < 0:
            raise ValueError("warmup_steps, sample_every and weight_decay must be 0 or more")
        if self.minutes is not None and self.minutes <= 0:
            raise ValueError("minutes must be above 0")
