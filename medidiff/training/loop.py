"""The training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medidiff.data.options import Augment
from medidiff.diffusion import uniforms
from medidiff.errors import TrainingError
from medidiff.networks import accelerated
from medidiff.training.averages import Averages, make_averages
from medidiff.training.batches import Batch, TrainingSet, augmented, training_batches
from medidiff.training.checkpoint import load_checkpoint, save_checkpoint
from medidiff.training.objective import Memory, Objective, Scored
from medidiff.training.optimiser import learning_rate, make_optimiser, set_learning_rate
from medidiff.training.options import TrainOptions
from medidiff.training.precision import Precision, choose_precision
from medidiff.training.stop import Stopped, StopSignal
from medidiff.training.watch import Watch

Log = Callable[[Mapping[str, float], int], None]
NOT_FINITE = (
    "the {} at step {} is not finite for manifest rows {}. Look at these images (the private log "
    "names them) or lower train.learning_rate."
)


@dataclass
class State:
    """All that changes during a training."""

    network: nn.Module
    averages: Averages
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    memory: Memory | None = None
    """The objective's own."""
    step: int = 0
    watch: Watch = field(default_factory=Watch)

    def save(self, folder: Path) -> None:
        tensors: dict[str, Any] = {
            "network": self.network.state_dict(),
            "averages": self.averages.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "memory": None if self.memory is None else self.memory.state_dict(),
        }
        save_checkpoint(folder, self.step, tensors, {"watch": vars(self.watch)})
        self.averages.tidy({self.watch.best_step, self.step})

    def load(self, folder: Path, device: torch.device) -> bool:
        found = load_checkpoint(folder, device)
        if found is None:
            return False
        tensors, facts = found
        self.network.load_state_dict(tensors["network"])
        self.averages.load_state_dict(tensors["averages"])
        self.optimiser.load_state_dict(tensors["optimiser"])
        self.scaler.load_state_dict(tensors["scaler"])
        if self.memory is not None:
            self.memory.load_state_dict(tensors["memory"])
        self.step, self.watch = facts["step"], Watch(**facts["watch"])
        return True


@dataclass(frozen=True)
class Job:
    """What a training needs beside its options."""

    objective: Objective
    train: TrainingSet
    validation: TrainingSet
    augment: Augment
    folder: Path
    """Where checkpoints go."""
    snapshots: Path
    """Where snapshots of averaged weights go."""
    log: Log
    draw_samples: Callable[[nn.Module, int], None]
    """Called with the averaged network every `sample_every` steps."""
    progress: Callable[[int, int, float], None]
    """(step, steps, loss)."""


@dataclass(frozen=True)
class Outcome:
    """The trained network and why the training ended."""

    network: nn.Module
    """Averaged weights: those of the best validation or the last, as `keep` says."""
    step: int
    best_step: int
    validation_loss: float
    reason: str
    std: float | None = None
    """Length of the average that was chosen, where several were tried,"""
    losses: Mapping[float, float] = field(default_factory=dict)
    """and the validation loss of each."""


