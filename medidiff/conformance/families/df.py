"""huggingface/diffusers 0.42.1, float64 twins of its schedulers.

The multistep solvers have their own file (`df_multistep`); here are the others. A "k" scheduler
walks in x / alpha and calls its model at x / sqrt(1 + ratio^2), which is the mixture at (alpha 1,
ratio). States are those before each call of the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch

from medidiff.conformance.families import df_levels, df_multistep, df_tables
from medidiff.conformance.families.kd import Listener, listened_walk
from medidiff.conformance.recordings import Case, Unsupported, check_levels, check_states
from medidiff.diffusion.denoiser import clipped, thresholded
from medidiff.diffusion.levels import CLEAN, Denoise, Estimate, NoiseLevel, noise_level, scale
from medidiff.diffusion.noise import TapeNoise
from medidiff.diffusion.samplers.ancestral import DDPM
from medidiff.diffusion.samplers.consistency import TCD, Consistency
from medidiff.diffusion.samplers.ddim import DDIM
from medidiff.diffusion.samplers.edm import DPM2, Heun
from medidiff.diffusion.samplers.lms import LMS
from medidiff.diffusion.sampling import Sampler, Step, renoise, sample
from medidiff.diffusion.schedules import EDM, Discrete, Schedule
from medidiff.diffusion.targets import (
    Eps,
    LatentConsistencyTarget,
    Target,
    V,
    estimate,
    prediction_of,
)
from medidiff.types import Image, Tensor

KARRAS_FAMILY = {
    "EulerDiscreteScheduler": "linspace",
    "EulerAncestralDiscreteScheduler": "linspace",
    "HeunDiscreteScheduler": "linspace",
    "KDPM2DiscreteScheduler": "linspace",
    "KDPM2AncestralDiscreteScheduler": "linspace",
    "LMSDiscreteScheduler": "linspace",
}
DEFAULT_BETAS = {
    "HeunDiscreteScheduler": (0.00085, 0.012),
    "KDPM2DiscreteScheduler": (0.00085, 0.012),
    "KDPM2AncestralDiscreteScheduler": (0.00085, 0.012),
    "LCMScheduler": (0.00085, 0.012),
    "TCDScheduler": (0.00085, 0.012),
}


def replay(case: Case) -> None:
    """Run one case through our samplers and compare, or compare our tables."""
    if case.kind == "table":
        return df_tables.replay(case)
    if case.sampler in df_multistep.SCHEDULERS:
        return df_multistep.replay(case)
    if case.sampler in KARRAS_FAMILY:
        return _replay_ratios(case)
    walks: dict[str, Callable[[Case], None]] = {
        "DDIMScheduler": _replay_ddim,
        "DDPMScheduler": _replay_ddpm,
        "LCMScheduler": _replay_lcm,
        "TCDScheduler": _replay_tcd,
        "EDMEulerScheduler": _replay_edm,
        "FlowMatchEulerDiscreteScheduler": _replay_flow,
        "FlowMatchHeunDiscreteScheduler": _replay_flow,
        "consistency multistep": _replay_consistency,
        "repaint": _replay_repaint,
    }
    if case.sampler not in walks:
        raise Unsupported(f"no sampler of ours is diffusers' {case.sampler}")
    return walks[case.sampler](case)


def table_of(case: Case) -> Discrete:
    """The scheduler's table."""
    return df_levels.table_of(case.meta["ctor"], *DEFAULT_BETAS.get(case.sampler, (1e-4, 0.02)))


def guarded(case: Case, default_clip: bool) -> Denoise:
    """The mixture with the scheduler's clipping, which leaves the noise as the model gave it."""
    ctor = case.meta["ctor"]
    if ctor.get("thresholding", False):
        ratio, top = (
            ctor.get("dynamic_thresholding_ratio", 0.995),
            ctor.get("sample_max_value", 1.0),
        )
        return thresholded(case.mixture, ratio, top, eps="keep")
    if ctor.get("clip_sample", default_clip):
        edge = ctor.get("clip_sample_range", 1.0)
        return clipped(case.mixture, -edge, edge, "keep")
    return case.mixture


