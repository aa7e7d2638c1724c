"""Our samplers, state by state, against what the authors' own code recorded.

The levels are taken from the recording itself: the steps are tested here and not the levels, which
`test_replay` builds from the recording's description.

The states are compared at every recorded index, in float64, to 1e-7 * (1 + max|reference|).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from medidiff.diffusion import (
    CLEAN,
    DDIM,
    DDPM,
    EDM,
    Denoise,
    Estimate,
    NoiseLevel,
    Sampler,
    TapeNoise,
    clipped,
    eps_of,
    noise_level,
    scale,
    walk,
)

CASES: dict[str, Sampler] = {
    # openai/guided-diffusion
    "gd_ddpm_linear_10_fixed_small": DDPM(),
    "gd_ddpm_linear_10_fixed_large": DDPM(variance="large"),
    "gd_ddpm_cosine_10_fixed_small": DDPM(),
    "gd_ddpm_cosine_10_fixed_large": DDPM(variance="large"),
    "gd_ddpm_linear_25_clip": DDPM(),
    "gd_ddpm_linear_25_x0pred": DDPM(),
    "gd_ddpm_linear_1000_small": DDPM(),
    "gd_ddim_clip_25": DDIM(),
    "gd_ddim_cosine_ddim10_eta1.0": DDIM(eta=1.0),
    "gd_ddim_linear_ddim10_eta1.0": DDIM(eta=1.0),
    "gd_ddim_guided_25": DDIM(),
    # ermongroup/ddim
    "ermon_ddim_uniform_10_eta0.0": DDIM(),
    "ermon_ddim_quad_10_eta1.0": DDIM(eta=1.0),
    "ermon_ddpm_uniform_20": DDPM(variance="large"),
    "ermon_ddpm_quad_20": DDPM(variance="large"),
}

CLIPPED = {
    "gd_ddpm_linear_25_clip",
    "gd_ddim_clip_25",
    "ermon_ddpm_uniform_20",
    "ermon_ddpm_quad_20",
}


def recorded_levels(case: Any) -> list[NoiseLevel]:
    """The levels at which the recording called its model, once a hop, then the clean level."""
    pairs = zip(case["call_alphas"].tolist(), case["call_sigmas"].tolist(), strict=True)
    return [*(noise_level(0.0, alpha, sigma) for alpha, sigma in pairs), CLEAN]


def model_of(name: str, mixture: Any) -> Denoise:
    if name in CLIPPED:
        return clipped(mixture, -1, 1)
    if name == "gd_ddim_guided_25":
        return classifier_guided(mixture)
    return mixture


def classifier_guided(mixture: Any) -> Denoise:
    """The recording's classifier gradient .8 (mu_1 - x / 2), on the noise estimate."""

    def guide(x: Tensor, level: NoiseLevel) -> Estimate:
        shift = scale(level.sigma, x) * 0.8 * (mixture.means[1] - 0.5 * x)
        eps = mixture(x, level).eps - shift
        # x and eps change places in x = alpha * clean + sigma * eps
        swapped = NoiseLevel(level.t, level.sigma, level.alpha)
        return Estimate(eps_of(x, eps, swapped), eps)

    return guide


def tape_of(case: Any, count: int) -> TapeNoise:
    if "noise" in case:
        fields = case["noise"]
    else:
        shape = (count, *case["x_init"].shape)
        seed = case.meta.get("noise_seed", 0)
        fields = torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))
    return TapeNoise([[field] for field in fields])


def replay(
    denoise: Denoise, x: Tensor, levels: list[NoiseLevel], sampler: Sampler, tape: TapeNoise
) -> tuple[list[list[Tensor]], Tensor]:
    """What the model is shown on each hop (the first time after churn), and the result."""
    shown: list[list[Tensor]] = []

    def listen(x: Tensor, level: NoiseLevel) -> Estimate:
        shown[-1].append(x)
        return denoise(x, level)

    states = walk(listen, x, levels, sampler, tape, EDM())
    for _ in levels[1:]:
        shown.append([])
        _, x = next(states)
    return shown, x


def assert_equal(ours: Tensor, reference: Tensor) -> None:
    bound = 1e-7 * (1 + float(reference.abs().max()))
    assert float((ours - reference).abs().max()) <= bound


@pytest.mark.parametrize("name", CASES)
def test_follows_the_recorded_states(
    name: str, recorded: Callable[[str], Any], mixture: Any
) -> None:
    case, sampler = recorded(name), CASES[name]
    levels = recorded_levels(case)
    x = case["x_init"]
    shown, x = replay(model_of(name, mixture), x, levels, sampler, tape_of(case, len(levels) - 1))
    assert_equal(x, case["x_final"])
    if "xs_index" in case:
        states = [*(hop[0] for hop in shown), x]
        thin = int(case.meta.get("thin", 1))
        for index, state in zip(case["xs_index"].long().tolist(), case["xs"], strict=True):
            assert_equal(states[index * thin], state)


def test_the_mixture_is_the_recorded_model(recorded: Callable[[str], Any], mixture: Any) -> None:
    model = recorded("model")
    for probe in ("p0", "p3", "p6"):
        if f"{probe}_x" not in model:
            pytest.skip("the committed subset holds no probes")
        level = noise_level(0.0, *model[f"{probe}_alpha_sigma"].tolist())
        here = mixture(model[f"{probe}_x"], level)
        assert_equal(here.clean, model[f"{probe}_x0"])
        assert_equal(here.eps, model[f"{probe}_eps"])
