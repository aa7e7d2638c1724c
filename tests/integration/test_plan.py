"""A plan fits its scans and its GPU, says why, and is accepted as it is."""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel
import numpy as np
import pytest
import yaml

from medidiff import api
from medidiff.config import load_config
from medidiff.errors import ConfigError, DataError, ManifestError, OutputError

Population = Callable[..., Path]


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDIDIFF_HOME", str(tmp_path / "home"))


@pytest.fixture
def population(tmp_path: Path) -> Population:
    """The manifest of head-like ellipsoids in air, on any grid and in any units."""

    def write(
        shapes: Sequence[tuple[int, ...]],
        spacing: tuple[float, float, float] = (1, 1, 1),
        *,
        modality: str = "MR",
        columns: Sequence[str] = ("image",),
        air: float = 0.0,
        body: float = 300.0,
        gains: Sequence[float] = (1.0,),
        lacking: Sequence[tuple[int, str]] = (),
        splits: Sequence[str] = ("train", "train", "val"),
    ) -> Path:
        folder = tmp_path / "scans"
        folder.mkdir()
        rows = []
        for number, shape in enumerate(shapes):
            row = {"subject": f"Maria Muster {number}", "modality": modality}
            row["split"] = splits[number % len(splits)]
            for column in columns:
                rng = np.random.default_rng([number, len(column), ord(column[-1])])
                places = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape]))
                inside = (places**2).sum(0).swapaxes(0, 1) < 0.5
                scan = np.where(inside, body * gains[number % len(gains)], air)
                scan = scan + rng.normal(0, abs(body) / 100, shape) * inside
                name = f"muster-{number}-{column}.nii.gz"
                affine = np.diag([*spacing, 1.0])
                whole = scan.astype(np.int16).reshape(*shape, *[1] * (3 - len(shape)))
                nibabel.save(nibabel.Nifti1Image(whole, affine), folder / name)
                header = column if column == "image" else f"{column}:image"
                row[header] = "" if (number, column) in lacking else name
            rows.append(row)
        path = folder / "manifest.csv"
        with path.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return path

    return write


def planned(manifest: Path, **options: object) -> tuple[dict, str]:
    out = manifest.parent.parent / "plan.yaml"
    api.plan(manifest, out, **options)  # type: ignore[arg-type]
    text = out.read_text()
    return yaml.safe_load(text), text


def test_a_plan_is_checked_and_trained_as_it_is(
    population: Population, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)  # the journal is enough
    manifest = population([(24, 28)] * 6)
    out = manifest.parent.parent / "plan.yaml"
    made = api.plan(manifest, out, gpu_memory=8)
    checked = api.check(out, gpu_memory=8)
    assert checked.memory is not None
    assert checked.memory.fits
    assert checked.memory.plan.needed / 2**30 == pytest.approx(made.needed, rel=1e-6)
    short = [f"output={manifest.parent / 'run'}", "train.steps=4", "train.batch=2"]
    short += ["train.warmup_steps=1", "train.validate_every=2", "train.sample_every=0"]
    short += ["train.validation_levels=2", "train.save_every=4", "train.validation_images=2"]
    assert (api.train(out, changes=short) / "model").is_dir()


