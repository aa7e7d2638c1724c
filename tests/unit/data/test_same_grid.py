"""The same voxels in another order, and what is not the same."""

from __future__ import annotations

import numpy as np
import pytest

from medidiff.data.same_grid import onto_grid

VALUES = np.arange(2 * 3 * 4).reshape(2, 3, 4)
TURNED = np.array([[0.8, -0.6, 0, 5], [0.6, 0.8, 0, -7], [0, 0, 3, 9], [0, 0, 0, 1.0]])


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
@pytest.mark.parametrize("backwards", [(), (0,), (1, 2), (0, 1, 2)])
def test_axes_in_another_order_and_direction_are_put_back(
    order: tuple[int, ...], backwards: tuple[int, ...]
) -> None:
    stored = np.flip(VALUES.transpose(order), backwards)
    step = np.zeros((4, 4))
    step[3, 3] = 1
    for new, old in enumerate(order):
        step[old, new] = -1 if new in backwards else 1
        step[old, 3] = stored.shape[new] - 1 if new in backwards else 0
    found = onto_grid(stored, TURNED @ step, VALUES.shape, TURNED)
    assert found is not None
    assert np.array_equal(found, VALUES)


@pytest.mark.parametrize(
    "step",
    [
        np.array([[1, 0, 0, 0.5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
        np.array([[1, 0, 0, 1.0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
        np.diag([2.0, 1, 1, 1]),
        np.array([[0.8, -0.6, 0, 0], [0.6, 0.8, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
    ],
    ids=["half a voxel on", "a voxel on", "larger", "turned"],
)
def test_other_voxels_are_none(step: np.ndarray) -> None:
    assert onto_grid(VALUES, TURNED @ step, VALUES.shape, TURNED) is None


def test_a_slice_is_put_back_whatever_its_thickness() -> None:
    stored = np.flip(VALUES[0], 1)
    step = np.array([[1, 0, 0, 0], [0, -1, 0, 3], [0, 0, 5, 0], [0, 0, 0, 1.0]])
    found = onto_grid(stored, TURNED @ step, (3, 4), TURNED)
    assert found is not None
    assert np.array_equal(found, VALUES[0])
    step[2, 3] = 2  # another slice
    assert onto_grid(stored, TURNED @ step, (3, 4), TURNED) is None
