"""Objectives around an objective: in a codec's space, and on patches of an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from medidiff.diffusion import training_uniforms
from medidiff.networks import Codec, WithCoordinates, patches
from medidiff.training.batches import Batch
from medidiff.training.objective import VALIDATION, Memory, Objective, scores_of


@dataclass(frozen=True)
class Coded:
    """An objective in the space of a codec: images come in, their encodings are trained on."""

    objective: Objective
    codec: Codec

    @property
    def memory(self) -> Memory | None:
        return self.objective.memory

    def trainable(self, network: nn.Module) -> list[nn.Parameter]:
        return self.objective.trainable(network)

    def loss(self, module: nn.Module, batch: Batch, seed: int, step: int) -> Tensor:
        return self.objective.loss(module, self._encoded(batch), seed, step)

    def loss_by_level(self, module: nn.Module, batch: Batch, levels: int, seed: int) -> Tensor:
        return self.objective.loss_by_level(module, self._encoded(batch), levels, seed)

    def scores(self, module: nn.Module, batch: Batch, levels: int, seed: int) -> dict[str, Tensor]:
        return scores_of(self.objective, module, self._encoded(batch), levels, seed)

    @torch.no_grad()
    def _encoded(self, batch: Batch) -> Batch:
        return replace(batch, clean=self.codec.encode(batch.clean))


@dataclass(frozen=True)
class OnPatches:
    """An objective on a patch of each image, at a place keyed by (seed, step, place in the batch).

    With `coordinates` the network is told where the patch lies, and is validated on whole images,
    as it will draw them; without, on a patch of each, the same ones every time.
    """

    objective: Objective
    size: Sequence[int]
    coordinates: bool

    @property
    def memory(self) -> Memory | None:
        return self.objective.memory

    def trainable(self, network: nn.Module) -> list[nn.Parameter]:
        return self.objective.trainable(network)

    def loss(self, module: nn.Module, batch: Batch, seed: int, step: int) -> Tensor:
        return self.objective.loss(module, self._cut(batch, seed, step), seed, step)

    def loss_by_level(self, module: nn.Module, batch: Batch, levels: int, seed: int) -> Tensor:
        return self.objective.loss_by_level(*self._validated(module, batch, seed), levels, seed)

    def scores(self, module: nn.Module, batch: Batch, levels: int, seed: int) -> dict[str, Tensor]:
        return scores_of(self.objective, *self._validated(module, batch, seed), levels, seed)

    def _validated(self, module: nn.Module, batch: Batch, seed: int) -> tuple[nn.Module, Batch]:
        if self.coordinates:
            return WithCoordinates(module), batch
        return module, self._cut(batch, seed, VALIDATION)

    def _cut(self, batch: Batch, seed: int, step: int) -> Batch:
        draws = training_uniforms(seed, step, batch.places, "patch", len(self.size))
        clean, where = patches(batch.clean, self.size, draws)
        if not self.coordinates:
            return replace(batch, clean=clean)
        return replace(batch, clean=clean, concat=where)
