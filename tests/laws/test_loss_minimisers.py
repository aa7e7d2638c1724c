"""The minimiser of every loss is the closed-form denoiser.

Clean voxels from N(.5, .2^2) and their noise by Gauss and Hermite's nodes, so that the mean of a
squared loss is exact: no draw can hide a wrong minimum.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from medidiff.diffusion import (
    AnySchedule,
    AnyTarget,
    BrownianBridge,
    Clean,
    DenoisingLoss,
    Discrete,
    Eps,
    NoiseLevel,
    ProcessLoss,
    ScoreMatchingLoss,
    VariationalLoss,
    VPLinear,
    diffuse,
    eps_of,
)
from medidiff.diffusion.objectives import HybridLoss
from medidiff.diffusion.targets import prediction_of
from medidiff.diffusion.uncertainty import LevelUncertainty, UncertaintyLoss
from medidiff.diffusion.weights import AnyWeight

NODES, WEIGHTS = (torch.from_numpy(each) for each in np.polynomial.hermite_e.hermegauss(8))
SHARE = (WEIGHTS[:, None] * WEIGHTS).flatten() / WEIGHTS.sum() ** 2
DRAW, NOISE = (
    each.flatten().reshape(-1, 1, 1, 1) for each in torch.meshgrid(NODES, NODES, indexing="ij")
)
MEAN, STD = 0.5, 0.2
CLEAN = MEAN + STD * DRAW
COUNT = len(CLEAN)
TARGETS = [kind() for kind in get_args(AnyTarget)]
SCHEDULES = [kind() for kind in get_args(AnySchedule)]
WEIGHTINGS = [kind() for kind in get_args(AnyWeight)]


def best(x: Tensor, level: NoiseLevel, off: Tensor) -> Tensor:
    """The exact clean estimate, wrong by off[0] and by off[1] of what x says."""
    alpha, sigma = (each.reshape(-1, 1, 1, 1) for each in (level.alpha, level.sigma))
    rest = (x - alpha * MEAN) / (alpha**2 * STD**2 + sigma**2).sqrt()
    gain = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2).sqrt()
    return MEAN + gain * rest + off[0] + off[1] * rest


def network_of(target: Any, x: Tensor, level: NoiseLevel, off: Tensor) -> Any:
    clean = best(x, level, off)
    prediction = prediction_of(target, clean, eps_of(x, clean, level), level)

    def network(scaled: Tensor, label: Tensor, condition: Any, concat: Any) -> Tensor:
        return prediction

    return network


def check_minimum(value: Callable[[Tensor], Tensor]) -> None:
    """The mean loss has no slope at the exact denoiser and rises in both directions."""
    off = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    least = value(off)
    (slope,) = torch.autograd.grad(least, off)
    for index in range(2):
        step = torch.zeros(2, dtype=torch.float64)
        step[index] = 0.05
        up, down = (float((value(sign * step) - least).detach()) for sign in (1, -1))
        assert min(up, down) > 0
        assert abs(float(slope[index])) * 0.05 < 1e-9 * (up + down)


def expectation(loss: Any, level: NoiseLevel, *more: Any) -> Callable[[Tensor], Tensor]:
    levels = level.expand(COUNT)
    x = diffuse(CLEAN, levels, NOISE)

    def value(off: Tensor) -> Tensor:
        network = network_of(loss.target, x, levels, off)
        return (SHARE * loss(network, *more, CLEAN, levels, NOISE)).sum()

    return value


@pytest.mark.parametrize("weight", WEIGHTINGS, ids=lambda each: each.kind)
@pytest.mark.parametrize("target", TARGETS, ids=lambda each: each.kind)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda each: each.kind)
def test_the_minimiser_of_the_denoising_loss_is_the_closed_form_denoiser(
    schedule: Any, target: Any, weight: Any
) -> None:
    level = schedule(torch.tensor(0.4, dtype=torch.float64))
    check_minimum(expectation(DenoisingLoss(target, schedule, weight=weight), level))


@pytest.mark.parametrize("target", TARGETS, ids=lambda each: each.kind)
@pytest.mark.parametrize("reduce", ["half-sum", "mean"])
def test_the_minimiser_of_score_matching_is_the_closed_form_denoiser(
    target: Any, reduce: Any
) -> None:
    level = VPLinear()(torch.tensor(0.4, dtype=torch.float64))
    check_minimum(expectation(ScoreMatchingLoss(target, VPLinear(), reduce=reduce), level))


@pytest.mark.parametrize("target", TARGETS, ids=lambda each: each.kind)
@pytest.mark.parametrize("variance", ["small", "large"])
def test_the_minimiser_of_the_variational_loss_is_the_closed_form_denoiser(
    target: Any, variance: Any
) -> None:
    level = Discrete()(torch.tensor(0.4, dtype=torch.float64))
    check_minimum(expectation(VariationalLoss(target, Discrete(), variance), level))


def test_the_minimiser_of_the_hybrid_loss_is_the_closed_form_denoiser() -> None:
    loss, levels = HybridLoss(Eps(), Discrete()), Discrete()(torch.full((COUNT,), 0.4).double())
    x = diffuse(CLEAN, levels, NOISE)

    def value(off: Tensor) -> Tensor:
        one = network_of(Eps(), x, levels, off)
        two = lambda *inputs: torch.cat((one(*inputs), torch.zeros_like(x)), 1)  # noqa: E731
        # its bound holds the mean fixed: the simple part alone moves it
        return (SHARE * loss.parts(two, CLEAN, _hop(loss, levels), NOISE)[0]).sum()

    check_minimum(value)


def _hop(loss: Any, levels: NoiseLevel) -> Any:
    from medidiff.diffusion.objectives import hop_from

    return hop_from(loss.schedule, loss.times, levels)


def test_the_minimiser_of_the_loss_with_learned_uncertainty_is_the_closed_form_denoiser() -> None:
    plain = DenoisingLoss(Clean(), VPLinear())
    levels = VPLinear()(torch.full((COUNT,), 0.4).double())
    x, uncertainty = diffuse(CLEAN, levels, NOISE), LevelUncertainty(features=4)

    def value(off: Tensor) -> Tensor:
        network = network_of(Clean(), x, levels, off)
        return (SHARE * UncertaintyLoss(plain)(network, uncertainty, CLEAN, levels, NOISE)).sum()

    check_minimum(value)


@pytest.mark.parametrize("target", [Clean(), Eps()], ids=lambda each: each.kind)
def test_the_minimiser_of_a_process_s_loss_is_the_closed_form_denoiser_of_residuals(
    target: Any,
) -> None:
    bridge, endpoint = BrownianBridge(), torch.full_like(CLEAN, -0.3)
    levels = bridge(torch.full((COUNT,), 0.4).double())
    # the residual clean - endpoint is itself a Gaussian around its own mean
    x = diffuse(CLEAN - endpoint, levels, NOISE)

    def value(off: Tensor) -> Tensor:
        alpha, sigma = float(levels.alpha[0]), float(levels.sigma[0])
        power = alpha**2 * STD**2 + sigma**2
        rest = (x - alpha * (MEAN + 0.3)) / power**0.5
        residual = MEAN + 0.3 + alpha * STD**2 / power**0.5 * rest + off[0] + off[1] * rest
        prediction = prediction_of(target, residual, eps_of(x, residual, levels), levels)
        network = lambda *inputs: prediction  # noqa: E731
        loss = ProcessLoss(target, bridge)
        return (SHARE * loss(network, CLEAN, endpoint, levels, NOISE)).sum()

    check_minimum(value)
