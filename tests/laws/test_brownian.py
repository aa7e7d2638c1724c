"""Laws of Brownian-interval noise: consistent under refinement, unit, independent of the batch."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from medidiff.diffusion import (
    DDIM,
    DDPM,
    EDM,
    BrownianNoise,
    Karras,
    KeyedNoise,
    NoiseLevel,
    NoiseSource,
    Renoise,
    UniformLogSNR,
    VPLinear,
    path,
    sample,
    start,
)

LIKE = torch.zeros(2, 1, 32, 32, dtype=torch.float64)
SOURCE = BrownianNoise(3, [("a", 0), ("b", 1)], depth=13)


def at(half_log_snr: float) -> NoiseLevel:
    schedule = EDM()
    return schedule(schedule.time_of(torch.tensor(half_log_snr, dtype=torch.float64)))


def motion(now: float, to: float, lap: int = 0) -> Tensor:
    """The change of B itself, without the unit scale."""
    length = math.sqrt(math.exp(2 * to) - math.exp(2 * now))
    return length * SOURCE.between(LIKE, at(now), at(to), lap)


@pytest.mark.parametrize("inside", [-3.9999, -3.2, 0.0, 1.99])
def test_the_parts_of_a_stretch_add_up_to_it(inside: float) -> None:
    parts = motion(-4.0, inside) + motion(inside, 2.0)
    torch.testing.assert_close(parts, motion(-4.0, 2.0), rtol=0, atol=1e-9)


def test_stretches_are_unit_and_disjoint_ones_independent() -> None:
    edges = [-4.0, -3.9, -1.0, -0.8, 0.5, 3.0, 3.003]
    fields = torch.stack([SOURCE.between(LIKE, at(a), at(b)).flatten() for a, b in pairwise(edges)])
    covariance = fields @ fields.T / fields.shape[1]
    assert float((covariance - torch.eye(len(fields))).abs().max()) < 0.08


def test_a_part_has_the_correlation_with_its_whole_that_their_lengths_give() -> None:
    part, whole = (SOURCE.between(LIKE, at(0.0), at(end)) for end in (0.5, 1.0))
    expected = math.sqrt((math.exp(1.0) - 1) / (math.exp(2.0) - 1))
    assert float((part * whole).mean()) == pytest.approx(expected, abs=0.06)


def test_the_noise_of_an_image_is_that_of_the_image_alone() -> None:
    together = SOURCE.between(LIKE, at(-1.0), at(0.3))
    alone = SOURCE.take([1]).between(LIKE[1:], at(-1.0), at(0.3))
    assert torch.equal(together[1:], alone)
    ends = EDM()(EDM().time_of(torch.tensor([0.3, 0.9], dtype=torch.float64)))
    own = SOURCE.between(LIKE, at(-1.0).expand(2), ends)
    assert torch.equal(own[0], together[0])
    assert torch.equal(own[1:], SOURCE.take([1]).between(LIKE[1:], at(-1.0), at(0.9)))


def test_noise_put_back_begins_another_motion(gaussian_denoise: Any) -> None:
    levels = path(UniformLogSNR(), VPLinear(), 4)
    again = [*levels[:3], Renoise(levels[1]), *levels[2:]]
    heard: list[tuple[float, int]] = []

    class Listener:
        def __call__(self, like: Tensor, step: int, draw: int = 0) -> Tensor:
            heard.append((-1.0, step))
            return SOURCE(like, step, draw)

        def between(self, like: Tensor, now: NoiseLevel, to: NoiseLevel, lap: int = 0) -> Tensor:
            heard.append((float(now.t), lap))
            return SOURCE.between(like, now, to, lap)

    x = start(levels[0], SOURCE, LIKE)
    sample(gaussian_denoise, x, again, DDIM(eta=1.0), Listener())
    t = [float(level.t) for level in levels]
    assert heard == [(t[0], 0), (t[1], 0), (-1.0, 2), (t[1], 1), (t[2], 1)]
    first, second = motion(-1.0, 0.0), motion(-1.0, 0.0, lap=1)
    assert abs(float((first * second).mean() / (first.std() * second.std()))) < 0.08


def test_refining_a_path_converges_to_one_image(gaussian_denoise: Any) -> None:
    like = torch.zeros(1, 1, 8, 8, dtype=torch.float64)

    def change(source: NoiseSource) -> float:
        images = []
        for steps in (24, 48):
            levels = path(Karras(), EDM(), steps)
            x = start(levels[0], source, like)
            images.append(sample(gaussian_denoise, x, levels, DDPM(), source, EDM()))
        return float((images[0] - images[1]).std())

    by_interval = change(BrownianNoise(0, [("subject", 0)], depth=10))
    assert by_interval < 0.3 * change(KeyedNoise(0, [("subject", 0)]))


def test_bad_stretches_are_refused() -> None:
    with pytest.raises(ValueError, match="rise"):
        SOURCE.between(LIKE, at(0.3), at(0.3))
    with pytest.raises(ValueError, match="2 images"):
        SOURCE.between(LIKE[:1], at(0.0), at(0.3))
