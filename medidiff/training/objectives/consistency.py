"""A consistency student: its options, its loss from step to step, and how far it is from its
parent's flow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from medidiff.diffusion import (
    AnySchedule,
    AnyTarget,
    AnyTimes,
    AnyWeight,
    ConsistencyTarget,
    Denoiser,
    EDMTarget,
    Heun,
    Karras,
    NoiseLevel,
    UniformTimes,
    UniformWeight,
    diffuse,
    path,
    sample,
)
from medidiff.diffusion.objectives_consistency import (
    ConsistencyLoss,
    FlowStep,
    flow_step,
    level_curriculum,
)
from medidiff.training.batches import Batch
from medidiff.training.ema import AveragedWeights
from medidiff.training.objective import (
    Memory,
    hidden,
    noising,
    unfrozen,
    validation_noise,
)

FLOW_STEPS = 8
"""Heun steps from a level to the end of the parent's flow, when a student is compared with it."""


@dataclass(frozen=True)
class EasyGaps:
    """Two levels at any noise ratio whose gap shrinks in stages of equal length.

    Source: Geng et al. 2024 (arXiv:2406.14548), "easy consistency tuning".
    """

    kind: Literal["easy"] = "easy"
    factor: float = 256.0
    """By how much the gap shrinks from stage to stage (the paper's q)."""
    stages: int = 1
    """Stages. The single one of factor 256, the authors' for short trainings, is where four of
    factor 4 end."""

    def __post_init__(self) -> None:
        if not self.factor > 1 or self.stages < 1:
            raise ValueError("easy gaps need factor > 1 and at least one stage")


@dataclass(frozen=True)
class DoubledLevels:
    """Neighbours in a list of levels whose number is doubled at equal intervals.

    Source: Song & Dhariwal 2024 (arXiv:2310.14189), section 3.4.
    """

    kind: Literal["doubled"] = "doubled"
    first: int = 10
    """Levels at the beginning,"""
    last: int = 1280
    """and at the end."""

    def __post_init__(self) -> None:
        if not 2 <= self.first <= self.last:
            raise ValueError("doubled levels need 2 <= first <= last")


@dataclass(frozen=True)
class ConsistencyTraining:
    """A student that says in one call where the flow ends: for samples in one or two calls.

    With a parent (`--from`) it begins as the parent. The target is the parent's, `edm`; the model's
    own is then `consistency`.
    Source: Song et al. 2023 (arXiv:2303.01469), sections 4 (teacher) and 5 (none).
    """

    kind: Literal["consistency"] = "consistency"
    teacher: Literal["none", "parent"] = "none"
    """Who takes the step from a level to the cleaner one: nobody, it is the same noise on the same
    image; or the parent, by Heun's method along its flow (distillation)."""
    gaps: Annotated[EasyGaps | DoubledLevels, Field(discriminator="kind")] = EasyGaps()
    """How far apart the two levels are as training goes on."""
    held_decay: float = 0.0
    """Decay of the average of the student that is held fixed; 0 is the student itself."""
    distance: Literal["pseudo-huber", "squared"] = "pseudo-huber"
    """Of the two answers."""
    mean: float = -1.1
    """Mean of ln(noise_ratio) over the levels trained."""
    std: float = 2.0
    """Standard deviation of ln(noise_ratio)."""

    def __post_init__(self) -> None:
        if not 0 <= self.held_decay < 1:
            raise ValueError("held_decay lies between 0 and 1")
        if not self.std > 0:
            raise ValueError(f"consistency needs std > 0, got {self.std}")

    @property
    def spread(self) -> Literal["none"]:
        """A network of one head."""
        return "none"


def student_target(target: AnyTarget, schedule: AnySchedule) -> ConsistencyTarget:
    """How a student of a model with this target is read: as the model, but for the boundary.

    Errors: ValueError for another target than `edm`.
    """
    if not isinstance(target, EDMTarget):
        raise ValueError(
            "the consistency objective needs a target of kind 'edm', the parent's own (found "
            f"{target.kind!r}): only that one is the identity at the end of the noise"
        )
    end = schedule(torch.tensor(schedule.t_min, dtype=torch.float64))
    floor = float(f"{float(end.noise_ratio):.12g}")  # 0.002 and not 0.0020000000000000013
    return ConsistencyTarget(data_std=target.data_std, floor=floor)


def consistency_loss(
    objective: ConsistencyTraining, target: AnyTarget, schedule: AnySchedule
) -> ConsistencyLoss:
    """The loss that the options say."""
    return ConsistencyLoss(
        student_target(target, schedule),
        schedule,
        distance=objective.distance,
        weight="edm" if isinstance(objective.gaps, EasyGaps) else "gap",
        mean=objective.mean,
        std=objective.std,
    )


def check_student(
    target: AnyTarget, schedule: AnySchedule, times: AnyTimes, weight: AnyWeight
) -> None:
    """Errors: ValueError for options that do not go with a student."""
    if times != UniformTimes() or weight != UniformWeight():
        raise ValueError(
            "the consistency objective has levels and a weight of its own (mean, std, gaps): "
            f"times {times.kind!r} and weight {weight.kind!r} would be ignored; leave them out"
        )
    student_target(target, schedule)


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

    Source: Song et al. 2023 (arXiv:2303.01469), sections 4 and 5; Geng et al. 2024
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
        draw, eps = noising(batch, seed, step)
        condition = hidden(batch.condition, self.condition_dropout, batch.places, seed, step)
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
        eps = validation_noise(batch, seed)
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
            end = self._end_of_flow(
                batch, x, pair[0], (*batch.rows, batch.first, levels, index, seed)
            )
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
