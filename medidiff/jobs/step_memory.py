"""The memory of a training step, objective by objective: which networks it calls, and how.

Counted from the networks themselves (`networks.memory`). What a network is called for is told here
as the objectives do it (`training.objectives`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import cast

import torch
from torch import Tensor, nn

from medidiff.networks import AnyNetwork, AutoencoderOptions, NetworkShape, UNetOptions
from medidiff.networks.autoencoder import Autoencoder, Reconstructed
from medidiff.networks.choice import made
from medidiff.networks.discriminator import patch_discriminator, scored
from medidiff.networks.memory import (
    CallKind,
    CallMemory,
    autocast,
    headed,
    inference_in_training,
    loss_of_call,
    step_memory,
    training_memory,
)
from medidiff.training.losses import AnyObjective
from medidiff.training.objectives.alignment import Alignment
from medidiff.training.objectives.autoencoder import AdversaryOptions, Autoencoding
from medidiff.training.objectives.consistency import ConsistencyTraining
from medidiff.training.objectives.spread import Spread


@dataclass(frozen=True)
class Measured:
    """What no operation shows; see benchmarks/memory_plan.py."""

    driver: int
    """The CUDA context and the kernels loaded into it."""
    workspace: int
    """cuBLAS's and cuDNN's scratch memory, and what the allocator cannot use."""
    workspace_recorded: int
    """The same where calls are recorded, each with scratch memory of its own."""
    pool: float
    """Memory that a recorded call holds for each byte that it uses at most."""


MIB = 2**20
CONSTANTS = Measured(driver=900 * MIB, workspace=120 * MIB, workspace_recorded=400 * MIB, pool=1.06)


@dataclass(frozen=True)
class StepMemory:
    """Bytes that the steps of a training take beside its weights, optimiser and averages."""

    call: CallMemory
    """The network's own forward pass and way back."""
    peak: int
    """The most within a step."""
    kept: int = 0
    """What recorded calls keep between the steps."""
    beside: int = 0
    """Weights of other networks, and an optimiser of theirs."""


@lru_cache(maxsize=64)
def memory_of_steps(
    network: AnyNetwork,
    shape: NetworkShape,
    call: CallKind,
    objective: AnyObjective,
    steps: int,
) -> StepMemory:
    """What the steps of a training with this objective take; `call.fused` ones are recorded."""
    if isinstance(objective, Autoencoding):
        return _autoencoder(cast(AutoencoderOptions, network), shape, call, objective, steps)
    if isinstance(objective, Alignment):
        return _alignment(network, shape, call)
    if isinstance(objective, ConsistencyTraining):
        return _consistency(cast(UNetOptions, network), shape, call, objective)
    if isinstance(objective, Spread):
        return _spread(cast(UNetOptions, network), shape, call, objective)
    return _once(training_memory(network, shape, call), call)


def _spread(
    trunk: UNetOptions, shape: NetworkShape, call: CallKind, objective: Spread
) -> StepMemory:
    """A call of the frozen network, and the head's way forward and back."""
    run = partial(loss_of_call, shape=shape, call=call)
    return _once(step_memory(lambda: [headed(trunk, shape, objective.form)], run, call), call)


def _once(found: CallMemory, call: CallKind) -> StepMemory:
    """One call of the network; a recorded one's gradients are copied out of its pool."""
    if not call.fused:
        return StepMemory(found, found.peak)
    recorded = int(CONSTANTS.pool * found.peak) + found.gradients
    return StepMemory(found, recorded, recorded)


def _alignment(network: AnyNetwork, shape: NetworkShape, call: CallKind) -> StepMemory:
    """Two calls before the way back, of which the second cannot be replayed.

    A frozen encoder in place of the second (`--from`) needs less.
    """
    found = training_memory(network, shape, call)
    one = _once(found, call)
    if call.fused:
        return StepMemory(found, one.peak + found.peak, one.kept)

    def twice(module: nn.Module) -> Sequence[Tensor]:
        first, *held = loss_of_call(module, shape, call)
        second, *more = loss_of_call(module, shape, call)
        return [first + second, *held, *more]

    both = step_memory(lambda: (made(network, shape),), twice, call)
    return StepMemory(found, both.peak)


def _consistency(
    network: UNetOptions, shape: NetworkShape, call: CallKind, objective: ConsistencyTraining
) -> StepMemory:
    """The student's call; between it and its way back a call of the student or of its held average,
    and calls of a parent that teaches."""
    own = training_memory(network, shape, call)
    aside = inference_in_training(network, shape, call)
    held, taught = objective.held_decay > 0, objective.teacher == "parent"
    beside = 4 * own.parameters * (held + taught)
    if not call.fused:
        return StepMemory(own, max(own.peak, own.kept + aside), beside=beside)
    recordings = taught + (not held)  # a held average is called as it is
    kept = _once(own, call).kept + recordings * int(CONSTANTS.pool * aside)
    called = max(0, aside - own.gradients) if held else 0
    return StepMemory(own, kept + called, kept, beside)


def _autoencoder(
    network: AutoencoderOptions,
    shape: NetworkShape,
    call: CallKind,
    objective: Autoencoding,
    steps: int,
) -> StepMemory:
    """Both ways and back, judged by an adversary that then learns in float32; nothing is
    recorded."""
    adversary = objective.adversary
    judged = adversary.weight > 0 and adversary.start < steps

    def both() -> Sequence[nn.Module]:
        return [made(network, shape), *([_adversary(shape, adversary)] if judged else [])]

    found = step_memory(both, partial(_autoencoding, network, shape, call), call)
    if adversary.weight == 0:
        return StepMemory(found, found.peak)
    alone = CallKind(call.batch, call.space, "fp32", fused=False)
    learning = step_memory(
        lambda: [_adversary(shape, adversary)], partial(_judging, shape, alone), alone
    )
    copies = 3 if judged else 1  # once it learns, with the optimiser's two moments
    peak = max(found.peak, learning.peak) if judged else found.peak
    return StepMemory(found, peak, beside=4 * copies * learning.parameters)


def _autoencoding(
    options: AutoencoderOptions,
    shape: NetworkShape,
    call: CallKind,
    network: Autoencoder,
    *judges: nn.Module,
) -> Sequence[Tensor]:
    """As `AutoencoderObjective.loss`."""
    x = torch.empty(call.batch, shape.in_channels, *call.space)
    grid = options.latent_space(call.space)
    eps = torch.empty(call.batch, options.latent_channels, *grid)
    with autocast(call.number):
        found: Reconstructed = network(x, eps)
        loss = (found.image.float() - x.float()).abs().mean() + found.posterior.divergence().mean()
        for judge in judges:
            loss = loss + scored(judge.requires_grad_(False), found.image, 1.0).mean()
    return [loss, x, eps, found.image]


def _judging(shape: NetworkShape, call: CallKind, judge: nn.Module) -> Sequence[Tensor]:
    """As `Adversary.after_step`: a real image and a made one."""
    real, image = (torch.empty(call.batch, shape.in_channels, *call.space) for _ in range(2))
    both = scored(judge, real, 1.0) + scored(judge, image, 0.0)
    return [both.mean(), real, image]


def _adversary(shape: NetworkShape, options: AdversaryOptions) -> nn.Module:
    network = patch_discriminator(shape.dims, shape.in_channels, options.channels, options.layers)
    for each in network.modules():
        if isinstance(each, nn.GroupNorm):  # as a GPU's autocast does, unlike a CPU's
            each.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))
    return network