def train(
    network: nn.Module, job: Job, options: TrainOptions, device: torch.device, stop: StopSignal
) -> Outcome:
    """Train `network` until its steps are done, it begins to memorise, or `stop` is requested.

    A checkpoint in `job.folder` is taken up. On a CPU the resumed run is bit-equal to an
    uninterrupted one.
    Errors: TrainingError on a loss that is not finite, naming manifest rows; Stopped on request,
    after saving.
    """
    precision = choose_precision(options.precision, device)
    network.to(device).train()
    forward = accelerated(network, options.acceleration)
    trainable, memory = job.objective.trainable(network), job.objective.memory
    optimiser = make_optimiser(trainable, options)
    averages = make_averages(options.ema, network, job.snapshots, options.steps)
    state = State(network, averages, optimiser, precision.scaler(), memory)
    state.load(job.folder, device)
    checks = Checks(job.train, job.validation, options, device)
    last_step = state.step if state.watch.ended else options.steps
    moving = 0 if job.augment == Augment() else job.augment.until * options.steps
    batches = training_batches(
        job.train, options.batch, options.seed, state.step, last_step, device, to_move=moving
    )
    losses = RecentLosses()
    for step, batch in batches:
        set_learning_rate(state.optimiser, learning_rate(step, options))
        if step < moving:
            batch = augmented(batch, job.augment, options.seed, step)
        loss = forward_backward(forward, state, job.objective, batch, options, precision, step)
        state.scaler.unscale_(state.optimiser)
        norm = torch.nn.utils.clip_grad_norm_(trainable, options.clip_norm)
        state.scaler.step(state.optimiser)
        state.scaler.update()
        state.optimiser.zero_grad(set_to_none=True)
        state.step = step + 1
        state.averages.update(network, state.step)
        if memory is not None:
            memory.after_step(network, batch, loss, options.seed, step)
        # a scaled fp16 loss overflows now and then, and the scaler then skips the step
        losses.add(step, loss, batch, None if state.scaler.is_enabled() else norm)

        due, stopping = Due(state.step, options), stop.requested
        if due.log or due.validate or due.save or due.sample or stopping:
            mean, rate = losses.settle()
            job.progress(state.step, options.steps, mean)
            job.log(
                {
                    "loss": mean,
                    "learning_rate": learning_rate(step, options),
                    "images_per_second": rate,
                },
                state.step,
            )
        if due.validate:
            state.watch.ended = validated(state, job, checks, options)
            if state.watch.ended:
                break
        if due.sample:
            job.draw_samples(state.averages.network, state.step)
        if due.save or stopping:
            state.save(job.folder)
        if due.validate or due.sample or due.save:
            losses.restart()
        if stopping and state.step < options.steps:
            raise Stopped(
                f"stopped at step {state.step} of {options.steps}: {stop.reason}; "
                "run the same command with --resume to go on"
            )
    state.watch.ended = state.watch.ended or "all steps done"
    best = options.keep == "best" and state.watch.best_step > 0
    if not best:
        state.averages.keep(state.step)
    state.save(job.folder)
    return outcome(state, job, checks, best)


def outcome(state: State, job: Job, checks: Checks, best: bool) -> Outcome:
    """The averaged weights of the best or the last step, and the validation loss of just these."""
    watch = state.watch
    step, loss = (watch.best_step, watch.best) if best else (state.step, watch.last)

    def measure(network: nn.Module) -> float:
        return checks.measure(job.objective, network)["validation"].mean().item()

    choice = state.averages.choose(step, measure)
    if choice.std is not None:
        losses = {f"validation_loss_by_length.{std:g}": x for std, x in choice.losses.items()}
        job.log(losses, state.step)
        loss = choice.losses[choice.std]
    return Outcome(choice.network, state.step, step, loss, watch.ended, choice.std, choice.losses)


def forward_backward(
    forward: nn.Module,
    state: State,
    objective: Objective,
    batch: Batch,
    options: TrainOptions,
    precision: Precision,
    step: int,
) -> Tensor:
    """One forward and backward pass; returns the loss of each image, detached."""
    with dropout_keyed(options.seed, step, precision.device), precision.autocast():
        loss = objective.loss(forward, batch, options.seed, step)
    state.scaler.scale(loss.mean()).backward()
    return loss.detach()


def validated(state: State, job: Job, checks: Checks, options: TrainOptions) -> str:
    """Measure the averaged weights at every noise level; why training should stop, or ""."""
    losses = checks.measure(job.objective, state.averages.network)
    metrics = loss_metrics(losses) | checks.scores(job.objective, state.averages.network)
    job.log(metrics, state.step)
    stop = options.early_stop
    if state.watch.note(losses["validation"].tolist(), losses["train"].tolist(), state.step, stop):
        state.averages.keep(state.step)
    return state.watch.memorising(stop.patience)


def loss_metrics(losses: Mapping[str, Tensor]) -> dict[str, float]:
    """What is logged of the losses by noise level of both splits."""
    metrics = {
        f"{split}_loss_by_level.{index}": value
        for split, values in losses.items()
        for index, value in enumerate(values.tolist())
    }
    validation, train = float(losses["validation"].mean()), float(losses["train"].mean())
    return metrics | {
        "validation_loss": validation,
        "train_loss_fixed": train,
        "validation_gap": validation - train,
    }


def score_metrics(name: str, values: Tensor) -> dict[str, float]:
    """What is logged of a score, (levels,) or ()."""
    by_level = values.tolist() if values.ndim else []
    return {
        name: float(values.mean()),
        **{f"{name}_by_level.{index}": value for index, value in enumerate(by_level)},
    }


