"""A model that knows its Gamma: measured once, saved with it, used by the optimal variances."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import medidiff
from medidiff.diffusion import DDIM, OptimalVariance
from medidiff.errors import ModelError, OutputError, TaskError
from medidiff.jobs.verdict import FILE, check_memorisation
from medidiff.model_folder import check_folder, digest

OPTIMAL = DDIM(variance=OptimalVariance(half_range=2.0))


@pytest.fixture(scope="module")
def measured(run_2d: Path, flat: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("gamma") / "model"
    return medidiff.gamma(run_2d, out, manifest=flat, levels=5)


def test_gamma_is_saved_with_the_model_and_the_optimal_variance_uses_it(
    run_2d: Path, measured: Path
) -> None:
    check_folder(measured)
    model, before = medidiff.load(measured, "cpu"), medidiff.load(run_2d, "cpu")
    assert model.digest != before.digest
    assert model.spec.gamma is not None
    assert len(model.spec.gamma.times) == 5
    # pure noise is known whole, and nobody guesses more than there is on average
    assert model.spec.gamma.values[-1] == pytest.approx(1, abs=0.1)
    assert 0 < model.spec.gamma.values[0] < model.spec.gamma.values[-1]
    drawn = model.sample(1, sampler=OPTIMAL, steps=4).images
    assert torch.isfinite(drawn).all()
    assert not torch.allclose(drawn, model.sample(1, sampler=DDIM(), steps=4).images)
    with pytest.raises(ModelError, match="needs 'gamma'"):
        before.sample(1, sampler=OPTIMAL, steps=4)


def test_the_rest_of_the_model_is_the_same(run_2d: Path, measured: Path) -> None:
    model, before = medidiff.load(measured, "cpu"), medidiff.load(run_2d, "cpu")
    assert torch.equal(model.sample(1, seed=3).images, before.sample(1, seed=3).images)
    assert (measured / "card.md").read_text() == (run_2d / "model" / "card.md").read_text()


def test_nothing_is_overwritten_and_a_table_of_one_level_is_refused(
    run_2d: Path, measured: Path, flat: Path, tmp_path: Path
) -> None:
    with pytest.raises(OutputError, match="already holds files"):
        medidiff.gamma(run_2d, measured, manifest=flat)
    with pytest.raises(TaskError, match="at least 2 levels"):
        medidiff.gamma(run_2d, tmp_path / "new", manifest=flat, levels=1)


def test_the_guards_verdict_stays_with_the_weights(
    run_2d: Path, flat: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    shutil.copytree(run_2d / "model", source)
    weights = digest(source / "model.safetensors")
    verdict = {"verdict": "over-trained", "reasons": ["copies"], "weights": weights}
    (source / FILE).write_text(json.dumps(verdict))
    made = medidiff.gamma(source, tmp_path / "copy", manifest=flat, levels=2)
    with pytest.raises(ModelError, match="over-trained: copies"):
        check_memorisation(made, force=False)
