"""The denoising loss under a learned weight, by which every level pulls with equal force."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from medidiff.diffusion import LevelUncertainty, UncertaintyLoss
from medidiff.training.batches import Batch
from medidiff.training.objective import PriorObjective


@dataclass(frozen=True)
class Uncertainty:
    """The denoising loss over e^u plus u, with u(level) learned and thrown away in the end.

    `diffusion.weight` stays the weight below it.
    Source: Karras et al. 2024 (arXiv:2312.02696), section 2.2 and eq. 21.
    """

    kind: Literal["uncertainty"] = "uncertainty"
    features: int = 128
    """Fourier features of the level that u is linear in."""

    def __post_init__(self) -> None:
        if self.features < 1:
            raise ValueError(f"uncertainty needs features >= 1, got {self.features}")

    @property
    def spread(self) -> Literal["none"]:
        """A network of one head."""
        return "none"


class ThrownAway:
    """A small network that is trained beside the model and is no part of it."""

    def __init__(self, network: LevelUncertainty) -> None:
        self.network = network

    def after_step(
        self, network: nn.Module, batch: Batch, loss: Tensor, seed: int, step: int
    ) -> None:
        """The optimiser has done it."""

    def state_dict(self) -> dict[str, Any]:
        """Its weights."""
        return self.network.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with saved weights."""
        self.network.load_state_dict(state)


@dataclass(frozen=True)
class UncertaintyObjective:
    """A prior's objective with the learned weight; validated without it."""

    prior: PriorObjective
    memory: ThrownAway

    def trainable(self, network: nn.Module) -> list[nn.Parameter]:
        device = next(network.parameters()).device
        return [*self.prior.trainable(network), *self.memory.network.to(device).parameters()]

    def loss(self, module: nn.Module, batch: Batch, seed: int, step: int) -> Tensor:
        draw, eps, condition = self.prior.draws(batch, seed, step)
        denoising = self.prior.denoising
        return UncertaintyLoss(denoising)(
            module,
            self.memory.network,
            batch.clean,
            denoising.levels(draw),
            eps,
            condition,
            batch.concat,
        )

    def loss_by_level(self, module: nn.Module, batch: Batch, levels: int, seed: int) -> Tensor:
        return self.prior.loss_by_level(module, batch, levels, seed)
