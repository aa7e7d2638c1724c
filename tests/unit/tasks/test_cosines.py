"""Cosines applied axis by axis are what their products, formed, are."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from medidiff.tasks.cosines import cosines


def formed(space: tuple[int, ...], most: int) -> Tensor:
    """(waves, *space), one product after the other."""
    grids = torch.meshgrid(*(torch.arange(n).double() for n in space), indexing="ij")
    waves = []
    for ks in product(*(range(min(most, 1 + n // 12)) for n in space)):
        if sum(k**2 for k in ks) < most**2:
            factors = [
                (math.pi * k * (x + 0.5) / n).cos()
                for k, x, n in zip(ks, grids, space, strict=True)
            ]
            waves.append(torch.stack(factors).prod(0))
    return torch.stack(waves)


@pytest.mark.parametrize(("space", "most"), [((150, 40), 12), ((50, 64, 20), 5), ((8, 8), 12)])
def test_axis_by_axis_is_as_formed(space: tuple[int, ...], most: int) -> None:
    generator = torch.Generator().manual_seed(0)
    waves, dense = cosines(space), formed(space, most)
    flat = dense.flatten(1)
    fields = torch.randn((2, 1, *space), generator=generator, dtype=torch.float64)
    theta = torch.randn((2, len(dense)), generator=generator, dtype=torch.float64)
    assert torch.allclose(waves.field(theta).flatten(1), theta @ flat)
    assert torch.allclose(waves.transposed(fields), fields.flatten(1) @ flat.T)
    power = fields.abs()
    expected = torch.stack([(flat * each) @ flat.T for each in power.flatten(1)])
    assert torch.allclose(waves.gram(power), expected)
    assert torch.allclose(waves.coefficients(waves.field(theta)), theta)
    for axis in range(len(space)):
        slopes = dense.diff(dim=axis + 1).flatten(1)
        assert torch.allclose(waves.slopes(axis).field(theta).flatten(1), theta @ slopes)
