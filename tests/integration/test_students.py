"""A consistency student: it begins as its parent, and two calls of it beat two of the parent."""

from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import medidiff
from medidiff.config import load_config
from medidiff.diffusion import (
    DDIM,
    EDM,
    AnySpacing,
    Consistency,
    ConsistencyTarget,
    Denoiser,
    DenoisingLoss,
    EDMTarget,
    Karras,
    KeyedNoise,
    LogNormalNoiseRatio,
    Sampler,
    UniformTime,
    diffuse,
    path,
    sample,
    start,
)
from medidiff.errors import MedidiffError
from medidiff.jobs import prepare
from medidiff.jobs.reporting import Quiet
from medidiff.training.batches import Batch
from medidiff.training.ema import AveragedWeights
from medidiff.training.objective import Objective, PriorObjective
from medidiff.training.objectives.consistency import (
    ConsistencyObjective,
    ConsistencyTraining,
    DoubledLevels,
    EasyGaps,
    HeldAverage,
    Parent,
    consistency_loss,
    student_target,
)

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "smoke-2d.yaml"
SCHEDULE, TARGET = EDM(), EDMTarget(data_std=0.5)
SPREAD = torch.tensor([0.6, 0.2])[:, None, None]
CENTRE = torch.tensor([0.3, -0.4])[:, None, None]


class Perceptron(nn.Module):
    """A network for images of one voxel and two channels."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(10, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 2)
        )

    def forward(self, x: Tensor, label: Tensor, condition: object = None, concat: object = None):
        waves = [f(k * label) for k in (1, 2, 4) for f in (torch.sin, torch.cos)]
        inputs = torch.stack([*x.flatten(1).T, label, label**2 / 4, *waves], 1)
        return self.layers(inputs).reshape(x.shape)


def gaussian(count: int, seed: int) -> Tensor:
    draw = torch.randn(count, 2, 1, 1, generator=torch.Generator().manual_seed(seed))
    return CENTRE + SPREAD * draw


def fitted(network: nn.Module, objective: Objective, steps: int, rate: float) -> nn.Module:
    """The averaged network after a short training on the Gaussian."""
    optimiser = torch.optim.Adam(objective.trainable(network), lr=rate)
    average = AveragedWeights(network, 0.99)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / steps))
        batch = Batch(gaussian(128, step), None, range(128))
        loss = objective.loss(network, batch, 0, step)
        optimiser.zero_grad()
        loss.mean().backward()
        optimiser.step()
        average.update(network, step + 1)
        if objective.memory is not None:
            objective.memory.after_step(network, batch, loss.detach(), 0, step)
    return average.network


@pytest.fixture(scope="module")
def parent() -> Parent:
    torch.manual_seed(0)
    prior = PriorObjective(DenoisingLoss(TARGET, SCHEDULE, LogNormalNoiseRatio()), 0.0)
    return Parent(fitted(Perceptron(), prior, 800, 3e-3), TARGET)


@pytest.fixture
def untrained() -> Parent:
    torch.manual_seed(0)
    return Parent(Perceptron().requires_grad_(False), TARGET)


def objective_of(
    options: ConsistencyTraining, parent: Parent | None, steps: int, network: nn.Module
) -> ConsistencyObjective:
    held = HeldAverage(network, options.held_decay) if options.held_decay else None
    loss = consistency_loss(options, TARGET, SCHEDULE)
    return ConsistencyObjective(options, loss, steps, 0.0, parent, held)


def images(
    network: nn.Module,
    target: EDMTarget | ConsistencyTarget,
    sampler: Sampler,
    spacing: AnySpacing,
    steps: int,
    count: int = 2000,
) -> Tensor:
    noise = KeyedNoise(7, [("", number) for number in range(count)])
    levels = path(spacing, SCHEDULE, steps)
    x = start(levels[0], noise, torch.zeros(count, 2, 1, 1))
    with torch.no_grad():
        return sample(Denoiser(network, target), x, levels, sampler, noise, schedule=SCHEDULE)


def distance(found: Tensor) -> float:
    """Wasserstein-2 distance of Gaussians of the samples' moments from the true one, by axis."""
    mean, spread = found.mean(0), found.std(0)
    return float(((mean - CENTRE).square() + (spread - SPREAD).square()).sum().sqrt())


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ConsistencyTraining(teacher="parent"),
        ConsistencyTraining(),
        ConsistencyTraining(gaps=DoubledLevels(first=10, last=80)),
    ],
    ids=["distilled", "tuned", "doubled"],
)
def test_two_calls_of_a_student_are_nearer_to_the_target_than_two_of_its_parent(
    options: ConsistencyTraining, parent: Parent
) -> None:
    network = copy.deepcopy(parent.network).requires_grad_(True)
    objective = objective_of(options, parent, 500, network)
    student = fitted(network, objective, 500, 1e-3)
    target = objective.consistency.target
    assert isinstance(target, ConsistencyTarget)
    ours = distance(images(student, target, Consistency(floor=target.floor), UniformTime(), 2))
    theirs = min(
        distance(images(parent.network, TARGET, DDIM(), spacing, 2))
        for spacing in (UniformTime(), Karras())
    )
    assert ours < 0.5 * theirs
    # and it is the exact consistency function: mean + (x - mean) spread / sqrt(spread^2 + sigma^2)
    level = SCHEDULE(torch.tensor([0.35, 0.5, 0.7], dtype=torch.float64).repeat_interleave(200))
    x = diffuse(gaussian(600, 1), level, torch.randn(600, 2, 1, 1))
    sigma = level.sigma.float()[:, None, None, None]
    exact = CENTRE + (x - CENTRE) * SPREAD / (SPREAD**2 + sigma**2).sqrt()
    off = [
        float((Denoiser(each, read)(x, level).clean - exact).square().mean().sqrt())
        for each, read in ((student, target), (parent.network, TARGET))
    ]
    assert off[0] < 0.5 * off[1]


