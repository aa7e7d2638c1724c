"""What can be chosen about a training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from medidiff.networks import Acceleration


@dataclass(frozen=True)
class EarlyStop:
    """Stop when the validation loss has risen while the training loss went on falling."""

    patience: int = 5
    """Validations without a new best before stopping; 0 never stops early."""
    tolerance: float = 0.0
    """Relative improvement that counts as a new best."""

    def __post_init__(self) -> None:
        if self.patience < 0 or self.tolerance < 0:
            raise ValueError("patience and tolerance must be 0 or more")


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
    ema: float = 0.999
    """Decay of the averaged weights that are sampled and saved."""
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
    """Which averaged weights become the model: those of the best validation or the last."""

    def __post_init__(self) -> None:
        positive = ("steps", "batch", "log_every", "save_every", "validate_every")
        for name in (*positive, "validation_levels", "validation_images", "sample_images"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        if self.learning_rate <= 0 or self.clip_norm <= 0:
            raise ValueError("learning_rate and clip_norm must be above 0")
        if not 0 <= self.ema < 1:
            raise ValueError("ema is a decay between 0 and 1")
        if not 0 <= self.condition_dropout <= 1:
            raise ValueError("condition_dropout is a share between 0 and 1")
        if self.warmup_steps < 0 or self.sample_every < 0 or self.weight_decay < 0:
            raise ValueError("warmup_steps, sample_every and weight_decay must be 0 or more")
        if self.minutes is not None and self.minutes <= 0:
            raise ValueError("minutes must be above 0")
