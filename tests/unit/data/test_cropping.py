"""What a grid cuts off is counted exactly, air is no loss, and tissue never goes unsaid."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medidiff.data import image_cache
from medidiff.data.cropping import Cropped, cropped, not_air
from medidiff.data.datasets import CacheKind, CaseSet, load_case
from medidiff.data.image_cache import Grid, entry_key
from medidiff.data.images import make_image, original_of
from medidiff.data.manifest import Manifest, read_manifest
from medidiff.data.options import AXES, Slices, Space
from medidiff.data.placing import place
from medidiff.data.privacy import SiteKey
from medidiff.data.transforms import _onto, covers, inside_space, put_back

LETTERS = ["".join(word) for kind in itertools.permutations(("LR", "PA", "IS"))
           for word in itertools.product(*kind)]  # fmt: skip
FACTORS = (0.6, 1.0, 1.2, 2.0)  # of the scan's voxels


def affine_of(letters: str, spacing: tuple[float, ...]) -> np.ndarray:
    affine = np.zeros((4, 4))
    for axis, (letter, step) in enumerate(zip(letters, spacing, strict=True)):
        direction, sign = AXES[letter]
        affine[direction, axis] = sign * step
    affine[:, 3] = (7, -4, 12, 1)
    return affine


def blobs(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Of two channels, somewhere in air at 0."""
    draw = np.random.default_rng(seed)
    there = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    found = []
    for _ in range(2):
        middle, radius = draw.uniform(0, shape), draw.uniform(2, max(shape) / 2)
        found.append(np.where(np.linalg.norm(there - middle, axis=-1) < radius, 100.0, 0.0))
    return torch.tensor(np.stack(found), dtype=torch.float32)


@given(
    dims=st.sampled_from([2, 3]),
    shape=st.tuples(*[st.integers(5, 12)] * 3),
    size=st.tuples(*[st.integers(3, 13)] * 3),
    letters=st.sampled_from(LETTERS),
    wanted=st.sampled_from(["as stored", *LETTERS]),
    factors=st.none() | st.tuples(*[st.sampled_from(FACTORS)] * 3),
    margin=st.none() | st.tuples(*[st.integers(0, 4)] * 3),
    seed=st.integers(0, 99),
)
@settings(max_examples=30, deadline=None)
def test_what_is_cut_is_what_comes_back_as_background(
    dims, shape, size, letters, wanted, factors, margin, seed
) -> None:
    shape, size = shape[:dims], size[:dims]
    if dims == 2 and wanted != "as stored":  # another order of the same plane
        own = letters[:2]
        wanted = own[::-1]
    spacing = (1.5, 0.8, 2.0)
    affine = affine_of(letters, spacing)
    step = "as stored"
    if factors is not None:
        step = tuple(spacing[axis] * factors[axis] for axis in range(dims))
    space = Space(dims, size, step, wanted)
    images = [make_image(channel[None], affine) for channel in blobs(shape, seed)]
    placed = place(images, None, space, None if margin is None else margin[:dims])
    back, _ = put_back(torch.ones(2, *size), placed.affine, placed.original)
    missing = (back == 0).all(0).numpy()  # background is 0, what the model saw 1
    ones = _onto(torch.ones(1, *size), placed.affine, placed.original, "bilinear", "zeros")[0]
    assert np.array_equal(missing, (ones <= 0.5 - 1e-6).numpy())
    there = np.logical_or(*(not_air(image.numpy()[0]) for image in images))
    if covers(size, placed.affine, placed.original):
        assert not missing.any()
        assert placed.cropped == Cropped()  # nothing was looked at
    else:
        assert placed.cropped == Cropped(int((there & missing).sum()), int(there.sum()))