def test_every_line_that_was_chosen_says_why_and_nobody_is_named(
    population: Population, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans = population([(24, 28, 20)] * 6, (1, 1, 1))
    monkeypatch.chdir(scans.parent.parent)
    _, text = planned(scans.relative_to(scans.parent.parent))
    for key in ("size", "spacing_mm", "intensity", "augment", "channels", "times", "batch"):
        assert re.search(rf"^ *{key}: .+  # \w", text, re.MULTILINE), key
    assert "uster" not in text
    assert text.count("manifest.csv") == 1
    assert "manifest: scans/manifest.csv" in text  # relative to the plan, as the user's place was
    assert "4 subjects in the train split are few" in " ".join(text.replace("#", "").split())


def test_ct_keeps_hounsfield_units(population: Population) -> None:
    scans = population([(20, 20, 20)] * 6, modality="", air=-1000, body=60)
    tree, _ = planned(scans)
    assert tree["modality"] == "CT"
    assert tree["data"]["intensity"] == {"kind": "ct-window", "window": "full"}
    assert "intensity" not in tree["data"]["augment"]
    (scans.parent.parent / "plan.yaml").unlink()
    tree, _ = planned(scans, window="brain")
    assert tree["data"]["intensity"]["window"] == "brain"


def test_thick_slices_are_planned_as_slices_and_the_reason_is_said(
    population: Population, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    scans = population([(24, 28, 12)] * 6, (2, 2, 6))
    tree, text = planned(scans, gpu_memory=8)
    space = tree["data"]["space"]
    assert (space["dims"], space["spacing_mm"], space["orientation"]) == (2, [2.0, 2.0], "PL")
    assert space["size"][0] > space["size"][1]  # 28 rows to posterior, 24 columns to the left
    assert tree["data"]["slices"] == {"plane": "axial"}
    assert "anisotropic (2 x 2 x 6 mm; slices from 3 times on" in text
    assert re.search(r"slices: .*# \d+ slices a volume hold the body", text)
    (slab,) = re.findall(r"\n  # slices: (\{.*\})  # instead", text)
    out = scans.parent.parent / "plan.yaml"
    assert load_config(out, [f"data.slices={slab}"]).config.data.channels[0] == "image-2"
    out.unlink()
    assert "# slices:" not in planned(scans, gpu_memory=8, method="wavelet")[1]


def short(run: Path) -> list[str]:
    """Changes that end a training after two steps."""
    changes = [f"output={run}", "train.steps=2", "train.batch=2", "train.warmup_steps=1"]
    changes += ["train.validate_every=2", "train.sample_every=0", "train.validation_levels=2"]
    return [*changes, "train.save_every=4", "train.validation_images=2"]


@pytest.mark.slow
def test_planned_slices_fit_and_are_trained(
    population: Population, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    scans = population([(24, 28, 12)] * 6, (2, 2, 6))
    planned(scans, gpu_memory=8)
    out = scans.parent.parent / "plan.yaml"
    checked = api.check(out, gpu_memory=8)
    assert checked.memory is not None
    assert checked.memory.fits
    assert (api.train(out, changes=short(scans.parent / "run")) / "model").is_dir()


@pytest.mark.slow
def test_planned_latents_fit_and_are_trained_one_after_the_other(
    population: Population, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    scans = population([(20, 24, 20)] * 6)
    monkeypatch.chdir(scans.parent)
    found = api.plan(scans, scans.parent / "plan.yaml", gpu_memory=8, method="latents")
    assert found.first == scans.parent / "plan-autoencoder.yaml"
    assert "two trainings" in found.text
    for file in (found.first, found.file):
        text = file.read_text()
        assert text.index("train plan-autoencoder.yaml") < text.index("train plan.yaml")
        checked = api.check(file, gpu_memory=8)
        assert checked.memory is not None
        assert checked.memory.fits
        run = api.train(file, changes=short(Path(checked.loaded.config.output)))
        assert (run / "model").is_dir()


def test_volumes_that_are_asked_for_stay_whole_and_thick(population: Population) -> None:
    tree, text = planned(population([(64, 64, 12)] * 6, (1, 1, 5)), dims=3)
    assert tree["data"]["space"]["spacing_mm"] == [1.0, 1.0, 5.0]
    assert tree["data"]["space"]["size"][2] <= 16
    assert "slices" not in tree["data"]
    assert "anisotropic (1 x 1 x 5 mm)" in text


def test_slices_of_even_voxels_are_planned_if_they_are_asked_for(population: Population) -> None:
    scans = population([(20, 24, 20)] * 6)
    tree, text = planned(scans, dims=2)
    assert tree["data"]["slices"] == {"plane": "axial"}
    assert "as asked: slices of volumes of 1 x 1 x 1 mm" in text


def test_scans_of_another_scale_each_are_normalised_each(population: Population) -> None:
    same, _ = planned(population([(24, 24)] * 6))
    assert same["data"]["intensity"]["scope"] == "train"


def test_scans_whose_brightness_differs(population: Population) -> None:
    tree, _ = planned(population([(24, 24)] * 9, gains=(1, 5, 20, 2), splits=("train", "val")))
    assert tree["data"]["intensity"]["scope"] == "image"


def test_only_the_train_split_decides(population: Population) -> None:
    scans = population([(24, 24), (24, 24), (96, 96)] * 2)
    tree, _ = planned(scans)
    assert max(tree["data"]["space"]["size"]) <= 24


def test_several_contrasts_become_channels_and_incomplete_ones_stay_out(
    population: Population,
) -> None:
    scans = population([(24, 24)] * 6, columns=("t1", "t2", "flair"), lacking=[(1, "flair")])
    tree, text = planned(scans)
    assert tree["data"]["images"] == ["t1", "t2"]
    assert "left out: flair (missing in 1 rows)" in text
    with pytest.raises(ConfigError, match="'flair' in 1 rows"):
        api.plan(scans, scans.parent / "other.yaml", images=["t1", "flair"])


def test_sizes_that_differ_much_are_told(population: Population) -> None:
    tree, text = planned(population([(32, 32, 16), (32, 32, 60), (32, 32, 16)] * 3))
    assert tree["data"]["space"]["size"][2] <= 64
    assert "sizes differ much" in text


def test_slices_and_volumes_together_are_refused(population: Population) -> None:
    scans = population([(24, 24), (24, 24), (24, 24), (24, 24, 12)] * 2, splits=("train", "train"))
    rows = list(csv.DictReader(scans.open()))
    rows[-2]["split"] = "val"
    with scans.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    with pytest.raises(DataError, match=r"are 3-D \(rows 5, 9\) and 5 are 2-D; a model is of one"):
        api.plan(scans, scans.parent / "plan.yaml")


def test_a_smaller_gpu_gets_another_plan_and_a_tiny_one_none(population: Population) -> None:
    scans = population([(128, 128, 96)] * 3)
    needs = {}
    for memory in (16, 3):
        out = scans.parent / f"plan-{memory}.yaml"
        needs[memory] = api.plan(scans, out, gpu_memory=memory).needed
        assert needs[memory] <= memory
        load_config(out)
    assert needs[16] > 3
    with pytest.raises(ConfigError, match=r"fits into 1 GiB \(the least needs"):
        api.plan(scans, scans.parent / "tiny.yaml", gpu_memory=1, method="whole")
    assert not (scans.parent / "tiny.yaml").exists()


def test_a_place_that_cannot_be_used_is_told_before_scans_are_read(population: Population) -> None:
    scans = population([(24, 24)] * 3)
    (scans.parent / "there.yaml").write_text("mine")
    for name, said in (("there.yaml", "there already"), ("plan.txt", "yaml"), ("no/p.yaml", "no")):
        with pytest.raises(OutputError, match=said):
            api.plan(scans, scans.parent / name)
    assert (scans.parent / "there.yaml").read_text() == "mine"


def test_too_few_subjects_to_hold_any_out(population: Population) -> None:
    scans = population([(24, 24)], splits=("train",))
    with pytest.raises(ManifestError, match="too few subjects"):
        api.plan(scans, scans.parent / "plan.yaml")
