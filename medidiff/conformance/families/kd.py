"""crowsonkb/k-diffusion: sigmas as noise ratios of alpha 1, one list of them a run.

A case does not say which of the four lists it was run on; ours is the one of our spacings that
agrees with the recorded `grid`. Its states are what the sampler's callback was shown: x at each
hop's first call, after churn. Draws come in the order of the calls, so dpmpp_sde's stage is first.
s_noise of the samplers that have no option for it is a scale of the noise source.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from medidiff.conformance.families import kd_likelihood
from medidiff.conformance.recordings import (
    LEVEL_TOLERANCE,
    Case,
    Unsupported,
    check_agrees,
    check_levels,
    check_states,
)
from medidiff.diffusion.levels import CLEAN, Denoise, Estimate, NoiseLevel, noise_level
from medidiff.diffusion.noise import NoiseSource, TapeNoise
from medidiff.diffusion.samplers.ddim import DDIM
from medidiff.diffusion.samplers.dpm_solver import DPMSolver
from medidiff.diffusion.samplers.dpm_solver_pp import DPMSolverPP
from medidiff.diffusion.samplers.edm import DPM2, Heun, split_noise
from medidiff.diffusion.samplers.k_diffusion import DPMSolverPPAncestral, DPMSolverPPSDE
from medidiff.diffusion.samplers.lms import LMS, multistep_weights
from medidiff.diffusion.sampling import Sampler, Step, walk
from medidiff.diffusion.schedules import EDM, VE, Schedule, VPLinear
from medidiff.diffusion.times import (
    Karras,
    PolynomialTime,
    SingleStepLogSNR,
    UniformLogSNR,
    path,
)
from medidiff.types import Image, Tensor

ADAPTIVE_TOLERANCE = 1e-5
GRIDS = ("karras", "exponential", "polyexp2", "vp")


def replay(case: Case) -> None:
    """Run one case through our samplers and compare levels, states and result."""
    if case.kind == "likelihood":
        kd_likelihood.replay(case)
    elif case.kind == "table":
        _replay_grids(case)
    elif case.sampler == "dpm_fast":
        _replay_fast(case)
    elif case.sampler == "dpm_adaptive":
        _replay_adaptive(case)
    else:
        _replay_walk(case)


def grid(kind: str, steps: int) -> list[NoiseLevel]:
    """k-diffusion's list of that name: `steps` levels of alpha 1, then the clean one."""
    schedules: dict[str, tuple[Any, Schedule]] = {
        "karras": (Karras(), EDM()),
        "exponential": (UniformLogSNR(), VE(sigma_min=0.002, sigma_max=80.0)),
        "polyexp2": (UniformLogSNR(power=2.0), VE(sigma_min=0.002, sigma_max=80.0)),
        "vp": (PolynomialTime(), VPLinear()),
    }
    levels = path(*schedules[kind], steps)
    return [*(noise_level(0.0, 1.0, float(each.noise_ratio)) for each in levels[:-1]), CLEAN]


class Listener:
    """A model that keeps what it was shown, by hop."""

    def __init__(self, denoise: Denoise) -> None:
        self.denoise = denoise
        self.shown: list[list[Image]] = []
        self.levels: list[NoiseLevel] = []

    def __call__(self, x: Image, level: NoiseLevel) -> Estimate:
        self.shown[-1].append(x)
        self.levels.append(level)
        return self.denoise(x, level)


def listened_walk(
    denoise: Denoise,
    x: Image,
    levels: list[NoiseLevel],
    sampler: Sampler,
    noise: NoiseSource | None,
    schedule: Schedule | None,
) -> tuple[Listener, Image]:
    """The model's calls along a walk, and its result."""
    listener = Listener(denoise)
    states = walk(listener, x, levels, sampler, noise, schedule)
    for _ in levels[1:]:
        listener.shown.append([])
        _, x = next(states)
    return listener, x


def sampler_of(name: str, options: dict[str, Any]) -> Sampler:
    """Our sampler by k-diffusion's function and arguments."""
    left = dict(options)
    left.pop("s_noise", None) if "ancestral" in name or "sde" in name else None
    churn = {
        ours: left.pop(theirs)
        for theirs, ours in (
            ("s_churn", "churn"),
            ("s_tmin", "churn_min"),
            ("s_tmax", "churn_max"),
            ("s_noise", "noise_scale"),
        )
        if theirs in left
    }
    eta = left.pop("eta", 1.0)
    rules = {"midpoint": "midpoint", "heun": "taylor"}
    rule: Any = rules[left.pop("solver_type", "midpoint")]
    order, stage = left.pop("order", 4), left.pop("r", 0.5)
    if left:
        raise Unsupported(f"arguments of {name} that have no counterpart: {sorted(left)}")
    samplers: dict[str, Sampler] = {
        "sample_euler": Heun(order=1, **churn),
        "sample_heun": Heun(**churn),
        "sample_dpm_2": DPM2(**churn),
        "sample_euler_ancestral": DDIM(eta=eta),
        "sample_dpm_2_ancestral": DPM2(eta=eta),
        "sample_dpmpp_2s_ancestral": DPMSolverPPAncestral(eta=eta),
        "sample_dpmpp_sde": DPMSolverPPSDE(eta=eta, second_at=stage),
        "sample_dpmpp_2m": DPMSolverPP(lower_order_below=0),
        "sample_dpmpp_2m_sde": DPMSolverPP(eta=eta, rule=rule, lower_order_below=0),
        "sample_dpmpp_3m_sde": DPMSolverPP(
            order=3, eta=eta, rule="taylor", curvature="half", lower_order_below=0
        ),
        "sample_lms": LMS(order=order),
    }
    if name not in samplers:
        raise Unsupported(f"no sampler of ours is k-diffusion's {name}")
    return samplers[name]


