"""The script that makes the frozen priors: stopped, gone on with, weights judged and shipped."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import medidiff

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ("curves", "prior", "record", "sampling_rate", "ship", "weights")


@pytest.mark.slow
def test_a_prior_is_trained_in_pieces_kept_in_parts_judged_and_shipped(
    flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    for name in SCRIPTS:
        monkeypatch.delitem(sys.modules, name, raising=False)
    import prior
    import ship
    import weights

    work, out = tmp_path / "work", tmp_path / "out"

    def run(*options: str) -> int:
        places = ("--manifest", str(flat), "--work", str(work), "--out", str(out))
        monkeypatch.setattr(sys, "argv", ["benchmarks/prior.py", "smoke-2d", *places, *options])
        return prior.main()

    assert run("--stage", "train", "--minutes", "1e-6") == prior.EXIT_STOPPED
    assert not (work / "run" / "model").exists()
    assert run("--samples", "6", "--head-steps", "4") == 0
    assert len(json.loads((work / "minutes.json").read_text())) == 2  # both pieces are counted

    result = out / "prior_smoke_2d.json"
    measured = json.loads(result.read_text())
    assert {len(losses) for losses in measured["facts"]["losses_by_level"].values()} == {8}
    assert str(tmp_path) not in result.read_text()
    for name in ("curves", "samples", "nearest"):
        assert (out / f"prior_smoke_2d_{name}.png").stat().st_size > 0

    joined = weights.join(out / "weights" / "smoke-2d", tmp_path / "joined")
    assert str(tmp_path) not in (out / "weights" / "smoke-2d" / "parts.json").read_text()
    cards, shipped = tmp_path / "cards", tmp_path / "pretrained"
    cards.mkdir()
    (cards / "smoke-2d.md").write_text("## Intended use\nTests.\n")
    (shipped / "smoke-2d").mkdir(parents=True)
    (shipped / "smoke-2d" / "LICENSE").write_text("Apache-2.0\n")
    verdict = out / "prior_smoke_2d_memorisation.json"
    place = ship.ship(joined, result, verdict, cards=cards, shipped=shipped)
    assert (
        "Verdict of the guard: **passed** (6 samples; 4 subjects" in (place / "card.md").read_text()
    )
    kept = medidiff.load(place, "cpu").spec
    assert kept.lineage.steps == 20  # the trunk's, not the heads'
    assert [head.source for head in kept.heads] == ["sn", "npr"]
    assert kept.gamma is not None
