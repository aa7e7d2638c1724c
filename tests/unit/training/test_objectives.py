"""Objectives on networks so small that what they minimise can be said by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from medidiff.diffusion import (
    Cosine,
    DenoisingLoss,
    LevelUncertainty,
    UniformSteps,
    UniformTimes,
    V,
)
from medidiff.networks import IdentityCodec
from medidiff.training.batches import Batch
from medidiff.training.objective import PriorObjective, Scored, noising, scores_of
from medidiff.training.objectives.alignment import AlignmentObjective
from medidiff.training.objectives.classifier import ClassifierObjective
from medidiff.training.objectives.importance import (
    Importance,
    ImportanceObjective,
    StepHistory,
)
from medidiff.training.objectives.uncertainty import ThrownAway, UncertaintyObjective
from medidiff.training.spaces import Coded, OnPatches

PRIOR = PriorObjective(DenoisingLoss(V(), Cosine()), 0.0)


class Nothing(nn.Module):
    """A prediction of 0, with a weight to learn."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, label: Tensor, condition: None, concat: None) -> Tensor:
        return self.weight * x


class Means(nn.Module):
    """The mean of each half of an image: two logits, or an embedding of two numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, label: Tensor, condition: None, concat: None) -> Tensor:
        return self.weight * torch.stack([half.flatten(1).mean(1) for half in x.chunk(2, -1)], 1)


def batch(size: int = 6, first: int = 0, classes: Sequence[int] = (0, 1)) -> Batch:
    clean = torch.randn(size, 1, 4, 4, generator=torch.Generator().manual_seed(first))
    found = torch.tensor([float(classes[index % len(classes)]) for index in range(size)])
    return Batch(clean, found[:, None], range(size), first=first)


def warm() -> ImportanceObjective:
    memory = StepHistory(3, Importance(kept=1, uniform_share=0.1))
    steps, losses = torch.tensor([1, 2, 3]), torch.tensor([1.0, 2.0, 5.0])
    memory.history = memory.history.updated(steps, losses)
    return ImportanceObjective(PRIOR, memory)


def test_the_history_takes_in_losses_as_they_were_before_their_weights() -> None:
    objective, network, given = warm(), Nothing(), batch()
    draw, eps = noising(given, 0, 7)
    steps, weights = objective.memory.history.drawn(draw)
    assert len({*weights.tolist()}) > 1
    loss = objective.loss(network, given, 0, 7)
    levels = Cosine()(steps.double() / 3)
    plain = PRIOR.denoising(network, given.clean, levels, eps)
    torch.testing.assert_close(loss, weights.to(loss) * plain)
    wanted = objective.memory.history.updated(steps, plain.detach())
    objective.memory.after_step(network, given, loss.detach(), 0, 7)
    torch.testing.assert_close(objective.memory.history.losses, wanted.losses)
    infinite = torch.full_like(loss.detach(), math.inf)
    objective.memory.after_step(network, given, infinite, 0, 8)
    torch.testing.assert_close(objective.memory.history.losses, wanted.losses)


def test_importance_does_not_change_what_is_minimised() -> None:
    objective, network, given = warm(), Nothing(), batch(2000)
    uniform = replace(PRIOR, denoising=DenoisingLoss(V(), Cosine(), UniformSteps(steps=3)))
    ours, theirs = (
        torch.stack([each.loss(network, given, 0, step).detach().mean() for step in range(8)])
        for each in (objective, uniform)
    )
    error = float((ours.std() ** 2 + theirs.std() ** 2).sqrt()) / 8**0.5
    assert abs(float(ours.mean() - theirs.mean())) < 4 * error


def test_the_uncertainty_has_a_gradient_of_its_own_and_validation_does_not_see_it() -> None:
    beside = LevelUncertainty(8)
    with torch.no_grad():
        beside.bias.fill_(0.7)
    objective, network, given = UncertaintyObjective(PRIOR, ThrownAway(beside)), Nothing(), batch()
    plain = PRIOR.loss(network, given, 0, 3)
    torch.testing.assert_close(
        objective.loss(network, given, 0, 3), plain / math.exp(0.7) + 0.7, rtol=1e-5, atol=1e-5
    )
    assert {*map(id, objective.trainable(network))} == {
        id(network.weight),
        *map(id, beside.parameters()),
    }
    found = (each.loss_by_level(network, given, 3, 0) for each in (objective, PRIOR))
    assert torch.equal(*found)


def test_a_classifier_s_loss_is_the_cross_entropy_of_its_classes() -> None:
    objective, network = ClassifierObjective(V(), Cosine(), UniformTimes()), Means()
    assert isinstance(objective, Scored)
    assert not isinstance(PRIOR, Scored)
    right, wrong = batch(), batch(classes=(1, 0))
    nearly = torch.exp(-objective.loss(network, right, 0, 0)) + torch.exp(
        -objective.loss(network, wrong, 0, 0)
    )
    torch.testing.assert_close(nearly, torch.ones(6))  # two classes: their chances sum to 1
    scores = [objective.scores(network, each, 4, 0)["accuracy"] for each in (right, wrong)]
    torch.testing.assert_close(scores[0] + scores[1], torch.ones(4, dtype=torch.float64))
    with pytest.raises(ValueError, match="a class for each image"):
        objective.loss(network, replace(right, condition=None), 0, 0)


def test_alignment_is_the_cross_entropy_both_ways_and_leaves_the_frozen_alone() -> None:
    frozen, network, given = Means(), Means(), batch()

    def clean(image: Tensor) -> Tensor:
        with torch.no_grad():
            return frozen(image, image, None, None)

    objective = AlignmentObjective(V(), Cosine(), UniformTimes(), 10.0, clean)
    draw, eps = noising(given, 0, 5)
    level = UniformTimes().levels(Cosine(), draw)
    alpha, sigma = (each.float()[:, None, None, None] for each in (level.alpha, level.sigma))
    noisy = network(alpha * given.clean + sigma * eps, draw, None, None)
    cosines = torch.stack(
        [torch.cosine_similarity(each[None], clean(given.clean)) for each in noisy]
    )
    chances = [(10 * cosines).log_softmax(axis).diagonal() for axis in (1, 0)]
    loss = objective.loss(network, given, 0, 5)
    torch.testing.assert_close(loss, -(chances[0] + chances[1]) / 2)
    loss.sum().backward()
    assert frozen.weight.grad is None
    own = AlignmentObjective(V(), Cosine(), UniformTimes(), 10.0)
    assert own.loss(network, given, 0, 5).shape == (6,)
    scores = objective.scores(network, given, 4, 0)["retrieval"]
    assert float(scores[0]) >= float(scores[-1])


def test_scores_come_through_a_codec_and_patches() -> None:
    objective, network, given = ClassifierObjective(V(), Cosine(), UniformTimes()), Means(), batch()
    own = objective.scores(network, given, 3, 0)["accuracy"]
    for wrapped in (Coded(objective, IdentityCodec()), OnPatches(objective, (4, 4), False)):
        assert isinstance(wrapped, Scored)
        assert torch.equal(wrapped.scores(network, given, 3, 0)["accuracy"], own)
    for silent in (Coded(PRIOR, IdentityCodec()), OnPatches(PRIOR, (4, 4), False), PRIOR):
        assert scores_of(silent, network, given, 3, 0) == {}
