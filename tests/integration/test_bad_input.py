"""Bad input: one clear message, exit code 2, nothing half-written."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medidiff import cli

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "smoke-2d.yaml"
Edit = Callable[[list[dict[str, str]]], None]


def call(*words: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("sys.argv", ["medidiff", *words])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return int(caught.value.code or 0)


def edited(flat: Path, folder: Path, edit: Edit) -> Path:
    """A copy of the population with an edited manifest."""
    shutil.copytree(flat.parent, folder)
    file = folder / "manifest.csv"
    rows = list(csv.DictReader(file.open()))
    edit(rows)
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return file


def missing_file(rows: list[dict[str, str]]) -> None:
    rows[2]["image"] = "images/nowhere.nii.gz"


def two_splits(rows: list[dict[str, str]]) -> None:
    rows[-1]["subject"] = rows[0]["subject"]


@pytest.mark.parametrize(
    ("edit", "said", "name"),
    [
        (missing_file, "row 4, column 'image': there is no such file", "nowhere.nii.gz"),
        (two_splits, "one subject is in more than one split", "phantom0000"),
    ],
)
def test_a_manifest_that_cannot_be_used(
    edit: Edit,
    said: str,
    name: str,
    place: Path,
    flat: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    manifest = edited(flat, tmp_path / "data", edit)
    out = tmp_path / "run"
    words = ("train", str(CONFIG), "-c", f"data.manifest={manifest}", "-c", f"output={out}")
    assert call(*words, monkeypatch=monkeypatch) == 2
    told, log = capsys.readouterr().err, place / "home" / "private.log"
    assert said in told
    assert f"names are in {log}" in told
    assert name not in told
    assert name in log.read_text()
    assert not out.exists()


def test_a_truncated_scan_is_named_by_its_row(
    flat: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    manifest = edited(flat, tmp_path / "data", lambda rows: None)
    scan = tmp_path / "data" / "images" / "phantom0003.nii.gz"
    scan.write_bytes(scan.read_bytes()[:300])
    words = ("check", str(CONFIG), "-c", f"data.manifest={manifest}")
    assert call(*words, monkeypatch=monkeypatch) == 2
    assert "row 5" in capsys.readouterr().err


def test_a_misspelt_key(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("check", str(CONFIG), "-c", "train.stpes=3", monkeypatch=monkeypatch) == 2
    assert "did you mean 'steps'" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("harm", ["missing", "altered"])
def test_a_model_folder_that_is_not_whole(
    harm: str,
    run_2d: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = tmp_path / "model"
    shutil.copytree(run_2d / "model", model)
    if harm == "missing":
        (model / "model.safetensors").unlink()
    else:
        content = bytearray((model / "model.safetensors").read_bytes())
        content[-1] ^= 1
        (model / "model.safetensors").write_bytes(bytes(content))
    out = tmp_path / "out"
    assert call("sample", str(model), "--out", str(out), monkeypatch=monkeypatch) == 2
    assert "model.safetensors" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.slow
def test_a_registry_name_that_does_not_exist(
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ("sample", "models:/nobody@champion", "--out", str(tmp_path / "out"))
    assert call(*words, monkeypatch=monkeypatch) == 2
    assert "nobody" in capsys.readouterr().err


@pytest.mark.slow
def test_an_output_folder_that_holds_results(
    run_2d: Path,
    flat: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "kept.txt").write_text("kept")
    assert call("sample", str(run_2d), "--out", str(tmp_path), monkeypatch=monkeypatch) == 2
    assert "already holds" in capsys.readouterr().err
    words = ("train", str(CONFIG), "-c", f"data.manifest={flat}", "-c", f"output={run_2d}")
    assert call(*words, monkeypatch=monkeypatch) == 2
    assert "--resume" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["kept.txt"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("sample", "MODEL", "--out", "OUT", "--n", "0"),
        ("evaluate", "MODEL", "--manifest", "MANIFEST", "--n", "1"),
        ("benchmark", "denoise", "MODEL", "--manifest", "MANIFEST", "--limit", "0"),
        ("benchmark", "denoise", "MODEL", "--manifest", "MANIFEST", "--set", "n=4"),
        ("benchmark", "denoise", "MODEL", "--manifest", "MANIFEST", "--split", "val"),
    ],
    ids=["sample", "evaluate", "limit", "set", "split"],
)
def test_numbers_and_splits_that_make_no_sense(
    words: tuple[str, ...],
    run_2d: Path,
    flat: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    named = {"MODEL": str(run_2d), "MANIFEST": str(flat), "OUT": str(tmp_path / "out")}
    assert call(*(named.get(word, word) for word in words), monkeypatch=monkeypatch) == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("train .", ". is a folder; a configuration is a .yaml file"),
        ("sample no-model --out new --n 0", "--n must be at least 1, found 0"),
        ("sample no-model --out new --steps 0", "--steps must be at least 1, found 0"),
        ("doctor --json nowhere/found.json", "there is no folder nowhere"),
        ("manifest build empty --out new.csv", "there is no scan and no picture in empty"),
        ("run denoise no-model four.nii --out new", "no model 'no-model'"),
        ("to-dicom four.nii --out new", "the file holds 3 images (channels or times); name one"),
    ],
)
def test_what_a_new_user_may_type_is_answered_in_one_message(
    typed: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    image = nibabel.Nifti1Image(np.ones((4, 4, 4, 3), np.float32), np.eye(4))
    nibabel.save(image, tmp_path / "four.nii")
    assert call(*typed.split(), monkeypatch=monkeypatch) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("medidiff: ") == 1 + ("names are in" in told)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["empty", "four.nii"]


@pytest.mark.parametrize("option", ["--set mask=", "--towards-image ", ""])
def test_a_file_that_is_not_there_is_named_as_it_was_typed(
    option: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    typed, scan = tmp_path / "nowhere.nii.gz", tmp_path / "scan.nii.gz"
    scan.touch()
    words = ["run", "inpaint", "no-model", str(scan if option else typed)]
    if option.startswith("--towards"):
        words = ["sample", "no-model"]
    words += [*f"{option}{typed}".split()] if option else []
    assert call(*words, "--out", str(tmp_path / "out"), monkeypatch=monkeypatch) == 2
    assert f"{typed}: there is no such folder or file" in capsys.readouterr().err
