"""What the hops of a path leave in Langevin chains is what is predicted; `settled` undoes it."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch

from medidiff.conformance.oracles import Mixture
from medidiff.diffusion import (
    CLEAN,
    VE,
    AnnealedLangevin,
    Discrete,
    KeyedNoise,
    LangevinInpainting,
    LeadingSteps,
    NoiseLevel,
    Renoise,
    Step,
    UniformLogSNR,
    counted,
    noise_level,
    path,
    sample,
)
from medidiff.diffusion.samplers.langevin import TOO_SHORT
from medidiff.diffusion.samplers.langevin_chain import MOST_STEPS, chains, least_steps
from medidiff.types import Image, Tensor

WIDTHS = torch.logspace(-3, 1, 121, dtype=torch.float64)
DATA = Mixture(
    torch.ones(1, dtype=torch.float64),
    torch.zeros(1, 1, len(WIDTHS), dtype=torch.float64),
    WIDTHS.square()[None, None],
)
"""A voxel of each width."""
HALF = AnnealedLangevin(step_size=1e-5, sigma_last=0.01, steps=20)
FIFTY = path(LeadingSteps(), Discrete(), 50)


class OneByOne:
    """Image 1 + n is given the unit in the n-th draw of a run and else nothing: what becomes of a
    batch is then the linear map from its draws to its images, without any chance."""

    def __init__(self) -> None:
        self.drawn = 0

    def __call__(self, like: Image, step: int, draw: int = 0) -> Image:
        self.drawn += 1
        field = torch.zeros_like(like)
        field[self.drawn] = 1
        return field


def left_by(sampler: AnnealedLangevin, levels: list[NoiseLevel]) -> Tensor:
    """The exact variance of the sampler's images at the last noisy level above the level's own,
    over it, for each width, without the bias of the steps."""
    first, *_, last, _ = levels
    draws = sum(chain.steps for chain in sampler.chains(levels))
    x = torch.zeros(1 + draws, 1, len(WIDTHS), dtype=torch.float64)
    x[0] = (first.alpha**2 * WIDTHS**2 + first.sigma**2).sqrt()
    images = sample(DATA, x, levels, replace(sampler, last="noisy"), OneByOne())
    found = images.square().sum(0)[0] / last.alpha**2
    return found / (WIDTHS**2 + last.noise_ratio**2) - 1 - bias(sampler, levels)


def bias(sampler: AnnealedLangevin, levels: list[NoiseLevel]) -> Tensor:
    """What steps of a finite size add to the variance of chains that no hop disturbs, over it."""
    added, variance = torch.zeros_like(WIDTHS), WIDTHS**2
    noisy = [level.noise_ratio for level in levels[:-1]]
    for chain, ratio in zip(sampler.chains(levels), noisy, strict=True):
        variance = WIDTHS**2 + ratio**2
        for _ in range(chain.steps):
            moved = 1 - sampler.share * ratio**2 / variance
            added = moved**2 * (added + variance) + 2 * sampler.share * ratio**2 - variance
    return added / variance


SHORT = replace(HALF, steps=4)
GEOMETRIC = path(UniformLogSNR(), VE(sigma_min=0.1, sigma_max=1.0), 4)
CASES = [
    (SHORT, GEOMETRIC),
    (replace(SHORT, convention="paper"), GEOMETRIC),
    (replace(SHORT, step_size=4e-5), path(UniformLogSNR(), Discrete(), 8)),
    (replace(SHORT, settled=0.4), GEOMETRIC),
]


@pytest.mark.parametrize(("sampler", "levels"), CASES, ids=range(len(CASES)))
def test_the_excess_is_that_of_the_sampler_s_images(
    sampler: AnnealedLangevin, levels: list[NoiseLevel]
) -> None:
    predicted = sampler.chains(levels)[-1].excess
    assert float(left_by(sampler, levels).max()) == pytest.approx(predicted, rel=4e-3)
    assert sampler.settled is None or predicted <= sampler.settled


@pytest.mark.parametrize("ratio", [1.01, 2.0, 30.0])
@pytest.mark.parametrize("share", [0.01, 0.1, 0.2, 1.3])
@pytest.mark.parametrize("steps", [1, 5, 100])
def test_one_hop_leaves_the_maximum_of_its_closed_form(
    ratio: float, share: float, steps: int
) -> None:
    def left(k: float) -> float:
        return k * (ratio**2 - 1) * (1 - share * k) ** (2 * steps)

    worst = max(left(min(1.0, 1 / (share * (2 * steps + 1)))), left(1.0))
    hop = [noise_level(1, 1, ratio), noise_level(0, 1, 1)]
    assert chains(hop, share, steps)[-1].excess == pytest.approx(worst, rel=2e-3)
    if steps == 100 and share < 1:
        assert worst == pytest.approx((ratio**2 - 1) / (2 * math.e * share * steps), rel=0.1)


def test_a_settled_chain_is_no_longer_than_it_must_be() -> None:
    for before, here in pairwise(FIFTY[:-1]):
        steps = chains([before, here], 0.1, 1, 0.05)[-1].steps
        assert steps == least_steps([before, here], 0.1, 0.05)
        assert steps == 1 or chains([before, here], 0.1, steps - 1)[-1].excess > 0.05
    found = replace(HALF, settled=0.05).chains(FIFTY)
    assert max(chain.excess for chain in found) <= 0.05 * (1 + 1e-9)
    assert min(chain.steps for chain in found) == HALF.steps
    assert found[0].steps == HALF.steps  # the prior is settled
    # far below the steps of a fixed number that leaves as little
    fixed = least_steps(FIFTY[:-1], HALF.share, 0.05)
    assert fixed is not None
    assert sum(chain.steps for chain in found) < 0.5 * fixed * len(found)


@pytest.mark.parametrize("inpaints", [False, True])
def test_the_chains_are_as_long_as_planned(inpaints: bool) -> None:
    sampler, oracle = replace(HALF, steps=2, settled=0.5), counted(DATA)
    levels = path(UniformLogSNR(), VE(sigma_min=0.1, sigma_max=1.0), 4)
    x = torch.zeros(1, 1, len(WIDTHS), dtype=torch.float64)
    chosen: Any = LangevinInpainting(sampler, x, torch.zeros_like(x)) if inpaints else sampler
    images = sample(oracle, x, levels, chosen, KeyedNoise(0, [("a", 0)]))
    steps = [chain.steps for chain in sampler.chains(levels)]
    assert oracle.calls == sum(steps) + 1
    assert steps[0] == 2
    assert steps[-1] > 2
    plain = sample(DATA, x, levels, sampler, KeyedNoise(0, [("a", 0)]))
    torch.testing.assert_close(images, plain, rtol=0, atol=1e-12)


def started(sampler: AnnealedLangevin | LangevinInpainting, levels: list[NoiseLevel]) -> list[str]:
    """What a run along the levels warns of, told by its first hop's plan."""
    langevin = sampler.langevin if isinstance(sampler, LangevinInpainting) else sampler
    at = Step(0, len(levels) - 1, torch.zeros(1), None, None, tuple(levels[2:]))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        langevin.lengths(levels[0], levels[1], at)
    return [str(each.message) for each in caught]


