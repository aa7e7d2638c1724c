"""Onto the model's grid and back: left stays left, millimetres stay millimetres."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medidiff.data.images import make_image
from medidiff.data.transforms import Space, from_space, inside_space, to_space
from medidiff.errors import DataError


def smooth_volume(shape: tuple[int, ...], affine: np.ndarray) -> torch.Tensor:
    """A field given in millimetres, so that it is the same whatever grid it is sampled on."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    place = index @ affine[:3, : len(shape)].T + affine[:3, 3]
    values = np.cos(place[..., 0] / 9) + np.sin(place[..., 1] / 7) + 0.02 * place[..., 2]
    return torch.tensor(values[None], dtype=torch.float32)


@pytest.mark.parametrize("letters", ["RAS", "LPS", "SAR", "PIR", "ALS"])
def test_left_stays_left_whatever_the_file_order(affine_for, letters: str) -> None:
    affine = affine_for(letters, (2, 2, 2), (-11, 7, 3))
    volume = torch.zeros((1, 8, 9, 10))
    marks = {"left": (2, 3, 4), "far": (6, 3, 4)}
    for value, mark in enumerate(marks.values(), start=1):
        volume[0][mark] = value
    space = Space(3, (10, 10, 10), orientation="LPS")
    placed = to_space(make_image(volume, affine), space)
    for value, mark in enumerate(marks.values(), start=1):
        (found,) = torch.nonzero(placed.as_tensor()[0] == value)
        before = affine @ [*mark, 1]
        after = np.asarray(placed.affine) @ [*found.tolist(), 1]
        assert np.allclose(before, after)
    assert np.allclose(np.sign(np.diag(np.asarray(placed.affine))[:3]), [-1, -1, 1])


@pytest.mark.parametrize(
    ("letters", "spacing", "shape"),
    [("RAS", (1, 1, 1), (21, 22, 23)), ("PIR", (1.5, 0.8, 2.0), (24, 31, 17))],
)
def test_resampling_samples_the_same_body(affine_for, letters, spacing, shape) -> None:
    affine = affine_for(letters, spacing, (-5, 4, 9))
    space = Space(3, (12, 12, 12), (1.2, 1.2, 1.2), "RAS")
    placed = to_space(make_image(smooth_volume(shape, affine), affine), space)
    truth = smooth_volume((12, 12, 12), np.asarray(placed.affine))
    assert (placed.as_tensor() - truth).abs().max() < 0.02


