"""baofff/Analytic-DPM: samplers, trajectories and bounds with a Gamma from the folder's table."""

from __future__ import annotations

import torch

from medidiff.conformance.families.tables import (
    check_betas,
    gamma_of,
    levels_at,
    states_of,
    table_of,
)
from medidiff.conformance.recordings import Case, Unsupported, check_agrees
from medidiff.diffusion.bound import Decoder, bound
from medidiff.diffusion.denoiser import clipped
from medidiff.diffusion.levels import Denoise, NoiseLevel
from medidiff.diffusion.noise import KeyedNoise, TapeNoise
from medidiff.diffusion.samplers.ancestral import DDPM
from medidiff.diffusion.samplers.ddim import DDIM
from medidiff.diffusion.sampling import Sampler
from medidiff.diffusion.schedules import Discrete
from medidiff.diffusion.steps import linspace_steps, optimal_steps, power_steps, quadratic_steps
from medidiff.diffusion.variance import (
    AnyVariance,
    OptimalVariance,
    gamma_table,
    small_variance,
    with_gamma,
)
from medidiff.types import Tensor

PIXEL = 2 / 255


def replay(case: Case) -> None:
    """A trajectory, a bound, the table of Gamma or the tables of steps."""
    if case.kind == "trajectory":
        _trajectory(case)
        return
    if case.kind == "likelihood":
        _bound(case)
        return
    if case.sampler == "Gamma":
        _gamma(case)
        return
    if case.sampler == "trajectory":
        _steps(case)
        return
    raise Unsupported(f"Analytic-DPM has no {case.sampler!r}")


def _gamma_values(case: Case) -> Tensor:
    return case.sibling("analytic_ms_eps")[case.meta["schedule"]]


def steps_by_name(name: str, schedule: Discrete, count: int, gamma: Tensor | None) -> list[int]:
    """The list of steps by the original's `steps_type`."""
    if name == "linear":
        return linspace_steps(schedule.steps, count)
    if name == "quad_ddim":
        return quadratic_steps(schedule.steps, count)
    if name == "dp_seg" and gamma is not None:
        return optimal_steps(schedule, gamma, count)
    raise Unsupported(f"Analytic-DPM has no steps_type {name!r}")


def sampler_of(
    source: str, ddim: bool, meta: dict, variance: AnyVariance, pixels: float | None
) -> Sampler:
    """DDPM or DDIM with that variance and the clip of the last noisy hop."""
    last = pixels * PIXEL if pixels and meta.get("clip_sigma_idx") else None
    if meta.get("clip_sigma_idx") not in (None, 0, 1):
        raise Unsupported(f"{source}: the noise is held at the last noisy hop or nowhere")
    if not ddim:
        return DDPM(variance=variance, last_noise=last)
    optimal = variance if isinstance(variance, OptimalVariance) else None
    return DDIM(eta=meta.get("eta") or 0.0, variance=optimal, last_noise=last)


def _trajectory(case: Case) -> None:
    meta = case.meta
    schedule = table_of(meta["schedule"])
    check_betas(case, schedule)
    naive = "_ms_eps" not in case.source
    ddim = "ddim" in case.source
    gamma = None if naive else _gamma_values(case)
    steps = steps_by_name(meta.get("steps_type", "linear"), schedule, len(case["s_r"]), gamma)
    model: Denoise = clipped(case.mixture, -1, 1, eps="keep")
    variance: AnyVariance = "small" if meta.get("small_sigma", True) else "large"
    if gamma is not None:
        model, variance = with_gamma(model, gamma_of(gamma)), OptimalVariance()
    sampler = sampler_of("Analytic-DPM", ddim, meta, variance, meta.get("clip_pixel"))
    levels = levels_at(schedule, steps)
    check_sparse(states_of(case, model, levels, sampler), case)


def check_sparse(states: list[Tensor], case: Case) -> None:
    """The result, and the evenly spaced states (of two, the ends) that a case without an index
    keeps of its walk."""
    check_agrees("result", states[-1], case["x_final"])
    kept, last = len(case["xs"]), len(states) - 1
    for place, reference in enumerate(case["xs"]):
        index = round(place * last / (kept - 1)) if kept > 1 else last
        check_agrees(f"state {index}", states[index], reference)


def last_variance(schedule: Discrete) -> Tensor:
    """The decoder's: beta-tilde of the whole process from step 2 to step 1."""
    return small_variance(schedule.after(2), schedule.after(1))


def check_nelbo(
    case: Case,
    model: Denoise,
    schedule: Discrete,
    levels: list[NoiseLevel],
    variance: AnyVariance,
    fields: Tensor,
) -> None:
    """Compare the terms, the decoder's first and the prior's last, and their sum, in nats."""
    ours = bound(
        model,
        case["x0"],
        levels,
        TapeNoise([[field] for field in fields]),
        variance,
        Decoder(cdf="tanh"),
        last_variance(schedule),
    )
    check_agrees("terms", ours.terms.flip(0), case["rev_terms"])
    check_agrees("bound", ours.nats, case["nelbo"])


def _bound(case: Case) -> None:
    meta = case.meta
    schedule = table_of(meta["schedule"])
    gamma = None if "naive" in case.source else _gamma_values(case)
    count = len(case["rev_terms"]) - 1
    steps = steps_by_name(meta.get("steps_type", "linear"), schedule, count, gamma)
    model: Denoise = clipped(case.mixture, -1, 1, eps="keep")
    variance: AnyVariance = "small" if meta.get("small_sigma", True) else "large"
    if gamma is not None:
        model, variance = with_gamma(model, gamma_of(gamma)), OptimalVariance()
    check_nelbo(case, model, schedule, levels_at(schedule, steps), variance, case.draws(count))


def _gamma(case: Case) -> None:
    """Gamma of the exact model by our Monte Carlo, within its standard error at some steps."""
    generator = torch.Generator().manual_seed(0)
    count = 200
    members = [("gamma", index) for index in range(count)]
    mixture = case.mixture
    kind = torch.multinomial(mixture.weights, count, replacement=True, generator=generator)
    unit = torch.randn(count, *mixture.means.shape[1:], generator=generator, dtype=torch.float64)
    clean = mixture.means[kind] + mixture.variances[kind].sqrt() * unit
    for name, theirs in case.arrays.items():
        schedule = table_of(name)
        steps = [1, 10, 50, 100, 250, 500, 750, 1000]
        levels = [schedule.after(step) for step in steps]
        ours = gamma_table(mixture, [(clean, KeyedNoise(0, members))], levels)
        # 200 * 128 squares of unit normals: their mean is good to sqrt(2 / 25600) = .009
        check_agrees(name, ours.values, theirs[torch.tensor(steps)], 0.02)


def _steps(case: Case) -> None:
    for name, theirs in case.arrays.items():
        rule, count = name.rsplit("_", 1)
        if rule.startswith("dpseg"):
            sched = rule.removeprefix("dpseg_").removesuffix("sched")
            gamma = case.sibling("analytic_ms_eps")[sched]
            ours = optimal_steps(table_of(sched), gamma, int(count))
        elif rule.startswith("power"):
            ours = power_steps(1000, int(count), float(rule.removeprefix("power")))
        else:
            ours = steps_by_name(rule, table_of("linear"), int(count), None)
        check_agrees(name, torch.tensor(ours, dtype=torch.float64), theirs, 0)
