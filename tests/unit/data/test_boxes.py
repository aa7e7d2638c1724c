"""Parts drawn in a box of their own are those drawn everywhere; boxes hold what they must."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from medidiff.data.anatomy import grid, posed
from medidiff.data.boxes import Region, box, box_around
from medidiff.data.scanners import blurred
from medidiff.data.shapes import blob

PLACE, RADII = (0.2, -0.1, 0.15), (0.15, 0.3, 0.2)


def head_points(dims: int, seed: int) -> Region:
    """Tilted and shifted, as a head's are."""
    size = 96 if dims == 2 else 40
    return Region(posed(grid(dims, size, 0.05).points, dims, np.random.default_rng(seed)))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("turn", [0.0, 0.7, -1.2])
def test_an_ellipsoid_in_its_box_is_the_ellipsoid_everywhere(dims: int, turn: float) -> None:
    region = head_points(dims, seed=dims)
    here, share = region.ellipsoid(PLACE, RADII, turn, 0.01)
    x, y, z = np.broadcast_arrays(*region.points)
    whole = blob((x - PLACE[0], y - PLACE[1], z - PLACE[2]), RADII, turn, 0.01)
    placed = np.zeros_like(whole)
    placed[here] = share
    assert share.size < 0.3 * whole.size
    assert whole.max() > 0.9
    assert np.abs(placed - whole).max() < 2e-5


def test_a_box_beside_the_picture_is_empty() -> None:
    region = head_points(2, seed=0)
    here, share = region.ellipsoid((5.0, 0.0, 0.0), RADII, 0.0, 0.01)
    assert share.size == 0
    assert np.zeros((96, 96))[here].size == 0


def test_a_region_cut_is_the_region_of_its_points() -> None:
    region = head_points(3, seed=1)
    here = region.box(PLACE, RADII)
    inside = np.ones(region.points[0].shape, dtype=bool)
    for along, middle, far in zip(region.points, PLACE, RADII, strict=True):
        inside &= np.abs(along - middle) <= far
    outside = inside.copy()
    outside[here] = False
    assert inside.any()
    assert not outside.any()
    assert all(
        np.array_equal(cut, along[here])
        for cut, along in zip(region.cut(here), region.points, strict=True)
    )


@pytest.mark.parametrize("ends", [(0, 1), (0, 64), (13, 14), (61, 64), (10, 50)])
def test_boxes_grow_to_sixteenths_within_the_picture(ends: tuple[int, int]) -> None:
    inside = np.zeros((64, 80), dtype=bool)
    inside[slice(*ends), 40] = True
    rows, columns = box_around(inside)
    assert 0 <= rows.start <= ends[0] < ends[1] <= rows.stop <= 64
    assert (rows.stop - rows.start) % 4 == 0
    assert columns == slice(40, 45)


def test_a_box_of_axes_holds_what_lies_between_its_ends() -> None:
    axes = grid(3, 40, 0.0)
    here, near = box(axes, (-0.2, 0.3), (0.1, 0.6))
    assert near.shape == np.zeros(axes.shape)[here].shape
    assert near.x.min() >= -0.2 > axes.x[axes.x < near.x.min()].max()
    assert near.y.max() <= 0.6 < axes.y[axes.y > near.y.max()].min()


@pytest.mark.parametrize("shape", [(40, 24), (20, 12, 16)])
def test_a_blur_by_matrices_is_the_filter(shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    for sigma in (0.35, 0.6):
        assert np.allclose(blurred(image, sigma), ndimage.gaussian_filter(image, sigma), atol=1e-6)
