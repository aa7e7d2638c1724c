"""Our samplers, state by state, against what the authors' own code recorded.

The levels of continuous schedules (VP, VE, EDM) are made by our schedules and spacings and compared
with the recording. Levels from a discrete table of betas are taken from the recording itself, for
there is no table of betas here yet: for those cases the steps are tested and not the levels.

The states are compared at every recorded index, in float64, to 1e-7 * (1 + max|reference|).
"""

from __future__ import annotations

import math
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
    noise_level,
    path,
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
    # LuChengTHU/dpm-solver
    "dpm_vp_linear_dpmsolverpp_multi2_logSNR_10": SECOND,
    "dpm_vp_linear_dpmsolverpp_multi2_time_uniform_10": SECOND,
    "dpm_vp_linear_dpmsolverpp_multi2_denoise0_10": SECOND,
    "dpm_vp_linear_pp_multi2_quad_10": SECOND,
    "dpm_linear_discrete_dpmsolverpp_multi2_denoise0_10": SECOND,
    # diffusers, float64 twins
    "df_ddim_leading_eta0.0_10": DDIM(),
    "df_ddim_cos_10": DDIM(),
    "df_ddim_clip_10": DDIM(),
    "df_ddim_ztsnr_v_10": DDIM(),
    "df_ddpm_leading_fixed_small_10": DDPM(),
    "df_ddpm_leading_fixed_large_20": DDPM(variance="large"),
    "df_ddpm_trailing_fixed_small_10": DDPM(),
    "df_ddpm_trailing_fixed_large_20": NoisyEnd(),
    "df_dpmms_dpmsolverpp_2_midpoint_5": SECOND,
    "df_dpmms_pp2_beta_10": SECOND,
    "df_dpmms_pp2_euleratfinal_5": SECOND,
    "df_dpmms_pp2_exp_10": SECOND,
    "df_dpmms_pp2_karras_5": SECOND,
    "df_dpmms_pp2_leading_20": SECOND,
    "df_dpmms_pp2_lu_10": SECOND,
    "df_dpmms_pp2_trailing_10": SECOND,
    "df_dpmms_pp2_v_10": SECOND,
    "df_edmdpm_dpmsolverpp_2_10": SECOND,
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
    "df_flow_dpmpp2_20": SECOND,
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
    if name.startswith("dpm_vp_linear"):
        return dpm_solver_levels(meta)
    return None


def dpm_solver_levels(meta: dict) -> list[NoiseLevel]:
    """dpm-solver's own grids end at t_end, a noisy level, unless it denoises to zero."""
    schedule, count, end = VPLinear(), meta["steps"] + 1, meta["t_end"]
    one, last = (torch.tensor(t, dtype=torch.float64) for t in (1.0, end))
    if meta["skip_type"] == "logSNR":
        lams = torch.linspace(
            float(schedule(one).half_log_snr),
            float(schedule(last).half_log_snr),
            count,
            dtype=torch.float64,
        )
        times = schedule.time_of(lams)
    elif meta["skip_type"] == "time_uniform":
        times = torch.linspace(1, end, count, dtype=torch.float64)
    else:
        times = torch.linspace(1, math.sqrt(end), count, dtype=torch.float64) ** 2
    levels = [schedule(t) for t in times]
    return [*levels, CLEAN] if meta.get("denoise_to_zero") else levels


def compare_levels(ours: list[NoiseLevel], recorded: list[NoiseLevel]) -> None:
    for mine, theirs in zip(ours, recorded, strict=False):
        torch.testing.assert_close(mine.alpha, theirs.alpha, rtol=0, atol=1e-10)
        torch.testing.assert_close(mine.sigma, theirs.sigma, rtol=1e-10, atol=1e-10)


def model_of(name: str, mixture: Any) -> Denoise:
    if name == "df_ddim_clip_10":
        return clipped(mixture, -1, 1, "keep")
    return mixture


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
