"""The averages of the weights that a training keeps, and which of them becomes the model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from torch import Tensor, nn

from medidiff.errors import TrainingError
from medidiff.training.ema import AveragedWeights
from medidiff.training.options import AnyAverage, ExponentialAverage, PowerAverages
from medidiff.training.posthoc_ema import PowerAveragedWeights
from medidiff.training.snapshots import (
    reconstructed,
    save_snapshot,
    snapshots_until,
    spanned,
)

Measure: TypeAlias = Callable[[nn.Module], float]
"""The validation loss of a network."""


@dataclass(frozen=True)
class Choice:
    """The averaged network that becomes the model."""

    network: nn.Module
    std: float | None = None
    """Length of the average, where there was a choice,"""
    losses: Mapping[float, float] = field(default_factory=dict)
    """and the validation loss of each length tried."""


class Averages(Protocol):
    """What the loop knows of averaged weights."""

    @property
    def network(self) -> nn.Module:
        """The average that is validated and sampled as training goes on."""
        ...

    def update(self, network: nn.Module, step: int) -> None:
        """Take in the weights after optimiser step `step` (1, 2, ...)."""
        ...

    def keep(self, step: int) -> None:
        """Keep what the model of this step needs: it is the best so far, or the last."""
        ...

    def tidy(self, kept: Collection[int]) -> None:
        """Drop what was kept for steps not in `kept`; a checkpoint has just been saved."""
        ...

    def choose(self, step: int, measure: Measure) -> Choice:
        """The model of a step that was kept, the latest or the best."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def make_averages(options: AnyAverage, network: nn.Module, folder: Path, steps: int) -> Averages:
    """The averages that the options say; `folder` is for snapshots."""
    if isinstance(options, ExponentialAverage):
        return OneAverage(network, options)
    return SeveralAverages(network, options, folder, steps)


class OneAverage:
    """One exponential average, and a copy of it at the best step."""

    def __init__(self, network: nn.Module, options: ExponentialAverage) -> None:
        self._average = AveragedWeights(network, options.decay)
        self._kept: dict[str, Tensor] | None = None
        self._kept_step = 0

    @property
    def network(self) -> nn.Module:
        return self._average.network

    def update(self, network: nn.Module, step: int) -> None:
        self._average.update(network, step)

    def keep(self, step: int) -> None:
        self._kept_step = step
        self._kept = {
            name: value.detach().clone() for name, value in self.network.state_dict().items()
        }

    def tidy(self, kept: Collection[int]) -> None:
        pass

    def choose(self, step: int, measure: Measure) -> Choice:
        if self._kept is not None and self._kept_step == step:
            self.network.load_state_dict(self._kept)
        return Choice(self.network)

    def state_dict(self) -> dict[str, Any]:
        return {
            "average": self.network.state_dict(),
            "kept": self._kept,
            "kept_step": self._kept_step,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["average"])
        self._kept, self._kept_step = state["kept"], state["kept_step"]


class SeveralAverages:
    """Power-function averages with snapshots: the length is chosen when the training is done.

    Source: Karras et al. 2024 (arXiv:2312.02696), section 3.
    """

    def __init__(
        self, network: nn.Module, options: PowerAverages, folder: Path, steps: int
    ) -> None:
        self.options, self.folder = options, folder
        # what is frozen needs no snapshot
        self.names = {name for name, value in network.named_parameters() if value.requires_grad}
        self.averages = [PowerAveragedWeights(network, std) for std in options.stds]
        count = options.snapshots
        self.regular = {max(1, round(steps * part / count)) for part in range(1, count + 1)}

    @property
    def network(self) -> nn.Module:
        return self.averages[0].network

    def update(self, network: nn.Module, step: int) -> None:
        for average in self.averages:
            average.update(network, step)
        if step in self.regular:
            self.keep(step)

    def keep(self, step: int) -> None:
        for std, average in zip(self.options.stds, self.averages, strict=True):
            save_snapshot(self.folder, step, std, average.network, self.names)

    def tidy(self, kept: Collection[int]) -> None:
        for snapshot in snapshots_until(self.folder, max(self.regular)):
            if snapshot.step not in {*self.regular, *kept}:
                snapshot.file.unlink()

    def choose(self, step: int, measure: Measure) -> Choice:
        found = snapshots_until(self.folder, step)
        if not any(snapshot.step == step for snapshot in found):
            raise TrainingError(
                f"the snapshots of step {step} are missing from the run's folder; without them "
                "the model cannot be made"
            )
        stds = [std for std in self.options.lengths if spanned(found, step, std)]
        network, losses = copy.deepcopy(self.network), dict[float, float]()
        for std in stds or self.options.stds:
            network.load_state_dict(reconstructed(found, step, std), strict=False)
            losses[std] = measure(network)
        best = min(losses, key=lambda std: losses[std])
        network.load_state_dict(reconstructed(found, step, best), strict=False)
        return Choice(network, best, losses)

    def state_dict(self) -> dict[str, Any]:
        return {
            repr(std): average.network.state_dict()
            for std, average in zip(self.options.stds, self.averages, strict=True)
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for std, average in zip(self.options.stds, self.averages, strict=True):
            average.network.load_state_dict(state[repr(std)])
