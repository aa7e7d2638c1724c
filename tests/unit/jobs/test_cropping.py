"""Whoever gets a result back, or trains, is told of tissue that the model's grid cuts off."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medidiff import cli
from medidiff.api.training import check
from medidiff.config import load_config
from medidiff.data import placing
from medidiff.data.cropping import Cropped
from medidiff.data.datasets import load_case
from medidiff.data.images import Volume, load_image, save_image
from medidiff.data.manifest import read_manifest
from medidiff.data.options import Space
from medidiff.data.phantoms import write_population
from medidiff.jobs.cases import case_of_files
from medidiff.jobs.cropping import cropping_notes, scans_cropped, warn_of_cropped
from medidiff.jobs.prepare import prepare
from medidiff.jobs.reporting import Quiet
from medidiff.jobs.train import tag_of_notes
from medidiff.model import Model
from medidiff.tasks.inpaint import Inpainting
from medidiff.warned import kept_warnings

CONFIG = Path(__file__).resolve().parents[3] / "configs" / "smoke-2d.yaml"
Make = Callable[[str], Model]


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDIDIFF_HOME", str(tmp_path / "home"))


@pytest.fixture
def scans(tmp_path: Path) -> dict[str, Path]:
    """Pictures of 28 x 28 pixels, of which the model's grid leaves out two at each side: a disc
    that lies within it, and one that does not."""
    ring = np.hypot(*np.meshgrid(np.arange(28) - 13.5, np.arange(28) - 13.5))
    noise = np.random.default_rng(0).normal(0, 12, (2, 28, 28))
    files = {}
    for name, radius in (("small", 9), ("large", 14)):
        magnitude = np.hypot(150.0 * (ring < radius) + noise[0], noise[1])
        files[name] = tmp_path / f"{name}-of-Jane-Doe.png"
        Image.fromarray(magnitude.clip(0, 255).astype(np.uint8)).save(files[name])
    return files


def called(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["medidiff", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_a_run_tells_of_tissue_beyond_the_grid_and_not_of_air(
    make: Make, scans: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    make("tiny").save(tmp_path / "model")
    told = {}
    for name, scan, more in (
        ("air", scans["small"], []),
        ("tissue", scans["large"], []),
        ("tiles", scans["large"], ["--tile", "16"]),
    ):
        out = tmp_path / f"{name}.nii.gz"
        words = ["run", "denoise", str(tmp_path / "model"), str(scan), "--out", str(out), *more]
        assert called(monkeypatch, *words, "--set", "sigma=0.05") == 0
        facts = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
        told[name] = [each for each in facts["warning"] if "not air" in each]
        assert ("not air" in capsys.readouterr().err) is bool(told[name])
    assert told["air"] == told["tiles"] == []
    (said,) = told["tissue"]
    assert said.startswith("input 1: about ")
    assert "come back as background" in said
    assert "--tile 96" in said
    assert "Doe" not in said
    given = np.asarray(Image.open(scans["large"])).astype(float)
    made = load_image(tmp_path / "tissue.nii.gz")[0].numpy()
    rim = np.ones((28, 28), bool)
    rim[2:-2, 2:-2] = False
    assert np.ptp(made[rim]) == 0
    number = int(said.split()[3])
    assert number == pytest.approx((given[rim] > 75).sum(), rel=0.2)


def test_a_volume_taken_slice_by_slice_is_told_of_once_and_in_dicom_too(
    make: Make, scans: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make("tiny").save(tmp_path / "model")
    stack = np.stack([np.asarray(Image.open(scans["large"]))] * 3, -1).astype(np.int16)
    volume = save_image(tmp_path / "volume.nii.gz", stack[None], np.diag([1.0, 1.0, 4.0, 1.0]))
    words = ["run", "denoise", str(tmp_path / "model"), str(volume), "--set", "sigma=0.05"]
    more = ["--out", str(tmp_path / "out"), "--format", "dicom"]
    assert called(monkeypatch, *words, *more) == 0
    (place,) = (tmp_path / "out").rglob("*.json")
    told = json.loads(place.read_text(encoding="utf-8"))["warning"]
    (said,) = [each for each in told if "not air" in each]
    flat = load_case(scans["large"], Space(2, (24, 24)), None).cropped
    assert int(said.split()[3]) == pytest.approx(3 * flat.voxels, rel=0.1)


def test_what_inpaint_leaves_as_it_is_is_not_lost_but_a_hole_there_is_not_filled(
    make: Make, scans: dict[str, Path]
) -> None:
    model = make("tiny")
    within, beyond = np.zeros((2, 28, 28))
    within[10:14, 10:14], beyond[10:14, :10] = 1, 1

    def told(sigma: float, mask: np.ndarray) -> list[str]:
        needs = Inpainting(sigma=sigma).needs()
        given = [scans["large"]]
        case = case_of_files(model, given, "refuse", 1, needs, {"mask": mask})
        with kept_warnings() as found:
            warn_of_cropped(case, model, needs, 1)
        return found

    assert told(0.0, within) == []
    (unfilled,) = told(0.0, beyond)
    assert "8 of the 40 voxels of the mask lie outside" in unfilled
    (lost,) = told(0.1, within)
    assert "come back as background" in lost


def test_a_training_and_its_check_count_the_scans_that_lose_tissue(tmp_path: Path) -> None:
    manifest = write_population(tmp_path / "scans", 4, 2, 1, size=32)
    named = f"data.manifest={manifest}"
    assert not [note for note in check(CONFIG, changes=[named]).notes if "beyond" in note]
    changes = [named, "data.space.size=[16,32]", f"output={tmp_path / 'run'}"]
    checked = check(CONFIG, changes=changes)
    (note,) = [note for note in checked.notes if "beyond" in note]
    assert note.startswith(
        "4 of 4 training scans reach beyond the grid of 16 x 32 voxels with more than air (rows 2, "
        "3, 4, 5; up to "
    )
    for cache in ("memory", "none"):
        loaded = load_config(CONFIG, [*changes, "modality=PT", f"data.cache={cache}"])
        assert prepare(loaded, None, Quiet()).notes == (note,)  # and no file's own modality


def test_the_store_is_told_no_note_in_which_a_number_is_a_subjects() -> None:
    note = cropping_notes({1042: Cropped(5, 10)}, 1, Space(2, (8, 8)))
    assert tag_of_notes(note, {"1041", "ANNA"}) == {"notes": note[0]}
    assert tag_of_notes(note, {"1042"}) == {}  # that a training is not refused for its rows
    assert tag_of_notes((), {"1042"}) == {}


def test_only_scans_that_are_larger_are_read_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = read_manifest(write_population(tmp_path / "scans", 6, 2, 1, size=32))
    scans = manifest.split("train")
    read: list[Path] = []

    def noted(path: Path) -> Volume:
        read.append(path)
        return load_image(path)

    monkeypatch.setattr(placing, "load_image", noted)
    monkeypatch.setattr("medidiff.jobs.cropping.CASES", 3)
    found = scans_cropped(scans, ["image"], Space(2, (32, 32)), None, 1, Quiet())
    assert len(found) == 3
    assert not any(each.voxels for each in found.values())
    assert read == []
    smaller = Space(2, (16, 32))
    found = scans_cropped(scans, ["image"], smaller, None, 1, Quiet())
    assert len(read) == len(found) == 3
    (note,) = cropping_notes(found, len(scans), smaller)
    assert note.startswith("3 of 3 training scans that were looked at reach beyond")
