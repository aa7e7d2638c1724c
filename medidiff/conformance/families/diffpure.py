"""NVlabs/DiffPure: purification by the reverse SDE, its flow, Langevin dynamics and DDPM.

Every case has the gradient of a scalar of the result with respect to the input.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from medidiff.conformance.recordings import Case, Unsupported, check_agrees
from medidiff.diffusion.betas import LinearBetas
from medidiff.diffusion.levels import CLEAN, Denoise, Estimate, NoiseLevel, diffuse
from medidiff.diffusion.purify import LangevinPurification, purify
from medidiff.diffusion.samplers.ancestral import DDPM
from medidiff.diffusion.samplers.sde import PredictorCorrector
from medidiff.diffusion.sampling import START
from medidiff.diffusion.schedules import Discrete, VPLinear
from medidiff.types import Image, Tensor

GRADIENT_TOLERANCE = 1e-6
"""What the recordings grant to the gradients."""
END = 1e-5
"""Where the authors stop, a time."""
LANGEVIN_TIME = 0.01
"""The one time whose score LD-SDE uses."""


def replay(case: Case) -> None:
    """Compare the purified image and the gradient."""
    runs: dict[str, Callable[[Case, Image], list[Image]]] = {
        "diffpure": _sde,
        "diffpure-sde": _sde,
        "diffpure-ode": _ode,
        "diffpure-ldsde": _langevin,
        "diffpure-ddpm": _ddpm,
    }
    if case.sampler not in runs:
        raise Unsupported(f"no replay for sampler {case.sampler}")
    x = case["x_adv"].clone().requires_grad_()
    rounds = runs[case.sampler](case, x)
    purified = torch.stack(rounds) if case["x_purified"].ndim > x.ndim else rounds[-1]
    check_agrees("purified", purified.detach(), case["x_purified"])
    (gradient,) = torch.autograd.grad((rounds[-1] * case["cotangent"]).sum(), x)
    check_agrees("gradient", gradient, case["grad_x_adv"], GRADIENT_TOLERANCE)


class Draws:
    """Forward noise by round, and increments over the square root of their length by hop."""

    def __init__(self, forward: Tensor | None, hops: Tensor) -> None:
        self.forward, self.hops = forward, hops

    def __call__(self, like: Image, step: int, draw: int = 0) -> Image:
        if step == START:
            assert self.forward is not None
            return self.forward[draw]
        return self.hops[step]


def _table() -> Discrete:
    return Discrete(betas=LinearBetas(beta_start=0.1 / 1000, beta_end=20 / 1000), steps=1000)


def _noised(meta: dict[str, Any]) -> NoiseLevel:
    """The level to which the original noises: entry t* - 1 of its table of alpha-bar."""
    return _table().after(int(meta["t_star"]) + int(meta.get("rand_t_offset") or 0))


def _grid(first: float, length: float, step: float) -> list[float]:
    """torchsde's fixed steps from `first` on: a running sum, the last one shorter."""
    times, end = [first], first + length
    while times[-1] < end:
        times.append(min(times[-1] + step, end))
    return times


def _denoise_of(case: Case, labels: Tensor | None) -> Denoise:
    """The exact model, or guided-diffusion's: the noise at a whole step, the level's own sigma.

    That model is asked at floor(1000 t) of a running sum, whose floor is recorded.
    """
    if case.meta.get("score_type", "score_sde") == "score_sde":
        return case.mixture
    table, calls = _table(), iter(() if labels is None else labels.tolist())
    known: dict[float, int] = {}

    def denoise(x: Image, level: NoiseLevel) -> Estimate:
        # a hop that is computed again in the backward pass is asked at the same label
        time = float(level.t)
        if time not in known:
            known[time] = int(next(calls))
        return case.mixture(x, table.after(known[time] + 1))

    return denoise


def _sde(case: Case, x: Image) -> list[Image]:
    meta, schedule = case.meta, VPLinear()
    first = 1 - int(meta["t_star"]) / 1000
    step = float(meta.get("dt", 1e-3))
    times = _grid(first, 1 - END - first, step)
    check_agrees("times", torch.tensor(times[:-1], dtype=x.dtype), case["increment_times"][:, 0])
    if "x_t" in case:
        noised = diffuse(x.detach(), _noised(meta), case["fwd_noise"])
        check_agrees("noised", noised, case["x_t"])
    if "increments" not in case:
        raise Unsupported(
            "the recording holds neither the increments of its Brownian motion nor their seed; its "
            "times and its noised image are ours"
        )
    levels = [schedule(torch.tensor(1 - time, dtype=x.dtype)) for time in times]
    lengths = torch.tensor(times, dtype=x.dtype).diff()
    increments = case["increments"] / lengths.sqrt().reshape(1, -1, *(1,) * x.ndim)
    sampler = PredictorCorrector(predictor="euler-maruyama", corrector="none")
    states: list[Image] = []
    labels = case.arrays.get("model_labels")
    for turn, hops in enumerate(increments):
        noise = Draws(case["fwd_noise"][turn : turn + 1], hops)
        denoise = _denoise_of(case, labels)
        x = purify(denoise, x, levels, sampler, noise, schedule, _noised(meta))
        states.append(x)
    return states


def _ode(case: Case, x: Image) -> list[Image]:
    """torchdiffeq's Euler steps from t* on; the last one ends at 1e-5."""
    meta, schedule = case.meta, VPLinear()
    first, step = int(meta["t_star"]) / 1000, float(meta["step_size"])
    count = math.ceil((first - END) / step + 1)
    times = [first - index * step for index in range(count - 1)] + [END]
    levels = [schedule(torch.tensor(time, dtype=x.dtype)) for time in times]
    sampler = PredictorCorrector(predictor="euler-maruyama", corrector="none", dynamics="flow")
    noise = Draws(case["fwd_noise"][None], torch.empty(0))
    denoise = _denoise_of(case, case["model_labels"])
    return [purify(denoise, x, levels, sampler, noise, schedule, _noised(meta))]


def _langevin(case: Case, x: Image) -> list[Image]:
    meta = case.meta
    first = 1 - int(meta["t_star"]) / 1000
    times = torch.tensor(_grid(first, 1 - END - first, float(meta["dt"])), dtype=x.dtype)
    level = VPLinear()(torch.tensor(LANGEVIN_TIME, dtype=x.dtype))
    options = LangevinPurification(meta["lambda_ld"], meta["sigma2"], meta["eta"])
    denoise, states, centre = _denoise_of(case, case["model_labels"]), [], x
    for hops in case["increments"]:
        noise = Draws(None, hops / times.diff().sqrt().reshape(-1, *(1,) * x.ndim))
        x = options(denoise, x, level, times.diff().tolist(), noise, centre)
        states.append(x)
    return states


def _ddpm(case: Case, x: Image) -> list[Image]:
    """The last hop's noise is multiplied by 0 in the original: a plain denoise."""
    table, first = _table(), int(case.meta["t_star"])
    check_agrees("betas", table.betas(1000), case["betas"])
    levels = [*(table.after(step) for step in range(first, 0, -1)), CLEAN]
    variances = {"fixedsmall": "small", "fixedlarge": "large"}
    sampler = DDPM(variance=variances[case.meta["var_type"]])  # pyright: ignore[reportArgumentType]
    noise = Draws(case["noise"][:1], case["noise"][1:])
    return [purify(case.mixture, x, levels, sampler, noise)]