def _replay_walk(case: Case) -> None:
    levels = _levels(case)
    options = case.meta.get("kw", {})
    sampler, noise = sampler_of(case.sampler, options), _noise(case, len(levels) - 1)
    listener, x = listened_walk(case.mixture, case["x_init"], levels, sampler, noise, EDM())
    check_levels(listener.levels, case)
    check_states([*(calls[0] for calls in listener.shown), x], case)


def _levels(case: Case) -> list[NoiseLevel]:
    recorded = case["grid"]
    for kind in GRIDS:
        levels = grid(kind, len(recorded) - 1)
        ours = torch.stack([level.noise_ratio for level in levels])
        bound = LEVEL_TOLERANCE * (1 + float(recorded.max()))
        if float((ours - recorded).abs().max()) <= bound:
            return levels
    raise AssertionError("none of our lists of noise ratios is the recorded one")


def _noise(case: Case, hops: int) -> TapeNoise:
    draws = 2 if case.sampler == "sample_dpmpp_sde" else 1
    fields = case.draws(draws * hops)
    if "s_churn" not in case.meta.get("kw", {}):
        fields = fields * case.meta.get("kw", {}).get("s_noise", 1.0)
    # draw 0 is the whole hop's, which comes after its stage's
    return TapeNoise([list(fields[at : at + draws].flip(0)) for at in range(0, len(fields), draws)])


def _replay_grids(case: Case) -> None:
    for name in case.arrays:
        kind, *numbers = name.split("_")
        if kind in GRIDS:
            ours = torch.stack([level.noise_ratio for level in grid(kind, int(numbers[0]))])
            check_agrees(name, ours, case[name], LEVEL_TOLERANCE)
        elif kind == "ancestral":
            first, last, eta = (float(number) for number in numbers)
            split = split_noise(noise_level(0, 1, first), noise_level(0, 1, last), eta)
            check_agrees(name, torch.stack(split), case[name], LEVEL_TOLERANCE)
        elif kind == "lms":
            check_agrees(name, _lms_weights(int(numbers[1]), int(numbers[2])), case[name])
        else:
            raise Unsupported(f"no table of ours is k-diffusion's {name}")


def _lms_weights(order: int, index: int) -> Tensor:
    """The weights of hop `index` of the Karras list of ten."""
    ratios = [level.noise_ratio for level in grid("karras", 10)]
    nodes = tuple(ratios[index - back] for back in range(order))
    return torch.stack(multistep_weights(nodes, ratios[index + 1]))


def _whole_range(case: Case) -> VE:
    return VE(sigma_min=case.meta["sigma_min"], sigma_max=case.meta["sigma_max"])


def _replay_fast(case: Case) -> None:
    schedule = _whole_range(case)
    levels = path(SingleStepLogSNR(), schedule, case.meta["n"] + 1)[:-1]
    listener, x = listened_walk(case.mixture, case["x_init"], levels, DPMSolver(), None, schedule)
    check_levels(listener.levels, case)
    check_agrees("result", x, case["x_final"])


def _replay_adaptive(case: Case) -> None:
    """k-diffusion's own control of the step around our pair of solutions.

    Its limiter 1 + atan(factor - 1), its acceptance from a factor of 0.81 on and its error over
    the whole batch belong to it alone (`sample_adaptive` has the paper's, an error an image), so
    they are here. The end of the range is noisy: nothing is denoised at last.
    """
    schedule = VE(sigma_min=case.meta.get("sigma_min", 0.002), sigma_max=80.0)
    solver = DPMSolver(order=case.meta["order"])
    listener, x = Listener(case.mixture), case["x_init"]
    listener.shown.append([])
    now = schedule(torch.tensor(1.0, dtype=torch.float64))
    end, h, before = -math.log(schedule.sigma_min), 0.05, x
    while float(now.half_log_snr) < end - 1e-5:
        to = schedule(schedule.time_of((now.half_log_snr + h).clamp_max(end)))
        at = Step(0, 1, x, None, schedule)
        low, high = solver.embedded_step(listener, x, now, to, at)
        allowed = (case.meta["rtol"] * torch.maximum(low.abs(), before.abs())).clamp_min(
            case.meta["atol"]
        )
        error = float((((low - high) / allowed) ** 2).mean().sqrt())
        factor = 1 + math.atan((error + 1e-8) ** (-1 / solver.order) - 1)
        if factor >= 0.81:
            x, before, now = high, low, to
        h *= factor
    check_levels(listener.levels, case)
    check_agrees("result", x, case["x_final"], ADAPTIVE_TOLERANCE)
