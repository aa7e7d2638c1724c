"""What 50 leading steps leave of the noise: nothing that shows beside the target's own spread."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from medidiff.diffusion import (
    DDIM,
    DDPM,
    DEIS,
    DPM2,
    LMS,
    PNDM,
    AnnealedLangevin,
    AnySampler,
    Discrete,
    DPMSolverPP,
    DPMSolverPPAncestral,
    DPMSolverPPSDE,
    Heun,
    KeyedNoise,
    LeadingSteps,
    PredictorCorrector,
    RhoRK,
    SASolver,
    UniPC,
    path,
    sample,
)
from medidiff.diffusion.steps import leading_steps, raised_leading_steps

SCHEDULE, SHAPE = Discrete(), (32, 1, 16, 16)
MOST = 0.22
"""The target's deviation and a tenth: the line of benchmarks/sampler_quality.py."""
SAMPLERS: tuple[AnySampler, ...] = (
    DDIM(),
    DDPM(),
    DDPM(variance="large"),
    DEIS(),
    DEIS(variable="log-rho"),
    DPM2(),
    DPM2(eta=1.0),
    LMS(),
    PNDM(start="grow"),
    AnnealedLangevin(steps=20),
    AnnealedLangevin(step_size=1e-5, steps=1, settled=0.1),
    DPMSolverPP(),
    DPMSolverPP(rule="taylor"),
    DPMSolverPP(order=3),
    DPMSolverPP(eta=1.0),
    DPMSolverPPAncestral(),
    DPMSolverPPSDE(),
    Heun(),
    PredictorCorrector(),
    PredictorCorrector(corrector="none"),
    RhoRK(),
    SASolver(),
    SASolver(weights="second-order-half"),
    SASolver(predictor_order=3, corrector_order=4),
    UniPC(order=2),
    UniPC(order=3),
    UniPC(order=3, weights="bh1"),
)


def deviation(denoise: Any, sampler: AnySampler, spacing: LeadingSteps) -> float:
    """Of 50-step images of N(.5, .2^2); their mean is looked at here."""
    levels = path(spacing, SCHEDULE, 50)
    unit = torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    noise = KeyedNoise(0, [("", number) for number in range(SHAPE[0])])
    images = sample(denoise, levels[0].sigma * unit, levels, sampler, noise, SCHEDULE)
    assert float(images.mean()) == pytest.approx(0.5, abs=0.02)
    return float(images.std())


@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
def test_after_50_leading_steps(sampler: AnySampler, gaussian_denoise: Any) -> None:
    assert deviation(gaussian_denoise, sampler, LeadingSteps()) < MOST


@pytest.mark.parametrize("sampler", [DPMSolverPP(), UniPC(order=3), SASolver(), DPMSolverPP(eta=1)])
def test_the_authors_last_step_leaves_noise_to_multistep_methods(
    sampler: AnySampler, gaussian_denoise: Any
) -> None:
    assert deviation(gaussian_denoise, sampler, LeadingSteps(last="first-step")) > MOST


def test_only_the_last_visit_moves_and_none_where_there_is_no_room() -> None:
    assert raised_leading_steps(1000, 50)[1:] == leading_steps(1000, 50)[1:]
    assert raised_leading_steps(1000, 50)[0] == 11
    assert raised_leading_steps(1000, 1) == [501]
    for steps in (501, 600, 1000):
        assert raised_leading_steps(1000, steps) == leading_steps(1000, steps)
