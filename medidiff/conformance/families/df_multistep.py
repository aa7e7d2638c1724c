"""diffusers' multistep and single-step schedulers: DPM-Solver, UniPC, DEIS, PNDM, and on flow.

Its label n of N is our time (n + 1) / N; a final sigma of zero is our clean level, and
"sigma_min" ends at the table's first step.
"""

from __future__ import annotations

from typing import Any

import torch

from medidiff.conformance.families.dpm import Heard
from medidiff.conformance.recordings import Case, Unsupported, check_levels, check_states
from medidiff.diffusion.betas import CosineBetas, LinearBetas, ScaledLinearBetas
from medidiff.diffusion.denoiser import thresholded
from medidiff.diffusion.levels import CLEAN, Denoise, NoiseLevel
from medidiff.diffusion.samplers.deis import DEIS
from medidiff.diffusion.samplers.dpm_solver import DPMSolver
from medidiff.diffusion.samplers.dpm_solver_pp import DPMSolverPP
from medidiff.diffusion.samplers.multistep import PNDM
from medidiff.diffusion.samplers.sa_solver import SASolver
from medidiff.diffusion.samplers.unipc import UniPC
from medidiff.diffusion.sampling import Sampler, walk
from medidiff.diffusion.schedules import EDM, Discrete, Flow, Schedule
from medidiff.diffusion.spacing_tables import BetaQuantiles
from medidiff.diffusion.times import Karras, UniformLogSNR, path
from medidiff.types import Tensor

SCHEDULERS = (
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EDMDPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
    "DEISMultistepScheduler",
    "PNDMScheduler",
    "SASolverScheduler",
)
FEW = 15
"""Below so many steps diffusers ends by lower orders."""


def replay(case: Case) -> None:
    """The states of one of `SCHEDULERS`."""
    ctor = case.meta["ctor"]
    schedule = schedule_of(case)
    levels = levels_of(case, schedule)
    sampler = sampler_of(case)
    denoise = Heard(model_of(case.mixture, ctor))
    x, tape = case["x_init"], case.tape(len(levels) - 1)
    states = [x, *(state for _, state in walk(denoise, x, levels, sampler, tape, schedule))]
    check_levels(denoise.levels, case)
    every_call = case.sampler == "PNDMScheduler"
    check_states([*denoise.shown, states[-1]] if every_call else states, case)


def model_of(denoise: Denoise, ctor: dict[str, Any]) -> Denoise:
    """The mixture, thresholded where the scheduler does so."""
    if not ctor.get("thresholding"):
        return denoise
    return thresholded(
        denoise, ctor.get("dynamic_thresholding_ratio", 0.995), ctor.get("sample_max_value", 1.0)
    )


def schedule_of(case: Case) -> Schedule:
    """The schedule of the scheduler's options, with diffusers' defaults."""
    ctor = case.meta["ctor"]
    if case.meta["space"] == "edm":
        return EDM(
            sigma_min=ctor.get("sigma_min", 0.002),
            sigma_max=ctor.get("sigma_max", 80.0),
            rho=ctor.get("rho", 7.0),
        )
    if case.meta["space"] == "flow":
        return Flow()
    first, last = ctor.get("beta_start", 1e-4), ctor.get("beta_end", 0.02)
    tables = {
        "linear": LinearBetas(beta_start=first, beta_end=last),
        "scaled_linear": ScaledLinearBetas(beta_start=first, beta_end=last),
        "squaredcos_cap_v2": CosineBetas(),
    }
    name = ctor.get("beta_schedule", "linear")
    if name not in tables:
        raise Unsupported(f"beta_schedule {name}")
    return Discrete(betas=tables[name], steps=ctor.get("num_train_timesteps", 1000))


def levels_of(case: Case, schedule: Schedule) -> list[NoiseLevel]:
    """The path, from the scheduler's own spacing."""
    ctor, steps = case.meta["ctor"], case.meta["steps"]
    if isinstance(schedule, EDM):
        return path(Karras(rho=schedule.rho), schedule, steps)
    if isinstance(schedule, Flow):
        return [*(schedule(t) for t in flow_times(case)), CLEAN]
    assert isinstance(schedule, Discrete)
    noisy = noisy_levels(case, schedule)
    final = ctor.get("final_sigmas_type", "zero")
    if case.sampler in ("DEISMultistepScheduler", "SASolverScheduler", "PNDMScheduler"):
        final = "sigma_min"
    return [*noisy, schedule(_double(schedule.t_min))] if final == "sigma_min" else [*noisy, CLEAN]


def flow_times(case: Case) -> list[Tensor]:
    """Shifted times: DPM-Solver's leave the first out, UniPC's the last, and begin at 1 - 1e-6."""
    ctor, steps = case.meta["ctor"], case.meta["steps"]
    shift, count = ctor.get("flow_shift", 1.0), ctor.get("num_train_timesteps", 1000)
    times = torch.linspace(1, 1 / count, steps + 1, dtype=torch.float64)
    unipc = case.sampler == "UniPCMultistepScheduler"
    times = times[:-1] if unipc else 1 - times.flip(0)[:-1]
    times = shift * times / (1 + (shift - 1) * times)
    return list(times.clamp_max(1 - 1e-6) if unipc else times)


