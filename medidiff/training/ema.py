"""Averaged weights."""

from __future__ import annotations

import copy

import torch
from torch import nn


class AveragedWeights:
    """Exponential moving average of a network's parameters.

    The decay warms up as (1 + step) / (10 + step), so that early averages are not held by the
    initial weights.
    Source: the moving average of Song et al. 2021 (arXiv:2011.13456), appendix; warm-up as in
    TensorFlow's ExponentialMovingAverage.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.network = copy.deepcopy(network).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Take in the weights after optimiser step `step` (1, 2, ...)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averages: list[torch.Tensor] = list(self.network.parameters())
        torch._foreach_lerp_(
            averages, [value.detach() for value in network.parameters()], 1 - decay
        )
        for average, buffer in zip(self.network.buffers(), network.buffers(), strict=True):
            average.copy_(buffer)