def compare(
    case: Case,
    denoise: Denoise,
    levels: list[NoiseLevel],
    sampler: Sampler,
    schedule: Schedule | None = None,
    every_call: bool = False,
    noise: TapeNoise | None = None,
) -> None:
    """Walk from the recorded start and compare the levels of the calls, the states, the result."""
    if noise is None and ("noise" in case or "noise_seed" in case.meta):
        noise = case.tape(len(levels))
    listener, x = listened_walk(denoise, case["x_init"], levels, sampler, noise, schedule)
    called = denoise.asked if isinstance(denoise, Mistimed) else listener.levels
    check_levels([_unit(level, case) for level in called], case)
    shown = [state for calls in listener.shown for state in (calls if every_call else calls[:1])]
    check_states([*shown, x], case)


def _unit(level: NoiseLevel, case: Case) -> NoiseLevel:
    """The level as recorded: a k scheduler's model is called at x / sqrt(1 + ratio^2)."""
    if case.meta.get("space") != "kscaled":
        return level
    alpha = (1 + level.noise_ratio**2).rsqrt()
    return NoiseLevel(level.t, alpha, alpha * level.noise_ratio)


def _replay_ddim(case: Case) -> None:
    ctor, table, steps = case.meta["ctor"], table_of(case), case.meta["steps"]
    index = df_levels.places(
        ctor.get("timestep_spacing", "leading"), table.steps, steps, ctor.get("steps_offset", 0)
    )
    end = CLEAN if ctor.get("set_alpha_to_one", True) else table.after(1)
    levels = [*df_levels.after_places(table, index), end]
    eta = float(case.meta["step_kw"].get("eta", 0.0))
    compare(case, guarded(case, True), levels, DDIM(eta=eta))


@dataclass(frozen=True)
class NoisyEnd:
    """diffusers' DDPM away from timestep 0: its last hop, too, adds beta's noise to the image."""

    variance: Literal["small", "large"]

    @property
    def finishes(self) -> bool:
        return True

    def step(
        self, denoise: Denoise, x: Image, now: NoiseLevel, to: NoiseLevel, memory: None, at: Step
    ) -> tuple[Image, None]:
        """DDPM's own hop, or the clean image with the large variance's noise."""
        if not to.is_clean:
            return DDPM(variance=self.variance).step(denoise, x, now, to, memory, at)
        clean = denoise(x, now).clean
        spread = now.sigma if self.variance == "large" else torch.zeros_like(now.sigma)
        return clean + scale(spread, x) * at.noise(), None


def _replay_ddpm(case: Case) -> None:
    ctor, table, steps = case.meta["ctor"], table_of(case), case.meta["steps"]
    kind = ctor.get("variance_type", "fixed_small").removesuffix("_log")
    variances: dict[str, Literal["small", "large"]] = {
        "fixed_small": "small",
        "fixed_large": "large",
    }
    if kind not in variances:
        raise Unsupported(f"the second output of variance_type {kind!r} is not recorded")
    index = df_levels.places(
        ctor.get("timestep_spacing", "leading"), table.steps, steps, ctor.get("steps_offset", 0)
    )
    levels = [*df_levels.after_places(table, index), CLEAN]
    variance = variances[kind]
    sampler = DDPM(variance=variance) if float(index.min()) == 0 else NoisyEnd(variance)
    compare(case, guarded(case, True), levels, sampler)


def _replay_lcm(case: Case) -> None:
    ctor, table = case.meta["ctor"], table_of(case)
    index = df_levels.thinned_places(ctor, table, case.meta["steps"])
    levels = [*df_levels.after_places(table, index), CLEAN]
    bounded = as_consistency(guarded(case, False), LatentConsistencyTarget())
    compare(case, bounded, levels, Consistency())