class Checks:
    """The losses by noise level on fixed images of both splits, with the same noise each time."""

    def __init__(
        self,
        train: TrainingSet,
        validation: TrainingSet,
        options: TrainOptions,
        device: torch.device,
    ) -> None:
        count = options.validation_images
        self.batches = {"train": train.first(count), "validation": validation.first(count)}
        self.options, self.device = options, device

    def measure(self, objective: Objective, network: nn.Module) -> dict[str, Tensor]:
        """The mean losses by level, (levels,) in float64, of "train" and "validation"."""
        means: dict[str, Tensor] = {}
        for split, parts in self._parts():
            losses = [
                len(part.clean)
                * objective.loss_by_level(
                    network, part, self.options.validation_levels, self.options.seed
                )
                for part in parts
            ]
            count = len(self.batches[split].clean)
            means[split] = (torch.stack(losses).sum(0) / count).double().cpu()
        return means

    def scores(self, objective: Objective, network: nn.Module) -> dict[str, float]:
        """What else the objective says of both splits, in the mean and by level."""
        levels, seed = self.options.validation_levels, self.options.seed
        found: dict[str, float] = {}
        if not isinstance(objective, Scored):
            return found
        for split, parts in self._parts():
            totals: dict[str, Tensor] = {}
            for part in parts:
                share = len(part.clean) / len(self.batches[split].clean)
                for name, values in objective.scores(network, part, levels, seed).items():
                    totals[name] = totals.get(name, 0) + share * values.double().cpu()
            for name, values in totals.items():
                found |= score_metrics(f"{split}_{name}", values)
        return found

    def _parts(self) -> Iterator[tuple[str, Iterator[Batch]]]:
        for split, batch in self.batches.items():
            parts = _parts(batch, self.options.batch)
            yield split, (part.to(self.device) for part in parts)


class Due:
    """What a step asks for."""

    def __init__(self, step: int, options: TrainOptions) -> None:
        last = step == options.steps
        self.log = step % options.log_every == 0 or last
        self.save = step % options.save_every == 0
        self.validate = step % options.validate_every == 0 or last
        self.sample = options.sample_every > 0 and (step % options.sample_every == 0 or last)


class RecentLosses:
    """Losses since the last report, left on the device so that no step waits for it."""

    def __init__(self) -> None:
        self.items: list[tuple[int, Tensor, Sequence[int], Tensor | None]] = []
        self.restart()

    def restart(self) -> None:
        """Start the clock again: validating, sampling and saving are not training."""
        self.began = time.monotonic()

    def add(self, step: int, loss: Tensor, batch: Batch, norm: Tensor | None) -> None:
        self.items.append((step, loss, batch.rows, norm))

    def settle(self) -> tuple[float, float]:
        """(mean loss, images per second) since the last call.

        Errors: TrainingError naming the manifest rows of the first loss or gradient that is not
        finite.
        """
        if not self.items:
            return math.nan, math.nan
        for step, loss, rows, norm in self.items:
            if not torch.isfinite(loss).all():
                pairs = zip(rows, loss.tolist(), strict=True)
                bad = sorted({row for row, value in pairs if not math.isfinite(value)})
                raise TrainingError(NOT_FINITE.format("loss", step, bad), rows=bad)
            if norm is not None and not torch.isfinite(norm):
                bad = sorted(set(rows))
                raise TrainingError(NOT_FINITE.format("gradient", step, bad), rows=bad)
        total = torch.cat([loss for _, loss, _, _ in self.items])
        now = time.monotonic()
        rate = len(total) / max(now - self.began, 1e-9)
        self.items, self.began = [], now
        return float(total.mean()), rate


@contextmanager
def dropout_keyed(seed: int, step: int, device: torch.device) -> Iterator[None]:
    """Dropout drawn from (seed, step), so that a resumed run draws the same.

    The caller's generator is put back: a library does not move it.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int(uniforms(seed, [("dropout", step)]) * 2**52))
        yield


def _parts(batch: Batch, size: int) -> list[Batch]:
    def part(value: Tensor | None, first: int) -> Tensor | None:
        return None if value is None else value[first : first + size]

    return [
        replace(
            batch,
            clean=batch.clean[first : first + size],
            condition=part(batch.condition, first),
            concat=part(batch.concat, first),
            rows=batch.rows[first : first + size],
            first=first,
        )
        for first in range(0, len(batch.clean), size)
    ]
