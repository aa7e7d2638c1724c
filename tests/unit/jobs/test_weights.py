"""Weights in parts come together again as they were, or not at all; only sound ones are shipped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import pytest
import torch

from medidiff.errors import ModelError
from medidiff.jobs import models
from medidiff.jobs.models import export_model, load_model, register_model
from medidiff.jobs.reporting import Quiet
from medidiff.jobs.verdict import FILE, check_memorisation
from medidiff.model_folder import digest

from .conftest import Make

WRITTEN = "## Intended use\nTests.\n\n## Data\nnone\n\n## Known failures\n- all\n"
LIMITS = {"near_copies": 0, "copied_share": 0.1, "nearest_ratio": 0.8, "membership_auc": 0.6}


@pytest.fixture
def saved(make: Make, tmp_path: Path) -> Path:
    return make("tiny").save(tmp_path / "model", dtype="bfloat16")


def verdict_on(folder: Path, place: Path, verdict: str) -> Path:
    """A verdict of the guard on the weights in `folder`."""
    reasons = [] if verdict == "passed" else ["9 of 10 samples are near copies"]
    weights = digest(folder / "model.safetensors")
    place.write_text(json.dumps({"verdict": verdict, "reasons": reasons, "weights": weights}))
    return place


def test_parts_are_small_and_make_the_same_model(
    benchmarks: Path, saved: Path, tmp_path: Path
) -> None:
    import weights

    folder = weights.split(saved, tmp_path / "parts", "python train", part_bytes=2000)
    parts = sorted(folder.glob("model.safetensors.*"))
    assert len(parts) > 2
    assert all(part.stat().st_size <= 2000 for part in parts)
    assert json.loads((folder / "parts.json").read_text())["made_by"] == "python train"
    joined = weights.join(folder, tmp_path / "joined")
    assert digest(joined / "model.safetensors") == digest(saved / "model.safetensors")
    model, before = load_model(joined, "cpu"), load_model(saved, "cpu")
    assert torch.equal(model.sample(seed=1).images, before.sample(seed=1).images)
    assert model.digest == before.digest


@pytest.mark.parametrize("fault", ["altered", "missing"])
def test_a_faulty_part_is_named_and_nothing_is_left(
    fault: str, benchmarks: Path, saved: Path, tmp_path: Path
) -> None:
    import weights

    folder = weights.split(saved, tmp_path / "parts", "python train", part_bytes=2000)
    part = folder / "model.safetensors.01"
    part.unlink() if fault == "missing" else part.write_bytes(part.read_bytes()[::-1])
    with pytest.raises(ModelError, match=r"safetensors\.01 is missing or altered"):
        weights.join(folder, tmp_path / "joined")
    assert not (tmp_path / "joined").exists()


def test_parts_in_another_order_are_not_taken_for_the_model(
    benchmarks: Path, saved: Path, tmp_path: Path
) -> None:
    import weights

    folder = weights.split(saved, tmp_path / "parts", "python train", part_bytes=2000)
    index = json.loads((folder / "parts.json").read_text())
    index["parts"] = dict(reversed(index["parts"].items()))
    (folder / "parts.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="not those that were split"):
        weights.join(folder, tmp_path / "joined")


def test_the_guards_verdict_is_bound_to_the_weights(saved: Path, make: Make) -> None:
    assert check_memorisation(saved, force=False) == "not checked"
    verdict_on(saved, saved / FILE, "passed")
    assert check_memorisation(saved, force=False) == "passed"
    content = json.loads((saved / FILE).read_text())
    (saved / FILE).write_text(json.dumps(content | {"weights": "of others"}))
    assert check_memorisation(saved, force=False) == "not checked"


def test_an_over_trained_model_is_registered_only_when_forced(saved: Path) -> None:
    verdict_on(saved, saved / FILE, "over-trained")
    with pytest.raises(ModelError, match=r"over-trained: 9 of 10 .*--force"):
        register_model(saved, "name", None, report=Quiet())
    assert check_memorisation(saved, force=True) == "forced"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_copy_of_another_number_format_keeps_the_verdict(
    dtype: Literal["float32", "bfloat16"], make: Make, tmp_path: Path
) -> None:
    source = make("tiny").save(tmp_path / "source")
    bare = export_model(source, tmp_path / "bare", dtype)
    assert check_memorisation(bare, force=False) == "not checked"
    verdict_on(source, source / FILE, "over-trained")
    copy = export_model(source, tmp_path / "copy", dtype)
    again = export_model(copy, tmp_path / "again", "float32")
    for folder in (copy, again):
        with pytest.raises(ModelError, match="over-trained: 9 of 10"):
            check_memorisation(folder, force=False)
        kept = json.loads((folder / FILE).read_text())
        assert kept["judged_weights"] == digest(source / "model.safetensors")
    (source / FILE).write_text(json.dumps({"verdict": "passed", "weights": "of others"}))
    stranger = export_model(source, tmp_path / "stranger", dtype)
    assert check_memorisation(stranger, force=False) == "not checked"


@pytest.mark.parametrize(
    ("verdict", "said"), [(None, "not checked"), ("passed", ""), ("over-trained", "forced")]
)
def test_registering_tells_what_the_guard_said(
    verdict: str | None, said: str, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Heard(Quiet):
        text = ""

        def say(self, text: str) -> None:
            self.text += text

    monkeypatch.setattr(models, "register", lambda folder, name, alias: 1)
    if verdict is not None:
        verdict_on(saved, saved / FILE, verdict)
    heard = Heard()
    assert register_model(saved, "name", None, force=True, report=heard) == 1
    assert heard.text.startswith(said)
    assert bool(heard.text) == bool(said)


def measured(verdict: str) -> dict:
    """What benchmarks/prior.py measures, in small."""
    losses = {split: [0.1, 0.2] for split in ("train", "validation", "test")}
    row = {"unit": "dB", "better": "higher", "peers": {"noisy": 26.0}, "goal": None}
    rows = [
        row | {"what": "denoise gaussian 0.05, psnr, n=55", "ours": 34.0},
        row | {"what": "membership AUC at noise ratio 0.1", "ours": 0.51, "unit": ""},
    ]
    facts = {
        "training_minutes": [8.0, 1.0],
        "losses_by_level": losses,
        "noise_ratios": [0.1, 1.0],
        "train_images": 3,
        "train_subjects": 3,
        "parameters": 1000,
        "steps": 7,
        "data": "none",
        "region": "whole image",
        "estimate": "posterior mean",
        "intervals": "95 %",
        "memorisation": {
            "verdict": verdict,
            "reasons": [],
            "samples": 500,
            "unseen_subjects": 55,
            "split": "test",
            "limits": LIMITS,
        },
    }
    return {"rows": rows, "facts": facts, "hardware": "a GPU"}


def test_a_sound_model_is_shipped_with_its_card_and_an_over_trained_one_is_not(
    benchmarks: Path, saved: Path, tmp_path: Path
) -> None:
    import ship

    cards, shipped, result = tmp_path / "cards", tmp_path / "pretrained", tmp_path / "r.json"
    cards.mkdir()
    (cards / "tiny.md").write_text(WRITTEN)
    result.write_text(json.dumps(measured("passed")))
    bad = verdict_on(saved, tmp_path / "bad.json", "over-trained")
    with pytest.raises(ModelError, match="LICENSE is missing"):
        ship.ship(saved, result, bad, cards=cards, shipped=shipped)
    (shipped / "tiny").mkdir(parents=True)
    (shipped / "tiny" / "LICENSE").write_text("CC BY-SA 4.0 International\n\ntext\n")
    with pytest.raises(ModelError, match="over-trained"):
        ship.ship(saved, result, bad, cards=cards, shipped=shipped)
    assert [path.name for path in (shipped / "tiny").iterdir()] == ["LICENSE"]
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"verdict": "passed", "reasons": [], "weights": "of others"}))
    with pytest.raises(ModelError, match="other weights"):
        ship.ship(saved, result, other, cards=cards, shipped=shipped)

    good = verdict_on(saved, tmp_path / "good.json", "passed")
    place = ship.ship(saved, result, good, cards=cards, shipped=shipped)
    model = load_model("tiny", "cpu", shipped=shipped)
    assert model.spec.metrics == {"gaussian 0.05 psnr n=55": 34.0}
    card = (place / "card.md").read_text()
    for said in (
        "3 images of 3 subjects",
        "9 minutes on a GPU",
        "| 0.1 | 0.1000 | 0.1000 | 0.1000 |",
        "34 dB",
        "Known failures",
        "CC BY-SA 4.0 International",
        "**passed**",
        "membership_auc 0.6",
    ):
        assert said in card, said
    assert check_memorisation(place, force=False) == "passed"
    with pytest.raises(ModelError, match="shipped already"):
        ship.ship(saved, result, good, cards=cards, shipped=shipped)
