"""Augmentation is a function of its draws, moves by what it says, and mirrors only when asked."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medidiff.data.augment import _matrix as affine_of
from medidiff.data.augment import augment, margin, surroundings
from medidiff.data.options import Augment, Space

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
    seen = turned[0, 0, :, 10:21]  # beyond these columns stands the image's mirror image
    assert seen.argmax() == 10 * 11 + 5  # five rows below it


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


TURNED = Augment(shift_voxels=2, rotate_degrees=12, scale=0.1)


def waves(shape: tuple[int, ...], linear: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    """A smooth image known everywhere, at the places linear @ voxel + offset from its centre."""
    axes = [torch.arange(n, dtype=torch.float64) - (n - 1) / 2 for n in shape]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1) @ linear.T + offset
    return torch.sin(places @ torch.tensor([0.11, 0.17, 0.13], dtype=torch.float64))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=Augment.DRAWS, max_size=Augment.DRAWS))
def test_a_volume_larger_than_the_crop_is_moved_as_if_it_had_no_end(drawn: list[float]) -> None:
    draws, size = torch.tensor([drawn]), (11, 16, 12)
    wide = tuple(n + 2 * m for n, m in zip(size, margin(TURNED, Space(3, size)), strict=True))
    volume = waves(wide, torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))
    moved = augment(volume[None, None], TURNED, draws, size=size)
    matrix = affine_of(TURNED, draws.double(), torch.ones(1, 3).double())[0]
    expected = waves(size, matrix[:, :3], matrix[:, 3])
    assert (moved[0, 0] - expected).abs().max() < 0.02  # the error of linear interpolation


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(0, 1), min_size=Augment.DRAWS, max_size=Augment.DRAWS),
    st.lists(st.tuples(st.integers(0, 6), st.integers(8, 16)), min_size=2, max_size=3),
)
def test_padding_neither_moves_nor_enters_a_scan(
    drawn: list[float], field: list[tuple[int, int]]
) -> None:
    scan = torch.full((1, 1, *[16] * len(field)), -1.0)
    inner = (..., *[slice(*ends) for ends in field])
    scan[inner] = 0.75
    moved = augment(scan, TURNED, torch.tensor([drawn]), field=torch.tensor([field]))
    assert torch.allclose(moved, scan, atol=1e-6)


def test_a_turn_keeps_lengths_where_voxels_are_long() -> None:
    draws, thick = with_draw(4, 1.0), torch.tensor([[1.0, 1.0, 5.0]])
    matrix = affine_of(Augment(rotate_degrees=30), draws.double(), thick.double())[0, :, :3]
    physical = torch.diag(thick[0].double())
    turn = physical @ matrix @ physical.inverse()
    assert torch.allclose(turn @ turn.T, torch.eye(3, dtype=torch.float64))
    assert not torch.allclose(turn, torch.eye(3, dtype=torch.float64))


def test_without_its_field_a_padded_scan_shows_a_turned_border() -> None:
    scan = torch.full((1, 1, 16, 16), -1.0)
    scan[..., 3:13, 3:13] = 0.75
    turned = augment(scan, TURNED, with_draw(3, 1.0))
    assert ((turned > -0.9) & (turned < 0.7)).any()


def test_surroundings_of_several_widths_share_a_middle() -> None:
    images = [torch.randn(1, 4, 6), torch.randn(1, 8, 6)]
    both = surroundings(images, [((0, 4), (1, 5)), ((0, 8), (0, 6))], (4, 6), [(1, 1), (1, 2)])
    assert both.images.shape == (2, 1, 8, 6)
    assert both.field.tolist() == [[[2, 6], [1, 5]], [[0, 8], [0, 6]]]
    assert torch.equal(both.on_grid, torch.stack([images[0], images[1][:, 2:6]]))
