"""The verb `evaluate` asks the memorisation guard, and leaves its verdict where it is found."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import medidiff
from medidiff.errors import ModelError, OutputError, TaskError
from medidiff.jobs.verdict import FILE

pytestmark = pytest.mark.slow


def test_the_guard_judges_a_model_and_its_verdict_bars_the_registry(
    run_2d: Path, flat: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(run_2d / "model", model)
    out = tmp_path / "out"
    found = medidiff.evaluate(model, manifest=flat, n=6, out=out, memorisation=True).memorisation
    assert found is not None
    assert found.verdict == "passed"
    assert (found.train_subjects, found.unseen_subjects, found.samples) == (12, 4, 6)
    ratios = [level.noise_ratio for level in found.membership]
    assert ratios == sorted(ratios)
    assert len(found.nearness[0].distances) == 6
    assert (out / "nearest.png").stat().st_size > 0
    kept = json.loads((model / FILE).read_text())
    assert kept == json.loads((out / FILE).read_text())
    assert "partners" not in json.dumps(kept)  # places of scans stay out of a model's folder

    (model / FILE).write_text(json.dumps(kept | {"verdict": "over-trained", "reasons": ["copies"]}))
    with pytest.raises(ModelError, match="over-trained: copies"):
        medidiff.register(model, "guarded")


def test_a_folder_that_cannot_be_written_is_told_once_the_results_are_kept(
    run_2d: Path, flat: Path, tmp_path: Path
) -> None:
    model, out = tmp_path / "model", tmp_path / "out"
    shutil.copytree(run_2d / "model", model)
    (model / f"{FILE}.part").mkdir()  # stands for a folder without the right to write
    with pytest.raises(OutputError, match=r"verdict \((passed|over-trained)\) cannot be kept"):
        medidiff.evaluate(model, manifest=flat, n=4, out=out, memorisation=True)
    assert json.loads((out / FILE).read_text())["samples"] == 4
    assert (out / "nearest.png").is_file()


def test_the_train_split_is_not_unseen(run_2d: Path, flat: Path) -> None:
    with pytest.raises(TaskError, match="was trained on"):
        medidiff.evaluate(run_2d, manifest=flat, split="train", n=4, memorisation=True)


def test_the_network_alone_is_measured_without_baselines(
    run_2d: Path, flat: Path, tmp_path: Path
) -> None:
    table = medidiff.benchmark(
        "denoise", run_2d, manifest=flat, sigma=0.1, baselines="none", out=tmp_path / "out"
    )
    assert {row["method"] for row in table.rows} == {"noisy", "medidiff"}
    assert not table.differences
    synthesis = medidiff.benchmark("synthesis", run_2d, manifest=flat, images=4, baselines="none")
    assert {row["method"] for row in synthesis.rows} == {"real", "medidiff"}
