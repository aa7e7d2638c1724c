"""Whether a training fits, and changes that make it fit by as much as they say."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from typer.testing import CliRunner

import medidiff
from medidiff.cli import app
from medidiff.config import Config, DataOptions, DiffusionOptions, dump_config, load_config
from medidiff.data.options import Space
from medidiff.data.phantoms import write_population
from medidiff.diffusion import EDMTarget, V
from medidiff.jobs.fitting import fit
from medidiff.jobs.memory import CONSTANTS, GIB, Training, plan
from medidiff.networks import (
    AnyNetwork,
    AutoencoderOptions,
    EncoderOptions,
    NetworkShape,
    UNetOptions,
)
from medidiff.training.losses import AnyObjective
from medidiff.training.objectives.alignment import Alignment
from medidiff.training.objectives.autoencoder import Autoencoding
from medidiff.training.objectives.classifier import Classifier
from medidiff.training.objectives.consistency import ConsistencyTraining
from medidiff.training.objectives.spread import Spread
from medidiff.training.options import PowerAverages, TrainOptions

TRAINING = Training(
    UNetOptions(channels=(16,), blocks=1, attention=(False,)),
    NetworkShape(dims=2),
    (128, 128),
    TrainOptions(batch=16, sample_images=1),
)


def test_a_training_that_fits_needs_no_change() -> None:
    found = fit(TRAINING, 80)
    assert found.fits
    assert found.changes == ()
    assert "it fits" in found.text
    assert f"16 at a time: {found.plan.drawing / GIB:.2f}" in found.text
    larger = dataclasses.replace(TRAINING, space=(256, 256))
    assert plan(larger).finished > 3 * found.plan.finished


def test_each_change_says_what_the_changed_training_needs() -> None:
    slow = dataclasses.replace(TRAINING.train, precision="fp32", acceleration="none")
    training = dataclasses.replace(TRAINING, train=slow)
    planned = plan(training)
    assert planned.moments["training"] == planned.peak
    found = fit(training, 0.8 * planned.needed / GIB)
    assert not found.fits
    keys = {change.keys[0].split("=")[0]: change for change in found.changes}
    assert {"train.precision", "train.acceleration", "train.batch", "data.space.size"} <= set(keys)
    assert {"network.checkpoint_levels", "data.patch.size", "codec.kind"} <= set(keys)
    assert all(change.needed < planned.needed for change in found.changes)
    assert any(change.fits for change in found.changes)
    half = dataclasses.replace(TRAINING, train=dataclasses.replace(slow, precision="bf16"))
    assert keys["train.precision"].needed == plan(half).needed
    for change in found.changes:
        assert change.fits == (change.needed <= found.available)
        assert change.keys[0] in found.text


def test_a_network_that_is_too_large_by_itself_is_told_apart_from_a_gpu_that_is_too_small() -> None:
    empty = (CONSTANTS.driver + CONSTANTS.workspace) / GIB
    little = fit(TRAINING, empty + 2**-20)
    assert little.changes == ()
    assert "the network alone needs" in little.text
    assert "no training fits" in fit(TRAINING, empty - 0.01).text


def test_where_no_single_change_is_enough_several_are_named_together() -> None:
    few = dataclasses.replace(TRAINING.train, batch=4)
    training = dataclasses.replace(TRAINING, space=(1024, 1024), train=few)
    small = dataclasses.replace(few, batch=1, validation_images=1)
    enough = plan(dataclasses.replace(TRAINING, space=(256, 256), train=small)).needed
    found = fit(training, 1.01 * enough / GIB)
    assert not any(change.fits for change in found.changes[:-1])
    last = found.changes[-1]
    assert last.fits
    assert len(last.keys) > 2


def test_the_moment_that_needs_most_is_what_is_changed() -> None:
    many = dataclasses.replace(TRAINING.train, batch=1, sample_images=4)
    planned = plan(dataclasses.replace(TRAINING, train=many))
    assert planned.peak == planned.moments["drawing samples"]
    found = fit(planned.training, planned.needed / GIB - 0.001)
    assert found.changes[0].keys == ("train.sample_images=2",)
    none = dataclasses.replace(many, sample_every=0)
    assert "drawing samples" not in plan(dataclasses.replace(TRAINING, train=none)).moments


def test_scratch_memory_is_that_of_recorded_calls_where_there_are_any() -> None:
    slow = dataclasses.replace(TRAINING.train, acceleration="none")
    recorded, plain = plan(TRAINING), plan(dataclasses.replace(TRAINING, train=slow))
    coder = AutoencoderOptions(channels=(8, 8), blocks=1)
    never = plan(dataclasses.replace(TRAINING, network=coder, objective=Autoencoding()))
    for planned, scratch in (
        (recorded, CONSTANTS.workspace_recorded),
        (plain, CONSTANTS.workspace),
        (never, CONSTANTS.workspace),
    ):
        beside = planned.always + planned.batch + planned.steps.peak
        assert planned.moments["training"] == beside + scratch


def test_averages_are_counted_as_they_are_kept() -> None:
    weights = plan(TRAINING).weights
    several = dataclasses.replace(TRAINING.train, ema=PowerAverages(stds=(0.05, 0.1)))
    assert plan(TRAINING).averages == 2 * weights  # one, and that of the best step
    assert plan(dataclasses.replace(TRAINING, train=several)).averages == 2 * weights
    assert plan(TRAINING).optimiser == 2 * weights


def test_check_says_it_of_every_objective(tmp_path: Path) -> None:
    manifest = write_population(tmp_path / "data", 6, 3, 3, size=32)
    config = tmp_path / "config.yaml"
    config.write_text(
        f"name: a\nmodality: MR\noutput: {tmp_path / 'run'}\n"
        f"data: {{manifest: {manifest}, space: {{dims: 2, size: [32, 32]}}}}\n"
        "network: {kind: unet, channels: [8], attention: [false], blocks: 1}\n"
    )
    assert medidiff.check(config).memory is None
    found = medidiff.check(config, gpu_memory=24).memory
    assert found is not None
    assert found.fits
    runner = CliRunner()
    enough = runner.invoke(app, ["check", str(config), "--gpu-memory", "24"])
    assert enough.exit_code == 0
    assert "24.00 GiB: it fits" in enough.output
    little = runner.invoke(app, ["check", str(config), "--gpu-memory", "0.5"])
    assert little.exit_code == 1
    assert "does NOT fit" in little.output
    assert "libraries alone take 1.00 GiB: no training fits" in little.output
    encoder = "network={kind: encoder, channels: [8], attention: [false], blocks: 1}"
    coder = "network={kind: autoencoder, channels: [8, 8], blocks: 1, latent_channels: 2}"
    objectives = {
        "hybrid": [],
        "spread": [],
        "consistency": ["diffusion.target.kind=edm"],
        "alignment": [encoder],
        "autoencoder": [coder],
    }
    for objective, more in objectives.items():
        changes = [f"diffusion.objective.kind={objective}", *more]
        planned = medidiff.check(config, changes=changes, gpu_memory=24).memory
        assert planned is not None
        assert planned.plan.training.objective.kind == objective
        assert planned.fits


READER = EncoderOptions(channels=(8, 8), attention=(False, False), blocks=1)
CODER = AutoencoderOptions(channels=(8, 8), blocks=1)
TAUGHT = ConsistencyTraining(teacher="parent")
GRID = {"train.batch", "data.space.size"}


@pytest.mark.parametrize(
    ("objective", "network", "offered"),
    [
        (Classifier(column="sex"), READER, GRID),
        (Alignment(), READER, {"data.space.size"}),
        (Autoencoding(), CODER, {*GRID, "data.patch.size"}),
        (Spread(), TRAINING.network, GRID),
        (TAUGHT, TRAINING.network, {*GRID, "network.checkpoint_levels"}),
    ],
    ids=["classifier", "alignment", "autoencoder", "spread", "student"],
)
def test_only_changes_that_the_objective_can_be_trained_with_are_offered(
    objective: AnyObjective, network: AnyNetwork, offered: set[str], tmp_path: Path
) -> None:
    some = dataclasses.replace(TRAINING.train, batch=2, validation_images=1, steps=2000)
    training = dataclasses.replace(
        TRAINING, objective=objective, network=network, train=some, space=(64, 64)
    )
    found = fit(training, (plan(training).needed - 2**12) / GIB)
    keys = {key.split("=")[0] for change in found.changes for key in change.keys}
    assert keys - {"train.sample_images"} == offered
    assert ("finished model" in found.text) == isinstance(network, UNetOptions)
    config = Config(
        "a",
        "MR",
        DataOptions("scans.csv", Space(2, (64, 64))),
        "out",
        network=network,
        diffusion=DiffusionOptions(
            target=EDMTarget(data_std=0.5) if objective == TAUGHT else V(), objective=objective
        ),
        train=some,
    )
    (tmp_path / "config.yaml").write_text(dump_config(config))
    for change in found.changes:
        load_config(tmp_path / "config.yaml", change.keys)


@pytest.mark.parametrize("precision", ["auto", "bf16", "fp16", "fp32"])
def test_every_precision_can_be_planned(precision: str) -> None:
    options = dataclasses.replace(TRAINING.train, precision=precision)  # type: ignore[arg-type]
    assert plan(dataclasses.replace(TRAINING, train=options)).needed > CONSTANTS.driver


def test_tiles_lessen_what_decoding_takes() -> None:
    shape = NetworkShape(dims=2, in_channels=2, out_channels=2)
    coded = (AutoencoderOptions(channels=(16, 32)), NetworkShape(dims=2))
    many = dataclasses.replace(TRAINING.train, sample_images=4)
    latents = dataclasses.replace(TRAINING, shape=shape, space=(256, 256), coding=coded, train=many)
    tiled = dataclasses.replace(latents, tile=(64, 64))
    assert plan(tiled).sampling < plan(latents).sampling
