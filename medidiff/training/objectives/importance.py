"""Steps drawn by how much they matter, from the losses that a training has seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from medidiff.diffusion import LossHistory, training_uniforms
from medidiff.training.batches import Batch
from medidiff.training.objective import PriorObjective


@dataclass(frozen=True)
class Importance:
    """Steps drawn by the root mean square of their latest losses, each loss divided by how much
    likelier its step was.

    Source: Nichol & Dhariwal 2021 (arXiv:2102.09672), section 3.3 and eq. 18.
    """

    kept: int = 10
    """Losses of each step that are remembered; drawing begins once every step has so many."""
    uniform_share: float = 0.001
    """Share of the draws that stays uniform, so that no step is forgotten."""

    def __post_init__(self) -> None:
        LossHistory.empty(1, self.kept, self.uniform_share)


class StepHistory:
    """A `LossHistory` that follows a training."""

    def __init__(self, steps: int, options: Importance) -> None:
        self.steps = steps
        self.history = LossHistory.empty(steps, options.kept, options.uniform_share)

    def after_step(
        self, network: nn.Module, batch: Batch, loss: Tensor, seed: int, step: int
    ) -> None:
        """Take in the losses of a step, without their weights: its draws are made again."""
        steps, weights = self.history.drawn(
            training_uniforms(seed, step, batch.places, "level")[:, 0]
        )
        plain = loss.double().cpu() / weights
        finite = plain.isfinite()  # a scaled fp16 loss overflows now and then
        self.history = self.history.updated(steps[finite], plain[finite])

    def state_dict(self) -> dict[str, Any]:
        """The losses and their counts."""
        return {"losses": self.history.losses, "counts": self.history.counts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with saved losses."""
        losses, counts = state["losses"].cpu(), state["counts"].cpu()
        self.history = LossHistory(losses, counts, self.history.uniform_share)


@dataclass(frozen=True)
class ImportanceObjective:
    """A prior's objective over steps drawn by their history; validated as without it."""

    prior: PriorObjective
    memory: StepHistory

    def trainable(self, network: nn.Module) -> list[nn.Parameter]:
        return self.prior.trainable(network)

    def loss(self, module: nn.Module, batch: Batch, seed: int, step: int) -> Tensor:
        draw, eps, condition = self.prior.draws(batch, seed, step)
        steps, weights = self.memory.history.drawn(draw)
        levels = self.prior.denoising.schedule(steps.double() / self.memory.steps)
        minimised = self.prior.trained or self.prior.denoising
        loss = minimised(module, batch.clean, levels, eps, condition, batch.concat)
        return weights.to(loss) * loss

    def loss_by_level(self, module: nn.Module, batch: Batch, levels: int, seed: int) -> Tensor:
        return self.prior.loss_by_level(module, batch, levels, seed)
