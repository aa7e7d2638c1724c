"""Batches as a pure function of the step, made ready by a thread while the network works."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from medidiff.data.datasets import keyed_batches
from medidiff.data.options import Augment
from medidiff.data.transforms import augment
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

    @property
    def places(self) -> range:
        """The images' places in the whole."""
        return range(self.first, self.first + len(self.clean))

    def to(self, device: torch.device) -> Batch:
        def move(value: Tensor | None) -> Tensor | None:
            return None if value is None else value.to(device, non_blocking=True)

        moved = self.clean.to(device, non_blocking=True)
        return replace(self, clean=moved, condition=move(self.condition), concat=move(self.concat))


@dataclass(frozen=True)
class TrainingSet:
    """What a training reads: images by index, their conditions and manifest rows."""

    images: Callable[[Sequence[int]], Tensor]
    """Indices -> (batch, channel, *space) in model units."""
    conditions: Tensor | None
    rows: Sequence[int]

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: Sequence[int]) -> Batch:
        condition = None if self.conditions is None else self.conditions[list(indices)]
        return Batch(self.images(indices), condition, [self.rows[index] for index in indices])

    def first(self, count: int) -> Batch:
        """Evenly spaced images, the same ones each time."""
        count = min(count, len(self))
        return self.batch([index * len(self) // count for index in range(count)])


def training_batches(
    data: TrainingSet, size: int, seed: int, start: int, stop: int, device: torch.device
) -> Iterator[tuple[int, Batch]]:
    """(step, batch) for steps start..stop-1: the same whether or not the run was interrupted."""

    def make(indices: Sequence[int]) -> Batch:
        batch = data.batch(indices)
        return replace(batch, clean=batch.clean.pin_memory()) if device.type == "cuda" else batch

    order = keyed_batches(len(data), size, seed, start, stop)
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
        ahead = [(step, pool.submit(make, indices)) for step, indices in _take(order, 3)]
        while ahead:
            step, ready = ahead.pop(0)
            ahead += [(later, pool.submit(make, indices)) for later, indices in _take(order, 1)]
            yield step, ready.result().to(device)


def augmented(batch: Batch, options: Augment, seed: int, step: int) -> Batch:
    """The batch with keyed augmentation: a function of (seed, step, place in the batch)."""
    if options == Augment():
        return batch
    draws = training_uniforms(seed, step, range(len(batch.clean)), "augment", Augment.DRAWS)
    return replace(batch, clean=augment(batch.clean, options, draws.to(batch.clean.device)))


def _take(
    items: Iterator[tuple[int, Sequence[int]]], count: int
) -> list[tuple[int, Sequence[int]]]:
    return [item for _, item in zip(range(count), items, strict=False)]
