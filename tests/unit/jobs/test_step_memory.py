"""What is counted for a training step is what the objective's real step takes on the plain way."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from medidiff.diffusion import EDM, Cosine, DenoisingLoss, EDMTarget, UniformTimes, UniformWeight, V
from medidiff.jobs.step_memory import CONSTANTS, StepMemory, memory_of_steps
from medidiff.networks import (
    AnyNetwork,
    AutoencoderOptions,
    EncoderOptions,
    NetworkShape,
    UNetOptions,
    accelerated,
    build,
)
from medidiff.networks.memory import CallKind, _LiveBytes, headed
from medidiff.training.batches import Batch
from medidiff.training.losses import AnyObjective, Denoising, loss_of
from medidiff.training.objective import Objective, PriorObjective
from medidiff.training.objectives.alignment import Alignment, AlignmentObjective
from medidiff.training.objectives.autoencoder import (
    Adversary,
    AdversaryOptions,
    AutoencoderObjective,
    Autoencoding,
)
from medidiff.training.objectives.classifier import Classifier, ClassifierObjective
from medidiff.training.objectives.consistency import (
    ConsistencyObjective,
    ConsistencyTraining,
    HeldAverage,
    Parent,
    consistency_loss,
)
from medidiff.training.objectives.spread import Spread, SpreadObjective

BATCH, STEPS = 4, 10
UNET = UNetOptions(channels=(8, 16), blocks=1, attention=(False, True), groups=4, head_channels=8)
READER = EncoderOptions(
    channels=(8, 16), blocks=1, attention=(False, True), groups=4, head_channels=8
)
CODER = AutoencoderOptions(channels=(8, 16), blocks=1, groups=4, latent_channels=2)
GIVEN = (V(), Cosine(), UniformTimes())
DENOISING = DenoisingLoss(*GIVEN, UniformWeight())


@dataclass(frozen=True)
class Case:
    """A network, what it gives, and what it is trained for."""

    objective: AnyObjective
    network: AnyNetwork = UNET
    outputs: int = 1
    space: tuple[int, ...] = (32, 32)

    @property
    def shape(self) -> NetworkShape:
        dims = 2 if len(self.space) == 2 else 3
        return NetworkShape(dims=dims, out_channels=self.outputs)


ADVERSARY = AdversaryOptions(start=0, channels=8, layers=2)
LATER = AdversaryOptions(start=STEPS, channels=8)
CASES: dict[str, Case] = {
    "classifier": Case(Classifier(column="sex"), READER, 5),
    "alignment": Case(Alignment(width=16), READER, 16),
    "spread": Case(Spread(form="complex")),
    "consistency": Case(ConsistencyTraining()),
    "consistency, taught and held": Case(ConsistencyTraining(teacher="parent", held_decay=0.9)),
    "autoencoder": Case(Autoencoding(adversary=ADVERSARY), CODER, space=(12, 16, 12)),
    "autoencoder, judged later": Case(Autoencoding(adversary=LATER), CODER),
}


def trained(case: Case) -> tuple[nn.Module, Objective, list[nn.Module]]:
    """The network, its objective as a training makes it, and the other networks of that."""
    kind = case.objective
    if isinstance(kind, Spread):
        assert isinstance(case.network, UNetOptions)
        loss = loss_of(kind, *GIVEN, UniformWeight())
        prior = PriorObjective(DENOISING, 0.0, loss)
        return headed(case.network, case.shape, kind.form), SpreadObjective(prior, loss), []  # type: ignore[arg-type]
    network = build(case.network, case.shape)
    if isinstance(kind, Classifier):
        return network, ClassifierObjective(*GIVEN), []
    if isinstance(kind, Alignment):
        return network, AlignmentObjective(*GIVEN, kind.logit_scale), []
    if isinstance(kind, ConsistencyTraining):
        return student(case, kind, network)
    if isinstance(kind, Autoencoding):
        assert isinstance(case.network, AutoencoderOptions)
        if kind.adversary.weight == 0:
            return network, AutoencoderObjective(kind, case.network), []
        judge = Adversary(kind.adversary, case.shape.dims, 1, torch.device("cpu"), 0)
        return network, AutoencoderObjective(kind, case.network, judge), [judge.network]
    return network, PriorObjective(DENOISING, 0.0), []


def student(
    case: Case, kind: ConsistencyTraining, network: nn.Module
) -> tuple[nn.Module, Objective, list[nn.Module]]:
    target = EDMTarget(data_std=0.5)
    parent = copy.deepcopy(network).eval().requires_grad_(False)
    held = HeldAverage(network, kind.held_decay) if kind.held_decay else None
    teacher = Parent(parent, target, accelerated(parent, "none"))
    objective = ConsistencyObjective(
        kind,
        consistency_loss(kind, target, EDM()),
        STEPS,
        0.0,
        teacher if kind.teacher == "parent" else None,
        held,
    )
    others = [parent] if kind.teacher == "parent" else []
    return network, objective, others + ([held.on(torch.device("cpu"))] if held else [])


def counted(case: Case, *, fused: bool = False) -> StepMemory:
    call = CallKind(BATCH, case.space, "fp32", fused)
    return memory_of_steps(case.network, case.shape, call, case.objective, STEPS)


@pytest.mark.parametrize("name", CASES)
def test_a_real_step_takes_at_most_what_was_counted(name: str) -> None:
    case = CASES[name]
    network, objective, others = trained(case)
    forward = accelerated(network.train(), "none")
    classes = torch.arange(BATCH).remainder(5)[:, None].float()
    told = classes if isinstance(case.objective, Classifier) else None
    batch = Batch(torch.randn(BATCH, 1, *case.space), told, range(BATCH))
    step = STEPS - 1
    objective.loss(forward, batch, 0, step)  # tables that are made once
    known = [weight for each in (network, *others) for weight in each.parameters()]
    with _LiveBytes(known) as live:
        loss = objective.loss(forward, batch, 0, step)
        loss.mean().backward()
        network.zero_grad(set_to_none=True)
        if objective.memory is not None and isinstance(case.objective, Autoencoding):
            objective.memory.after_step(network, batch, loss.detach(), 0, step)
    images = 4 * batch.clean.numel() * 4  # the loss's, which a plan adds for all objectives alike
    expected = counted(case)
    assert 0.99 * live.most - images < expected.peak < 1.05 * live.most
    weights = sum(weight.numel() for weight in network.parameters())
    assert expected.call.parameters == weights
    assert expected.call.trained == sum(each.numel() for each in objective.trainable(network))
    moments = 0
    if isinstance(objective.memory, Adversary):
        state = objective.memory.optimiser.state.values()
        moments = sum(v.numel() for each in state for v in each.values() if v.ndim)
    beside = sum(weight.numel() for each in others for weight in each.parameters()) + moments
    assert expected.beside == 4 * beside


def test_recorded_calls_keep_what_they_use() -> None:
    once = counted(Case(Denoising()), fused=True)
    assert once.kept == once.peak == int(CONSTANTS.pool * once.call.peak) + once.call.gradients
    alone, taught, held = (
        counted(Case(each), fused=True)
        for each in (
            ConsistencyTraining(),
            ConsistencyTraining(teacher="parent"),
            ConsistencyTraining(held_decay=0.9),
        )
    )
    call = alone.kept - once.kept  # the student's own, without a gradient
    assert 0 < call < 0.5 * once.kept
    assert taught.kept == alone.kept + call
    assert held.kept == once.kept < held.peak < alone.kept
    assert alone.beside == 0 < taught.beside == held.beside


def test_a_frozen_network_keeps_nothing_for_a_way_back() -> None:
    whole, head = counted(Case(Denoising())), counted(Case(Spread()))
    assert head.call.parameters > whole.call.parameters
    assert head.call.trained < 0.1 * whole.call.trained
    assert head.call.kept < 0.2 * whole.call.kept
