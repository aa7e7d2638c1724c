"""Phantoms are heads, vary with age and sex, and say where their lesions are."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from medidiff.data.anatomy import grid, posed
from medidiff.data.manifest import check_manifest, read_manifest
from medidiff.data.phantoms import FINE, Subject, draw_head, write_population
from medidiff.data.waves import draw_waves, smooth_waves, waves


def drawn(
    age: float, sex: str, index: int, *, lesions: bool = False, dims: int = 2, size: int = 48
):
    return draw_head(Subject(age, sex, lesions), dims=dims, size=size, seed=5, index=index)


def test_a_population_passes_the_check_of_its_manifest(tmp_path: Path) -> None:
    manifest = read_manifest(write_population(tmp_path, 5, 2, 2, size=32))
    check_manifest(manifest, splits=["train", "val", "test"])
    assert len(manifest.split("train")) == 5
    assert set(manifest.rows[0].conditions) == {"sex", "age", "lesion"}


def test_the_same_seed_draws_the_same_voxels_and_another_does_not(tmp_path: Path) -> None:
    digests = [
        read_manifest(write_population(tmp_path / str(index), 2, 0, 0, size=32, seed=seed)).digest()
        for index, seed in enumerate((3, 3, 4))
    ]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("dims", [2, 3])
def test_a_mask_marks_where_the_lesion_changed_the_picture(dims: int) -> None:
    size = 64 if dims == 2 else 24
    changes, shares = [], []
    for index in range(4):
        sick = drawn(50, "F", index, lesions=True, dims=dims, size=size)
        healthy = drawn(50, "F", index, dims=dims, size=size)
        assert not healthy.mask.any()
        mask = sick.mask > 0
        shares.append(mask.mean())
        # the gain is drawn after the lesions, so compare the pictures on one scale
        scale = [np.median(head.image[head.image > 300]) for head in (sick, healthy)]
        change = np.abs(sick.image / scale[0] - healthy.image / scale[1])
        changes.append((change[mask].mean(), np.median(change[~mask])))
    assert all(inside > 3 * outside for inside, outside in changes)
    assert 0.001 < np.mean(shares) < 0.2


def test_lesions_are_not_simply_the_brightest_or_the_darkest() -> None:
    darker = brighter = 0
    for index in range(12):
        head = drawn(50, "F", index, lesions=True, size=64)
        brain = np.median(head.image[head.image > 300])
        darker += int((head.image[head.mask > 0] < 0.8 * brain).any())
        brighter += int((head.image[head.mask > 0] > 1.15 * brain).any())
    assert darker >= 3
    assert brighter >= 3


def test_age_widens_the_ventricles_and_men_have_larger_heads() -> None:
    def fluid(age: float) -> float:
        centre = [drawn(age, "F", index).image[18:32, 18:30] for index in range(6)]
        return float(np.mean([(part < 300).mean() for part in centre]))

    def area(sex: str) -> float:
        return float(np.mean([(drawn(50, sex, index).image > 60).mean() for index in range(6)]))

    assert fluid(82) > 1.5 * fluid(22)
    assert area("M") > 1.05 * area("F")


def test_the_affine_says_which_side_is_left(tmp_path: Path) -> None:
    for dims, letters in ((2, ("P", "L", "S")), (3, ("S", "P", "L"))):
        write_population(tmp_path / str(dims), 1, 0, 0, dims=dims, size=24)
        image = nibabel.load(tmp_path / str(dims) / "images" / "phantom0000.nii.gz")
        assert nibabel.aff2axcodes(image.affine) == letters
        centre = (np.array([24, 24, 1 if dims == 2 else 24]) - 1) / 2
        assert np.allclose((image.affine @ [*centre, 1])[:3], 0, atol=1e-4)


@pytest.mark.parametrize(
    ("dims", "size", "frequency"), [(2, 128, 16.0), (2, 64, 5.0), (3, 40, 3.0)]
)
def test_splined_fields_are_those_of_every_point(dims: int, size: int, frequency: float) -> None:
    draws = (np.random.default_rng(3), np.random.default_rng(3))
    drawn = [draw_waves(each, 12, draws[0]) for each in (frequency, 0.7 * frequency)]
    points = posed(grid(dims, size * FINE, 0.05).points, dims, np.random.default_rng(4))
    for drawing, splined in zip(drawn, smooth_waves(points, drawn), strict=True):
        field = waves(points, drawing.frequency, 12, draws[1])
        assert splined.shape == points[0].shape
        assert np.abs(splined - field).max() < 0.004
        assert splined.std() > 0.3
    assert draws[0].uniform() == draws[1].uniform()  # whichever is drawn after is the same