def test_corners_of_a_grid_that_covers_a_scan_lie_well_within_it() -> None:
    image = make_image(torch.ones(1, 10, 9, 8), np.diag([1.0, 2.0, 3.0, 1.0]))
    for size, expected in (((10, 9, 8), True), ((11, 9, 12), True), ((10, 9, 7), False)):
        placed = place([image], None, Space(3, size))
        original = original_of(image)
        assert covers(size, placed.affine, original) is expected
        assert bool(inside_space(size, placed.affine, original).all()) is expected


SHAPE, GRID = (120, 100), (100, 84)


def head(radius: float, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """A head from 0 (air) to 200 with a bright rim, `radius` of half of the image's sides."""
    axes = [np.linspace(-1, 1, n) for n in shape]
    ring = np.sqrt(sum(x**2 for x in np.meshgrid(*axes, indexing="ij")))
    inner = 110 + 30 * np.cos(9 * ring)
    return np.where(ring < radius, np.where(ring > radius - 0.08, 200.0, inner), 0.0)


def rician(image: np.ndarray, sigma: float) -> np.ndarray:
    draw = np.random.default_rng(5)
    real, other = draw.normal(0, sigma * 255, (2, *image.shape))
    return np.hypot(image + real, other)


def gaussian(image: np.ndarray, sigma: float) -> np.ndarray:
    return image + np.random.default_rng(5).normal(0, sigma * 255, image.shape)


def hounsfield(image: np.ndarray) -> np.ndarray:
    return gaussian(6 * image, 0.15) - 1000


def in_a_circle(image: np.ndarray, value: float) -> np.ndarray:
    axes = [np.linspace(-1, 1, n) for n in image.shape]
    ring = np.sqrt(sum(x**2 for x in np.meshgrid(*axes, indexing="ij")))
    return np.where(ring < 1, image, value)


def padded(image: np.ndarray, value: float) -> np.ndarray:
    return np.pad(image, 30, constant_values=value)


KINDS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "masked": lambda x: x,
    "8 bits": lambda x: rician(x, 0.01).round().clip(0, 255),
    "rician .05": lambda x: rician(x, 0.05),
    "rician .1": lambda x: rician(x, 0.1),
    "rician .1, 8 bits": lambda x: rician(x, 0.1).round().clip(0, 255),
    "rician .2": lambda x: rician(x, 0.2),
    "gaussian .2": lambda x: gaussian(x, 0.2),
    "rician .1, padded": lambda x: padded(rician(x, 0.1), 0),
    "white rim": lambda x: padded(x, 255),
    "ct": hounsfield,
    "ct, padded with 0": lambda x: padded(hounsfield(x), 0),
    "ct in a circle of -3024": lambda x: in_a_circle(hounsfield(x), -3024),
    "ct, padded with -2000": lambda x: padded(hounsfield(x), -2000),
}


def lost_of(image: np.ndarray, grid: tuple[int, ...] = GRID, modality: str = "") -> Cropped:
    scan = make_image(torch.tensor(image, dtype=torch.float32)[None])
    return place([scan], None, Space(len(grid), grid), modality=modality).cropped  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("modality", ["", "CT"])
def test_air_is_no_loss_and_tissue_is(kind: str, modality: str) -> None:
    made = KINDS[kind]
    within = lost_of(made(head(0.75)), modality=modality)
    beyond = lost_of(made(head(0.93)), modality=modality)
    assert not within.matters
    assert beyond.matters
    whole = head(0.93) > 0
    kept = place([make_image(torch.tensor(whole[None]).float())], None, Space(2, GRID)).images
    lost = whole.sum() - int(kept.sum())
    assert beyond.voxels == pytest.approx(
        lost, rel=0.4
    )  # means reach a voxel beyond what is bright


def test_a_neck_that_runs_out_of_the_volume_counts_where_the_grid_is_shorter() -> None:
    volume = np.zeros((30, 30, 40))
    volume[5:25, 5:25, 15:35] = head(1.4, (20, 20, 20))
    volume[10:20, 10:20, :16] = 120
    volume = rician(volume, 0.05)
    assert not lost_of(volume, (24, 24, 40)).matters
    neck = lost_of(volume, (24, 24, 32))
    assert neck.voxels == pytest.approx(4 * 100, rel=0.3)


