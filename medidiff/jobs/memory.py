"""The memory that a training takes on a GPU, moment by moment.

Counted from the network itself (`networks.memory`), with what no operation shows from measurements
(`CONSTANTS`). `jobs.fitting` says what to change if it is too much.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import torch

from medidiff.diffusion import training_noise
from medidiff.jobs.step_memory import CONSTANTS, StepMemory, memory_of_steps
from medidiff.networks import (
    AnyNetwork,
    AutoencoderOptions,
    EncoderOptions,
    NetworkShape,
    UNetOptions,
)
from medidiff.networks.memory import (
    CallKind,
    CallMemory,
    Grid,
    decoding_memory,
    headed_inference_memory,
    inference_memory,
    peak_of,
    reconstruction_memory,
)
from medidiff.training.losses import AnyObjective, Denoising
from medidiff.training.objectives.spread import Spread
from medidiff.training.options import PowerAverages, TrainOptions

GIB = 2**30
SAMPLE_BATCH = 16  # images that `Model.sample` draws at a time
TILED = 3  # whole images that are held while one is put together of tiles
IMAGES = 8  # images of a batch that the loss and the recorded call hold beside the network's own


@dataclass(frozen=True)
class Training:
    """What decides how much memory a training takes."""

    network: AnyNetwork
    shape: NetworkShape
    space: Grid
    """The whole image, in the network's space: what is validated and drawn."""
    train: TrainOptions
    patch: Grid | None = None
    """What is trained on, where that is not the whole image."""
    coding: tuple[AutoencoderOptions, NetworkShape] | None = None
    """The autoencoder of a prior of latents."""
    objective: AnyObjective = Denoising()
    tile: Grid | None = None
    """What the autoencoder decodes at a time, in latents, where that is not the whole image."""

    @property
    def accelerated(self) -> bool:
        """Whether kernels are fused and calls recorded as CUDA graphs, whose memory is kept."""
        return self.train.acceleration == "auto"

    @property
    def draws(self) -> bool:
        """Whether the model draws samples."""
        return isinstance(self.network, UNetOptions)

    @property
    def number(self) -> Literal["bf16", "fp16", "fp32"]:
        """The dtype of the forward pass on a card with bfloat16."""
        return "bf16" if self.train.precision == "auto" else self.train.precision


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes that a training takes on a GPU, moment by moment."""

    training: Training
    steps: StepMemory
    """The calls of a training step."""
    validation: int
    """A call of the averaged network in float32, without a gradient."""
    sampling: int
    """The same for the grid of samples drawn during training, or their decoding; 0 for none."""
    batch: int
    """Images, their noise, and what the loss makes of them."""
    finished: int
    """A call of the finished model on as many images as `Model.sample` draws at a time; 0 for a
    model that draws none."""

    @property
    def step(self) -> CallMemory:
        """The trained network's forward pass and the way back."""
        return self.steps.call

    @property
    def weights(self) -> int:
        """The network's own, in float32."""
        return 4 * self.step.parameters

    @property
    def optimiser(self) -> int:
        """AdamW's two moments of what is trained."""
        return 8 * self.step.trained

    @property
    def averages(self) -> int:
        """The averaged weights; of a single average also those of the best step."""
        ema = self.training.train.ema
        return (len(ema.stds) if isinstance(ema, PowerAverages) else 2) * self.weights

    @property
    def always(self) -> int:
        """What is held from the first step to the last."""
        return self.weights + self.optimiser + self.averages + self.steps.beside

    @cached_property
    def moments(self) -> dict[str, int]:
        """The most that the allocator holds while training, validating and drawing samples."""
        kept, drawn = self.steps.kept, {}
        if self.training.train.sample_every > 0 and self.sampling > 0:
            drawn = {"drawing samples": self._held(self.batch + kept + self.sampling)}
        return {
            "training": self._held(self.batch + self.steps.peak),
            "validation": self._held(self.batch + kept + self.validation),
            **drawn,
        }

    def _held(self, beside: int) -> int:
        scratch = CONSTANTS.workspace_recorded if self.steps.kept else CONSTANTS.workspace
        return self.always + beside + scratch

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
        weights = self.weights // 2 if self.training.accelerated else self.weights
        recorded = self.training.accelerated
        scratch = CONSTANTS.workspace_recorded if recorded else CONSTANTS.workspace
        return weights + self.finished + scratch + CONSTANTS.driver

    @property
    def needed(self) -> int:
        """The peak and what the driver takes."""
        return self.peak + CONSTANTS.driver