def test_an_oblique_volume_comes_back_onto_its_own_grid(affine_for) -> None:
    turn = np.deg2rad(14)
    oblique = np.eye(4)
    oblique[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    affine = oblique @ affine_for("LIA", (1.3, 0.9, 1.1), (30, -20, 10))
    volume = smooth_volume((22, 27, 25), affine)
    space = Space(3, (32, 32, 32), (1.0, 1.0, 1.0), "RAS")
    placed = to_space(make_image(volume, affine), space)
    back, back_affine = from_space(placed.as_tensor(), placed)
    assert np.allclose(back_affine, affine)
    inner = (slice(None), *[slice(2, -2)] * 3)
    assert (back - volume)[inner].abs().max() < 0.02


@pytest.mark.parametrize("letters", ["RAS", "SPL"])
def test_without_resampling_the_way_back_is_exact(affine_for, letters: str) -> None:
    volume = torch.randn(1, 7, 8, 9)
    image = make_image(volume, affine_for(letters, (1.1, 2.2, 0.7), (3, 4, 5)))
    space = Space(3, (11, 12, 10), orientation="LPI")
    placed = to_space(image, space)
    back, _ = from_space(placed.as_tensor(), placed)
    assert torch.equal(back, volume)
    label = (volume > 0.5).float() * 3
    labelled = to_space(make_image(label, image.affine), space, "label")
    assert torch.equal(from_space(labelled.as_tensor(), labelled, "label")[0], label)


def test_what_the_model_did_not_see_is_background_and_marked(affine_for) -> None:
    volume = torch.rand(1, 10, 10, 10) + 5
    image = make_image(volume, affine_for("RAS", (1, 1, 1)))
    placed = to_space(image, Space(3, (6, 6, 6)))
    back, _ = from_space(placed.as_tensor() + 100, placed)
    seen = inside_space((6, 6, 6), np.asarray(placed.affine), placed.meta["original"])
    assert int(seen.sum()) == 6**3
    assert torch.allclose(back[0][seen], volume[0][seen] + 100)
    assert torch.allclose(back[0][~seen], volume.min())


def test_padding_is_the_smallest_value_of_each_channel() -> None:
    image = make_image(torch.stack([torch.rand(4, 4) - 1000, torch.rand(4, 4) + 7]), np.eye(4))
    placed = to_space(image, Space(2, (8, 8))).as_tensor()
    assert torch.allclose(placed[:, 0, 0], image.as_tensor().flatten(1).amin(1))


def test_a_sagittal_slice_is_turned_within_its_plane(affine_for) -> None:
    affine = affine_for("IPL", (1, 1, 4), (5, 6, 7))
    pixels = torch.randn(1, 6, 8)
    placed = to_space(make_image(pixels, affine), Space(2, (8, 6), orientation="AS"))
    assert torch.equal(placed.as_tensor()[0], pixels[0].T.flip(0, 1))
    with pytest.raises(DataError, match="another plane"):
        to_space(make_image(pixels, affine), Space(2, (8, 6), orientation="RA"))


def test_a_picture_takes_the_declared_pixel_size_and_no_orientation() -> None:
    picture = make_image(torch.rand(1, 6, 6))
    placed = to_space(picture, Space(2, (8, 8), (0.5, 0.7)))
    assert np.allclose(np.diag(np.asarray(placed.affine)), [0.5, 0.7, 1, 1])
    assert torch.equal(placed.as_tensor()[:, 1:7, 1:7], picture.as_tensor())
    with pytest.raises(DataError, match="does not say how the body lies"):
        to_space(picture, Space(2, (8, 8), orientation="PL"))


def test_a_slice_is_no_volume() -> None:
    with pytest.raises(DataError, match="the image is 2-D, but the model's grid is 3-D"):
        to_space(make_image(torch.rand(1, 6, 6)), Space(3, (8, 8, 8)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"dims": 2, "size": (8, 8, 8)},
        {"dims": 3, "size": (8, 8, 0)},
        {"dims": 3, "size": (8, 8, 8), "spacing_mm": (1.0, 1.0)},
        {"dims": 3, "size": (8, 8, 8), "spacing_mm": "as it is"},
        {"dims": 3, "size": (8, 8, 8), "orientation": "RLS"},
        {"dims": 2, "size": (8, 8), "orientation": "RAS"},
    ],
)
def test_impossible_spaces_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=r"size|spacing_mm|orientation"):
        Space(**wrong)


def test_the_grid_of_made_images_is_centred() -> None:
    space = Space(3, (5, 7, 9), (1.0, 2.0, 3.0), "SPL")
    affine = space.affine()
    assert np.allclose((affine @ [2, 3, 4, 1])[:3], 0)
    assert np.allclose(affine[:3, :3], [[0, 0, -3], [0, -2, 0], [1, 0, 0]])
    assert np.linalg.det(Space(2, (5, 7), orientation="IP").affine()[:3, :3]) != 0


def test_resampling_does_not_darken_the_border(affine_for) -> None:
    image = make_image(torch.full((1, 6, 6, 6), 5.0), affine_for("RAS", (2, 2, 2)))
    placed = to_space(image, Space(3, (17, 17, 17), (0.7, 0.7, 0.7)))
    assert torch.allclose(placed.as_tensor(), torch.tensor(5.0))
