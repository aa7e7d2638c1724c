"""A classifier and a noised encoder: trained by the verb, and guiding a prior's samples."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import medidiff
from medidiff.cli import app
from medidiff.data.datasets import load_case
from medidiff.data.manifest import read_manifest
from medidiff.diffusion import DDIM, DDPM, VE, AnySchedule, EDMTarget, Heun
from medidiff.errors import ConfigError, MedidiffError, ModelError
from medidiff.model import Model, Samples

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "smoke-2d.yaml"
NETWORK = "network={kind: encoder, channels: [8, 16], attention: [false, true], blocks: 1}"
CLASSIFIER = "diffusion.objective={kind: classifier, column: sex}"
ALIGNMENT = "diffusion.objective={kind: alignment, width: 8}"
SAMPLERS = {"ddpm": DDPM(), "ddpm-large": DDPM(variance="large"), "ddim": DDIM(), "heun": Heun()}
Train = Callable[..., Path]


@pytest.fixture(scope="module")
def train(place: Path, flat: Path) -> Train:
    def run(name: str, *changes: str, manifest: Path = flat, parent: Path | None = None) -> Path:
        given = [f"data.manifest={manifest}", f"output={place / name}", NETWORK]
        given += ["data.conditions=[]", "train.steps=20", "train.learning_rate=3e-3", *changes]
        return medidiff.train(CONFIG, changes=given, parent=parent)

    return run


@pytest.fixture(scope="module")
def classifier_run(train: Train) -> Path:
    return train("classifier", CLASSIFIER)


@pytest.fixture(scope="module")
def encoder_run(train: Train) -> Path:
    film = "network={kind: encoder, channels: [8, 16], attention: [false, false], modulation: film}"
    return train("encoder", ALIGNMENT, film)


@pytest.fixture
def prior(run_2d: Path) -> Model:
    return medidiff.load(run_2d, "cpu")


@pytest.fixture
def classifier(classifier_run: Path) -> Model:
    return medidiff.load(classifier_run, "cpu")


@pytest.fixture
def encoder(encoder_run: Path) -> Model:
    return medidiff.load(encoder_run, "cpu")


def metrics(run: Path) -> dict[str, float]:
    events = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
    return {name: value for each in events for name, value in each.get("metrics", {}).items()}


def test_a_classifier_tells_cross_entropy_and_accuracy_by_level(
    classifier_run: Path, flat: Path, tmp_path: Path
) -> None:
    found, model = metrics(classifier_run), medidiff.load(classifier_run, "cpu")
    assert model.spec.role == "classifier"
    assert model.spec.label is not None
    assert model.spec.label.values == ("F", "M")
    for level in range(4):
        assert found[f"validation_loss_by_level.{level}"] > 0
        assert 0 <= found[f"validation_accuracy_by_level.{level}"] <= 1
    assert 0 <= found["validation_accuracy"] <= 1
    assert "finds | sex (F, M)" in (classifier_run / "model" / "card.md").read_text()
    with pytest.raises(ModelError, match="draws and denoises nothing"):
        model.sample(1)
    with pytest.raises(ModelError, match="draws and denoises nothing"):
        medidiff.gamma(classifier_run, tmp_path / "gamma", manifest=flat)
    changes = [f"data.manifest={flat}", NETWORK, "data.conditions=[]", CLASSIFIER]
    counted = medidiff.check(CONFIG, changes=changes).parameters
    assert counted == sum(each.numel() for each in model.network.parameters())


@pytest.fixture(scope="module")
def glow(train: Train, flat: Path, place: Path) -> Path:
    """A classifier of what is seen in every noise: whether an image is bright."""

    def change(index: int, row: dict[str, str]) -> None:
        bright = index % 2 == 0
        given: Any = nibabel.load(row["image"])
        values = given.get_fdata(dtype=np.float32) * (1.0 if bright else 0.2)
        row["image"] = str(place / "glow" / f"{index}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(values, given.affine), row["image"])
        row["glow:category"] = "bright" if bright else "dark"

    manifest = column(flat, place / "glow", change)
    objective = "diffusion.objective={kind: classifier, column: glow}"
    more = ("data.intensity={kind: window, low: 0, high: 1000}", "train.steps=60")
    return train("glow-classifier", objective, *more, manifest=manifest)


def test_it_learns_what_can_be_seen(glow: Path) -> None:
    found = metrics(glow)
    assert found["validation_accuracy"] > 0.7
    assert found["validation_loss"] < math.log(2)
    assert found["validation_accuracy_by_level.0"] > 0.8


class Brightness(nn.Module):
    """What a classifier of brightness would be without a mistake: its gradient is even."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(20.0), requires_grad=False)

    def forward(self, x: torch.Tensor, label: object, condition: None, concat: None):
        mean = self.slope * x.flatten(1).mean(1)
        return torch.stack([mean, -mean], dim=1)