def as_consistency(denoise: Denoise, target: LatentConsistencyTarget) -> Denoise:
    """The boundary of a latent consistency model around a plain one."""

    def bounded(x: Image, level: NoiseLevel) -> Estimate:
        here = denoise(x, level)
        skip, out = target.boundary(level)
        return Estimate(scale(skip, x) * x + scale(out, x) * here.clean, here.eps)

    return bounded


@dataclass(frozen=True)
class Floored:
    """A table read at floor((1 - gamma) n) for TCD's time (1 - gamma) (n + 1) / N."""

    table: Discrete
    gamma: float

    def __call__(self, t: Tensor) -> NoiseLevel:
        place = t * self.table.steps - (1 - self.gamma)
        return self.table.after(int((place + 1e-9).floor()) + 1)


def _replay_tcd(case: Case) -> None:
    """Its last hop goes to timestep 0, a noisy level, and adds nothing."""
    table = table_of(case)
    index = df_levels.thinned_places(case.meta["ctor"], table, case.meta["steps"])
    levels = [*df_levels.after_places(table, index), table.after(1)]
    gamma = float(case.meta["step_kw"].get("eta", 0.3))
    schedule: Any = Floored(table, gamma)
    hops = len(levels) - 1
    still = torch.zeros_like(case["x_init"])
    noise = TapeNoise([*([draw] for draw in case.draws(hops)[: hops - 1]), [still]])
    compare(case, guarded(case, False), levels, TCD(gamma=gamma), schedule, noise=noise)


def _replay_edm(case: Case) -> None:
    levels = df_levels.edm_levels(case.meta["ctor"], case.meta["steps"])
    compare(case, case.mixture, levels, Heun(order=1))


def _replay_flow(case: Case) -> None:
    levels = df_levels.flow_levels(case.meta["ctor"], case.meta["steps"])
    order: Literal[1, 2] = 2 if "Heun" in case.sampler else 1
    compare(case, case.mixture, levels, Heun(order=order, variable="flow"), every_call=True)


def _replay_ratios(case: Case) -> None:
    """The schedulers that came from k-diffusion."""
    name, ctor = case.sampler, case.meta["ctor"]
    table = table_of(case)
    levels = df_levels.ratio_levels(ctor, table, case.meta["steps"], KARRAS_FAMILY[name])
    order: Any = int(case.meta["step_kw"].get("order", 4))
    samplers: dict[str, Sampler] = {
        "EulerDiscreteScheduler": Heun(order=1),
        "EulerAncestralDiscreteScheduler": DDIM(eta=1.0),
        "HeunDiscreteScheduler": Heun(),
        "KDPM2DiscreteScheduler": DPM2(),
        "KDPM2AncestralDiscreteScheduler": DPM2(eta=1.0),
        "LMSDiscreteScheduler": LMS(order=order),
    }
    denoise: Denoise = case.mixture
    if name == "KDPM2AncestralDiscreteScheduler":
        denoise = Mistimed(case.mixture, levels, case.meta["prediction"])
    compare(case, denoise, levels, samplers[name], EDM(), every_call=True)


class Mistimed:
    """diffusers' KDPM2Ancestral: its second calls are made one hop too far down.

    The stage's state, at the geometric mean, is shown to the model as if it stood at the stage of
    the next hop (clean in the last two), and the answer is read at the stage's own level. Only the
    call is wrong: our sampler runs unchanged.
    """

    def __init__(self, denoise: Denoise, levels: list[NoiseLevel], prediction: str) -> None:
        self.denoise, self.levels = denoise, levels
        self.target: Target = V() if prediction == "v_prediction" else Eps()
        self.asked: list[NoiseLevel] = []

    def __call__(self, x: Image, level: NoiseLevel) -> Estimate:
        hop, second = divmod(len(self.asked), 2)
        further = self.levels[min(hop + 2, len(self.levels) - 1)] if second else level
        self.asked.append(further)
        if not second:
            return self.denoise(x, level)
        own, wrong = _scaled(level), _scaled(further)
        x = scale(own.alpha, x) * x
        asked = self.denoise(x, wrong)
        answer = prediction_of(self.target, asked.clean, asked.eps, wrong)
        return estimate(self.target, x, answer, own)


