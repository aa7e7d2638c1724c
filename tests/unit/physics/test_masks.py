import math

import pytest
import torch

from medidiff.physics import Sampling, calibration_box
from medidiff.physics.masks import _apart, is_equispaced

KINDS = ("gaussian", "uniform", "equispaced", "poisson-disc")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("shape", "axes"),
    [((12, 64), (-1,)), ((30, 26), (0, 1)), ((3, 20, 24), (1, 2)), ((8, 9, 10), (0, 1, 2))],
)
@pytest.mark.parametrize("acceleration", [2, 5.5])
def test_the_stated_acceleration_is_met(kind, shape, axes, acceleration):
    mask = Sampling(kind, acceleration, 0.1, axes).mask(shape, seed=3)
    places = math.prod(shape[axis] for axis in axes)
    one = mask.numel() / places
    assert mask.shape == shape
    assert float(mask.sum()) == one * round(places / acceleration)
    assert set(mask.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("kind", KINDS)
def test_the_middle_is_sampled_fully_and_other_axes_too(kind):
    mask = Sampling(kind, 4, 0.08, (1, 2)).mask((5, 50, 50), seed=1)
    assert bool((mask[:, 23:27, 23:27] == 1).all())
    assert bool((mask == mask[:1]).all())


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_is_a_mask(kind):
    sampling = Sampling(kind, 4, 0.08)
    before = torch.random.get_rng_state()
    one, same, other = (sampling.mask((8, 96), seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(before, torch.random.get_rng_state())


def test_equispaced_lines_have_two_spacings_at_most():
    mask = Sampling("equispaced", 4, 0.0).mask((1, 96), seed=5)[0]
    assert set(mask.nonzero().flatten().diff().tolist()) == {4}
    lines = Sampling("equispaced", 3.7, 0.0).mask((1, 100), seed=5)[0].nonzero().flatten()
    assert set(lines.diff().tolist()) <= {3, 4}


@pytest.mark.parametrize(("acceleration", "centre"), [(2, 0.1), (4, 0.08), (8, 0.04)])
def test_an_even_pattern_is_known_from_a_random_one(acceleration, centre):
    def told(kind, seed):
        line = Sampling(kind, acceleration, centre).mask((208,), seed)
        return is_equispaced(line, calibration_box(line)[0])

    assert all(told("equispaced", seed) for seed in range(5))
    assert not any(told(kind, seed) for kind in ("gaussian", "uniform") for seed in range(20))
    scanners = torch.zeros(208)  # as scanners do: every fourth line, and the middle besides
    scanners[2::4], scanners[96:112] = 1, 1
    assert is_equispaced(scanners, 16)
    scanners[160:] = 0  # one end is left out
    assert not is_equispaced(scanners, 16)


def test_points_of_a_poisson_disc_keep_their_distance_and_thin_out():
    mask = Sampling("poisson-disc", 6, 0.0, (0, 1)).mask((60, 60), seed=2)
    points = mask.nonzero().double()
    nearest = torch.cdist(points, points).fill_diagonal_(math.inf).amin(1)
    middle = (points - 30).norm(dim=1) < 10
    edge = (points - 30).abs().amax(1) > 24
    assert float(nearest[edge].min()) > float(nearest[middle].min())
    assert float(mask[20:40, 20:40].mean()) > 2 * float(mask.mean())
    random = Sampling("gaussian", 6, 0.0, (0, 1)).mask((60, 60), seed=2).nonzero().double()
    assert float(torch.cdist(random, random).fill_diagonal_(math.inf).min()) == 1


@pytest.mark.parametrize("shape", [(64,), (9, 11), (4, 6, 5)])
@pytest.mark.parametrize("scale", [0.7, 1.6])
def test_a_place_is_kept_if_none_that_was_kept_is_within_its_radius(shape, scale):
    generator = torch.Generator().manual_seed(0)
    order = torch.rand(shape, generator=generator, dtype=torch.float64)
    places = torch.ones(shape).nonzero().double()
    away = (places / torch.tensor(shape) - 0.5).norm(dim=1)
    radius, middle = scale * (1 + 4 * away), away < 0.1
    kept = places[middle].tolist()
    for index in order.flatten().argsort().tolist():
        apart = torch.cdist(places[index : index + 1], torch.tensor(kept).double())
        if not middle[index] and bool((apart >= radius[index]).all()):
            kept.append(places[index].tolist())
    found = _apart(order, radius.reshape(shape), middle.reshape(shape), 1000)
    assert sorted(found.nonzero().double().tolist()) == sorted(kept)
    fewer = _apart(order, radius.reshape(shape), middle.reshape(shape), 3)
    assert int(fewer.sum()) == min(len(kept), int(middle.sum()) + 3)
    assert bool((found | ~fewer).all())


def test_a_gaussian_density_falls_from_the_middle():
    sampling = Sampling("gaussian", 4, 0.0)
    mean = torch.stack([sampling.mask((1, 100), seed=seed)[0] for seed in range(200)]).mean(0)
    middle, half, end = (float(mean[a:b].mean()) for a, b in ((45, 55), (25, 30), (0, 5)))
    assert middle > 2 * half > 8 * end


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Sampling("gaussian", 0.5),
        lambda: Sampling("gaussian", 4, 1.5),
        lambda: Sampling("gaussian", 4, axes=()),
        lambda: Sampling("gaussian", 8, 0.5).mask((8, 64)),
        lambda: Sampling("gaussian", math.nan),
        lambda: Sampling("gauss"),
        lambda: Sampling(axes=(-1, 1)).mask((8, 64)),
        lambda: Sampling(axes=(2,)).mask((8, 64)),
    ],
)
def test_options_that_contradict_each_other_are_refused(wrong):
    with pytest.raises(ValueError, match=r"acceleration|each one of them, once"):
        wrong()
