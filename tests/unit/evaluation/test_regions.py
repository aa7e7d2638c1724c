import csv

import numpy as np
import pytest
import torch
from PIL import Image

from medidiff.evaluation.regions import head_region, otsu_threshold


def dice(first: torch.Tensor, second: torch.Tensor) -> float:
    return float(2 * (first & second).sum() / (first.sum() + second.sum()))


@pytest.mark.parametrize(("size", "dims"), [(64, 2), (160, 2), (40, 3)])
def test_the_region_is_the_head_with_all_that_is_dark_inside(heads, size, dims):
    clean = heads(2, size, dims)
    steps = torch.linspace(-1, 1, size)
    axes = torch.meshgrid(*[steps] * dims, indexing="ij")
    for index, found in enumerate(head_region(clean)):
        radius = sum((a / (0.7 + 0.02 * ((index + i) % 4))) ** 2 for i, a in enumerate(axes))
        assert dice(found[0], radius < 1) > 0.92
    centre = (slice(None), 0, *[size // 2] * dims)
    assert bool(head_region(clean)[centre].all())


def test_the_region_depends_on_neither_scale_nor_batch(heads):
    clean = heads(3)
    together = head_region(clean)
    assert together.shape == (3, 1, 64, 64)
    assert together.dtype == torch.bool
    assert torch.equal(head_region(clean * 1000 - 500), together)
    assert torch.equal(head_region(clean[1:2]), together[1:2])


def test_skin_apart_from_the_brain_is_part_of_the_head(heads):
    clean = heads(1)
    dark_skin = torch.where((clean > 0.5) & (head_region(clean)), clean, clean * 0.6)
    assert dice(head_region(dark_skin), head_region(clean)) > 0.97


def test_specks_in_the_air_are_not(heads):
    clean = heads(1)
    spoilt = clean.clone()
    spoilt[..., 1:4, 1:4] = 1
    assert not head_region(spoilt)[..., :5, :5].any()


def test_a_constant_image_is_refused():
    with pytest.raises(ValueError, match="constant"):
        head_region(torch.ones(1, 1, 16, 16))


def test_otsu_parts_two_heaps():
    random = np.random.default_rng(0)
    values = np.concatenate([random.normal(0, 1, 500), random.normal(10, 1, 500)])
    assert 2 < otsu_threshold(values) < 8


def test_real_heads_fill_what_they_should(shared_data):
    folder = shared_data / "ixi_t1_slices"
    with (folder / "manifest.csv").open() as lines:
        names = [row["image"] for row in csv.DictReader(lines) if row["split"] == "val"][:6]
    pictures = np.stack([np.asarray(Image.open(folder / name)) for name in names])
    share = head_region(torch.from_numpy(pictures)[:, None]).flatten(1).double().mean(1)
    assert bool(((share > 0.55) & (share < 0.65)).all())
