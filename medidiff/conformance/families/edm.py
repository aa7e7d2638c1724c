"""NVlabs/edm and edm2: the sampler, the ablation sampler with its choices by name, the tables.

The recorded start is a unit field, which the code scales by the first level. A choice of the
ablation is a schedule of ours (sigma(t) and s(t)), a list of noise ratios on it, and the variable
that its Runge-Kutta steps are taken in, which is the schedule's own time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from medidiff.conformance.families.kd import listened_walk
from medidiff.conformance.recordings import (
    Case,
    Unsupported,
    check_agrees,
    check_levels,
    check_states,
)
from medidiff.diffusion.betas import CosineBetas
from medidiff.diffusion.guidance import autoguided
from medidiff.diffusion.levels import CLEAN, NoiseLevel, noise_level, scale
from medidiff.diffusion.noise import TapeNoise
from medidiff.diffusion.samplers.edm import Heun
from medidiff.diffusion.schedules import EDM, Schedule, VPLinear
from medidiff.diffusion.targets import EDMTarget
from medidiff.diffusion.times import Karras, path
from medidiff.diffusion.weights import EDMWeight
from medidiff.types import Tensor

START = 1e-3
"""The last time of the code's continuous VP discretisation (epsilon_s)."""


@dataclass(frozen=True)
class FittedVP:
    """VP-linear whose first rate may be below 0: log(1 + ratio^2) = slope t^2 / 2 + first t.

    The ablation fits its "vp" to any range of noise ratios; for .002 to 80 the first rate comes out
    at -0.005, which `VPLinear` refuses, since the noise then first falls with time. From the range
    on it rises, and only there is it used.
    """

    first: float
    slope: float
    t_min: float = START
    t_max: float = 1.0

    def __call__(self, t: Tensor) -> NoiseLevel:
        power = self.slope * t**2 / 2 + self.first * t
        return NoiseLevel(t, (-power / 2).exp(), (-torch.expm1(-power)).sqrt())

    def time_of(self, half_log_snr: Tensor) -> Tensor:
        """The later root; 0 for the clean level, as in the code."""
        power = torch.logaddexp(-2 * half_log_snr, torch.zeros_like(half_log_snr))
        root = (self.first**2 + 2 * self.slope * power).sqrt()
        return torch.where(power == 0, 0.0, (root - self.first) / self.slope)

    def drift(self, t: Tensor) -> Tensor:
        """d log(alpha) / dt."""
        return -(self.slope * t + self.first) / 2

    def diffusion(self, t: Tensor) -> Tensor:
        """-2 drift, as on every variance-preserving schedule."""
        return -2 * self.drift(t)


def replay(case: Case) -> None:
    """Run one case through our sampler, or compare our tables."""
    if case.sampler == "precond":
        _replay_tables(case)
    elif case.sampler in {"edm_sampler", "ablation_sampler"}:
        _replay_walk(case)
    else:
        raise Unsupported(f"no sampler of ours is edm's {case.sampler}")


def ratio_range(discretization: str) -> tuple[float, float]:
    """The least and the greatest noise ratio of a discretisation, Karras et al. 2022, table 1."""
    vp = VPLinear()
    ends = {
        "vp": tuple(float(vp(torch.tensor(t)).noise_ratio) for t in (START, 1.0)),
        "ve": (0.02, 100.0),
        "iddpm": (0.002, 81.0),
        "edm": (0.002, 80.0),
    }
    return ends[discretization]


def schedule_of(name: str, low: float, high: float) -> Schedule:
    """The code's sigma(t) and s(t) that runs through these two noise ratios.

    Its "linear" has sigma = t, EDM with rho 1; its "ve" sigma^2 = t, EDM with rho 1/2; its "vp" is
    VP-linear whose betas are such that the ratios are met at times `START` and 1.
    """
    if name == "linear":
        return EDM(sigma_min=low, sigma_max=high, rho=1.0)
    if name == "ve":
        return EDM(sigma_min=low, sigma_max=high, rho=0.5)
    first, last = math.log1p(low**2), math.log1p(high**2)
    slope = 2 * (first / START - last) / (START - 1)
    return FittedVP(last - slope / 2, slope)


