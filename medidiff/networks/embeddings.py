"""The vector that tells every block the noise level and what is known about the case."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from medidiff.networks.conditions import AnyCondition, ClassCondition
from medidiff.types import Tensor

LONGEST_PERIOD = 10_000.0  # over 2 pi; labels reach 1000, so the slowest wave never comes round


def sinusoidal(label: Tensor, waves: int) -> Tensor:
    """Cosines and sines of the label at geometrically falling frequencies.

    Shapes: (batch,) -> (batch, 2 * waves), in the label's dtype.
    Source: Vaswani et al. 2017 (arXiv:1706.03762), section 3.5; cosines first.
    """
    # Made anew at each call: a buffer would be rounded when the network is cast to bfloat16.
    exponents = torch.arange(waves, device=label.device, dtype=label.dtype) / waves
    phases = label[:, None] * torch.exp(-math.log(LONGEST_PERIOD) * exponents)
    return torch.cat([phases.cos(), phases.sin()], dim=1)


class ClassEmbedding(nn.Module):
    """A learned vector per class, and one for "unknown"."""

    def __init__(self, values: int, width: int) -> None:
        super().__init__()
        self.unknown = values
        self.table = nn.Embedding(values + 1, width)
        nn.init.zeros_(self.table.weight[values])

    def forward(self, code: Tensor) -> Tensor:
        """Shapes: (batch,) of class indices or NaN -> (batch, width)."""
        return self.table(code.nan_to_num(nan=self.unknown).long())


class NumberEmbedding(nn.Module):
    """A smooth learned function of a standardised number, and a vector for "unknown"."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(1, width)
        self.second = nn.Linear(width, width)
        self.unknown = nn.Parameter(torch.zeros(width))

    def forward(self, code: Tensor) -> Tensor:
        """Shapes: (batch,) of standardised numbers or NaN -> (batch, width)."""
        missing = code.isnan()[:, None]
        # NaN must not enter the layers: even behind `where` it would make their gradients NaN.
        number = code.nan_to_num(nan=0.0)[:, None].to(self.first.weight.dtype)
        return torch.where(missing, self.unknown, self.second(F.silu(self.first(number))))


class Embedding(nn.Module):
    """Noise label and conditions as one vector, already activated for the blocks' own layers.

    Computed in float32 at least, autocast or not: neighbouring noise levels must stay apart.
    """

    def __init__(self, width: int, conditions: Sequence[AnyCondition], waves: int) -> None:
        super().__init__()
        self.waves = waves
        self.first = nn.Linear(2 * waves, width)
        self.second = nn.Linear(width, width)
        self.conditions = nn.ModuleList(
            ClassEmbedding(len(condition.values), width)
            if isinstance(condition, ClassCondition)
            else NumberEmbedding(width)
            for condition in conditions
        )

    def forward(self, label: Tensor, condition: Tensor | None) -> Tensor:
        """The vector of each image.

        Shapes: `label` (batch,); `condition` (batch, K), NaN or None where unknown
        -> (batch, width).
        """
        with torch.autocast(label.device.type, enabled=False):
            weights = cast(Tensor, self.first.weight).dtype
            waves = sinusoidal(label.to(torch.promote_types(weights, torch.float32)), self.waves)
            vector = self.second(F.silu(self.first(waves.to(weights))))
            if condition is None:
                condition = label.new_full((len(label), len(self.conditions)), math.nan)
            for index, embed in enumerate(self.conditions):
                vector = vector + embed(condition[:, index])
            return F.silu(vector)
