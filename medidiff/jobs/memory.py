"""The memory that a training takes on a GPU, moment by moment.

Counted from the network itself (`networks.memory`), with what no operation shows from measurements
(`CONSTANTS`). `jobs.fitting` says what to change if it is too much.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import torch

from medidiff.diffusion import training_noise
from medidiff.networks import AutoencoderOptions, NetworkShape, UNetOptions
from medidiff.networks.memory import (
    CallKind,
    CallMemory,
    Grid,
    decoding_memory,
    inference_memory,
    peak_of,
    training_memory,
)
from medidiff.training.options import PowerAverages, TrainOptions

GIB = 2**30
SAMPLE_BATCH = 16  # images that `Model.sample` draws at a time
IMAGES = 8  # images of a batch that the loss and the recorded call hold beside the network's own


@dataclass(frozen=True)
class Measured:
    """What no operation shows; see benchmarks/memory_plan.py."""

    driver: int
    """The CUDA context and the kernels loaded into it."""
    workspace: int
    """cuBLAS's and cuDNN's scratch memory, and what the allocator cannot use."""
    pool: float
    """Memory that a recorded step holds for each byte that it uses at most."""


CONSTANTS = Measured(driver=900 * 2**20, workspace=400 * 2**20, pool=1.06)


@dataclass(frozen=True)
class Training:
    """What decides how much memory a training takes."""

    network: UNetOptions
    shape: NetworkShape
    space: Grid
    """The whole image, in the network's space: what is validated and drawn."""
    train: TrainOptions
    patch: Grid | None = None
    """What is trained on, where that is not the whole image."""
    coding: tuple[AutoencoderOptions, NetworkShape] | None = None
    """The autoencoder of a prior of latents."""

    @property
    def recorded(self) -> bool:
        """Whether calls are recorded as CUDA graphs, whose memory is then kept."""
        return self.train.acceleration == "auto"

    @property
    def number(self) -> Literal["bf16", "fp16", "fp32"]:
        """The dtype of the forward pass on a card with bfloat16."""
        return "bf16" if self.train.precision == "auto" else self.train.precision


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes that a training takes on a GPU, moment by moment."""

    training: Training
    step: CallMemory
    """Forward pass and the way back."""
    validation: int
    """A call of the averaged network in float32, without a gradient, on whole images."""
    sampling: int
    """The same for the grid of samples drawn during training, or their decoding."""
    batch: int
    """Images, their noise, and what the loss makes of them."""
    finished: int
    """A call of the finished model on as many images as `Model.sample` draws at a time."""

    @property
    def weights(self) -> int:
        """The network's own, in float32."""
        return 4 * self.step.parameters

    @property
    def optimiser(self) -> int:
        """AdamW's two moments."""
        return 2 * self.weights

    @property
    def averages(self) -> int:
        """The averaged weights; of a single average also those of the best step."""
        ema = self.training.train.ema
        return (len(ema.stds) if isinstance(ema, PowerAverages) else 2) * self.weights

    @property
    def always(self) -> int:
        """What is held from the first step to the last."""
        return self.weights + self.optimiser + self.averages

    @cached_property
    def moments(self) -> dict[str, int]:
        """The most that the allocator holds while training, validating and drawing samples."""
        step = self._step
        kept = step if self.training.recorded else 0
        draws = self.training.train.sample_every > 0
        return {
            "training": self._held(self.batch + step),
            "validation": self._held(self.batch + kept + self.validation),
            **({"drawing samples": self._held(self.batch + kept + self.sampling)} if draws else {}),
        }

    def _held(self, beside: int) -> int:
        return self.always + beside + CONSTANTS.workspace

    @property
    def _step(self) -> int:
        """A recorded step has a pool of its own, and its gradients are copied out of it."""
        if not self.training.recorded:
            return self.step.peak
        return int(CONSTANTS.pool * self.step.peak) + self.step.gradients

    @property
    def peak(self) -> int:
        """The most of PyTorch's memory at any moment."""
        return max(self.moments.values())

    @property
    def least(self) -> int:
        """What the network needs before any image comes in."""
        return self._held(0) + CONSTANTS.driver

    @property
    def drawing(self) -> int:
        """What drawing samples needs once the model is finished."""
        weights = self.weights // 2 if self.training.recorded else self.weights
        return weights + self.finished + CONSTANTS.workspace + CONSTANTS.driver

    @property
    def needed(self) -> int:
        """The peak and what the driver takes."""
        return self.peak + CONSTANTS.driver


def plan(training: Training) -> MemoryPlan:
    """The memory that a training takes, counted from its network."""
    options, shape, space = training.train, training.shape, training.space
    fused, cut = training.recorded, training.patch or training.space
    checked = min(options.batch, options.validation_images)
    drawn = min(options.sample_images, SAMPLE_BATCH)
    call = CallKind(options.batch, cut, training.number, fused)
    sampling = _inference_memory(training.network, shape, CallKind(drawn, space, "fp32", fused))
    if training.coding is not None:
        sampling = max(sampling, _decoding_memory(*training.coding, drawn, space))
    return MemoryPlan(
        training,
        _training_memory(training.network, shape, call),
        _inference_memory(training.network, shape, CallKind(checked, space, "fp32", fused)),
        sampling,
        _batch_memory(options.batch, shape, cut),
        _finished(training),
    )


def _finished(training: Training) -> int:
    """Weights in bfloat16 on a card that has it; a network of its own in a recording."""
    number = "bf16" if training.recorded else "fp32"
    call = CallKind(SAMPLE_BATCH, training.space, number, training.recorded)
    one = _inference_memory(training.network, training.shape, call)
    if training.coding is None:
        return one
    return max(one, _decoding_memory(*training.coding, SAMPLE_BATCH, training.space))


_training_memory = lru_cache(maxsize=64)(training_memory)
_inference_memory = lru_cache(maxsize=64)(inference_memory)
_decoding_memory = lru_cache(maxsize=64)(decoding_memory)


@lru_cache(maxsize=64)
def _batch_memory(batch: int, shape: NetworkShape, space: Grid) -> int:
    def noise() -> None:
        training_noise(0, 0, range(batch))(torch.empty(batch, shape.in_channels, *space), 0)

    def images() -> None:
        torch.empty(IMAGES * batch, shape.in_channels + shape.concat_channels, *space)

    return max(peak_of(noise), peak_of(images))