class GaussianPrior(nn.Module):
    """The exact v of voxels from N(0, 1/4)."""

    def __init__(self, schedule: AnySchedule) -> None:
        super().__init__()
        self.schedule = schedule
        self.weight = nn.Parameter(torch.zeros(()), requires_grad=False)

    def forward(self, x: torch.Tensor, label: torch.Tensor, condition: object, concat: None):
        level = self.schedule(label.double() / 1000)
        signal = level.alpha**2 / 4
        share = level.sigma / (signal + level.sigma**2)
        v = level.alpha * share - level.sigma * level.alpha / 4 / (signal + level.sigma**2)
        return v.to(x)[:, None, None, None] * x


@pytest.mark.parametrize("name", SAMPLERS)
def test_samples_move_towards_the_class(name: str, run_2d: Path, glow: Path) -> None:
    learned = medidiff.load(glow, "cpu")
    classifier = Model(learned.spec, Brightness(), digest=learned.digest)
    spec = medidiff.load(run_2d, "cpu").spec
    spec = replace(spec, intensity=classifier.spec.intensity)
    prior = Model(spec, GaussianPrior(spec.schedule))

    def drawn(towards: str, scale: float) -> Samples:
        return prior.sample(
            3,
            seed=1,
            steps=20,
            sampler=SAMPLERS[name],
            classifier=classifier,
            towards={"glow": towards},
            classifier_scale=scale,
        )

    plain = prior.sample(3, seed=1, steps=20, sampler=SAMPLERS[name])
    assert torch.allclose(drawn("dark", 0.0).images, plain.images, rtol=1e-4, atol=1e-2)
    bright, dark = drawn("bright", 5.0), drawn("dark", 5.0)
    assert torch.isfinite(bright.images).all()
    means = [each.images.flatten(1).mean(1) for each in (bright, plain, dark)]
    assert bool((means[0] > means[1]).all())
    assert bool((means[1] > means[2]).all())
    assert bright.provenance["classifier_digest"] == classifier.digest
    assert bright.provenance["towards"] == {"glow": "bright"}
    assert bright.provenance["classifier_scale"] == 5.0
    assert "classifier" not in plain.provenance


def test_a_guided_batch_equals_its_members(prior: Model, classifier: Model) -> None:
    given = {"classifier": classifier, "towards": {"sex": "M"}, "classifier_scale": 3.0}
    together = prior.sample(3, seed=2, steps=3, sampler=DDPM(), **given).images
    parts = prior.sample(3, seed=2, steps=3, sampler=DDPM(), batch=1, **given).images
    assert torch.allclose(together, parts, rtol=1e-4, atol=1e-2)


