"""diffusers' tables: betas, timesteps, the boundary of latent consistency models.

Its align-your-steps lists are inputs of ours (`GivenSteps`), not results: where a list gives both
steps and noise ratios, our table must have those ratios at those steps.
"""

from __future__ import annotations

import torch

from medidiff.conformance.families.df_levels import betas_named, places
from medidiff.conformance.recordings import Case, check_agrees
from medidiff.diffusion.betas import LinearBetas, ScaledLinearBetas, ZeroTerminalBetas
from medidiff.diffusion.levels import NoiseLevel
from medidiff.diffusion.schedules import Discrete
from medidiff.diffusion.targets import LatentConsistencyTarget


def replay(case: Case) -> None:
    """Compare every recorded table that ours can be set beside."""
    for name, recorded in case.arrays.items():
        if name.startswith("betas_"):
            kind = name.removeprefix("betas_")
            start, end = (0.00085, 0.012) if kind == "scaled_linear" else (1e-4, 0.02)
            check_agrees(name, betas_named(kind, start, end)(len(recorded)), recorded)
        elif name.startswith("ztsnr_"):
            plain = ScaledLinearBetas() if "scaled" in name else LinearBetas()
            check_agrees(name, ZeroTerminalBetas(betas=plain)(len(recorded)), recorded)
        elif name.startswith("timesteps_"):
            _, spacing, count = name.split("_")
            check_agrees(name, places(spacing, 1000, int(count)).round(), recorded)
        elif name.startswith("lcm_cskip_cout_t"):
            steps = torch.tensor([int(n) for n in name.removeprefix("lcm_cskip_cout_t").split("_")])
            time = (steps + 1).double() / 1000
            boundary = LatentConsistencyTarget().boundary(NoiseLevel(time, time, time))
            check_agrees(name, torch.stack(boundary, 1), recorded)
        elif name.startswith("ays_") and name.endswith("Timesteps"):
            _check_ratios(case, name)


def _check_ratios(case: Case, name: str) -> None:
    """Our ratio at a step is the printed one but for half a step and the third printed digit."""
    table = Discrete(betas=ScaledLinearBetas())
    for step, printed in zip(
        case[name].tolist(), case[name.replace("Timesteps", "Sigmas")].tolist()[:-1], strict=True
    ):
        time = torch.tensor([0.5, 1.0, 1.5], dtype=torch.float64) + step
        below, ours, above = table(time.clamp_max(table.steps) / table.steps).noise_ratio.tolist()
        half = max(above - ours, ours - below)
        if abs(ours - printed) > half + 1e-3:
            raise AssertionError(f"{name}: ratio {ours:.4g} at step {step:g}, not {printed}")
