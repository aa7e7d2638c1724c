"""A classifier of noisy images, for classifier guidance."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medidiff.diffusion import AnySchedule, AnyTarget, AnyTimes, NoiseLevel, diffuse
from medidiff.diffusion.denoiser import predict
from medidiff.training.batches import Batch
from medidiff.training.objective import noising, unfrozen, validation_levels, validation_noise


@dataclass(frozen=True)
class Classifier:
    """The cross-entropy of a category column, on noisy images of every level.

    Source: Dhariwal & Nichol 2021 (arXiv:2105.05233), section 4.
    """

    column: str
    """Category column of the manifest; rows without a value are left out."""
    kind: Literal["classifier"] = "classifier"

    @property
    def spread(self) -> Literal["none"]:
        """No denoiser."""
        return "none"


@dataclass(frozen=True)
class ClassifierObjective:
    """Cross-entropy over drawn levels; a batch's condition is the class to be found."""

    target: AnyTarget
    """Whose input scaling and noise label the network is given."""
    schedule: AnySchedule
    times: AnyTimes
    memory: None = None

    def trainable(self, network: nn.Module) -> list[nn.Parameter]:
        return unfrozen(network)

    def loss(self, module: nn.Module, batch: Batch, seed: int, step: int) -> Tensor:
        draw, eps = noising(batch, seed, step)
        logits = self._logits(module, batch, self._levels(draw), eps)
        return F.cross_entropy(logits, _classes(batch), reduction="none")

    @torch.no_grad()
    def loss_by_level(self, module: nn.Module, batch: Batch, levels: int, seed: int) -> Tensor:
        found = self._logits_by_level(module, batch, levels, seed)
        return torch.stack([F.cross_entropy(logits, _classes(batch)) for logits in found])

    @torch.no_grad()
    def scores(self, module: nn.Module, batch: Batch, levels: int, seed: int) -> dict[str, Tensor]:
        """The share of images whose class is found."""
        found = self._logits_by_level(module, batch, levels, seed)
        right = [(logits.argmax(1) == _classes(batch)).double().mean() for logits in found]
        return {"accuracy": torch.stack(right)}

    def _logits_by_level(
        self, module: nn.Module, batch: Batch, levels: int, seed: int
    ) -> Iterator[Tensor]:
        eps = validation_noise(batch, seed)
        for level in validation_levels(self._levels, batch, levels):
            yield self._logits(module, batch, level, eps)

    def _levels(self, draw: Tensor) -> NoiseLevel:
        return self.times.levels(self.schedule, draw)

    def _logits(self, module: nn.Module, batch: Batch, level: NoiseLevel, eps: Tensor) -> Tensor:
        x = diffuse(batch.clean, level, eps)
        return predict(module, self.target, x, level, None, None).float()


def _classes(batch: Batch) -> Tensor:
    if batch.condition is None:
        raise ValueError("a classifier is trained on batches with a class for each image")
    return batch.condition[:, 0].long()
