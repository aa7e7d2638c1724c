"""A head on a frozen network learns what the optimal variances need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from medidiff.diffusion import SpreadLoss
from medidiff.networks import HeadedNetwork, HeadForm
from medidiff.training.batches import Batch
from medidiff.training.objective import PriorObjective, validation_levels, validation_noise


@dataclass(frozen=True)
class Spread:
    """A head for the variance, trained on a model that itself stays as it is (`--from MODEL`).

    Source: Bao et al. 2022 (arXiv:2206.07309), eqs. 11 and 16; in two stages, as its code.
    """

    kind: Literal["spread"] = "spread"
    source: Literal["sn", "npr"] = "npr"
    """sn: E[eps^2 | x], best with an exact mean; npr: E[(eps - eps-hat)^2 | x], right for any."""
    form: HeadForm = "simple"
    """simple: norm, SiLU, convolution; complex: a residual block before them."""

    @property
    def spread(self) -> Literal["none"]:
        """The network keeps the heads it has."""
        return "none"


@dataclass(frozen=True)
class SpreadObjective:
    """The squared error of the head; the rest of the network has no gradient."""

    prior: PriorObjective
    """Whose draws are taken, and conditions hidden, as when the network was trained."""
    error: SpreadLoss
    memory: None = None

    def trainable(self, network: nn.Module) -> list[nn.Parameter]:
        return list(cast(HeadedNetwork, network).head.parameters())

    def loss(self, module: nn.Module, batch: Batch, seed: int, step: int) -> Tensor:
        draw, eps, condition = self.prior.draws(batch, seed, step)
        levels = self.error.levels(draw)
        return self.error(module, batch.clean, levels, eps, condition, batch.concat)

    @torch.no_grad()
    def loss_by_level(self, module: nn.Module, batch: Batch, levels: int, seed: int) -> Tensor:
        given = (validation_noise(batch, seed), batch.condition, batch.concat)
        means = [
            self.error(module, batch.clean, level, *given).mean()
            for level in validation_levels(self.error.levels, batch, levels)
        ]
        return torch.stack(means)
