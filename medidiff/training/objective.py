"""What a training minimises. The loop knows this protocol and nothing else about diffusion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from medidiff.diffusion import DenoisingLoss, NoiseLevel, training_noise, training_uniforms
from medidiff.training.batches import Batch


class Objective(Protocol):
    """A loss over a batch whose random draws are keyed by (seed, step, place in the global
    batch)."""

    def loss(self, module: nn.Module, batch: Batch, seed: int, step: int) -> Tensor:
        """Loss of each image (batch,): the loop divides by the global count."""
        ...

    def loss_by_level(self, module: nn.Module, batch: Batch, levels: int, seed: int) -> Tensor:
        """Mean loss (levels,) at fixed noise levels with fixed noise, low noise first."""
        ...


@dataclass(frozen=True)
class PriorObjective:
    """Denoising score matching with conditions hidden at random (Ho & Salimans 2022,
    arXiv:2207.12598, algorithm 1)."""

    denoising: DenoisingLoss
    condition_dropout: float

    def loss(self, module: nn.Module, batch: Batch, seed: int, step: int) -> Tensor:
        count = len(batch.clean)
        draw = training_uniforms(seed, step, range(count), "level")[:, 0]
        eps = training_noise(seed, step, range(count))(batch.clean, 0)
        condition = self._hidden(batch.condition, seed, step)
        levels = self.denoising.levels(draw)
        return self.denoising(module, batch.clean, levels, eps, condition, batch.concat)

    @torch.no_grad()
    def loss_by_level(self, module: nn.Module, batch: Batch, levels: int, seed: int) -> Tensor:
        eps = training_noise(seed, -1, range(len(batch.clean)))(batch.clean, 0)
        middle = (torch.arange(levels, dtype=torch.float64) + 0.5) / levels
        means = []
        for draw in middle:
            level: NoiseLevel = self.denoising.levels(draw.expand(len(batch.clean)))
            loss = self.denoising(module, batch.clean, level, eps, batch.condition, batch.concat)
            means.append(loss.mean())
        return torch.stack(means)

    def _hidden(self, condition: Tensor | None, seed: int, step: int) -> Tensor | None:
        if condition is None or self.condition_dropout == 0:
            return condition
        count, names = condition.shape
        draws = training_uniforms(seed, step, range(count), "condition", names + 1)
        kept = (draws >= self.condition_dropout).to(condition.device)
        return condition.masked_fill(~(kept[:, 1:] & kept[:, :1]), float("nan"))
