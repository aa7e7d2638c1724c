"""Laws of consistency losses and of the learned uncertainty: where their minimum lies."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from medidiff.diffusion import EDM, ConsistencyTarget, DenoisingLoss, EDMTarget, noise_level
from medidiff.diffusion.noise import KeyedNoise
from medidiff.diffusion.objectives_consistency import ConsistencyLoss, flow_step, level_curriculum
from medidiff.diffusion.uncertainty import LevelUncertainty, UncertaintyLoss

MEAN, STD = 0.5, 0.2
FLOOR = ConsistencyTarget().floor


def consistent(error: float = 0.0) -> Any:
    """The network whose reading is the exact end of the flow of N(.5, .2^2) at `floor`."""

    def network(x: Tensor, label: Tensor, condition: Any, concat: Any) -> Tensor:
        ratio = (4 * label.double()).exp()
        level = noise_level(0, 1, 1)
        level = type(level)(ratio, torch.ones_like(ratio), ratio)
        skip, out = (each[:, None, None, None] for each in ConsistencyTarget().multipliers(level))
        x = x / ConsistencyTarget().input_scale(level)[:, None, None, None]
        gain = ((STD**2 + FLOOR**2) / (STD**2 + ratio**2)).sqrt()[:, None, None, None]
        end = MEAN + gain * (x - MEAN) + error
        return (end - skip * x) / out

    return network


def batch(size: int = 64) -> tuple[Tensor, Tensor, Tensor]:
    noise = KeyedNoise(0, [("image", index) for index in range(size)])
    like = torch.zeros(size, 1, 4, 4, dtype=torch.float64)
    draw = (torch.arange(size, dtype=torch.float64) + 0.5) / size
    return MEAN + STD * noise(like, 0), noise(like, 1), draw


def test_the_true_consistency_model_follows_the_true_flow(gaussian_denoise: Any) -> None:
    clean, eps, draw = batch()
    loss = ConsistencyLoss(distance="squared")

    def value(steps: int, error: float, order: Any = 2) -> float:
        levels, network = loss.levels(draw, steps), consistent(error)
        flow = flow_step(gaussian_denoise, order)
        # the label reaches the network in float32, which bounds what can be seen
        return float(loss(network, consistent(), clean, levels, eps, flow).mean())

    assert value(80, 0.0) < 1e-3 * value(80, 0.05)
    assert value(80, 0.0) < value(20, 0.0)
    assert value(20, 0.0) < value(20, 0.0, order=1)


def test_training_pairs_lie_on_one_line_and_the_held_side_has_no_gradient() -> None:
    clean, eps, draw = batch(8)
    shift = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)

    def network(x: Tensor, label: Tensor, condition: Any, concat: Any) -> Tensor:
        return 0 * x + shift

    def frozen(x: Tensor, label: Tensor, condition: Any, concat: Any) -> Tensor:
        return 0 * x + shift.detach()

    loss = ConsistencyLoss()
    levels = loss.levels(draw, 20)
    (ours,) = torch.autograd.grad(loss(network, network, clean, levels, eps).sum(), shift)
    (theirs,) = torch.autograd.grad(loss(network, frozen, clean, levels, eps).sum(), shift)
    assert torch.equal(ours, theirs)
    assert float(ours) != 0


def test_the_levels_are_neighbours_drawn_by_the_log_normal_law() -> None:
    loss = ConsistencyLoss()
    draw = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    noisier, cleaner = loss.levels(draw, 200)
    assert bool((noisier.sigma > cleaner.sigma).all())
    assert float(noisier.sigma.max()) == EDM().sigma_max
    assert float(cleaner.sigma.min()) == pytest.approx(EDM().sigma_min, rel=1e-12)
    middle = (noisier.sigma.log() + cleaner.sigma.log()) / 2
    inside = float(((middle > -1.1 - 2) & (middle < -1.1 + 2)).double().mean())
    assert inside == pytest.approx(0.70, abs=0.02)  # 0.683 of the law, 0.98 of which is in range


def test_the_count_of_levels_doubles() -> None:
    counts = [level_curriculum(step, 800) for step in range(0, 800, 100)]
    assert counts == [11, 21, 41, 81, 161, 321, 641, 1281]
    assert level_curriculum(10**6, 800) == 1281


def test_the_boundary_gives_x_back() -> None:
    skip, out = ConsistencyTarget().multipliers(noise_level(0, 1, FLOOR))
    assert (float(skip), float(out)) == (1.0, 0.0)
    skip, out = ConsistencyTarget().multipliers(noise_level(0, 0.6, 0.6 * FLOOR))
    assert float(skip) == pytest.approx(1 / 0.6)
    assert float(out) == pytest.approx(0, abs=1e-15)


def test_the_uncertainty_settles_at_the_log_of_the_error() -> None:
    clean, eps, draw = batch(256)
    loss = UncertaintyLoss(DenoisingLoss(EDMTarget(), EDM()))
    levels = loss.denoising.levels(draw)
    uncertainty = LevelUncertainty(features=16)

    def network(x: Tensor, label: Tensor, condition: Any, concat: Any) -> Tensor:
        return label[:, None, None, None].double().exp() + 0 * x

    plain = loss.denoising(network, clean, levels, eps)
    at_first = loss(network, uncertainty, clean, levels, eps)
    torch.testing.assert_close(at_first, plain)
    optimiser = torch.optim.LBFGS(
        uncertainty.parameters(), max_iter=300, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss(network, uncertainty, clean, levels, eps).mean()
        value.backward()
        return value

    optimiser.step(closure)
    settled = uncertainty(levels).detach().double()
    # balanced over every level: the mean of error / exp(u) is 1
    assert float((plain / settled.exp()).mean()) == pytest.approx(1, abs=0.02)
    smooth = plain.log().reshape(32, 8).mean(1), settled.reshape(32, 8).mean(1)
    assert float((smooth[0] - smooth[1]).abs().mean()) < 0.4
    assert float(smooth[1].std()) > 0.8 * float(smooth[0].std())


def test_bad_losses_are_refused() -> None:
    with pytest.raises(ValueError, match="std"):
        ConsistencyLoss(std=0.0)
    with pytest.raises(ValueError, match="2 levels"):
        ConsistencyLoss().levels(torch.tensor([0.5]), 1)
    assert math.isfinite(level_curriculum(0, 1))