def ratios_of(name: str, steps: int, low: float, high: float) -> Tensor:
    """The code's lists of noise ratios, noisiest first. Karras et al. 2022, table 1."""
    parts = torch.arange(steps, dtype=torch.float64) / (steps - 1)
    if name == "vp":
        return schedule_of("vp", low, high)(1 + parts * (START - 1)).noise_ratio
    if name == "ve":
        return high * (low / high) ** parts
    if name == "iddpm":
        return _iddpm_ratios(steps, low, high)
    return torch.stack(
        [x.sigma for x in path(Karras(), EDM(sigma_min=low, sigma_max=high), steps)[:-1]]
    )


def _iddpm_ratios(steps: int, low: float, high: float) -> Tensor:
    """Ratios of the cosine table of 1000 steps, all betas of which are below 0.999, thinned."""
    kept = (1 - CosineBetas(max_beta=0.999)(1000)).cumprod(0)
    ratios = ((1 - kept) / kept).sqrt().flip(0)
    ratios = ratios[(ratios >= low) & (ratios <= high)]
    index = (len(ratios) - 1) / (steps - 1) * torch.arange(steps, dtype=torch.float64)
    return ratios[index.round().long()]


def levels_of(case: Case) -> tuple[list[NoiseLevel], Schedule]:
    """Our levels of a case, and the schedule that they lie on."""
    meta, steps = case.meta, case.meta["num_steps"]
    kind = meta.get("discretization", "edm")
    low, high = ratio_range(kind)
    low, high = meta.get("sigma_min", low), meta.get("sigma_max", high)
    schedule = schedule_of(meta.get("schedule", "linear"), low, high)
    ratios = ratios_of(kind, steps, low, high)
    on = schedule(schedule.time_of(-ratios.log()))
    fields = zip(on.t, on.alpha, on.sigma, strict=True)
    return [*(NoiseLevel(*field) for field in fields), CLEAN], schedule


def _replay_walk(case: Case) -> None:
    meta: dict[str, Any] = case.meta
    if meta.get("guidance", 1) != 1:
        raise Unsupported("the guiding model of autoguidance is not recorded")
    model = autoguided(case.mixture, case.mixture, meta.get("guidance", 1))
    levels, schedule = levels_of(case)
    x = scale(levels[0].sigma, case["x_init"]) * case["x_init"]
    noise = _noise(case, levels) if meta.get("S_churn", 0) > 0 else None
    listener, result = listened_walk(model, x, levels, _sampler(meta), noise, schedule)
    check_levels([_as_ratio(level) for level in listener.levels], case)
    check_states([case["x_init"] if _unit_start(case) else x, result], case)


def _sampler(meta: dict[str, Any]) -> Heun:
    return Heun(
        order=1 if meta.get("solver", "heun") == "euler" else 2,
        second_at=meta.get("alpha", 1.0),
        variable="noise-ratio" if meta.get("schedule", "linear") == "linear" else "time",
        churn=meta.get("S_churn", 0.0),
        churn_min=meta.get("S_min", 0.0),
        churn_max=meta.get("S_max", math.inf),
        noise_scale=meta.get("S_noise", 1.0),
    )


def _noise(case: Case, levels: list[NoiseLevel]) -> TapeNoise:
    """edm draws in every hop, edm2 only in those that churn."""
    hops = len(levels) - 1
    if case.family != "edm2":
        return case.tape(hops)
    low, high = case.meta.get("S_min", 0.0), case.meta.get("S_max", math.inf)
    draws = iter(case.draws(hops))
    still = torch.zeros_like(case["x_init"])
    chosen = [low <= float(level.noise_ratio) <= high for level in levels[:-1]]
    return TapeNoise([[next(draws) if churns else still] for churns in chosen])


def _unit_start(case: Case) -> bool:
    """Whether the recorded first state is the unit field that the code was given."""
    return bool(torch.equal(case["xs"][0], case["x_init"]))


def _as_ratio(level: NoiseLevel) -> NoiseLevel:
    """The level as the code's model is called: x / s(t), sigma."""
    return noise_level(float(level.t), 1.0, float(level.noise_ratio))


def _replay_tables(case: Case) -> None:
    sigma = case["sigma"]
    target = EDMTarget(data_std=case.meta["sigma_data"])
    level = NoiseLevel(sigma, torch.ones_like(sigma), sigma)
    skip, out = target.multipliers(level)
    on_clean = EDMWeight(data_std=target.data_std)(target, level) / out**2
    ours = {
        "c_skip": skip,
        "c_out": out,
        "c_in": target.input_scale(level),
        "c_noise": target.noise_label(level),
        "weight": on_clean,
    }
    for name, table in ours.items():
        check_agrees(name, table, case[name])