def test_a_classifier_that_does_not_fit_is_refused(
    prior: Model, classifier: Model, encoder: Model
) -> None:
    def asked(reader: Model, towards: dict[str, str]) -> None:
        prior.sample(1, steps=2, classifier=reader, towards=towards)

    spec = classifier.spec
    narrow = replace(spec, schedule=VE(sigma_max=2.0))
    window = replace(spec.intensity, high=(9.0,))
    others = {
        "modality": replace(spec, modality="CT"),
        "space": replace(spec, space=replace(spec.space, size=(16, 16))),
        "other units": replace(spec, intensity=window),
        "knows noise up to 2": narrow,
    }
    for message, other in others.items():
        with pytest.raises(ModelError, match=message):
            asked(Model(other, classifier.network), {"sex": "F"})
    for towards in ({"sex": "X"}, {"age": "3"}, {}, {"sex": "F", "age": "3"}):
        with pytest.raises(ModelError, match="sex"):
            asked(classifier, towards)
    for reader in (prior, encoder):
        with pytest.raises(ModelError, match="role"):
            asked(reader, {"sex": "F"})
    with pytest.raises(ModelError, match="name the classifier"):
        prior.sample(1, towards={"sex": "F"})


def test_a_classifier_of_another_schedule_and_target_guides_too(prior: Model, train: Train) -> None:
    run = train(
        "classifier-edm",
        CLASSIFIER,
        "train.steps=4",
        "diffusion.schedule={kind: edm}",
        "diffusion.target={kind: edm}",
    )
    other = medidiff.load(run, "cpu")
    assert isinstance(other.spec.target, EDMTarget)
    found = prior.sample(1, steps=3, classifier=other, towards={"sex": "F"}, classifier_scale=5.0)
    assert torch.isfinite(found.images).all()
    assert not torch.equal(found.images, prior.sample(1, steps=3).images)


def column(manifest: Path, folder: Path, change: Callable[[int, dict[str, str]], None]) -> Path:
    """The manifest with its rows changed, beside the same images."""
    folder.mkdir(exist_ok=True)
    rows = list(csv.DictReader(manifest.open()))
    for index, row in enumerate(rows):
        row["image"] = str(manifest.parent / row["image"])
        row.pop("label", None)
        change(index, row)
    out = folder / "manifest.csv"
    with out.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return out


def sex_column(manifest: Path) -> str:
    with manifest.open() as stream:
        return next(name for name in next(csv.reader(stream)) if name.startswith("sex"))


def test_a_column_that_cannot_be_learned_is_refused(
    train: Train, flat: Path, tmp_path: Path
) -> None:
    sex = sex_column(flat)
    one = column(flat, tmp_path / "one", lambda _, row: row.update({sex: "F"}))
    for manifest, name, message in (
        (flat, "race", "not a category column"),
        (flat, "age", "not a category column"),
        (one, "sex", "two classes or more"),
    ):
        objective = f"diffusion.objective={{kind: classifier, column: {name}}}"
        with pytest.raises(ConfigError, match=message):
            train("never", objective, manifest=manifest)
    for change, message in (
        ("network={kind: unet}", "kind 'encoder'"),
        ("data.conditions=[age]", "leave data.conditions out"),
        ("diffusion.weight={kind: snr}", "has no weight"),
        ("diffusion.importance={}", "importance"),
    ):
        with pytest.raises(ConfigError, match=message):
            train("never", CLASSIFIER, change)
    with pytest.raises(ConfigError, match="at least 2"):
        train("never", ALIGNMENT, "train.batch=1")
    with pytest.raises(ConfigError, match="kind 'unet'"):
        train("never", "diffusion.objective={kind: denoising}")


def test_rows_without_a_class_are_left_out(train: Train, flat: Path, tmp_path: Path) -> None:
    sex = sex_column(flat)
    kept: list[str] = []

    def change(index: int, row: dict[str, str]) -> None:
        if index % 4 == 0:
            row[sex] = ""
        elif row["split"] == "train":
            kept.append(row[sex])

    partly = column(flat, tmp_path / "partly", change)
    run = train("partly", CLASSIFIER, "train.steps=2", manifest=partly)
    assert medidiff.load(run, "cpu").spec.lineage.train_images == len(kept)
    assert len(kept) < len(read_manifest(flat).split("train"))


