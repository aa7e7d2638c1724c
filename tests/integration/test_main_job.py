"""From scans to a registered, working model, in 2-D and 3-D, through the public verbs."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

import medidiff
from medidiff.data.manifest import read_manifest
from medidiff.errors import DataError, ModelError, TaskError


def scan_of(manifest: Path, split: str = "test") -> Path:
    return read_manifest(manifest).split(split)[0].images["image"]


@pytest.mark.slow
@pytest.mark.parametrize("dims", [2, 3])
def test_a_scan_is_denoised_onto_its_own_grid_with_provenance(
    dims: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    run = request.getfixturevalue(f"run_{dims}d")
    scan = scan_of(request.getfixturevalue("flat" if dims == 2 else "solid"))
    result = medidiff.run("denoise", run, scan, sigma=0.1, n=2, seed=3)
    files = result.save(tmp_path / "out.nii.gz")
    made, given = nibabel.load(tmp_path / "out.nii.gz"), nibabel.load(scan)
    assert made.shape == given.shape
    assert np.allclose(made.affine, given.affine, atol=1e-4)
    assert {"out.nii.gz", "out-std.nii.gz", "out.json"} <= {file.name for file in files}
    facts = json.loads((tmp_path / "out.json").read_text())
    assert facts["kind"] == "AI-PROCESSED"
    assert facts["model_digest"] == medidiff.load(run).digest
    assert facts["seed"] == 3
    assert facts["network_calls"] == 1 + 2 * 40
    assert scan.name not in json.dumps(facts)
    again = medidiff.run("denoise", run, scan, sigma=0.1, n=2, seed=3)
    assert np.array_equal(again.image, result.image)


@pytest.mark.slow
def test_image_i_of_a_seed_depends_on_neither_n_nor_batch(run_2d: Path) -> None:
    model = medidiff.load(run_2d)
    many = model.sample(5, seed=1, batch=5).images
    few = model.sample(3, seed=1, batch=2).images
    assert torch.allclose(many[:3], few, rtol=1e-4, atol=1e-3)
    assert not torch.allclose(many[0], many[1], rtol=1e-2)
    assert not torch.allclose(model.sample(1, seed=2).images[0], many[0], rtol=1e-2)


@pytest.mark.slow
def test_condition_and_guidance_reach_the_samples(run_2d: Path) -> None:
    model = medidiff.load(run_2d)
    plain = model.sample(1, condition={"sex": "F"}, seed=0).images
    guided = model.sample(1, condition={"sex": "F"}, guidance=4.0, seed=0).images
    other = model.sample(1, condition={"sex": "M", "age": 80}, seed=0).images
    assert not torch.equal(plain, guided)
    assert not torch.equal(plain, other)
    with pytest.raises(ModelError, match="condition"):
        model.sample(1, condition={"sex": "X"})
    with pytest.raises(ModelError, match="condition"):
        model.sample(1, condition={"weight": 70})


@pytest.mark.slow
def test_a_registered_model_comes_back_by_its_name(run_2d: Path) -> None:
    version = medidiff.register(run_2d, "heads", alias="champion")
    model = medidiff.load("models:/heads@champion")
    assert model.digest == medidiff.load(f"models:/heads/{version}").digest
    assert model.digest == medidiff.load(run_2d).digest


@pytest.mark.slow
def test_a_model_does_not_change_by_saving_and_loading(run_2d: Path, tmp_path: Path) -> None:
    model = medidiff.load(run_2d)
    copy = medidiff.Model.load(model.save(tmp_path / "copy"))
    assert copy.spec == model.spec
    assert torch.equal(copy.sample(1).images, model.sample(1).images)
    small = medidiff.load(medidiff.export(run_2d, tmp_path / "small", dtype="bfloat16"))
    assert torch.allclose(small.sample(1).images, model.sample(1).images, rtol=0.1, atol=30)


@pytest.mark.slow
def test_a_fine_tuned_model_names_its_parent(run_2d: Path, flat: Path, place: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    changes = [f"data.manifest={flat}", f"output={place / 'tuned'}", "train.steps=5"]
    run = medidiff.train(root / "configs" / "smoke-2d.yaml", changes=changes, parent=run_2d)
    assert medidiff.load(run).spec.lineage.parent == medidiff.load(run_2d).digest
    with pytest.raises(ModelError, match="network"):
        medidiff.train(
            root / "configs" / "smoke-2d.yaml",
            changes=[*changes, f"output={place / 'other'}", "network.blocks=2"],
            parent=run_2d,
        )
    assert not (place / "other").exists()


@pytest.mark.slow
@pytest.mark.parametrize("task", ["denoise", "synthesis"])
def test_every_head_is_measured_beside_its_baselines(
    task: str, run_2d: Path, flat: Path, tmp_path: Path
) -> None:
    options = {"sigma": 0.1, "noise": "rician"} if task == "denoise" else {"images": 4}
    table = medidiff.benchmark(task, run_2d, manifest=flat, out=tmp_path / "out", **options)
    methods = {row["method"] for row in table.rows}
    assert "medidiff" in methods
    assert len(methods) > 2
    for summary in table.summaries:
        assert np.isfinite(summary.interval.mean), summary
    for name in ("table.md", "summary.json", "rows.csv", "comparison.png"):
        assert (tmp_path / "out" / name).stat().st_size > 0
    subjects = {row.subject for row in read_manifest(flat).rows}
    assert not any(subject in (tmp_path / "out" / "rows.csv").read_text() for subject in subjects)


@pytest.mark.slow
def test_nothing_that_is_tracked_names_a_subject_or_a_scan(
    run_2d: Path, flat: Path, place: Path
) -> None:
    journal = (run_2d / "journal.jsonl").read_text()
    model = "".join((run_2d / "model" / name).read_text() for name in ("model.json", "card.md"))
    for row in read_manifest(flat).rows:
        for text in (row.subject, row.images["image"].name, str(flat)):
            assert text not in journal
            assert text not in model


@pytest.mark.slow
def test_input_that_does_not_fit_the_model_is_refused_or_warned_of(
    run_2d: Path, flat: Path, tmp_path: Path
) -> None:
    given = nibabel.load(scan_of(flat))
    other = tmp_path / "other.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.tile(given.get_fdata(), (3, 3)), given.affine), other)
    with pytest.raises(DataError, match="does not fit"):
        medidiff.run("denoise", run_2d, other, sigma=0.1)
    with pytest.warns(UserWarning, match="field of view"):
        medidiff.run("denoise", run_2d, other, sigma=0.1, mismatch="warn")
    with pytest.raises(TaskError, match="did you mean 'sigma'"):
        medidiff.run("denoise", run_2d, scan_of(flat), sgma=0.1)
    with pytest.raises(TaskError, match="did you mean 'denoise'"):
        medidiff.run("denoize", run_2d, scan_of(flat))