def _scaled(level: NoiseLevel) -> NoiseLevel:
    alpha = (1 + level.noise_ratio**2).rsqrt()
    return NoiseLevel(level.t, alpha, alpha * level.noise_ratio)


def _replay_consistency(case: Case) -> None:
    """Times of 40: (22, 0) for two steps as Song et al. 2023 publish, else even ones."""
    steps, last = len(case["xs"]) - 1, 39
    times = [0, 22] if steps == 2 else [40 // steps * index for index in range(steps)]
    low, high = 0.002 ** (1 / 7), 80 ** (1 / 7)
    ratios = [(high + time / last * (low - high)) ** 7 for time in times]
    levels = [*(noise_level(0.0, 1.0, ratio) for ratio in ratios), CLEAN]
    compare(case, clipped(case.mixture, -1, 1), levels, Consistency(floor=0.002))


@dataclass(frozen=True, eq=False)
class KnownPart:
    """RePaint's hop: DDIM where the image is unknown, the known image with the same noise."""

    known: Image
    mask: Image
    eta: float

    @property
    def finishes(self) -> bool:
        return True

    def step(
        self, denoise: Denoise, x: Image, now: NoiseLevel, to: NoiseLevel, memory: None, at: Step
    ) -> tuple[Image, None]:
        """Lugmayr et al. 2022 (arXiv:2201.09865), algorithm 1, lines 4 to 8."""
        if to.is_clean:
            unknown = denoise(x, now).clean
        else:
            unknown, _ = DDIM(eta=self.eta).step(denoise, x, now, to, memory, at)
        known = scale(to.alpha, x) * self.known + scale(to.sigma, x) * at.noise()
        return self.mask * known + (1 - self.mask) * unknown, None


def _replay_repaint(case: Case) -> None:
    """The jumps go up one step of the table at a time, with a draw each.

    They are `renoise` and not items of our path: diffusers undoes a hop from n - d by the betas
    after n, so that the level walked down from is not the one walked up to.
    """
    meta, table = case.meta, Discrete()
    down = KnownPart(case["original"], case["mask"], meta["eta"])
    stride = _stride(case)
    draws = iter(case["noise"])
    listener, x = Listener(clipped(case.mixture, -1, 1, "keep")), case["x_init"]
    before, states = math.inf, [x]
    for time in (int(each) for each in case["timesteps"]):
        if time < before:
            to = table.after(time - stride + 1) if time >= stride else CLEAN
            listener.shown.append([])
            tape = TapeNoise([[next(draws)]])
            x = sample(listener, x, [table.after(time + 1), to], down, tape)
        else:
            for step in range(int(before), int(before) + stride):
                x = renoise(x, table.after(step), table.after(step + 1), next(draws))
        before = time
        states.append(x)
    check_states(states, case)


def _stride(case: Case) -> int:
    """The recorded times, built from the steps, the jump's length and its count."""
    meta = case.meta
    for steps in range(2, 1001):
        stride = 1000 // steps
        ours = [time * stride for time in repaint_times(steps, meta["jump_length"], meta["jump_n"])]
        if ours == case["timesteps"].long().tolist():
            return stride
    raise AssertionError("no count of steps gives the recorded times")


def repaint_times(steps: int, jump_length: int, jumps: int) -> list[int]:
    """The times of RePaint's walk with its jumps. Lugmayr et al. 2022, appendix."""
    left = dict.fromkeys(range(0, steps - jump_length, jump_length), jumps - 1)
    times, time = [], steps
    while time >= 1:
        time -= 1
        times.append(time)
        if left.get(time, 0) > 0:
            left[time] -= 1
            times.extend(range(time + 1, time + jump_length + 1))
            time += jump_length
    return times
