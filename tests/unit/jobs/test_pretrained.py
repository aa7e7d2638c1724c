"""Shipped models are found by their names, offline, and say what they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import medidiff
from medidiff.errors import ModelError
from medidiff.jobs import demo
from medidiff.jobs.models import load_model, model_folder
from medidiff.jobs.pretrained import (
    SHIPPED,
    shipped_folder,
    shipped_models,
    shipped_names,
    shipped_text,
)
from medidiff.jobs.reporting import Quiet
from medidiff.model_folder import digest

from .conftest import Make

CARD = "# a\n\n## Intended use\n\nPictures of nothing, for tests.\n\n## Data\nnone\n"


@pytest.fixture
def shipped(make: Make, tmp_path: Path) -> Path:
    """A package folder with two models, and one that has only its licence yet."""
    folder = tmp_path / "pretrained"
    for name in ("brain-t1-2d", "other"):
        place = make(name).save(folder / name, CARD, dtype="bfloat16")
        (place / "LICENSE").write_text("CC BY-SA 3.0 Unported\n\nmore\n", encoding="utf-8")
    (folder / "coming").mkdir()
    (folder / "coming" / "LICENSE").write_text("CC BY-SA 4.0\n", encoding="utf-8")
    return folder


def test_a_shipped_model_is_loaded_by_its_name(shipped: Path, make: Make) -> None:
    model = load_model("brain-t1-2d", "cpu", shipped=shipped)
    assert model.spec == make("brain-t1-2d").spec
    for found, saved in zip(
        model.network.parameters(), make("brain-t1-2d").network.parameters(), strict=True
    ):
        assert torch.equal(found, saved.to(torch.bfloat16).float())


def test_what_has_no_weights_yet_is_not_offered(shipped: Path) -> None:
    assert shipped_names(shipped) == ["brain-t1-2d", "other"]
    with pytest.raises(ModelError, match=r"'coming' \(brain-t1-2d, other\)"):
        shipped_folder("coming", shipped)


def test_an_unknown_name_is_told_which_there_are(shipped: Path) -> None:
    with pytest.raises(ModelError, match=r"no model 'brian'.* \(brain-t1-2d, other\)"):
        model_folder("brian", shipped)
    with pytest.raises(ModelError, match=r"did you mean 'brain-t1-2d'\?"):
        model_folder("brain-t1", shipped)


def test_a_name_is_the_shipped_model_and_a_path_the_users_own(
    shipped: Path, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    own = make("brain-t1-2d").save(work / "brain-t1-2d")
    monkeypatch.chdir(work)
    assert model_folder("brain-t1-2d", shipped) == shipped / "brain-t1-2d"
    for path in ("./brain-t1-2d", str(own), Path("brain-t1-2d")):
        assert model_folder(path, shipped).resolve() == own.resolve()


def test_an_altered_shipped_model_is_refused(shipped: Path) -> None:
    with (shipped / "other" / "model.safetensors").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(ModelError, match="SHA-256 differs"):
        load_model("other", "cpu", shipped=shipped)


def test_the_list_says_size_licence_and_purpose(shipped: Path) -> None:
    text = shipped_text(shipped_models(shipped))
    for said in ("brain-t1-2d", "MB, MR, 24 x 24", "CC BY-SA 3.0 Unported", "Pictures of nothing"):
        assert said in text
    assert shipped_text([]) == "No model is shipped with this installation."


def test_the_demo_puts_the_shipped_prior_to_work(shipped: Path, tmp_path: Path) -> None:
    said: list[str] = []

    class Listening(Quiet):
        def say(self, text: str) -> None:
            said.append(text)

    demo.try_shipped(tmp_path / "out", Listening(), shipped)
    assert (tmp_path / "out" / "sheet.png").stat().st_size > 0
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == demo.SLICES
    assert "dB, was brought to" in said[-1]
    demo.try_shipped(tmp_path / "none", Listening(), tmp_path)
    assert "skipped" in said[-1]
    assert not (tmp_path / "none").exists()


def test_every_folder_of_the_package_carries_the_licence_of_its_data() -> None:
    licences = {path.parent.name: path for path in SHIPPED.glob("*/LICENSE")}
    assert (
        set(licences)
        == set(shipped_names())
        == {
            "brain-t1-2d",
            "brain-t1-2d-student",
            "hippocampus-3d",
            "hippocampus-3d-student",
        }
    )
    for path in licences.values():
        text = path.read_text(encoding="utf-8")
        assert text.startswith("CC BY-SA ")
        assert "ShareAlike" in text
        assert len(text) > 15_000  # the whole text, not a link


@pytest.mark.parametrize("name", shipped_names())
def test_what_is_shipped_is_whole_and_says_what_it_must(name: str) -> None:
    model = medidiff.load(name, "cpu")
    card = (SHIPPED / name / "card.md").read_text(encoding="utf-8")
    parts = ("Research only", "Intended use", "Known failures", "Data", "Metrics", "Memorisation")
    for part in parts:
        assert part in card, part
    assert model.spec.lineage.train_subjects > 0
    assert (SHIPPED / name / "memorisation.json").is_file()


def test_all_that_is_shipped_stays_small() -> None:
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*.safetensors")) <= 16_000_000


@pytest.mark.parametrize("file", sorted(SHIPPED.glob("*/calibration.json")), ids=str)
def test_verdicts_on_maps_are_of_the_weights_beside_them(file: Path) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    assert content["weights"] == digest(file.parent / "model.safetensors")
    assert {each["split"] for each in content["verdicts"]} == {"test"}
    assert all(each["coverage"]["n"] >= 20 for each in content["verdicts"] if each["calibrated"])
    assert file.stat().st_size < 200_000
