"""Sampling a model: guidance reaches the noise levels that it is asked for, and is counted."""

from __future__ import annotations

import copy
import dataclasses
import math

import pytest
import torch

from medidiff.data.intensity import fit
from medidiff.data.options import Percentile, Space
from medidiff.diffusion import DDIM, DPMSolverPP
from medidiff.errors import ModelError, TaskError
from medidiff.jobs.sample import changed
from medidiff.model import Model
from medidiff.networks import ClassCondition, NetworkShape, UNetOptions, build
from medidiff.spec import (
    AnyNoise,
    BrownianNoiseOptions,
    KeyedNoiseOptions,
    ModelSpec,
    SamplingOptions,
)

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


def test_a_model_that_is_open_above_holds_estimates_at_the_lower_end_alone(model: Model) -> None:
    clipping = copy.copy(model)
    clipping.spec = dataclasses.replace(
        model.spec, sampling=SamplingOptions(steps=STEPS, clip="rederive")
    )
    wide = torch.linspace(-3, 3, 16).expand(1, 1, 16, 16)
    level = model.spec.schedule(torch.tensor(0.01, dtype=torch.float64))
    condition = model.condition(F, 1)
    held, free = (
        each.denoiser(condition)(wide, level).clean for each in (clipping, clipping.open_above())
    )
    assert float(held.max()) == 1.0
    assert float(free.max()) > 1.5
    assert torch.equal(free.clamp_max(1.0), held)
    assert clipping.spec.intensity.range == (-1.0, 1.0)


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


def test_brownian_noise_gives_nearly_the_same_image_at_twice_the_steps(model: Model) -> None:
    plain = dataclasses.replace(model.spec.shape, conditions=())
    network = build(model.spec.network, plain).eval().requires_grad_(False)
    free = Model(dataclasses.replace(model.spec, shape=plain), network)
    sampler = DPMSolverPP(eta=1.0)

    def change(noise: AnyNoise) -> float:
        few, many = (
            free.sample(2, steps=steps, sampler=sampler, noise=noise).images for steps in (20, 40)
        )
        return float((few - many).square().mean().sqrt())

    assert change(BrownianNoiseOptions()) < 0.3 * change(KeyedNoiseOptions())


def test_each_image_of_a_batch_has_its_own_brownian_path_and_provenance_names_it(
    model: Model,
) -> None:
    sampler, noise = DPMSolverPP(eta=1.0), BrownianNoiseOptions()
    both = model.sample(2, sampler=sampler, noise=noise)
    alone = model.sample(2, sampler=sampler, noise=noise, batch=1)
    torch.testing.assert_close(both.images, alone.images, rtol=1e-4, atol=1e-4)
    assert not torch.equal(both.images[0], both.images[1])
    assert both.provenance["noise"] == {"kind": "brownian"}
    assert model.sample(sampler=sampler).provenance["noise"] == {"kind": "keyed"}
    assert not torch.equal(model.sample(2, sampler=sampler).images, both.images)


def test_sampling_options_are_changed_by_name_and_others_are_refused(model: Model) -> None:
    now = model.spec.sampling
    found = changed(now, {"noise": {"kind": "brownian"}, "sampler": {"kind": "ddim", "eta": 1.0}})
    assert found == dataclasses.replace(now, noise=BrownianNoiseOptions(), sampler=DDIM(eta=1.0))
    with pytest.raises(TaskError, match="did you mean 'noise'"):
        changed(now, {"nose": {"kind": "brownian"}})
