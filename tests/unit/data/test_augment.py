"""Augmentation is a function of its draws, moves by what it says, and mirrors only when asked."""

from __future__ import annotations

import pytest
import torch

from medidiff.data.augment import augment
from medidiff.data.options import Augment

STILL = torch.full((1, Augment.DRAWS), 0.5)


def with_draw(place: int, value: float) -> torch.Tensor:
    draws = STILL.clone()
    draws[:, place] = value
    return draws


@pytest.mark.parametrize("shape", [(1, 2, 9, 12), (1, 2, 7, 9, 12)])
def test_middle_draws_change_nothing(shape: tuple[int, ...]) -> None:
    batch = torch.randn(shape)
    options = Augment(shift_voxels=3, rotate_degrees=20, scale=0.2, intensity=0.3, flip_axes=(0, 1))
    assert torch.allclose(augment(batch, options, STILL), batch, atol=1e-4)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_shift_is_that_many_voxels_along_its_axis(axis: int) -> None:
    batch = torch.randn(1, 1, 8, 10, 12)
    moved = augment(batch, Augment(shift_voxels=2), with_draw(axis, 1.0))
    expected = batch.roll(-2, axis + 2)
    inner = [slice(None)] * 5
    inner[axis + 2] = slice(0, -2)
    assert torch.allclose(moved[tuple(inner)], expected[tuple(inner)], atol=1e-4)


@pytest.mark.parametrize(("place", "axes"), [(3, (2, 3)), (4, (2, 4)), (5, (3, 4))])
def test_a_quarter_turn_is_a_quarter_turn(place: int, axes: tuple[int, int]) -> None:
    batch = torch.randn(1, 1, 8, 8, 8)
    turned = augment(batch, Augment(rotate_degrees=90), with_draw(place, 1.0))
    assert torch.allclose(turned, torch.rot90(batch, -1, axes), atol=1e-3)


def test_turning_keeps_voxels_square_in_oblong_images() -> None:
    batch = torch.zeros(1, 1, 11, 31)
    batch[0, 0, 5, 20] = 1  # five columns right of the centre
    turned = augment(batch, Augment(rotate_degrees=90), with_draw(3, 1.0))
    assert turned[0, 0].argmax() == 10 * 31 + 15  # five rows below it


def test_scaling_enlarges_about_the_centre() -> None:
    batch = torch.zeros(1, 1, 17, 17)
    batch[0, 0, 6:11, 6:11] = 1
    larger = augment(batch, Augment(scale=0.4), with_draw(6, 1.0))
    smaller = augment(batch, Augment(scale=0.4), with_draw(6, 0.0))
    assert larger.sum() / batch.sum() == pytest.approx(1.4**2, rel=0.1)
    assert smaller.sum() / batch.sum() == pytest.approx(0.6**2, rel=0.1)


def test_contrast_turns_about_the_lower_end() -> None:
    batch = torch.tensor([-1.0, 0.0, 1.0]).view(1, 1, 1, 3)
    brighter = augment(batch, Augment(intensity=0.2), with_draw(7, 1.0))
    assert brighter.flatten().tolist() == pytest.approx([-1.0, 0.2, 1.4])


def test_only_the_asked_axis_is_mirrored_and_only_by_its_draw() -> None:
    batch = torch.randn(2, 1, 5, 6)
    draws = STILL.repeat(2, 1)
    draws[:, 8:] = 0.1
    draws[1, 9] = 0.9
    mirrored = augment(batch, Augment(flip_axes=(1,)), draws)
    assert torch.equal(mirrored[0], batch[0].flip(2))
    assert torch.equal(mirrored[1], batch[1])
    assert torch.equal(augment(batch, Augment(), draws), batch)


def test_a_label_moves_with_its_image_and_keeps_its_values() -> None:
    draws = torch.rand(3, Augment.DRAWS)
    options = Augment(shift_voxels=2, rotate_degrees=15, scale=0.1, intensity=0.3, flip_axes=(0,))
    label = torch.zeros(3, 1, 24, 24)
    label[:, :, 6:16, 8:20] = 3
    moved = augment(label, options, draws, "label")
    image = augment(label, Augment(2, 15, 0.1, 0.0, (0,)), draws)
    assert set(moved.unique().tolist()) == {0.0, 3.0}
    assert ((image > 1.5) == (moved > 1.5)).float().mean() > 0.97


def test_a_batch_is_augmented_like_its_members() -> None:
    batch, draws = torch.randn(3, 1, 9, 9, 9), torch.rand(3, Augment.DRAWS)
    options = Augment(shift_voxels=1, rotate_degrees=10, scale=0.1, intensity=0.1, flip_axes=(2,))
    together = augment(batch, options, draws)
    for index in range(3):
        part = slice(index, index + 1)
        assert torch.allclose(augment(batch[part], options, draws[part]), together[part], atol=1e-6)


def test_wrong_draws_and_axes_are_refused() -> None:
    with pytest.raises(ValueError, match="draws are"):
        augment(torch.randn(2, 1, 4, 4), Augment(), STILL)
    with pytest.raises(ValueError, match="2 axes"):
        augment(torch.randn(1, 1, 4, 4), Augment(flip_axes=(2,)), STILL)