@torch.no_grad()
def test_a_student_begins_as_its_parent_but_for_the_boundary(untrained: Parent) -> None:
    parent = untrained
    target = student_target(TARGET, SCHEDULE)
    assert target == ConsistencyTarget(data_std=TARGET.data_std, floor=SCHEDULE.sigma_min)
    assert student_target(TARGET, EDM(sigma_min=0.01)).floor == 0.01
    level = SCHEDULE(torch.linspace(0, 1, 64, dtype=torch.float64))
    x = diffuse(gaussian(64, 0), level, torch.randn(64, 2, 1, 1))
    ours, theirs = (Denoiser(parent.network, each)(x, level).clean for each in (target, TARGET))
    # the multipliers differ by the floor, relative to the standard deviation of the images
    change = (ours - theirs).abs().flatten(1).amax(1) / x.abs().flatten(1).amax(1).clamp_min(1)
    assert float(change.max()) < 2 * target.floor / target.data_std
    assert torch.equal(ours[0], x[0]), "at the boundary a consistency model is the identity"
    assert not torch.equal(theirs[0], x[0])


def test_easy_gaps_shrink_from_stage_to_stage_and_the_last_ones_are_neighbours() -> None:
    options = ConsistencyTraining(gaps=EasyGaps(factor=4.0, stages=4))
    objective = objective_of(options, None, 100, nn.Identity())
    draw = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    ratios = []
    for step in (0, 25, 50, 75, 99):
        noisier, cleaner = objective.levels(draw, step)
        torch.testing.assert_close(
            noisier.noise_ratio, (-1.1 + 2 * torch.special.ndtri(draw)).exp()
        )
        ratios.append(cleaner.noise_ratio / noisier.noise_ratio)
    stacked = torch.stack(ratios)
    assert torch.equal(stacked[3], stacked[4])
    assert (stacked[1:4] > stacked[:3]).all()
    t = noisier.noise_ratio
    torch.testing.assert_close(stacked[4], 1 - (1 + 8 * torch.sigmoid(-t)) / 256)
    whole, clean = objective.consistency.easy_levels(draw, 1.0)
    assert torch.allclose(clean.noise_ratio, torch.tensor(SCHEDULE.sigma_min).double())
    assert (whole.noise_ratio > clean.noise_ratio).all()
    for gaps in (EasyGaps(), DoubledLevels()):
        other = objective_of(dataclasses.replace(options, gaps=gaps), None, 100, nn.Identity())
        assert (other.levels(draw, 99)[0].noise_ratio.diff() > 0).all(), "low noise first"


def test_a_parent_that_teaches_takes_the_step_and_one_that_does_not_is_not_asked(
    untrained: Parent,
) -> None:
    batch, losses, calls = Batch(gaussian(8, 0), None, range(8)), [], []
    for teacher in ("parent", "none"):
        network = copy.deepcopy(untrained.network).requires_grad_(True)
        asked = untrained.network.register_forward_hook(lambda *_: calls.append(teacher))  # noqa: B023
        options = ConsistencyTraining(teacher=teacher)  # type: ignore[arg-type]
        losses.append(objective_of(options, untrained, 10, network).loss(network, batch, 0, 0))
        asked.remove()
    assert calls == ["parent", "parent"], "Heun's method takes two calls"
    assert not torch.allclose(losses[0], losses[1], rtol=1e-3)


