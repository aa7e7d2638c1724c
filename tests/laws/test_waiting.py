"""How often a solver makes the host wait for a GPU: counted on one that is not there."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from medidiff.data.datasets import Case
from medidiff.data.images import Original
from medidiff.data.intensity import FittedIntensity, Scale
from medidiff.data.options import Space
from medidiff.diffusion import KeyedNoise
from medidiff.model import Model
from medidiff.networks import NetworkShape, UNetOptions, build
from medidiff.physics import CartesianMRI, ConjugateGradients, FourierSampling
from medidiff.physics.iterative import ASKED_EVERY, IterativeOperator
from medidiff.physics.window import Placed, Weighted
from medidiff.spec import ModelSpec
from medidiff.tasks import Reconstruction
from medidiff.tasks.phase import SOLVER
from medidiff.tasks.simulate import SimulatedMRI

from .pretended import GPU, Pretended, held, pretending

SIZE = (6, 5)
GRID = (24, 20)


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def sense(wrapped: Any, solver: ConjugateGradients) -> IterativeOperator:
    mask, coils = drawn(2, 1, *SIZE) > 0, drawn(1, 3, *SIZE, seed=1, dtype=torch.complex64)
    return CartesianMRI(wrapped(mask), wrapped(coils), wrapped(drawn(2, 1, *SIZE)), solver)  # type: ignore[return-value]


def placed(wrapped: Any, solver: ConjugateGradients) -> IterativeOperator:
    like = wrapped(torch.zeros(1, 1, 4, 7))
    return Placed(sense(wrapped, solver), (4, 7), SIZE, like, solver)


def weighted(wrapped: Any, solver: ConjugateGradients) -> IterativeOperator:
    weight, like = wrapped(drawn(2, 3, *SIZE).abs()), wrapped(torch.zeros(1, 1, *SIZE))
    return Weighted(sense(wrapped, solver), weight, like, solver)


def images(operator: IterativeOperator) -> tuple[int, ...]:
    return (2, 1, *operator.template.shape[2:])


@pytest.mark.parametrize("make", [sense, placed, weighted])
def test_a_proximal_step_waits_only_to_ask_whether_it_is_done(make: Any) -> None:
    def waits(steps: int) -> int:
        with pretending() as seen:
            operator = make(Pretended, ConjugateGradients(0.0, steps))
            z, rho = Pretended(drawn(*images(operator))), torch.tensor([0.1, 0.2]).double()
            y = operator.forward(z)
            seen.waits.clear()
            operator.prox(z + 1, y, rho)
            assert set(seen.waits) == {"asked"}
            return seen.waits["asked"]

    assert [waits(steps) for steps in (1, ASKED_EVERY, 3 * ASKED_EVERY)] == [1, 1, 3]


@pytest.mark.parametrize("make", [sense, placed, weighted])
def test_steps_after_the_last_one_change_no_image(make: Any) -> None:
    """On a GPU it is asked more rarely, so that some follow; the images are those of a CPU."""

    def solved(wrapped: Any, tolerance: float) -> tuple[Tensor, int]:
        calls: list[int] = []
        with pretending():
            operator = make(wrapped, ConjugateGradients(tolerance, 40))
            right = wrapped(
                drawn(*images(operator), seed=3) * torch.tensor([1.0, 0.0])[:, None, None, None]
            )

            def normal(x: Tensor) -> Tensor:
                calls.append(1)
                return operator.normal(x) + 0.05 * x

            return held(operator.solver.solve(normal, right, right)), len(calls)

    more = 0
    for tolerance in (2.0, 0.3, 1e-2, 1e-4):
        (here, few), (there, many) = (solved(each, tolerance) for each in (as_it_is, Pretended))
        assert torch.equal(here, there)
        assert few <= many < few + ASKED_EVERY
        more += many - few
    assert more > 0


def as_it_is(x: Tensor) -> Tensor:
    return x


def test_a_step_of_masked_k_space_is_not_launched_twice() -> None:
    """A regression shows here as a number of launches, not only on a GPU as seconds."""

    def launches(steps: int) -> int:
        with pretending() as seen:
            operator = FourierSampling(Pretended(drawn(2, 1, *SIZE) > 0))
            x = Pretended(drawn(2, 1, *SIZE, dtype=torch.complex64))
            solver = ConjugateGradients(0.0, steps)
            solver.solve(lambda x: operator.normal(x) + 0.1 * x, x, x)
            return sum(seen.launches.values())

    # 5 of the operator, 2 around it, and 20 of the step, whose images are complex
    assert launches(3) - launches(2) <= 28


def test_a_fit_of_the_phase_is_given_nothing_that_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At every step of a sample: it asks whether it is done, and whether a matrix has a factor."""
    monkeypatch.setattr(Model, "device", GPU)
    with pretending() as seen:
        measurement = Reconstruction().prepare(measured(), model()).measurement
        assert measurement is not None
        assert measurement.refit is not None
        refit, clean = measurement.refit([0, 1, 1]), Pretended(drawn(3, 1, *GRID) / 3)
        width = torch.full((3,), 0.1).double()
        first = refit(clean, width, None, None)
        seen.waits.clear()
        found = refit(clean, width, first.memory, None)
        fitted = seen.waits.copy()
        found.operator.prox(clean, found.measurement, torch.full((3,), 0.1).double())
    assert fitted["checked"] == 1
    assert fitted["asked"] <= math.ceil(SOLVER.steps / ASKED_EVERY)
    assert set(seen.waits) == {"asked", "checked"}


def model() -> Model:
    shape, space = NetworkShape(dims=2), Space(2, GRID, (1.0, 1.0))
    intensity = FittedIntensity((0.0,), (200.0,), "train", None, (-1.0, 1.0))
    network = UNetOptions(channels=(4, 4), blocks=1, attention=(False, False), groups=2)
    spec = ModelSpec("tiny", "MR", ("image",), space, intensity, network, shape)
    return Model(spec, build(network, shape))


def measured() -> list[Case]:
    """Two cases, simulated."""
    original = Original(GRID, np.eye(4), True, "MR", (0.0,))
    clean = [torch.sigmoid(drawn(1, *GRID, seed=each)) - 0.5 for each in range(2)]
    cases = [
        Case("s", row, x, {}, None, Scale((0.0,), (200.0,)), np.eye(4), original, "")
        for row, x in enumerate(clean)
    ]
    return SimulatedMRI(4, 0.2)(cases, KeyedNoise(0, [("a", 0), ("b", 0)]))