def test_a_piece_of_tissue_without_any_air_loses_what_is_cut() -> None:
    draw = np.random.default_rng(0)
    piece = draw.normal(150, 20, (30, 30, 30))
    assert lost_of(piece, (30, 30, 20)).share == pytest.approx(1 / 3, abs=0.05)
    assert lost_of(piece, (30, 30, 30)) == Cropped()
    assert lost_of(np.full((9, 9, 9), 7.0), (9, 9, 5)) == Cropped()  # nothing stands out


def test_ct_is_told_from_pictures_of_ct() -> None:
    picture = rician(head(0.75), 0.02).round().clip(0, 255)
    assert not lost_of(picture, modality="CT").matters  # of 8 bits: all of it is above -500


def test_specks_are_no_tissue() -> None:
    image = head(0.7)
    image[3, 4], image[117, 90] = 255, 255
    assert not lost_of(image).matters
    assert str(Cropped(1969, 30000)) == "about 1969 voxels that are not air (6.6 % of them)"


def test_nothing_is_looked_at_where_nothing_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medidiff.data.cropping.not_air", lambda *_: pytest.fail("looked at"))
    original = original_of(make_image(torch.ones(1, 8, 8)))
    assert cropped([torch.ones(8, 8)], (9, 8), np.eye(4), original) == Cropped()


@pytest.fixture
def manifest(tmp_path: Path, write_nifti: Callable[..., Path]) -> Manifest:
    """Volumes of a body that fits 20 x 20 voxels, and of one that does not."""
    for name, radius in (("small", 0.6), ("large", 0.95)):
        write_nifti(f"{name}.nii.gz", head(radius, (24, 24, 6)).astype(np.float32))
    rows = ["subject,image,split", "a,small.nii.gz,train", "b,large.nii.gz,train"]
    (tmp_path / "manifest.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return read_manifest(tmp_path / "manifest.csv")


@pytest.mark.parametrize("cache", ["memory", "disk", "none"])
@pytest.mark.parametrize("sliced", [False, True])
def test_every_cache_knows_what_was_cut(
    cache: CacheKind, sliced: bool, manifest: Manifest, key: SiteKey, tmp_path: Path
) -> None:
    space = Space(2, (20, 20), (1.0, 1.0), "PL") if sliced else Space(3, (20, 20, 6))
    slices = Slices("axial") if sliced else None
    large = Cropped()
    for _ in range(2):  # the second time from what is kept
        cases = CaseSet(manifest.rows, ["image"], space, cache=cache, key=key, slices=slices)
        by_row = {case.row: case.cropped for case in cases}
        assert cases.cropped == by_row
        small, large = by_row[2], by_row[3]
        assert small == Cropped(0, small.of)
        assert small.of > 0
        assert large.matters
    whole = load_case(tmp_path / "large.nii.gz", Space(3, (20, 20, 6)), None, key=key)
    assert whole.cropped == large


def test_a_scan_that_is_read_again_is_not_looked_at_again(
    manifest: Manifest, key: SiteKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = CaseSet(manifest.rows, ["image"], Space(3, (20, 20, 6)), cache="none", key=key)
    first = [case.cropped for case in cases]
    monkeypatch.setattr("medidiff.data.cropping.not_air", lambda *_: pytest.fail("looked at"))
    assert [case.cropped for case in cases] == first


def test_an_entry_of_before_or_of_another_modality_is_not_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    grid = Grid(Space(3, (20, 20, 6)))
    now, ct = (entry_key(grid, ["0"], None, modality) for modality in ("", "CT"))
    assert entry_key(grid, ["0"], None, "MR") == now != ct
    monkeypatch.setattr(image_cache, "FORMAT", 1)  # which did not hold what is cut off
    assert entry_key(grid, ["0"], None) != now