def test_a_chain_that_is_clearly_too_short_says_how_long_is_enough() -> None:
    (told,) = started(HALF, FIFTY)
    assert "20 steps a level are too few" in told
    assert "up to 16% too large" in told
    assert "take steps >= 30" in told
    assert started(replace(HALF, steps=29), FIFTY)
    assert not started(replace(HALF, steps=30), FIFTY)
    assert not started(replace(HALF, settled=0.05), FIFTY)
    (told,) = started(replace(HALF, step_size=3e-4), FIFTY)  # no number of such steps is enough
    assert "steps >=" not in told


# sigma_first, levels, T, step_lr of the authors' configurations; sigma_last is .01
AUTHORS = {
    "ncsn": (1.0, 10, 100, 2e-5),
    "ncsnv2/cifar10": (50.0, 232, 5, 6.2e-6),
    "ncsnv2/celeba": (90.0, 500, 5, 3.3e-6),
    "ncsnv2/bedroom": (190.0, 1086, 3, 4.9e-6),
    "ncsnv2/ffhq": (348.0, 2311, 3, 1.8e-6),
}


@pytest.mark.parametrize("name", AUTHORS)
def test_the_authors_own_settings_are_not_warned_of(name: str) -> None:
    first, count, steps, size = AUTHORS[name]
    levels = path(UniformLogSNR(), VE(sigma_min=0.01, sigma_max=first), count)
    assert len(levels) == count + 1
    assert not started(AnnealedLangevin(step_size=size, steps=steps), levels)


@pytest.mark.parametrize("inpaints", [False, True])
def test_a_run_warns_once_even_where_noise_is_put_back(inpaints: bool) -> None:
    high, low = noise_level(0.9, 0.5, 1.0), noise_level(0.4, 0.8, 0.3)
    x = torch.zeros(1, 1, len(WIDTHS), dtype=torch.float64)
    short = replace(HALF, steps=1)
    sampler: Any = LangevinInpainting(short, x, x) if inpaints else short
    levels = [high, low, Renoise(high), low, CLEAN]
    with pytest.warns(UserWarning, match="annealed-langevin") as caught:
        sample(DATA, x, levels, sampler, KeyedNoise(0, [("a", 0)]))
    assert len(caught) == 1


def test_levels_of_a_batch_are_as_long_as_the_worst_image_needs() -> None:
    ends = torch.tensor([[2.0, 1.0], [1.5, 0.5]], dtype=torch.float64)
    both = [NoiseLevel(each, torch.ones_like(each), each) for each in ends.T]
    alone = [[noise_level(0, 1, float(sigma)) for sigma in row] for row in ends]
    steps = [chains(levels, 0.1, 1, 0.05)[-1].steps for levels in (both, *alone)]
    assert steps[0] == max(steps[1:])


def test_a_hop_that_would_need_endless_steps_is_refused() -> None:
    far = [noise_level(1, 1, 80.0), noise_level(0, 1, 0.002)]
    with pytest.raises(ValueError, match=f"{MOST_STEPS}.*more levels"):
        chains(far, 0.2, 1, 0.01)


def test_from_pure_noise_there_is_nothing_to_undo() -> None:
    pure = noise_level(1, 0, 1)
    levels = [pure, noise_level(0.9, 0.1, 1), noise_level(0.5, 0.5, 0.8)]
    assert [chain.excess for chain in chains(levels, 0.1, 1)][:2] == [0.0, 0.0]
    assert chains(levels, 0.1, 1)[-1].excess == chains(levels[1:], 0.1, 1)[-1].excess
    assert pytest.approx(0.21) == TOO_SHORT
