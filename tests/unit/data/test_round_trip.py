"""Whatever the scan's directions, voxels and size: a result returns to its grid and its units."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medidiff.data.images import make_image
from medidiff.data.intensity import fit
from medidiff.data.options import Percentile, Space, Window
from medidiff.data.transforms import field_of, from_space, inside_space, to_space

CODES = [
    "".join(letters)
    for pairs in itertools.permutations(("LR", "PA", "IS"))
    for letters in itertools.product(*pairs)
]
"""All 48 ways in which a volume's axes may run."""
sizes = st.tuples(*[st.integers(5, 13)] * 3)
steps = st.tuples(*[st.floats(0.4, 6.0)] * 3)
CURVATURE = 1 / 81  # the largest second derivative of `waves` along any direction, per mm^2


def waves(shape: tuple[int, ...], affine: np.ndarray) -> torch.Tensor:
    """A field given in millimetres, so that it is the same whatever grid it is sampled on."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    place = index @ affine[:3, :3].T + affine[:3, 3]
    return torch.tensor(np.cos(place / 9).mean(axis=-1)[None], dtype=torch.float32)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(CODES), st.sampled_from([*CODES, "as stored"]), sizes, sizes, steps)
def test_without_resampling_all_that_was_seen_returns_bit_by_bit(
    stored: str, wanted: str, shape: tuple, size: tuple, spacing: tuple
) -> None:
    affine = Space(3, shape, spacing, stored).affine()
    volume = waves(shape, affine)
    placed = to_space(make_image(volume, affine), Space(3, size, orientation=wanted))
    back, its = from_space(placed.as_tensor(), placed)
    seen = inside_space(size, np.asarray(placed.affine), placed.meta["original"])
    assert np.array_equal(its, affine)
    assert (back[0][seen] == volume[0][seen]).all()
    assert (back[0][~seen] == volume.min()).all()
    field = [stop - start for start, stop in field_of(placed)]
    assert int(seen.sum()) == np.prod(field)


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from(CODES),
    st.sampled_from(CODES),
    sizes,
    st.tuples(*[st.floats(0.8, 3.0)] * 3),
    st.tuples(*[st.floats(0.8, 3.0)] * 3),
)
def test_resampling_there_and_back_costs_what_linear_interpolation_costs(
    stored: str, wanted: str, shape: tuple, spacing: tuple, model: tuple
) -> None:
    affine = Space(3, shape, spacing, stored).affine()
    volume = waves(shape, affine)
    space = Space(3, (48, 48, 48), model, wanted)
    placed = to_space(make_image(volume, affine), space)
    back, its = from_space(placed.as_tensor(), placed)
    assert np.array_equal(its, affine)
    # h^2 / 8 of the second derivative along each axis and way; a voxel at the border, where the
    # model's grid ends short of the scan's, is that of the grid's edge
    there = sum(step**2 for step in spacing) / 8 * CURVATURE
    again = sum(step**2 for step in model) / 8 * CURVATURE
    edge = 1 + int(max(model) / min(spacing))
    error = (back - volume)[0][(slice(edge, -edge),) * 3].abs()
    assert not error.numel() or float(error.max()) <= (there + again) / 3 + 1e-4


@settings(max_examples=20, deadline=None)
@given(sizes, sizes, st.tuples(*[st.integers(0, 4)] * 3))
def test_a_margin_shows_what_lies_around_and_nothing_else(
    shape: tuple, size: tuple, margin: tuple
) -> None:
    affine = Space(3, shape, (1.0, 1.0, 1.0), "RAS").affine()
    image = make_image(waves(shape, affine), affine)
    plain, wide = to_space(image, Space(3, size)), to_space(image, Space(3, size), margin=margin)
    middle = tuple(
        slice((w - n) // 2, (w - n) // 2 + n) for w, n in zip(wide.shape[1:], size, strict=True)
    )
    assert (wide.as_tensor()[0][middle] == plain.as_tensor()[0]).all()
    for n, w, have, most in zip(size, wide.shape[1:], shape, margin, strict=True):
        assert (w - n) // 2 == min(most, max(0, -(-(have - n) // 2)))
    inside = tuple(slice(*ends) for ends in field_of(wide))
    start = np.linalg.inv(affine) @ np.asarray(wide.affine) @ [*[s.start for s in inside], 1]
    source = tuple(
        slice(round(first), round(first) + s.stop - s.start)
        for first, s in zip(start[:3], inside, strict=True)
    )
    assert (wide.as_tensor()[0][inside] == image.as_tensor()[0][source]).all()


@settings(max_examples=30, deadline=None)
@given(st.floats(-1000, 1000), st.floats(0.5, 4000), st.sampled_from(["train", "image", "window"]))
def test_intensities_return_to_their_units(low: float, width: float, scope: str) -> None:
    affine = np.eye(4)
    image = waves((6, 7, 8), affine) * width + low
    options = Window(low=low, high=low + width) if scope == "window" else Percentile(scope=scope)
    seen, scale = fit(options, [image]).normalise(image)
    back = scale.inverse(seen, axis=0)
    assert (back - image).abs().max() <= 1e-5 * image.abs().max()