def test_the_held_average_is_remembered_and_lags_behind_the_student(untrained: Parent) -> None:
    parent = untrained
    network = copy.deepcopy(parent.network).requires_grad_(True)
    objective = objective_of(ConsistencyTraining(held_decay=0.9), parent, 10, network)
    fitted(network, objective, 5, 1e-2)
    assert objective.held is not None
    held = objective.held.on(torch.device("cpu"))
    before, now, then = (next(each.parameters()) for each in (parent.network, network, held))
    assert (then - before).norm() > 0
    assert (then - now).norm() > 0
    again = objective_of(ConsistencyTraining(held_decay=0.9), parent, 10, parent.network)
    assert again.memory is not None
    again.memory.load_state_dict(objective.held.state_dict())
    assert again.held is not None
    restored = again.held.on(torch.device("cpu"))
    assert all(map(torch.equal, restored.parameters(), held.parameters()))


@pytest.mark.slow
def test_validation_is_the_distance_from_the_end_of_the_parent_s_flow(parent: Parent) -> None:
    """Of the parent itself it is large at high noise, where its answer is a mean; of the true flow
    it is 0."""
    objective = objective_of(ConsistencyTraining(), parent, 10, parent.network)
    batch = Batch(gaussian(64, 3), None, range(64))
    losses = objective.loss_by_level(parent.network, batch, 6, 0)
    assert losses[-1] > 100 * losses[0]
    alone = objective_of(ConsistencyTraining(), None, 10, parent.network)
    assert alone.loss_by_level(parent.network, batch, 6, 0).isfinite().all()


STUDENT = [
    "diffusion.schedule={kind: edm}",
    "diffusion.target={kind: edm}",
    "diffusion.objective={kind: consistency, teacher: parent}",
]


@pytest.mark.slow
def test_a_student_is_made_from_a_run_and_draws_in_two_calls(flat: Path, place: Path) -> None:
    changes = [f"data.manifest={flat}", "train.steps=6", *STUDENT[:2]]
    run = medidiff.train(CONFIG, changes=[*changes, f"output={place / 'elder'}"])
    # what the configuration leaves out of its sampling is a student's: here all but the steps
    config = place / "student.yaml"
    config.write_text(CONFIG.read_text().replace("steps: 5}", "steps: 2}"))
    changes = [f"data.manifest={flat}", "train.steps=6", *STUDENT]
    made = medidiff.train(config, changes=[*changes, f"output={place / 'younger'}"], parent=run)
    elder, student = medidiff.load(run, "cpu"), medidiff.load(made, "cpu")
    assert student.spec.target == ConsistencyTarget(data_std=0.5, floor=0.002)
    assert student.spec.lineage.parent == elder.digest
    found = student.sample(2)
    assert found.nfe == 2
    assert found.provenance["sampler"] == {"kind": "consistency", "floor": 0.002}
    with pytest.raises(MedidiffError, match="a step on the way"):
        student.sample(1, sampler=DDIM())
    with pytest.raises(MedidiffError, match="consistency student"):
        medidiff.run("denoise", student, flat.parent / "test-000.png")
    with pytest.raises(MedidiffError, match="no likelihood"):
        medidiff.evaluate(student, manifest=flat, n=4, likelihood=["flow"])
    with pytest.raises(MedidiffError, match="consistency student"):
        medidiff.gamma(made, place / "gamma", manifest=flat)
    evaluated = medidiff.evaluate(student, manifest=flat, n=4)
    assert evaluated.losses == []
    with pytest.raises(MedidiffError, match=r"another; write what it has:\n  diffusion.target: "):
        medidiff.train(config, changes=[*changes, f"output={place / 'third'}"], parent=student)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["diffusion.target={kind: v}"], "target of kind 'edm'"),
        (["network.dropout=0.1"], "network.dropout to 0"),
        (["data.patch={size: [16, 16]}"], r"leave data\.patch out"),
        (["diffusion.weight={kind: snr}"], "would be ignored"),
        (["diffusion.objective.gaps={kind: easy, factor: 1}"], "factor > 1"),
        (["diffusion.objective.held_decay=1.0"], "held_decay"),
    ],
)
def test_what_a_student_cannot_have_is_refused(changes: list[str], said: str) -> None:
    with pytest.raises(MedidiffError, match=said):
        load_config(CONFIG, [*STUDENT, *changes])


def test_a_teacher_needs_a_parent(flat: Path, place: Path) -> None:
    loaded = load_config(CONFIG, [f"data.manifest={flat}", *STUDENT])
    with pytest.raises(MedidiffError, match="name it by --from"):
        prepare.prepare(loaded, None, Quiet())
