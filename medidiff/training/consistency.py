"""A consistency student: its loss from step to step, and how far it is from its parent's flow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from medidiff.diffusion import (
    Denoiser,
    EDMTarget,
    Heun,
    Karras,
    NoiseLevel,
    diffuse,
    path,
    sample,
    training_noise,
    training_uniforms,
)
from medidiff.diffusion.objectives_consistency import (
    ConsistencyLoss,
    FlowStep,
    flow_step,
    level_curriculum,
)
from medidiff.training.batches import Batch
from medidiff.training.ema import AveragedWeights
from medidiff.training.losses import ConsistencyTraining, EasyGaps
from medidiff.training.objective import VALIDATION, Memory, hidden, unfrozen

FLOW_STEPS = 8
"""Heun steps from a level to the end of the parent's flow, when a student is compared with it."""


@dataclass(frozen=True)
class Parent:
    """The frozen model that a student begins as."""

    network: nn.Module
    target: EDMTarget
    replayed: nn.Module | None = None
    """The network as training calls it, in training's precision."""


class HeldAverage:
    """The average of the student that is held fixed while the student is pulled towards it."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._average = AveragedWeights(network, decay)

    def on(self, device: torch.device) -> nn.Module:
        """The averaged network."""
        return self._average.network.to(device)

    def after_step(
        self, network: nn.Module, batch: Batch, loss: Tensor, seed: int, step: int
    ) -> None:
        self.on(batch.clean.device)
        self._average.update(network, step + 1)

    def state_dict(self) -> dict[str, Any]:
        return self._average.network.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._average.network.load_state_dict(state)


@dataclass(frozen=True)
class ConsistencyObjective:
    """The distance of the student's answers at two levels, nearer to each other as training goes
    on.

    Source: Song et al. 2023 (arXiv:2303.01469), algorithms 2 and 3; Geng et al. 2024
    (arXiv:2406.14548).
    """

    options: ConsistencyTraining
    consistency: ConsistencyLoss
    steps: int
    """Of the whole training, over which the gaps shrink."""
    condition_dropout: float
    parent: Parent | None
    held: HeldAverage | None = None
    _ends: dict[tuple[object, ...], Tensor] = field(default_factory=dict)
    """Ends of the parent's flow for the images of validation, which are the same each time."""

    @property
    def memory(self) -> Memory | None:
        return self.held

    def trainable(self, network: nn.Module) -> list[nn.Parameter]:
        return unfrozen(network)

    def loss(self, module: nn.Module, batch: Batch, seed: int, step: int) -> Tensor:
        places = range(batch.first, batch.first + len(batch.clean))
        draw = training_uniforms(seed, step, places, "level")[:, 0]
        eps = training_noise(seed, step, places)(batch.clean, 0)
        condition = hidden(batch.condition, self.condition_dropout, places, seed, step)
        held = module if self.held is None else self.held.on(batch.clean.device)
        return self.consistency(
            module,
            held,
            batch.clean,
            self.levels(draw, step),
            eps,
            self._flow(batch, condition),
            condition,
            batch.concat,
        )

    def levels(self, draw: Tensor, step: int) -> tuple[NoiseLevel, NoiseLevel]:
        """The two levels of each example in optimiser step `step`."""
        gaps = self.options.gaps
        if isinstance(gaps, EasyGaps):
            stage = min(gaps.stages - 1, step * gaps.stages // self.steps)
            return self.consistency.easy_levels(draw, gaps.factor ** -(1 + stage))
        count = level_curriculum(step, self.steps, gaps.first, gaps.last)
        return self.consistency.levels(1 - draw, count)  # low noise first, as for easy gaps

    @torch.no_grad()
    def loss_by_level(self, module: nn.Module, batch: Batch, levels: int, seed: int) -> Tensor:
        """The mean square distance of the student's answers from the ends of its parent's flow.

        Without a parent: the loss itself, at the last gap.
        Shapes: (levels,), at quantiles of the noisier level.
        """
        places = range(batch.first, batch.first + len(batch.clean))
        eps = training_noise(seed, VALIDATION, places)(batch.clean, 0)
        means = []
        for index in range(levels):
            draw = torch.full((len(batch.clean),), (index + 0.5) / levels, dtype=torch.float64)
            pair = self.levels(draw, self.steps - 1)
            if self.parent is None:
                loss = self.consistency(
                    module, module, batch.clean, pair, eps, None, batch.condition, batch.concat
                )
                means.append(loss.mean())
                continue
            x = diffuse(batch.clean, pair[0], eps)
            student = Denoiser(module, self.consistency.target, batch.condition, batch.concat)
            end = self._end_of_flow(batch, x, pair[0], (*batch.rows, levels, index, seed))
            means.append((student(x, pair[0]).clean - end).square().mean())
        return torch.stack(means)

    def _flow(self, batch: Batch, condition: Tensor | None) -> FlowStep | None:
        if self.options.teacher == "none" or self.parent is None:
            return None
        network = self.parent.replayed or self.parent.network
        return flow_step(Denoiser(network, self.parent.target, condition, batch.concat))

    def _end_of_flow(
        self, batch: Batch, x: Tensor, level: NoiseLevel, key: Sequence[object]
    ) -> Tensor:
        assert self.parent is not None
        if tuple(key) not in self._ends:
            parent = self.parent
            denoise = Denoiser(parent.network, parent.target, batch.condition, batch.concat)
            levels = path(Karras(), self.consistency.schedule, FLOW_STEPS, level)
            self._ends[tuple(key)] = sample(denoise, x, levels, Heun()).cpu()
        return self._ends[tuple(key)].to(x.device)
