"""Batches as a pure function of the step, made ready by a thread while the network works."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from medidiff.data.augment import Surroundings, augment
from medidiff.data.datasets import keyed_batches
from medidiff.data.options import Augment
from medidiff.diffusion import training_uniforms


@dataclass(frozen=True)
class Batch:
    """Training images of one step.

    Shapes: clean (batch, channel, *space) in model units; condition (batch, K) or None.
    """

    clean: Tensor
    condition: Tensor | None
    rows: Sequence[int]
    """Manifest rows, for error messages."""
    concat: Tensor | None = None
    first: int = 0
    """Place of the first image in the whole of which this is a part; noise is keyed by it."""
    around: Surroundings | None = None
    """The images with what lies around them, where they are still to be moved."""

    @property
    def places(self) -> range:
        """The images' places in the whole."""
        return range(self.first, self.first + len(self.clean))

    def pinned(self) -> Batch:
        """In memory that a GPU fetches from without waiting."""
        if self.around is None:
            return replace(self, clean=self.clean.pin_memory())
        around = replace(self.around, images=self.around.images.pin_memory())
        return replace(self, clean=around.on_grid, around=around)

    def to(self, device: torch.device) -> Batch:
        def move(value: Tensor | None) -> Tensor | None:
            return None if value is None else value.to(device, non_blocking=True)

        around = None if self.around is None else self.around.to(device)
        clean = self.clean.to(device, non_blocking=True) if around is None else around.on_grid
        condition, concat = move(self.condition), move(self.concat)
        return replace(self, clean=clean, condition=condition, concat=concat, around=around)


@dataclass(frozen=True)
class TrainingSet:
    """What a training reads: images by index, their conditions and manifest rows."""

    images: Callable[[Sequence[int]], Tensor]
    """Indices -> (batch, channel, *space) in model units."""
    conditions: Tensor | None
    rows: Sequence[int]
    around: Callable[[Sequence[int]], Surroundings] | None = None
    """The same with what lies around the images, where the set is to be augmented."""

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: Sequence[int], *, to_move: bool = False) -> Batch:
        """Some of the images; `to_move` with their surroundings, where these are known."""
        condition = None if self.conditions is None else self.conditions[list(indices)]
        rows = [self.rows[index] for index in indices]
        if not to_move or self.around is None:
            return Batch(self.images(indices), condition, rows)
        around = self.around(indices)
        return Batch(around.on_grid, condition, rows, around=around)

    def first(self, count: int) -> Batch:
        """Evenly spaced images, the same ones each time."""
        count = min(count, len(self))
        return self.batch([index * len(self) // count for index in range(count)])


def training_batches(
    data: TrainingSet,
    size: int,
    seed: int,
    start: int,
    stop: int,
    device: torch.device,
    *,
    to_move: float = 0,
) -> Iterator[tuple[int, Batch]]:
    """(step, batch) for steps start..stop-1: the same whether or not the run was interrupted.

    Those of steps below `to_move` come with what lies around their images.
    """

    def make(step: int, indices: Sequence[int]) -> Batch:
        batch = data.batch(indices, to_move=step < to_move)
        return batch.pinned() if device.type == "cuda" else batch

    order = keyed_batches(len(data), size, seed, start, stop)
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
        ahead = [(step, pool.submit(make, step, indices)) for step, indices in _take(order, 3)]
        while ahead:
            step, ready = ahead.pop(0)
            ahead += [
                (later, pool.submit(make, later, indices)) for later, indices in _take(order, 1)
            ]
            yield step, ready.result().to(device)


def augmented(batch: Batch, options: Augment, seed: int, step: int, key: str = "augment") -> Batch:
    """The batch with keyed augmentation: a function of (seed, step, place in the batch)."""
    if options == Augment():
        return batch
    draws = training_uniforms(seed, step, batch.places, key, Augment.DRAWS)
    around = batch.around
    if around is None:
        return replace(batch, clean=augment(batch.clean, options, draws))
    clean = augment(
        around.images,
        options,
        draws,
        field=around.field,
        size=around.size,
        spacing=around.spacing,
    )
    return replace(batch, clean=clean, around=None)


def _take(
    items: Iterator[tuple[int, Sequence[int]]], count: int
) -> list[tuple[int, Sequence[int]]]:
    return [item for _, item in zip(range(count), items, strict=False)]
