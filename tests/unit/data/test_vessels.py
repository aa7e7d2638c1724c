"""Trees of tubes: where they are drawn, how thick, and that none is lost."""

from __future__ import annotations

import numpy as np
import pytest

from medidiff.data import vessels
from medidiff.data.boxes import Axes
from medidiff.data.vessels import Tubes, drawn, grow
from medidiff.data.waves import waves, waves_on


def axes(size: int = 41, slices: int = 1) -> Axes:
    line = np.linspace(-20, 20, size).astype(np.float32)
    return Axes(
        line,
        -line,
        np.linspace(-20, 20, slices).astype(np.float32)
        if slices > 1
        else line[size // 2 : size // 2 + 1],
    )


def tube(start: tuple[float, ...], end: tuple[float, ...], radius: float) -> Tubes:
    return Tubes(np.array([start]), np.array([end]), np.array([radius]))


def test_a_tube_lies_where_it_was_put() -> None:
    # to the patient's left and anterior: columns rise with x, rows fall with y
    picture = drawn(tube((5, 5, 0), (15, 15, 0), 2.0), axes(), 1.0)
    assert picture[20 - 10, 20 + 10] == 1
    assert picture[20 + 10, 20 + 10] == picture[20 - 10, 20 - 10] == 0


def test_a_tube_has_its_volume() -> None:
    grid = axes(81, 81)
    picture = drawn(tube((-10, 0, 0), (10, 0, 0), 4.0), grid, 0.5)
    expected = np.pi * 4**2 * 20 + 4 / 3 * np.pi * 4**3  # with round ends
    assert picture.sum() * 0.5**3 == pytest.approx(expected, rel=0.05)


def test_a_slice_is_the_slice_of_a_volume_and_chunks_do_not_matter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    random = np.random.default_rng(0)
    trees = grow(
        np.zeros((3, 3)), random.normal(size=(3, 3)), random, length=8, radius=2.5, generations=5
    )
    whole = drawn(trees, axes(41, 41), 0.7)
    assert np.array_equal(whole[20], drawn(trees, axes(), 0.7))
    monkeypatch.setattr(vessels, "VOXELS_AT_ONCE", 500)
    assert np.array_equal(whole, drawn(trees, axes(41, 41), 0.7))


def test_a_tree_forks_and_thins_as_murray_says() -> None:
    random = np.random.default_rng(0)
    trees = grow(np.zeros((2, 3)), np.eye(3)[:2], random, length=1, radius=1, generations=4)
    assert len(trees.radius) == 2 * (1 + 2 + 4 + 8)
    radii = np.unique(trees.radius)[::-1]
    assert np.allclose(radii[:-1] ** 3, 2 * radii[1:] ** 3)
    starts = {tuple(np.round(each, 9)) for each in trees.end}
    rooted = [tuple(np.round(each, 9)) in starts for each in trees.start[2:]]
    assert all(rooted)  # every branch begins where another ends


@pytest.mark.parametrize("slices", [1, 5])
def test_a_field_on_a_straight_grid_is_the_field_at_its_points(slices: int) -> None:
    grid = axes(17, slices)
    by_axes = waves_on(grid, 0.7, 9, np.random.default_rng(2))
    by_points = waves(grid.points, 0.7, 9, np.random.default_rng(2))
    assert by_axes.shape == grid.shape
    assert np.allclose(by_axes, by_points, atol=2e-4)
