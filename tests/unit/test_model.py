"""Sampling a model: guidance reaches the noise levels that it is asked for, and is counted."""

from __future__ import annotations

import math

import pytest
import torch

from medidiff.data.intensity import fit
from medidiff.data.options import Percentile, Space
from medidiff.errors import ModelError
from medidiff.model import Model
from medidiff.networks import ClassCondition, NetworkShape, UNetOptions, build
from medidiff.spec import ModelSpec, SamplingOptions

STEPS = 6
F = {"sex": "F"}


@pytest.fixture(scope="module")
def model() -> Model:
    options = UNetOptions(channels=(4, 8), blocks=1, attention=(False, False), groups=2)
    shape = NetworkShape(conditions=(ClassCondition(name="sex", values=("F", "M")),))
    network = build(options, shape).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for weight in network.parameters():
        weight.add_(0.2 * torch.randn(weight.shape, generator=generator))
    fitted = fit(Percentile(low=0, high=100), [torch.rand(1, 16, 16, generator=generator)])
    sampling = SamplingOptions(steps=STEPS, clip="none")
    space = Space(2, (16, 16))
    spec = ModelSpec("tiny", "MR", ("image",), space, fitted, options, shape, sampling=sampling)
    return Model(spec, network)


def test_guidance_acts_within_its_interval_only_and_costs_calls_only_there(model: Model) -> None:
    plain = model.sample(condition=F)
    everywhere = model.sample(condition=F, guidance=3.0)
    within = model.sample(condition=F, guidance=3.0, guidance_interval=(0.2, 5.0))
    assert (plain.nfe, everywhere.nfe) == (STEPS, 2 * STEPS)
    assert plain.nfe < within.nfe < everywhere.nfe
    assert not torch.allclose(within.images, plain.images, rtol=1e-3)
    assert not torch.allclose(within.images, everywhere.images, rtol=1e-3)
    assert within.provenance["guidance_interval"] == (0.2, 5.0)


def test_the_widest_interval_is_guidance_everywhere_and_one_beyond_the_path_none(
    model: Model,
) -> None:
    widest = model.sample(condition=F, guidance=3.0, guidance_interval=(0.0, math.inf))
    assert torch.equal(widest.images, model.sample(condition=F, guidance=3.0).images)
    beyond = model.sample(condition=F, guidance=3.0, guidance_interval=(1e-12, 1e-11))
    assert torch.equal(beyond.images, model.sample(condition=F).images)


@pytest.mark.parametrize(
    ("guidance", "limits", "said"),
    [(1.0, (0.2, 5.0), "other than 1"), (2.0, (5.0, 0.2), "low < high")],
)
def test_an_interval_that_says_nothing_is_refused(
    model: Model, guidance: float, limits: tuple[float, float], said: str
) -> None:
    with pytest.raises(ModelError, match=said):
        model.sample(condition=F, guidance=guidance, guidance_interval=limits)