def noisy_levels(case: Case, schedule: Discrete) -> list[NoiseLevel]:
    """One level for each of the scheduler's timesteps."""
    ctor, steps = case.meta["ctor"], case.meta["steps"]
    if ctor.get("use_karras_sigmas"):
        return path(Karras(), schedule, steps)[:-1]
    if ctor.get("use_exponential_sigmas") or ctor.get("use_lu_lambdas"):
        return path(UniformLogSNR(), schedule, steps)[:-1]
    if ctor.get("use_beta_sigmas"):
        return path(BetaQuantiles(), schedule, steps)[:-1]
    labels = pndm_labels(ctor, steps) if case.sampler == "PNDMScheduler" else labels_of(ctor, steps)
    return [schedule(_double((label + 1) / schedule.steps)) for label in labels]


def labels_of(ctor: dict[str, Any], steps: int) -> list[float]:
    """The scheduler's integer timesteps."""
    count, kind = ctor.get("num_train_timesteps", 1000), ctor.get("timestep_spacing", "linspace")
    places = torch.arange(steps + 1, dtype=torch.float64)
    if kind == "linspace":
        return (
            torch.linspace(0, count - 1, steps + 1, dtype=torch.float64)
            .round()
            .flip(0)[:-1]
            .tolist()
        )
    if kind == "leading":
        labels = (places * (count // (steps + 1))).flip(0)[:-1]
        return (labels + ctor.get("steps_offset", 0)).tolist()
    if kind == "trailing":
        return ((count - places[:steps] * (count / steps)).round() - 1).tolist()
    raise Unsupported(f"timestep_spacing {kind}")


def pndm_labels(ctor: dict[str, Any], steps: int) -> list[float]:
    """PNDM's timesteps, "leading" by default, with one label fewer in the count."""
    if ctor.get("timestep_spacing", "leading") != "leading" or ctor.get("set_alpha_to_one"):
        raise Unsupported("PNDM with another spacing than leading, or set_alpha_to_one")
    ratio = ctor.get("num_train_timesteps", 1000) // steps
    return [float(n * ratio + ctor.get("steps_offset", 0)) for n in reversed(range(steps))]


def sampler_of(case: Case) -> Sampler:
    """Our sampler of the scheduler's options, with diffusers' defaults."""
    ctor, name = case.meta["ctor"], case.sampler
    lower = ctor.get("lower_order_final", True)
    order: Any = ctor.get("solver_order", 2)
    if name == "PNDMScheduler":
        return PNDM(start="heun" if ctor.get("skip_prk_steps") else "runge-kutta")
    if name == "DEISMultistepScheduler":
        return DEIS(order=order - 1, variable="log-rho", lower_order_below=FEW if lower else 0)
    if name == "UniPCMultistepScheduler":
        return UniPC(
            order=order,
            basis="clean" if ctor.get("predict_x0", True) else "eps",
            weights=ctor.get("solver_type", "bh2"),
            lower_order_final=lower,
        )
    if name in ("DPMSolverMultistepScheduler", "EDMDPMSolverMultistepScheduler"):
        return multistep_of(ctor, order, FEW if lower else 0, case.meta["steps"])
    if name == "DPMSolverSinglestepScheduler":
        ends_noisy = ctor.get("final_sigmas_type", "zero") == "sigma_min"
        return DPMSolver(
            order=order,
            basis=basis_of(ctor),
            rule=rule_of(ctor),
            last="full" if not lower else "first-order" if ends_noisy else "fast",
        )
    if name == "SASolverScheduler":
        return sa_solver_of(ctor, lower)
    raise Unsupported(f"scheduler {name}")


def sa_solver_of(ctor: dict[str, Any], lower: bool) -> Sampler:
    """SA-Solver with diffusers' own tau: 1 for its labels 200 to 800, label n at (n + 1) / N."""
    if ctor.get("tau_func") is not None:
        raise Unsupported("SASolver with another tau than diffusers' own")
    count = ctor.get("num_train_timesteps", 1000)
    data = ctor.get("algorithm_type", "data_prediction") == "data_prediction"
    return SASolver(
        predictor_order=ctor.get("predictor_order", 2),
        corrector_order=ctor.get("corrector_order", 2),
        basis="clean" if data else "eps",
        tau_from=201 / count,
        tau_until=801 / count,
        weights="second-order-half",
        lower_order_final=lower,
    )


def multistep_of(ctor: dict[str, Any], order: Any, below: int, steps: int) -> Sampler:
    """DPM-Solver in its four algorithm types."""
    ends_noisy = ctor.get("final_sigmas_type", "zero") == "sigma_min"
    if ctor.get("euler_at_final") and ends_noisy and steps >= FEW:
        raise Unsupported("euler_at_final alone, on a path that ends noisy")
    return DPMSolverPP(
        order=order,
        basis=basis_of(ctor),
        rule=rule_of(ctor),
        eta=1.0 if ctor.get("algorithm_type", "").startswith("sde-") else 0.0,
        curvature="half",
        lower_order_below=below,
    )


def _double(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def basis_of(ctor: dict[str, Any]) -> Any:
    """++ expands the clean image."""
    return "clean" if ctor.get("algorithm_type", "dpmsolver++").endswith("++") else "eps"


def rule_of(ctor: dict[str, Any]) -> Any:
    """Its "heun" is our "taylor"."""
    return "taylor" if ctor.get("solver_type", "midpoint") == "heun" else "midpoint"
