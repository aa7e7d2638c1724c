"""Several averages: the length is chosen after training, and another one can be had later."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import medidiff
from medidiff.errors import MedidiffError
from medidiff.jobs.reporting import Quiet
from medidiff.jobs.train import train_model

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "smoke-2d.yaml"


class Heard(Quiet):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.mark.slow
def test_the_length_of_the_average_is_chosen_after_training_and_can_be_changed_later(
    flat: Path, place: Path, run_2d: Path
) -> None:
    run, heard = place / "power", Heard()
    changes = [f"data.manifest={flat}", f"output={run}", "train.ema={kind: power}"]
    train_model(CONFIG, changes=changes, report=heard)
    model = medidiff.load(run, "cpu")
    std = model.spec.metrics["average_std"]
    table = heard.said[-1]
    assert f"{std:g}" in table.split("<- the model")[0].splitlines()[-1]
    assert f"| average_std | {std:g} |" in (run / "model" / "card.md").read_text()
    events = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
    curve = {
        float(name.removeprefix("validation_loss_by_length.")): value
        for event in events
        for name, value in event.get("metrics", {}).items()
        if name.startswith("validation_loss_by_length.")
    }
    assert set(curve) == {0.05, 0.07, 0.1, 0.14, 0.2}
    assert min(curve, key=lambda each: curve[each]) == std
    assert model.spec.metrics["validation_loss"] == curve[std]

    same, other = place / "power-same", place / "power-other"
    medidiff.average(run, same, std=std)
    medidiff.average(run, other, std=0.12)
    ours, theirs, third = (
        load_file(folder / "model.safetensors") for folder in (same, run / "model", other)
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert not all(torch.equal(third[name], theirs[name]) for name in theirs)
    spec = medidiff.load(other, "cpu").spec
    assert spec.metrics == {"average_std": 0.12}
    assert spec.lineage == model.spec.lineage

    with pytest.raises(MedidiffError, match="cannot be found from the 24 snapshots"):
        medidiff.average(run, place / "power-short", std=0.01)
    with pytest.raises(MedidiffError, match="already holds files"):
        medidiff.average(run, other, std=0.1)
    with pytest.raises(MedidiffError, match="kept no snapshots"):
        medidiff.average(run_2d, place / "power-none", std=0.1)
    with pytest.raises(MedidiffError, match="no finished run"):
        medidiff.average(place / "nothing", place / "power-none", std=0.1)
    assert not (place / "power-none").exists()
