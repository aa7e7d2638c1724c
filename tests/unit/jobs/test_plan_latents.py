"""What a plan of latents says, and where it stands among the ways to train."""

from __future__ import annotations

import dataclasses

from medidiff.jobs.plans.latents import codec_lines, coder_attempts, coder_lines
from medidiff.jobs.plans.lines import tree_of
from medidiff.jobs.plans.network import (
    Attempt,
    Scope,
    attempts,
    network_lines,
    train_lines,
    working_grid,
)
from medidiff.jobs.plans.noise import augment_lines

SCOPE = Scope(400, 380, (256, 256, 192), 5)


def test_latents_come_after_patches_of_half_the_image_unless_they_are_asked_for() -> None:
    ways = [way[0] for way in attempts(SCOPE, None)]
    assert [way.method for way in ways] == ["whole", "wavelet", "patch", "patch", *["latents"] * 3]
    patches = [way.patch for way in ways if way.patch is not None]
    assert patches == [(192, 192, 144), (128, 128, 96)]
    assert [way.tile for way in ways if way.method == "latents"] == [None, 32, 16]
    assert {way[0].method for way in attempts(SCOPE, "latents")} == {"latents"}
    assert len([*attempts(SCOPE, "patch")]) == 3  # a smaller one if it is asked for


def test_a_prior_of_latents_is_larger_on_its_coarse_grid() -> None:
    attempt = Attempt("latents", 4)
    assert working_grid(SCOPE, attempt) == (64, 64, 48)
    network = tree_of(network_lines(SCOPE, attempt))["network"]
    assert network["channels"] == [64, 128, 256]
    assert network["attention"] == [False, False, True]  # 16 x 16 x 12 is small enough
    assert tree_of(train_lines(SCOPE, attempt, 24, 20))["train"]["learning_rate"] == 2e-4


def test_latents_are_kept_in_as_many_versions_as_memory_holds() -> None:
    moved = augment_lines(SCOPE.grid, "MR", False, SCOPE.images)

    def data(images: int, tile: int | None = None) -> dict:
        scope = dataclasses.replace(SCOPE, images=images)
        return tree_of(codec_lines(scope, "runs/a", moved, tile, "they do not fit"))

    few = data(100)
    assert few["codec"] == {"kind": "autoencoder", "model": "runs/a", "versions": 8}
    assert "until" not in few["data"]["augment"]
    some = data(1000)["codec"]["versions"]
    assert 1 < some < 8
    many = data(100_000)
    assert "versions" not in many["codec"]
    assert "data" not in many
    assert data(100, 32)["codec"]["tiles"] == {"size": 32, "overlap": 8}


def test_an_augmentation_of_latents_keeps_its_reasons_but_that_of_its_end() -> None:
    (moved,) = augment_lines(SCOPE.grid, "CT", True, SCOPE.images)
    said = moved.reason.split("; ")
    assert said[-1] == moved.parts["until"]
    of_latents = codec_lines(SCOPE, "runs/a", [moved], None, "they do not fit")[0]
    assert of_latents.reason.split("; ") == [*said[:-1], "before they become latents"]


def test_the_autoencoder_is_trained_on_patches_unless_scans_are_as_small() -> None:
    first = next(coder_attempts(SCOPE))
    assert (first.patch, first.batch) == ((128, 128, 128), 4)
    small = next(coder_attempts(dataclasses.replace(SCOPE, grid=(64, 64, 64))))
    assert small.patch is None
    data, rest = coder_lines(SCOPE, first, 24, 20)
    assert tree_of(data)["data"]["patch"]["size"] == [128, 128, 128]
    tree = tree_of(rest)
    assert tree["network"]["channels"] == [32, 64, 128]
    assert tree["train"]["sample_every"] > 0
    blind = tree_of(coder_lines(SCOPE, dataclasses.replace(first, samples=0), 24, 20)[1])
    assert blind["train"]["sample_every"] == 0
