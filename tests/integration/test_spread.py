"""A model that learns its own variance: trained, saved, sampled and judged by the verbs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import medidiff
from medidiff.config import DiffusionOptions, load_config
from medidiff.diffusion import DDIM, DDPM, MinSNR
from medidiff.errors import ConfigError
from medidiff.model_folder import read_spec
from medidiff.training.losses import Hybrid, Variational

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def run(place: Path, flat: Path) -> Path:
    changes = [
        f"data.manifest={flat}",
        f"output={place / 'run-hybrid'}",
        "diffusion.objective={kind: hybrid}",
        "sampling.sampler={kind: ddpm, variance: learned-range}",
        "train.steps=6",
        "sampling.steps=3",
    ]
    return medidiff.train(ROOT / "configs" / "smoke-2d.yaml", changes=changes)


def test_a_learned_variance_is_trained_saved_and_sampled_with(run: Path) -> None:
    model = medidiff.load(run, "cpu")
    assert model.spec.spread == "learned-range"
    assert model.spec.shape.out_channels == 2 * model.spec.shape.in_channels
    drawn = model.sample(2, seed=1)
    assert drawn.images.shape[1] == model.spec.shape.in_channels
    assert torch.isfinite(drawn.images).all()
    small = model.sample(2, seed=1, sampler=DDPM())
    assert not torch.allclose(drawn.images, small.images)
    # a sampler without use for the spread does not see it
    assert torch.isfinite(model.sample(1, sampler=DDIM()).images).all()


def test_a_two_headed_model_is_evaluated_and_its_bound_has_its_own_variance(
    run: Path, flat: Path
) -> None:
    model = medidiff.load(run, "cpu", acceleration="none")
    own = medidiff.evaluate(model, manifest=flat, n=2, likelihood=("bound",), bound_steps=4)
    assert all(loss > 0 for loss in own.losses)
    assert own.likelihood is not None
    sampling = replace(model.spec.sampling, sampler=DDPM(variance="learned"))
    model.spec = replace(model.spec, spread="learned", sampling=sampling)
    other = medidiff.evaluate(model, manifest=flat, n=2, likelihood=("bound",), bound_steps=4)
    assert other.likelihood is not None
    assert own.likelihood.rows != other.likelihood.rows


def test_a_model_folder_of_before_spreads_still_loads(run_2d: Path, tmp_path: Path) -> None:
    tree = json.loads((run_2d / "model" / "model.json").read_text())
    del tree["spread"]
    (tmp_path / "model.json").write_text(json.dumps(tree))
    assert read_spec(tmp_path).spread == "none"


@pytest.mark.parametrize("objective", [Hybrid(), Variational()])
def test_a_weight_that_an_objective_would_ignore_is_refused(
    objective: Hybrid | Variational,
) -> None:
    with pytest.raises(ValueError, match="would be ignored"):
        DiffusionOptions(weight=MinSNR(), objective=objective)


def test_a_sampler_that_needs_a_variance_which_is_not_learned_is_refused() -> None:
    changes = ["sampling.sampler={kind: ddpm, variance: learned}"]
    with pytest.raises(ConfigError, match="kind 'hybrid'"):
        load_config(ROOT / "configs" / "smoke-2d.yaml", changes)


def test_checking_counts_the_second_head(flat: Path) -> None:
    def parameters(*changes: str) -> int:
        listed = [f"data.manifest={flat}", *changes]
        return medidiff.check(ROOT / "configs" / "smoke-2d.yaml", changes=listed).parameters

    assert parameters("diffusion.objective={kind: hybrid}") > parameters()
