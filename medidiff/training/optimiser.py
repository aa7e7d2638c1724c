"""AdamW and its learning rate as a function of the step."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from medidiff.training.options import TrainOptions


def make_optimiser(trainable: Sequence[nn.Parameter], options: TrainOptions) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) over the trainable parameters."""
    return torch.optim.AdamW(
        trainable,
        lr=options.learning_rate,
        weight_decay=options.weight_decay,
        fused=trainable[0].is_cuda,
    )


def learning_rate(step: int, options: TrainOptions) -> float:
    """The rate of optimiser step `step` (0, 1, ...): linear warm-up, then constant or half a
    cosine to 0."""
    if step < options.warmup_steps:
        return options.learning_rate * (step + 1) / options.warmup_steps
    if options.rate == "constant":
        return options.learning_rate
    share = (step - options.warmup_steps) / max(1, options.steps - options.warmup_steps)
    return options.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate
