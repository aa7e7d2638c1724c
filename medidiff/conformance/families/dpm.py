"""LuChengTHU/dpm-solver: single-step, multistep and adaptive, both bases; its grids and wrapper.

Its time of step n of N is (n + 1) / N, which is ours. A discrete schedule whose tail has a
half-log-SNR below -5.1 is cut there, and the original then spreads the rest over [0, 1]: its time 1
is our time of the last step that is left.
"""

from __future__ import annotations

from typing import Any

import torch

from medidiff.conformance.recordings import (
    LEVEL_TOLERANCE,
    Case,
    Unsupported,
    check_agrees,
    check_levels,
    check_states,
)
from medidiff.diffusion.betas import CosineBetas
from medidiff.diffusion.denoiser import thresholded
from medidiff.diffusion.guidance import classifier_free
from medidiff.diffusion.levels import Denoise, Estimate, NoiseLevel, scale
from medidiff.diffusion.samplers.dpm_adaptive import AdaptiveSteps, walk_adaptive
from medidiff.diffusion.samplers.dpm_solver import DPMSolver
from medidiff.diffusion.samplers.dpm_solver_pp import DPMSolverPP
from medidiff.diffusion.samplers.exponential import Basis
from medidiff.diffusion.sampling import Sampler, walk
from medidiff.diffusion.schedules import Discrete, Schedule, VPLinear
from medidiff.diffusion.targets import Clean, Eps, Score, V, estimate, prediction_of
from medidiff.diffusion.times import (
    PolynomialTime,
    SingleStepLogSNR,
    Spacing,
    UniformLogSNR,
    path,
    single_step_orders,
)
from medidiff.types import Image

CUT = -5.1
"""The half-log-SNR below which the original drops a table's tail."""
ADAPTIVE_TOLERANCE = 1e-5


def replay(case: Case) -> None:
    """Dispatch on what was recorded."""
    if case.sampler == "grids":
        replay_grids(case)
    elif case.sampler == "wrapper":
        replay_wrapper(case)
    elif case.meta["method"] == "adaptive":
        replay_adaptive(case)
    else:
        replay_steps(case)


class Heard:
    """A `Denoise` that remembers at which levels it was asked."""

    def __init__(self, denoise: Denoise) -> None:
        self.denoise = denoise
        self.levels: list[NoiseLevel] = []
        self.shown: list[Image] = []

    def __call__(self, x: Image, level: NoiseLevel) -> Estimate:
        self.levels.append(level)
        self.shown.append(x)
        return self.denoise(x, level)


def schedule_of(name: str) -> Schedule:
    """The schedule that the original calls by this name."""
    schedules = {
        "vp_linear": VPLinear(),
        "linear_discrete": Discrete(),
        "cosine_discrete": Discrete(betas=CosineBetas()),
    }
    if name not in schedules:
        raise Unsupported(f"schedule {name}")
    return schedules[name]


def last_time(schedule: Schedule) -> float:
    """Our time of the original's time 1: where a table's tail is cut."""
    if not isinstance(schedule, Discrete):
        return 1.0
    times = torch.arange(1, schedule.steps + 1, dtype=torch.float64) / schedule.steps
    return float(times[schedule(times).half_log_snr >= CUT][-1])


def levels_of(schedule: Schedule, spacing: Spacing, steps: int) -> list[NoiseLevel]:
    """steps + 1 noisy levels from the original's time 1 down to the spacing's end."""
    start = schedule(torch.tensor(last_time(schedule), dtype=torch.float64))
    return path(spacing, schedule, steps + 1, start)[:-1]


def spacing_of(name: str, end: float) -> Spacing:
    """The spacing that the original calls by this name, down to our time `end`."""
    spacings: dict[str, Spacing] = {
        "logSNR": UniformLogSNR(end=end),
        "time_uniform": PolynomialTime(end=end),
        "time_quadratic": PolynomialTime(power=2.0, end=end),
    }
    if name not in spacings:
        raise Unsupported(f"skip_type {name}")
    return spacings[name]


