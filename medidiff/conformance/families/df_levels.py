"""The levels that diffusers' schedulers visit, from their constructor arguments and our tables.

Three kinds of path: over integer steps of a table (DDPM, DDIM, LCM, TCD), over noise ratios read
off that table at fractional steps ("k" schedulers), and over the straight lines of flow matching.
"""

from __future__ import annotations

from typing import Any

import torch

from medidiff.conformance.recordings import Unsupported
from medidiff.diffusion.betas import (
    AnyBetas,
    CosineBetas,
    LinearBetas,
    PlainBetas,
    ScaledLinearBetas,
    SigmoidBetas,
    ZeroTerminalBetas,
)
from medidiff.diffusion.levels import CLEAN, NoiseLevel, noise_level
from medidiff.diffusion.schedules import EDM, VE, Discrete, Flow
from medidiff.diffusion.times import Karras, ShiftedTime, UniformLogSNR, path, shifted
from medidiff.types import Tensor


def betas_named(name: str, start: float, end: float) -> PlainBetas:
    """Our betas by diffusers' `beta_schedule`."""
    betas: dict[str, PlainBetas] = {
        "linear": LinearBetas(beta_start=start, beta_end=end),
        "scaled_linear": ScaledLinearBetas(beta_start=start, beta_end=end),
        "squaredcos_cap_v2": CosineBetas(),
        "sigmoid": SigmoidBetas(beta_start=start, beta_end=end),
    }
    if name not in betas:
        raise Unsupported(f"no betas of ours are diffusers' {name!r}")
    return betas[name]


def table_of(ctor: dict[str, Any], start: float, end: float, name: str = "linear") -> Discrete:
    """The table of a scheduler whose defaults are `start`, `end` and `name`."""
    betas: AnyBetas = betas_named(
        ctor.get("beta_schedule", name), ctor.get("beta_start", start), ctor.get("beta_end", end)
    )
    if ctor.get("rescale_betas_zero_snr", False):
        betas = ZeroTerminalBetas(betas=betas)
    return Discrete(betas=betas, steps=ctor.get("num_train_timesteps", 1000))


def places(spacing: str, table: int, steps: int, offset: int = 0) -> Tensor:
    """diffusers' timesteps, noisiest first, counted from 0 and not yet rounded for "linspace".

    Source: Lin et al. 2024 (arXiv:2305.08891), table 2.
    """
    if spacing == "linspace":
        return torch.linspace(0, table - 1, steps, dtype=torch.float64).flip(0)
    if spacing == "leading":
        index = torch.arange(steps, dtype=torch.float64) * (table // steps)
        return index.flip(0) + offset
    if spacing == "trailing":
        index = torch.arange(steps, dtype=torch.float64)
        return (table - index * (table / steps)).round() - 1
    raise Unsupported(f"no spacing of ours is diffusers' {spacing!r}")


def after_places(table: Discrete, index: Tensor) -> list[NoiseLevel]:
    """The levels of whole timesteps."""
    return [table.after(int(each) + 1) for each in index.round()]


def thinned_places(ctor: dict[str, Any], table: Discrete, steps: int) -> Tensor:
    """LCM's and TCD's timesteps: some of the `original_inference_steps` of the distillation."""
    original = ctor.get("original_inference_steps", 50)
    stride = table.steps // original
    coarse = torch.arange(original, 0, -1, dtype=torch.float64) * stride - 1
    chosen = torch.arange(steps, dtype=torch.float64) * (original / steps)
    return coarse[chosen.floor().long()]


def ratio_levels(
    ctor: dict[str, Any], table: Discrete, steps: int, spacing: str
) -> list[NoiseLevel]:
    """A k scheduler's noise ratios as levels of alpha 1, then its last one, clean by default."""
    index = places(
        ctor.get("timestep_spacing", spacing), table.steps, steps, ctor.get("steps_offset", 0)
    )
    on = torch.stack([table.after(step).noise_ratio for step in range(1, table.steps + 1)])
    below = index.floor().long().clamp(0, table.steps - 2)
    part = index - below
    if ctor.get("interpolation_type", "linear") == "log_linear":
        ratios = torch.linspace(
            float(on[-1].log()), float(on[0].log()), steps + 1, dtype=torch.float64
        )[:-1].exp()
    else:
        ratios = on[below] + part * (on[below + 1] - on[below])
    ratios = _respaced(ctor, ratios)
    levels = [noise_level(0.0, 1.0, float(ratio)) for ratio in ratios]
    if ctor.get("final_sigmas_type", "zero") == "sigma_min":
        return [*levels, noise_level(0.0, 1.0, float(on[0]))]
    return [*levels, CLEAN]


def _respaced(ctor: dict[str, Any], ratios: Tensor) -> Tensor:
    """Karras' or exponential levels between the ends of the others."""
    if ctor.get("use_beta_sigmas", False):
        raise Unsupported("beta-distributed noise ratios are no spacing of ours")
    first, last = float(ratios[0]), float(ratios[-1])
    whole = VE(sigma_min=last, sigma_max=first)
    if ctor.get("use_karras_sigmas", False):
        on_curve = path(Karras(), EDM(sigma_min=last, sigma_max=first), len(ratios))
    elif ctor.get("use_exponential_sigmas", False):
        on_curve = path(UniformLogSNR(), whole, len(ratios))
    else:
        return ratios
    return torch.stack([level.noise_ratio for level in on_curve[:-1]])


def flow_levels(ctor: dict[str, Any], steps: int) -> list[NoiseLevel]:
    """Flow matching's levels: diffusers shifts its last time twice, once too often."""
    shift, table = ctor.get("shift", 1.0), ctor.get("num_train_timesteps", 1000)
    end = float(shifted(torch.tensor(1 / table, dtype=torch.float64), shift))
    return path(ShiftedTime(shift=shift, end=end), Flow(), steps)


def edm_levels(ctor: dict[str, Any], steps: int) -> list[NoiseLevel]:
    """EDMEuler's noise ratios."""
    low, high = ctor.get("sigma_min", 0.002), ctor.get("sigma_max", 80.0)
    rho = ctor.get("rho", 7.0)
    if ctor.get("sigma_schedule", "karras") == "karras":
        return path(Karras(rho=rho), EDM(sigma_min=low, sigma_max=high, rho=rho), steps)
    return path(UniformLogSNR(), VE(sigma_min=low, sigma_max=high), steps)
