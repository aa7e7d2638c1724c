"""What a training minimises. The loop knows this protocol and nothing else about diffusion."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from medidiff.diffusion import DenoisingLoss, NoiseLevel, training_noise, training_uniforms
from medidiff.diffusion.denoiser import heads
from medidiff.networks.conditions import drop
from medidiff.training.batches import Batch

if TYPE_CHECKING:
    from medidiff.training.losses import AnyLoss

VALIDATION = -1
"""The step that validation noise is keyed by; training has 0, 1, ..."""


class Memory(Protocol):
    """What an objective learns from step to step beside the network: a history of losses, a teacher
    that follows, an adversary with an optimiser of its own. It is saved with every checkpoint."""

    def after_step(
        self, network: nn.Module, batch: Batch, loss: Tensor, seed: int, step: int
    ) -> None:
        """Take in a finished optimiser step. Shapes: loss (batch,), detached."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers and plain containers of them."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Objective(Protocol):
    """A loss over a batch whose random draws are keyed by (seed, step, place in the global
    batch)."""

    @property
    def memory(self) -> Memory | None:
        """What changes from step to step beside the network, if anything does."""
        ...

    def trainable(self, network: nn.Module) -> list[nn.Parameter]:
        """What the optimiser changes: of the network, and of the objective's own."""
        ...

    def loss(self, module: nn.Module, batch: Batch, seed: int, step: int) -> Tensor:
        """Loss of each image (batch,): the loop divides by the global count."""
        ...

    def loss_by_level(self, module: nn.Module, batch: Batch, levels: int, seed: int) -> Tensor:
        """Mean unweighted error (levels,) at `levels` quantiles of the levels that are trained."""
        ...


@runtime_checkable
class Scored(Protocol):
    """An objective that can say more at a validation than its loss."""

    def scores(self, module: nn.Module, batch: Batch, levels: int, seed: int) -> dict[str, Tensor]:
        """Means over the batch by name: (levels,) at the levels of `loss_by_level`, or () for what
        has none."""
        ...


def scores_of(
    objective: Objective, module: nn.Module, batch: Batch, levels: int, seed: int
) -> dict[str, Tensor]:
    """What an objective says beside its loss; nothing for one that says no more."""
    return objective.scores(module, batch, levels, seed) if isinstance(objective, Scored) else {}


def unfrozen(network: nn.Module) -> list[nn.Parameter]:
    """The parameters of a network that ask for a gradient."""
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def noising(batch: Batch, seed: int, step: int) -> tuple[Tensor, Tensor]:
    """A uniform number for the level of each image, (batch,), and its noise."""
    draw = training_uniforms(seed, step, batch.places, "level")[:, 0]
    return draw, training_noise(seed, step, batch.places)(batch.clean, 0)


def validation_noise(batch: Batch, seed: int) -> Tensor:
    """The noise that validates a batch, the same each time."""
    return training_noise(seed, VALIDATION, batch.places)(batch.clean, 0)


def validation_levels(
    trained: Callable[[Tensor], NoiseLevel], batch: Batch, count: int
) -> Iterator[NoiseLevel]:
    """Levels (batch,) at `count` quantiles of those that are trained, low noise first."""
    for draw in (torch.arange(count, dtype=torch.float64) + 0.5) / count:
        yield trained(draw.expand(len(batch.clean)))


@dataclass(frozen=True)
class PriorObjective:
    """Denoising score matching with conditions hidden at random (Ho & Salimans 2022,
    arXiv:2207.12598, algorithm 1)."""

    denoising: DenoisingLoss
    condition_dropout: float
    trained: AnyLoss | None = None
    """What is minimised, where it is not the denoising loss, which validates all the same."""
    two_heads: bool = False
    """Whether the network gives a spread beside its prediction."""
    memory: Memory | None = None

    def trainable(self, network: nn.Module) -> list[nn.Parameter]:
        return unfrozen(network)

    def loss(self, module: nn.Module, batch: Batch, seed: int, step: int) -> Tensor:
        draw, eps, condition = self.draws(batch, seed, step)
        loss = self.trained or self.denoising
        return loss(module, batch.clean, loss.levels(draw), eps, condition, batch.concat)

    def draws(self, batch: Batch, seed: int, step: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """What a step draws for each image: a uniform number for its level, noise, and its
        condition, hidden at random."""
        draw, eps = noising(batch, seed, step)
        condition = hidden(batch.condition, self.condition_dropout, batch.places, seed, step)
        return draw, eps, condition

    @torch.no_grad()
    def loss_by_level(self, module: nn.Module, batch: Batch, levels: int, seed: int) -> Tensor:
        eps = validation_noise(batch, seed)
        means, network = [], FirstHead(module) if self.two_heads else module
        for level in validation_levels(self.denoising.levels, batch, levels):
            loss = self.denoising.loss_at(
                network, batch.clean, level, eps, batch.condition, batch.concat
            )
            means.append(loss.mean())
        return torch.stack(means)


def hidden(
    condition: Tensor | None, share: float, places: Sequence[int], seed: int, step: int
) -> Tensor | None:
    """The conditions with a share of them hidden, whole and value by value."""
    if condition is None or share == 0:
        return condition
    names = condition.shape[1]
    draws = training_uniforms(seed, step, places, "condition", names + 1)
    kept = draws >= share
    # a single value is the whole condition: one draw
    known = kept[:, :1] if names == 1 else kept[:, 1:] & kept[:, :1]
    return drop(condition, known.to(condition.device))


class FirstHead(nn.Module):
    """The prediction of a two-headed network, without its spread."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor | None) -> Tensor:
        return heads(self.network(*inputs))[0]