def test_samples_are_drawn_towards_a_class_and_an_image_from_the_command_line(
    run_2d: Path, classifier_run: Path, encoder_run: Path, flat: Path, tmp_path: Path
) -> None:
    scan = read_manifest(flat).split("test")[0].images["image"]
    base = ["sample", str(run_2d), "--n", "1", "--steps", "3", "--out"]
    guided = [str(tmp_path / "a"), "--classifier", str(classifier_run), "--towards", "sex=F"]
    image = ["--encoder", str(encoder_run), "--towards-image", str(scan), "--sampler", "ddpm"]
    for more in ([*guided, "--classifier-scale", "2"], [str(tmp_path / "b"), *image]):
        done = CliRunner().invoke(app, [*base, *more])
        assert done.exit_code == 0, done.output
    a, b = (json.loads((tmp_path / x / "sample-0000.json").read_text()) for x in "ab")
    assert (a["classifier_scale"], a["towards"]) == (2.0, {"sex": "F"})
    assert a["classifier_digest"] == medidiff.load(classifier_run, "cpu").digest
    assert b["encoder_digest"] == medidiff.load(encoder_run, "cpu").digest
    assert b["sampler"]["kind"] == "ddpm"
    assert scan.name not in json.dumps(b)
    for sampler in ("{kind: nonsense}", "{kind: ddim, eta: 3}", "[", "3"):
        wrong = CliRunner().invoke(app, [*base, str(tmp_path / "c"), "--sampler", sampler])
        assert isinstance(wrong.exception, MedidiffError), sampler
    assert not (tmp_path / "c").exists()


def test_an_encoder_learns_without_labels_and_freezes_another(
    encoder_run: Path, classifier_run: Path, train: Train
) -> None:
    found = metrics(encoder_run)
    assert 0 <= found["validation_retrieval"] <= 1
    model = medidiff.load(encoder_run, "cpu")
    assert (model.spec.role, model.spec.shape.out_channels) == ("encoder", 8)
    second = train("aligned", ALIGNMENT, "train.steps=3", parent=encoder_run)
    again = medidiff.load(second, "cpu")
    assert again.spec.lineage.parent == model.digest
    assert again.spec.network != model.spec.network  # the frozen one may be another network
    wider = "diffusion.objective={kind: alignment, width: 9}"
    with pytest.raises(ModelError, match="width"):
        train("never", wider, parent=encoder_run)
    with pytest.raises(ModelError, match="freezes an encoder"):
        train("never", ALIGNMENT, parent=classifier_run)


@pytest.mark.parametrize("aim", ["content", "structure", "style"])
def test_samples_move_towards_an_image(aim: str, prior: Model, encoder: Model, flat: Path) -> None:
    scan = read_manifest(flat).split("test")[0].images["image"]
    case = load_case(scan, prior.spec.space, prior.spec.intensity)
    image = case.scale.inverse(case.images, axis=0)
    given = {"seed": 1, "steps": 4, "sampler": DDPM()}
    plain = prior.sample(2, **given)
    moved = prior.sample(
        2,
        **given,
        encoder=encoder,
        towards_image=image,
        aim=aim,  # type: ignore[arg-type]
        image_scale=20.0,
    )
    assert torch.isfinite(moved.images).all()
    assert not torch.equal(moved.images, plain.images)
    assert moved.provenance["aim"] == aim


def test_an_image_without_an_encoder_or_a_sampler_without_a_mean_is_refused(
    prior: Model, encoder: Model
) -> None:
    image = torch.zeros(1, 32, 32)
    with pytest.raises(ModelError, match="needs both"):
        prior.sample(1, towards_image=image)
    with pytest.raises(ModelError, match="needs both"):
        prior.sample(1, encoder=encoder)
    with pytest.raises(ModelError, match="mean of DDPM"):
        prior.sample(1, encoder=encoder, towards_image=image)
    with pytest.raises(ModelError, match="must be"):
        prior.sample(1, encoder=encoder, towards_image=image[:, :16], sampler=DDPM())
