"""Our samplers, state by state, against what the authors' own code recorded.

The levels of continuous schedules (VP, VE, EDM) are made by our schedules and spacings and compared
with the recording. Levels from a discrete table of betas are taken from the recording itself, for
there is no table of betas here yet: for those cases the steps are tested and not the levels.

The states are compared at every recorded index, in float64, to 1e-7 * (1 + max|reference|).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from medidiff.diffusion import (
    CLEAN,
    DDIM,
    DDPM,
    EDM,
    VE,
    Denoise,
    DPMSolverPP,
    Estimate,
    Heun,
    Karras,
    NoiseLevel,
    Sampler,
    Step,
    TapeNoise,
    UniformLogSNR,
    VPLinear,
    clipped,
    eps_of,
    noise_level,
    path,
    scale,
    walk,
)


@dataclass(frozen=True)
class NoisyEnd:
    """diffusers' ancestral step with the large variance and trailing steps: it adds noise to the
    last image too, which our driver does not."""

    finishes: ClassVar[bool] = True

    def step(
        self, denoise: Denoise, x: Tensor, now: NoiseLevel, to: NoiseLevel, memory: None, at: Step
    ) -> tuple[Tensor, None]:
        return DDPM(variance="large").step(denoise, x, now, to, memory, at)


CHURN = Heun(churn=5.0, churn_min=0.05, churn_max=50.0, noise_scale=1.003)
SECOND = DPMSolverPP()

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
    # NVlabs/edm, edm2
    "edm_heun_10": Heun(),
    "edm_churn_10": CHURN,
    "edm2_autoguidance_1": Heun(),
    "edm_abl_linear_none_edm_euler_a1": DDIM(),
    "edm_abl_linear_none_edm_heun_a1": Heun(),
    "edm_abl_linear_none_iddpm_euler_a1": DDIM(),
    "edm_abl_linear_none_iddpm_heun_a1": Heun(),
    "edm_abl_linear_none_vp_euler_a1": DDIM(),
    # crowsonkb/k-diffusion, in VE coordinates
    "kd_heun_karras_5": Heun(),
    "kd_heun_exponential_10": Heun(),
    "kd_heun_vp_10": Heun(),
    "kd_heun_churn_10": CHURN,
    "kd_euler_karras_10": DDIM(),
    "kd_euler_exponential_10": DDIM(),
    "kd_euler_vp_10": DDIM(),
    "kd_euler_ancestral_karras_20": DDIM(eta=1.0),
    "kd_euler_ancestral_exponential_10": DDPM(),
    "kd_euler_ancestral_vp_10": DDPM(),
    "kd_euler_ancestral_eta0.0_10": DDIM(),
    "kd_dpmpp_2m_karras_20": SECOND,
    "kd_dpmpp_2m_exponential_5": SECOND,
    "kd_dpmpp_2m_vp_10": SECOND,
    # diffusers, float64 twins
    "df_ddim_leading_eta0.0_10": DDIM(),
    "df_ddim_cos_10": DDIM(),
    "df_ddim_clip_10": DDIM(),
    "df_ddim_ztsnr_v_10": DDIM(),
    "df_ddpm_leading_fixed_small_10": DDPM(),
    "df_ddpm_leading_fixed_large_20": DDPM(variance="large"),
    "df_ddpm_trailing_fixed_small_10": DDPM(),
    "df_ddpm_trailing_fixed_large_20": NoisyEnd(),
    "df_edmeuler_20": DDIM(),
    "df_eulerdiscrete_eps_20": DDIM(),
    "df_eulerdiscrete_karras_20": DDIM(),
    "df_eulerdiscrete_v_p_20": DDIM(),
    "df_eulerancestraldiscrete_eps_5": DDPM(),
    "df_eulerancestraldiscrete_v_p_10": DDIM(eta=1.0),
    "df_heundiscrete_eps_10": Heun(),
    "df_heundiscrete_karras_10": Heun(),
    "df_heundiscrete_v_p_10": Heun(),
    "df_flow_euler_shift1.0_5": DDIM(),
}

CLIPPED = {
    "gd_ddpm_linear_25_clip",
    "gd_ddim_clip_25",
    "ermon_ddpm_uniform_20",
    "ermon_ddpm_quad_20",
}


def recorded_levels(case: Any, sampler: Sampler) -> list[NoiseLevel]:
    """The levels at which the recording called its model, once a hop, then the clean level."""
    if "grid" in case:
        pairs = [(1.0, ratio) for ratio in case["grid"][:-1].tolist()]
    else:
        alphas = case.arrays.get("call_alphas")
        sigmas = case["call_sigmas"].tolist()
        pairs = list(
            zip([1.0] * len(sigmas) if alphas is None else alphas.tolist(), sigmas, strict=True)
        )
        # Heun's second call of a hop is at the path's next level, which churn leaves alone
        pairs = [pairs[0], *pairs[1::2]] if isinstance(sampler, Heun) else pairs
    if case.meta.get("space") == "kscaled":
        pairs = [(1.0, sigma / alpha) for alpha, sigma in pairs]
    return [*(noise_level(0.0, alpha, sigma) for alpha, sigma in pairs), CLEAN]


def our_levels(case: Any) -> list[NoiseLevel] | None:
    """The same levels by our schedules and spacings, where those are continuous."""
    name, meta = case.name, case.meta
    if name in {"edm_heun_10", "edm_churn_10"} or ("karras" in name and name.startswith("kd")):
        steps = meta.get("num_steps") or len(case["grid"]) - 1
        return path(Karras(), EDM(), steps)
    if name.startswith(("edm_abl_linear_none_edm", "edm2", "df_edm")):
        return path(Karras(), EDM(), meta.get("num_steps") or meta["steps"])
    if name.startswith("kd") and "exponential" in name:
        return path(UniformLogSNR(), VE(sigma_min=0.002, sigma_max=80.0), len(case["grid"]) - 1)
    if name.startswith("kd") and "_vp_" in name:
        times = torch.linspace(1, 1e-3, len(case["grid"]) - 1, dtype=torch.float64)
        levels = [VPLinear(beta_max=20.0)(t) for t in times]
        return [*(noise_level(0.0, 1.0, float(level.noise_ratio)) for level in levels), CLEAN]
    return None


def compare_levels(ours: list[NoiseLevel], recorded: list[NoiseLevel]) -> None:
    for mine, theirs in zip(ours, recorded, strict=False):
        torch.testing.assert_close(mine.alpha, theirs.alpha, rtol=0, atol=1e-10)
        torch.testing.assert_close(mine.sigma, theirs.sigma, rtol=1e-10, atol=1e-10)


def model_of(name: str, mixture: Any) -> Denoise:
    if name in CLIPPED or name == "df_ddim_clip_10":
        return clipped(mixture, -1, 1, "keep" if name == "df_ddim_clip_10" else "rederive")
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
    theirs = recorded_levels(case, sampler)
    levels = our_levels(case)
    if levels is None:
        levels = theirs
    else:
        assert len(levels) == len(theirs)
        compare_levels(levels[:-1], theirs[:-1])
    x = case["x_init"]
    if name.startswith("edm"):
        x = x * levels[0].sigma
    shown, x = replay(model_of(name, mixture), x, levels, sampler, tape_of(case, len(levels) - 1))
    assert_equal(x, case["x_final"])
    if "xs_index" in case:
        every_call = name.startswith("df_heun")
        states = [state for hop in shown for state in (hop if every_call else hop[:1])] + [x]
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