def replay_steps(case: Case) -> None:
    """Single-step and multistep, at given levels."""
    meta = case.meta
    schedule = schedule_of(meta["schedule"])
    end = meta["t_end"] * last_time(schedule)
    spacing, steps = spacing_of(meta["skip_type"], end), meta["steps"]
    single = meta["method"] != "multistep"
    if single and meta["method"] == "singlestep_fixed":
        steps = steps // meta["order"] * meta["order"]
    if meta["method"] == "singlestep" and meta["skip_type"] == "logSNR":
        spacing = SingleStepLogSNR(order=meta["order"], end=end)
    levels = levels_of(schedule, spacing, steps)
    denoise = Heard(thresholded(case.mixture) if meta["thresholding"] else case.mixture)
    states = [case["x_init"]]
    states += [x for _, x in walk(denoise, states[0], levels, sampler_of(case), None, schedule)]
    if single:
        full = meta["method"] == "singlestep_fixed"
        orders = [meta["order"]] * (steps // meta["order"])
        orders = orders if full else single_step_orders(steps, meta["order"])
        ends = torch.tensor(orders).cumsum(0).tolist()
        states = [states[index] for index in (0, *ends)]
    if meta.get("denoise_to_zero"):
        states.append(denoise(states[-1], levels[-1]).clean)
    check_levels(denoise.levels, case)
    check_states(states, case)


def sampler_of(case: Case) -> Sampler:
    """The sampler that the recording's options name."""
    meta = case.meta
    basis: Basis = "clean" if meta["algorithm"] == "dpmsolver++" else "eps"
    rule = "taylor" if meta.get("solver_type") == "taylor" else "midpoint"
    if meta["method"] == "multistep":
        below = 10 if meta.get("lower_order_final", True) else 0
        return DPMSolverPP(
            order=meta["order"],
            basis=basis,
            rule=rule,
            curvature="half",
            lower_order_below=below,
        )
    last = "full" if meta["method"] == "singlestep_fixed" else "fast"
    return DPMSolver(order=meta["order"], basis=basis, rule=rule, last=last)


def replay_adaptive(case: Case) -> None:
    """Steps chosen by the error of the worst image of the batch."""
    meta, schedule = case.meta, schedule_of(case.meta["schedule"])
    scale_of_time = last_time(schedule)
    steps = AdaptiveSteps(
        absolute=meta["atol"],
        relative=meta["rtol"],
        nearness=1e-5 * scale_of_time,
        error="batch-max",
    )
    basis: Basis = "clean" if meta["algorithm"] == "dpmsolver++" else "eps"
    rule = "taylor" if meta.get("solver_type") == "taylor" else "midpoint"
    sampler = DPMSolver(order=meta["order"], basis=basis, rule=rule)
    start = schedule(torch.tensor(scale_of_time, dtype=torch.float64))
    denoise, x = Heard(case.mixture), case["x_init"]
    end = meta["t_end"] * scale_of_time
    for _, state in walk_adaptive(denoise, x, schedule, sampler, start, end, steps):
        x = state
    levels = [NoiseLevel(each.t[0], each.alpha[0], each.sigma[0]) for each in denoise.levels]
    for name, ours in (("alpha", [e.alpha for e in levels]), ("sigma", [e.sigma for e in levels])):
        check_agrees(
            f"levels' {name}", torch.stack(ours), case[f"call_{name}s"], ADAPTIVE_TOLERANCE
        )
    check_agrees("result", x, case["x_final"], ADAPTIVE_TOLERANCE)


def replay_grids(case: Case) -> None:
    """Schedules probed at times, spacings, and the orders of single steps."""
    for name in ("linear_discrete", "cosine_discrete", "vp_linear"):
        if f"{name}_T0N" not in case:
            continue
        schedule = schedule_of(name)
        last = last_time(schedule)
        probes = schedule(case[f"{name}_probe_t"] * last)
        ours = {"logalpha": probes.alpha.log(), "lambda": probes.half_log_snr}
        ours["invlambda"] = schedule.time_of(case[f"{name}_probe_lambda"]) / last
        for what, value in ours.items():
            check_agrees(f"{name} {what}", value, case[f"{name}_probe_{what}"], LEVEL_TOLERANCE)
        end = float(case[f"{name}_T0N"][1]) * last
        for skip in ("logSNR", "time_uniform", "time_quadratic"):
            check_spacing(case, name, schedule, skip, end)


def check_spacing(case: Case, name: str, schedule: Schedule, skip: str, end: float) -> None:
    """The recorded times of one spacing, at every recorded count and order."""
    start = f"{name}_{skip}_"
    last = last_time(schedule)
    for array in sorted(key for key in case.arrays if key.startswith(start)):
        kind, *rest = array.removeprefix(start).split("_")
        if not rest:
            ours = levels_of(schedule, spacing_of(skip, end), int(kind))
            times = torch.stack([level.t for level in ours]) / last
            check_agrees(array, times, case[array], LEVEL_TOLERANCE)
            continue
        order: Any = int(kind.removeprefix("single"))
        steps = int(rest[0])
        orders = single_step_orders(steps, order)
        if rest[1] == "orders":
            check_agrees(array, torch.tensor(orders, dtype=torch.float64), case[array])
            continue
        groups = skip == "logSNR"
        spacing = SingleStepLogSNR(order=order, end=end) if groups else spacing_of(skip, end)
        ours = levels_of(schedule, spacing, steps)
        ends = [0, *torch.tensor(orders).cumsum(0).tolist()]
        times = torch.stack([ours[index].t for index in ends]) / last
        check_agrees(array, times, case[array], LEVEL_TOLERANCE)


def replay_wrapper(case: Case) -> None:
    """What the original's wrapper makes of every parameterisation and guidance, as noise.

    The label of a continuous schedule is the time itself, of a discrete one the step.
    """
    continuous = bool((case["t_labels"][:, 0] == case["t_labels"][:, 1]).all())
    for time in sorted({key.split("_")[0] for key in case.arrays if key.startswith("t0")}):
        schedule = VPLinear() if continuous else Discrete()
        level, x = schedule(torch.tensor(float(time[1:]), dtype=torch.float64)), case["x"]
        here = case.mixture(x, level)
        for target in (Eps(), Clean(), V(), Score()):
            prediction = prediction_of(target, here.clean, here.eps, level)
            again = estimate(target, x, prediction, level).eps
            name = {"eps": "noise", "clean": "x_start"}.get(target.kind, target.kind)
            check_agrees(f"{time} {name}", again, case[f"{time}_{name}"])
        # log p = -0.05 |x - mu_1|^2
        gradient = -0.1 * (x - case.mixture.means[1])
        shifted = here.eps - 3 * scale(level.sigma, x) * gradient
        check_agrees(f"{time} classifier", shifted, case[f"{time}_classifier_s3"])
        guided = classifier_free(conditioned(case.mixture), case.mixture, 2.5)(x, level)
        check_agrees(f"{time} guided", guided.eps, case[f"{time}_cfg_s2.5"])


def conditioned(denoise: Denoise) -> Denoise:
    """The recording's conditional model: its noise is 0.1 tanh(x) more."""

    def condition(x: Image, level: NoiseLevel) -> Estimate:
        eps = denoise(x, level).eps + 0.1 * x.tanh()
        return estimate(Eps(), x, eps, level)

    return condition
