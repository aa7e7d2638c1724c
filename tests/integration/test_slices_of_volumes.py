"""A 2-D model is trained on slices of volumes, judged by patient, and put to work on volumes."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import medidiff
from medidiff.cli import app
from medidiff.config import load_config
from medidiff.data.manifest import read_manifest
from medidiff.errors import ConfigError, DataError, ModelError
from medidiff.jobs.codecs import codec_channels
from medidiff.jobs.prepare import Prepared, prepare
from medidiff.jobs.reporting import Quiet

ROOT = Path(__file__).resolve().parents[2]
AXIAL = ["data.space={dims: 2, size: [16, 16]}", "data.slices={plane: axial}"]
TINY = [
    "network={kind: unet, channels: [4, 8], attention: [false, false], blocks: 1, groups: 2}",
    "data.conditions=[age]",
    "train.steps=4",
    "train.batch=4",
    "train.warmup_steps=1",
    "train.validate_every=2",
    "train.validation_images=4",
    "train.sample_every=0",
    "sampling.steps=2",
]


def ready(solid: Path, *changes: str) -> Prepared:
    listed = [f"data.manifest={solid}", "output=unused", *AXIAL, *TINY, *changes]
    return prepare(load_config(ROOT / "configs" / "smoke-2d.yaml", listed), None, Quiet())


def test_what_is_trained_on_is_what_the_slices_asked_for_hold(solid: Path) -> None:
    found = ready(solid)
    rows = read_manifest(solid).split("train")
    images = found.train.images(range(len(found.train)))
    assert images.shape[1:] == (1, 16, 16)
    assert len(images) > 5 * len(rows)
    assert {*found.train.rows} == {row.number for row in rows}
    ages = {row.number: row.numbers["age"] for row in rows}
    assert found.train.conditions is not None
    pairs = zip(found.train.rows, found.train.conditions, strict=True)
    told = {row: float(condition[0]) for row, condition in pairs}
    order = sorted(rows, key=lambda row: ages[row.number])
    assert [told[row.number] for row in order] == sorted(told.values())
    spec = found.spec
    assert (spec.space.orientation, spec.lineage.train_images) == ("PL", len(images))
    assert spec.lineage.train_subjects == len(rows)

    every = ready(solid, "data.slices={plane: axial, every: 4}")
    assert len(every.train) == pytest.approx(len(images) / 4, abs=len(rows))
    full = ready(solid, "data.slices={plane: axial, foreground: 0.9}")
    assert len(rows) <= len(full.train) < len(images)
    sagittal = ready(solid, "data.slices={plane: sagittal}")
    assert sagittal.spec.space.orientation == "IP"
    assert sagittal.spec.slices.plane == "sagittal"  # type: ignore[union-attr]
    assert not torch.equal(sagittal.train.images([0]), found.train.images([0]))


def test_slices_are_moved_on_what_lies_around_them_in_their_plane(solid: Path) -> None:
    found = ready(solid, "data.space.size=[8, 12]", "data.augment={shift_voxels: 3}")
    batch = found.train.batch([0, 5], to_move=True)
    assert batch.around is not None
    assert batch.around.images.shape == (2, 1, 14, 16)
    assert torch.equal(batch.clean, found.train.images([0, 5]))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("data.slices={plane: oblique}", "data.slices.plane: .*'thick'"),
        ("data.slices={plane: axial, every: 0}", "every is at least 1"),
        ("data.slices={plane: axial, thickness: 4}", "thickness is an odd number"),
        ("data.slices={plane: axial, foreground: 2}", "share from 0 to 1"),
        ("data.space={dims: 3, size: [8, 8, 8]}", r"space\.dims must be 2"),
        ("data.space.orientation=LS", "LS is coronal, and slices.plane axial"),
        ("data.cache=none", "for each of its slices"),
    ],
)
def test_nonsense_is_refused_with_what_to_do(change: str, said: str, solid: Path) -> None:
    listed = [f"data.manifest={solid}", "output=unused", *AXIAL, change]
    with pytest.raises(ConfigError, match=said):
        load_config(ROOT / "configs" / "smoke-2d.yaml", listed)


def test_pictures_and_cubes_are_refused_with_their_rows(solid: Path, flat: Path) -> None:
    with pytest.raises(DataError, match=r"rows 2, 3.*hold 2-D images: leave data\.slices out"):
        ready(solid, f"data.manifest={flat}")
    with pytest.raises(DataError, match="'thick': no volume's voxels are longer"):
        ready(solid, "data.slices={}")


@pytest.mark.slow
def test_a_model_of_slices_of_volumes_is_trained_judged_and_run(
    solid: Path, place: Path, tmp_path: Path
) -> None:
    changes = [f"data.manifest={solid}", f"output={place / 'sliced'}", *AXIAL, *TINY]
    changes += ["data.cache=disk", "data.slices.every=4"]
    run = medidiff.train(ROOT / "configs" / "smoke-2d.yaml", changes=changes)
    model = medidiff.load(run)
    out = tmp_path / "table"
    table = medidiff.benchmark("denoise", model, manifest=solid, out=out, baselines="none", limit=2)
    rows = list(csv.DictReader((out / "rows.csv").open()))
    subjects = len({row.subject for row in read_manifest(solid).split("test")[:2]})
    assert len({row["subject"] for row in rows}) == subjects
    assert len({(row["row"], row["slice"]) for row in rows}) > 2 * subjects
    assert all(item.interval.n == subjects for item in table.summaries)
    scan = read_manifest(solid).split("test")[0].images["image"]
    result = medidiff.run("denoise", model, scan, sigma=0.1)
    assert result.image.shape == (1, 16, 16, 16)
    assert np.isfinite(result.image).all()
    assert re.search("axial", (run / "model" / "model.json").read_text())


@pytest.mark.slow
def test_a_model_of_slabs_is_trained_and_draws_and_denoises_volumes(
    solid: Path, place: Path, tmp_path: Path
) -> None:
    changes = [f"data.manifest={solid}", f"output={place / 'slabs'}", *AXIAL, *TINY]
    changes += ["data.slices={plane: axial, thickness: 3}", "data.augment.shift_voxels=2"]
    run = medidiff.train(ROOT / "configs" / "smoke-2d.yaml", changes=changes)
    model = medidiff.load(run)
    assert model.spec.images == ("image-1", "image", "image+1")
    assert model.spec.shape.in_channels == 3
    step = 220 / 16  # of the phantoms
    assert model.spec.step_mm == pytest.approx((step, step, step))
    scan = read_manifest(solid).split("test")[0].images["image"]
    result = medidiff.run("denoise", model, scan, sigma=0.1)
    assert result.image.shape == (1, 16, 16, 16)
    done = CliRunner().invoke(
        app, ["sample", str(run), "--out", str(tmp_path / "drawn"), "--n", "1", "--slices", "7"]
    )
    assert done.exit_code == 0, done.output
    drawn = nibabel.load(tmp_path / "drawn" / "sample-0000.nii.gz")
    assert drawn.shape == (16, 16, 7)  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.slow
def test_latents_of_slices_take_the_autoencoder_s_plane(solid: Path, place: Path) -> None:
    coder = [
        "network={kind: autoencoder, channels: [4, 8], blocks: 1, latent_channels: 2, groups: 2}",
        "diffusion={objective: {kind: autoencoder, adversary: {start: 9, channels: 4, layers: 1}}}",
        "data.conditions=[]",
    ]
    out = place / "sliced-autoencoder"
    changes = [f"data.manifest={solid}", *AXIAL, *TINY, *coder, f"output={out}"]
    medidiff.train(ROOT / "configs" / "smoke-2d.yaml", changes=changes)
    latents = [f"codec={{kind: autoencoder, model: {out}}}", "data.intensity={kind: percentile}"]
    found = ready(solid, *latents)
    assert found.train.images([0]).shape == (1, 2, 8, 8)
    other = [f"data.manifest={solid}", "output=unused", *AXIAL, *TINY, *latents]
    with pytest.raises(ModelError, match="plane 'axial'; found 'sagittal'"):
        codec_channels(
            load_config(
                ROOT / "configs" / "smoke-2d.yaml", [*other, "data.slices={plane: sagittal}"]
            ).config
        )
