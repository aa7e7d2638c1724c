"""What a result says about itself is what happened."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import medidiff
from medidiff.data.manifest import read_manifest
from medidiff.errors import ModelError, OutputError, TaskError
from medidiff.model import evaluating

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "smoke-2d.yaml"


@pytest.mark.slow
def test_guidance_counts_both_of_its_network_calls(run_2d: Path) -> None:
    model = medidiff.load(run_2d)
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    handle = model.network.register_forward_hook(count)
    guided = model.sample(1, condition={"sex": "F"}, guidance=3.0, steps=5)
    assert guided.nfe == calls == 10
    handle.remove()
    with pytest.raises(ModelError, match="condition"):
        model.sample(1, guidance=3.0)


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 2])
def test_the_same_scan_gives_the_same_result_at_every_site(
    n: int, run_2d: Path, flat: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = read_manifest(flat).split("test")[0].images["image"]
    results = []
    for key in ("ab" * 32, "cd" * 32):
        monkeypatch.setenv("MEDIDIFF_SITE_KEY", key)
        results.append(medidiff.run("denoise", run_2d, scan, noise="rician", sigma=0.1, n=n))
    assert np.array_equal(results[0].image, results[1].image)


@pytest.mark.slow
def test_provenance_names_a_sampler_only_where_one_ran(run_2d: Path, flat: Path) -> None:
    scan = read_manifest(flat).split("test")[0].images["image"]
    point = medidiff.run("denoise", run_2d, scan, sigma=0.1)
    drawn = medidiff.run("denoise", run_2d, scan, sigma=0.1, n=2, steps=7)
    assert point.provenance["sampler"] is None
    assert point.provenance["network_calls"] == 1
    assert drawn.provenance["sampler"] == {"kind": "ddpm", "variance": "large", "last_noise": None}
    assert drawn.provenance["steps"] == 7


@pytest.mark.slow
def test_the_validation_loss_does_not_depend_on_how_it_is_split(
    run_2d: Path, flat: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medidiff.jobs import evaluate
    from medidiff.jobs.reporting import Quiet
    from medidiff.jobs.splits import Splits
    from medidiff.training.loop import _parts
    from medidiff.training.objective import PriorObjective

    model = medidiff.load(run_2d)
    together = evaluate.losses_on_split(model, flat, "test", Splits(), 0, Quiet())
    monkeypatch.setattr(evaluate, "PART", 2)
    assert evaluate.losses_on_split(model, flat, "test", Splits(), 0, Quiet()) == pytest.approx(
        together, rel=1e-5
    )
    objective = PriorObjective(_denoising(model), 0.0)
    batch = _batch(model, flat)
    with evaluating(model.network):
        whole = objective.loss_by_level(model.network, batch, 4, 0)
        parts = [
            objective.loss_by_level(model.network, part, 4, 0) * len(part.clean)
            for part in _parts(batch, 2)
        ]
    assert torch.allclose(torch.stack(parts).sum(0) / len(batch.clean), whole, rtol=1e-5)


@pytest.mark.slow
def test_a_run_is_resumed_only_with_the_scans_it_was_started_with(place: Path, flat: Path) -> None:
    from medidiff.training.stop import Stopped

    out = place / "other-scans"
    changes = [f"data.manifest={flat}", f"output={out}", "train.steps=500", "train.minutes=0.02"]
    with pytest.raises(Stopped):
        medidiff.train(CONFIG, changes=changes)
    original = flat.read_text()
    try:
        flat.write_text("".join(original.splitlines(keepends=True)[:-1]))
        with pytest.raises(OutputError, match="another manifest"):
            medidiff.train(CONFIG, changes=changes, resume=True)
    finally:
        flat.write_text(original)


@pytest.mark.slow
def test_an_evaluation_stands_beside_real_against_real(
    run_2d: Path, flat: Path, tmp_path: Path
) -> None:
    found = medidiff.evaluate(run_2d, manifest=flat, n=4, out=tmp_path / "out")
    metrics = {item.metric for item in found.samples.references}
    assert metrics == {
        "kernel_distance",
        "precision",
        "recall",
        "density",
        "coverage",
        "memorisation_ratio",
        "copied_share",
    }
    assert "real against real" in found.text
    stored = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert {item["metric"] for item in stored["real_against_real"]} == metrics
    assert all(item["images"] == 4 for item in stored["real_against_real"])


@pytest.mark.slow
def test_an_evaluation_of_some_scans_says_so_and_is_no_verdict(
    run_2d: Path, flat: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    some = medidiff.evaluate(
        run_2d, manifest=flat, n=4, limit=3, out=out, likelihood=("bound",), bound_steps=2
    )
    assert "at most 3 rows of each split" in some.text
    assert "at most 3 rows of each split" in (out / "table.md").read_text()
    assert json.loads((out / "evaluation.json").read_text())["limit"] == 3
    for file in ("summary.json", "likelihood.json"):
        assert json.loads((out / file).read_text())["facts"]["limit"] == 3
    assert some.likelihood is not None
    assert len(some.likelihood.rows) == 3
    assert all(row["images"] == 3 for row in some.samples.rows if "images" in row)
    everyone = medidiff.evaluate(run_2d, manifest=flat, n=2)
    assert some.losses != everyone.losses
    assert "at most" not in everyone.text
    with pytest.raises(TaskError, match="leave out --limit"):
        medidiff.evaluate(run_2d, manifest=flat, n=4, limit=3, memorisation=True)


def _denoising(model: medidiff.Model):
    from medidiff.diffusion import DenoisingLoss

    return DenoisingLoss(model.spec.target, model.spec.schedule)


def _batch(model: medidiff.Model, manifest: Path):
    from medidiff.data.datasets import CaseSet
    from medidiff.training.batches import Batch

    rows = read_manifest(manifest).split("val")[:5]
    cases = list(CaseSet(rows, model.spec.images, model.spec.space, model.spec.intensity))
    return Batch(torch.stack([case.images for case in cases]), None, [case.row for case in cases])
