"""On a GPU, guided sampling and a student's training with recorded calls are those without."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medidiff.data.intensity import fit
from medidiff.data.options import Percentile, Space
from medidiff.diffusion import DDIM, DDPM, EDM, Consistency, DPMSolverPP, EDMTarget
from medidiff.model import Model
from medidiff.networks import (
    Acceleration,
    ClassCondition,
    EncoderOptions,
    NetworkShape,
    UNetOptions,
    accelerated,
    build,
)
from medidiff.networks.graphs import Graphed
from medidiff.spec import ModelSpec, SamplingOptions
from medidiff.training.batches import Batch
from medidiff.training.objectives.consistency import (
    ConsistencyObjective,
    ConsistencyTraining,
    HeldAverage,
    Parent,
    consistency_loss,
    student_target,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SEX = ClassCondition(name="sex", values=("F", "M"))
HOW: tuple[Acceleration, Acceleration] = ("auto", "none")
GUIDANCE: dict[str, dict[str, Any]] = {
    "free": {"condition": {"sex": "F"}, "guidance": 3.0},
    "interval": {"condition": {"sex": "F"}, "guidance": 3.0, "guidance_interval": (0.2, 5.0)},
    "classifier": {"towards": {"sex": "M"}, "classifier_scale": 20.0},
    "image": {"towards_image": torch.rand(1, 24, 24), "image_scale": 100.0},
}
SAMPLERS = {"ddpm": DDPM(), "ddim": DDIM(), "2m": DPMSolverPP()}


@pytest.fixture(autouse=True)
def whole_float32() -> Iterator[None]:
    allowed = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = allowed


def network(options: UNetOptions | EncoderOptions, shape: NetworkShape) -> nn.Module:
    made = build(options, shape)
    generator = torch.Generator().manual_seed(0)
    for weight in made.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.1, generator=generator)
    return made.to(DEVICE).eval().requires_grad_(False)


UNET = UNetOptions(channels=(16, 32), attention=(False, True), blocks=1, groups=8)
READER = EncoderOptions(channels=(16, 32), attention=(False, True), blocks=1, groups=8)
FILM = dataclasses.replace(READER, modulation="film", attention=(False, False))


def model(
    options: UNetOptions | EncoderOptions, shape: NetworkShape, how: Acceleration, **more: Any
) -> Model:
    images = [torch.rand(1, 24, 24, generator=torch.Generator().manual_seed(1))]
    fitted, space = fit(Percentile(low=0, high=100), images), Space(2, (24, 24))
    spec = ModelSpec("tiny", "MR", ("image",), space, fitted, options, shape, **more)
    return Model(spec, network(options, shape), acceleration=how)


def prior(how: Acceleration) -> Model:
    sampling = SamplingOptions(steps=5, clip="none")
    return model(UNET, NetworkShape(conditions=(SEX,)), how, sampling=sampling)


def apart(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("guidance", GUIDANCE)
def test_guided_samples_are_the_same_recorded_and_plain(guidance: str, sampler: str) -> None:
    if guidance == "image" and sampler != "ddpm":
        pytest.skip("guidance towards an image moves DDPM's mean")
    found = []
    for how in HOW:
        given = dict(GUIDANCE[guidance])
        if guidance == "classifier":
            two = NetworkShape(out_channels=2)
            given["classifier"] = model(READER, two, how, role="classifier", label=SEX)
        if guidance == "image":
            given["encoder"] = model(FILM, NetworkShape(out_channels=8), how, role="encoder")
        drawing, chosen = prior(how), SAMPLERS[sampler]
        images = [drawing.sample(3, seed=2, sampler=chosen, **given).images for _ in range(2)]
        found.append(images[1])  # the second time nothing is recorded any more
        assert apart(*images) < 1e-4
        free = {"condition": given["condition"]} if "condition" in given else {}
        assert apart(drawing.sample(3, seed=2, sampler=chosen, **free).images, images[1]) > 1e-3
    assert torch.isfinite(found[0]).all()
    assert apart(*found) < 1e-3


def trained(how: Acceleration, options: ConsistencyTraining) -> Tensor:
    """By how much four steps change a student's weights."""
    shape, target, schedule = NetworkShape(), EDMTarget(data_std=0.5), EDM()
    parent = network(UNET, shape)
    student = copy.deepcopy(parent).requires_grad_(True).train()
    held = HeldAverage(student, options.held_decay) if options.held_decay else None
    objective = ConsistencyObjective(
        options,
        consistency_loss(options, target, schedule),
        8,
        0.0,
        Parent(parent, target, accelerated(parent, how)),
        held,
    )
    forward = accelerated(student, how)
    assert isinstance(forward, Graphed) == (how == "auto")
    before = torch.cat([weight.detach().flatten().clone() for weight in student.parameters()])
    optimiser = torch.optim.SGD(student.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(3)
    for step in range(4):
        clean = torch.randn(4, 1, 24, 24, generator=generator).to(DEVICE)
        batch = Batch(0.5 * clean, None, range(4))
        loss = objective.loss(forward, batch, 0, step)
        loss.mean().backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if objective.memory is not None:
            objective.memory.after_step(student, batch, loss.detach(), 0, step)
    after = torch.cat([weight.detach().flatten() for weight in student.parameters()])
    return after - before


@pytest.mark.parametrize(
    "options",
    [
        ConsistencyTraining(),
        ConsistencyTraining(teacher="parent"),
        ConsistencyTraining(teacher="parent", held_decay=0.9),
    ],
    ids=["alone", "taught", "held"],
)
def test_a_student_s_steps_are_the_same_recorded_and_plain(options: ConsistencyTraining) -> None:
    recorded, plainly = (trained(how, options) for how in HOW)
    assert float(plainly.norm()) > 0
    assert apart(recorded, plainly) < 1e-2


def test_a_student_s_samples_are_the_same_recorded_and_plain() -> None:
    schedule = EDM()
    target = student_target(EDMTarget(data_std=0.5), schedule)
    sampling = SamplingOptions(steps=2, clip="none", sampler=Consistency(floor=target.floor))
    given: dict[str, Any] = {"schedule": schedule, "target": target, "sampling": sampling}
    students = (model(UNET, NetworkShape(), how, **given) for how in HOW)
    recorded, plainly = ([each.sample(3, seed=4).images for _ in range(2)] for each in students)
    assert torch.equal(*recorded)
    assert apart(recorded[1], plainly[1]) < 1e-3