def plan(training: Training) -> MemoryPlan:
    """The memory that a training takes, counted from its networks."""
    options, shape = training.train, training.shape
    fused, cut = training.accelerated, training.patch or training.space
    call = CallKind(options.batch, cut, training.number, fused)
    return MemoryPlan(
        training,
        memory_of_steps(training.network, shape, call, training.objective, options.steps),
        _validation(training),
        _sampling(training),
        _batch_memory(options.batch, shape, cut),
        _finished(training),
    )


def _validation(training: Training) -> int:
    """Whole images, but for an autoencoder on patches."""
    options, space = training.train, training.space
    if isinstance(training.network, AutoencoderOptions):
        space = training.patch or space
    checked = min(options.batch, options.validation_images)
    return _evaluation(training, CallKind(checked, space, "fp32", training.accelerated))


def _sampling(training: Training) -> int:
    """Of an autoencoder, reconstructions; of a network that reads, nothing."""
    if isinstance(training.network, EncoderOptions):
        return 0
    drawn = training.train.sample_images
    if isinstance(training.network, UNetOptions):
        drawn = min(drawn, SAMPLE_BATCH)
    call = CallKind(drawn, training.space, "fp32", training.accelerated)
    one = _evaluation(training, call)
    if training.coding is None:
        return one
    return max(one, _decoding(training, drawn))


def _evaluation(training: Training, call: CallKind) -> int:
    """A call without a gradient of the network as it is trained."""
    network, shape, objective = training.network, training.shape, training.objective
    if isinstance(network, AutoencoderOptions):
        return _reconstruction_memory(network, shape, call)
    if isinstance(network, UNetOptions) and isinstance(objective, Spread):
        return _headed_inference_memory(network, shape, objective.form, call)
    return _inference_memory(network, shape, call)


def _finished(training: Training) -> int:
    """Weights in bfloat16 on a card that has it; a network of its own in a recording."""
    if not training.draws:
        return 0
    number = "bf16" if training.accelerated else "fp32"
    call = CallKind(SAMPLE_BATCH, training.space, number, training.accelerated)
    one = _inference_memory(training.network, training.shape, call)
    if training.coding is None:
        return one
    return max(one, _decoding(training, SAMPLE_BATCH))


def _decoding(training: Training, count: int) -> int:
    """What latents take to become so many images, whole or tile by tile."""
    assert training.coding is not None
    options, shape = training.coding
    if training.tile is None:
        return _decoding_memory(options, shape, count, training.space)
    tile = tuple(map(min, training.tile, training.space))
    voxels = count * shape.out_channels * math.prod(n * options.reduction for n in training.space)
    return _decoding_memory(options, shape, count, tile) + TILED * 4 * voxels


_inference_memory = lru_cache(maxsize=64)(inference_memory)
_headed_inference_memory = lru_cache(maxsize=64)(headed_inference_memory)
_decoding_memory = lru_cache(maxsize=64)(decoding_memory)
_reconstruction_memory = lru_cache(maxsize=64)(reconstruction_memory)


@lru_cache(maxsize=64)
def _batch_memory(batch: int, shape: NetworkShape, space: Grid) -> int:
    def noise() -> None:
        training_noise(0, 0, range(batch))(torch.empty(batch, shape.in_channels, *space), 0)

    def images() -> None:
        torch.empty(IMAGES * batch, shape.in_channels + shape.concat_channels, *space)

    return max(peak_of(noise), peak_of(images))
