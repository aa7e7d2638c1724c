"""yang-song/score_sde_pytorch: predictor-corrector, RK45, likelihood, inpainting, tables."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from medidiff.conformance.recordings import Case, Unsupported, check_agrees, check_levels
from medidiff.diffusion.constrained import KNOWN_DRAW, Constrained, Known
from medidiff.diffusion.dormand_prince import ErrorControl
from medidiff.diffusion.levels import CLEAN, Denoise, Estimate, NoiseLevel, scale
from medidiff.diffusion.likelihood import FlowLikelihood, log_likelihood
from medidiff.diffusion.noise import NoiseSource, TapeNoise
from medidiff.diffusion.samplers.probability_flow import RK45
from medidiff.diffusion.samplers.sde import PredictorCorrector
from medidiff.diffusion.sampling import START, Step, sample, walk
from medidiff.diffusion.schedules import VE, Schedule, SubVP, VPLinear
from medidiff.types import Image, Tensor

PREDICTORS = {
    "reverse_diffusion": "reverse-diffusion",
    "ancestral_sampling": "ancestral",
    "euler_maruyama": "euler-maruyama",
    "none": "none",
}
EXACT_TOLERANCE = 1e-5
"""Of the exact log-likelihood, integrated here with tolerances of 1e-7."""
TABLE = 1000
"""N of the authors' equations where a recording does not say it."""
CORRECTORS = {"langevin": "langevin", "ald": "annealed", "none": "none"}


def replay(case: Case) -> None:
    """Compare one recording of score_sde_pytorch with ours."""
    if case.kind == "table":
        return _tables(case)
    if case.kind == "trajectory" and "+" in case.sampler:
        return _predictor_corrector(case)
    if case.kind == "trajectory" and case.sampler.startswith("pf-ode"):
        return _flow(case)
    if case.kind == "likelihood":
        return _likelihood(case)
    if case.sampler == "pc-inpaint":
        # the recordings with a schedule's name alone: what the README says of them
        meta = {"predictor": "reverse_diffusion", "corrector": "langevin", "snr": 0.16} | case.meta
        return controlled(case, meta, Known(case["data"], case["mask"]))
    raise Unsupported(f"no replay for kind {case.kind}, sampler {case.sampler}")


def schedule_of(meta: dict[str, Any]) -> Schedule:
    """The schedule that `meta["sde"]` names, with the constants of the recordings."""
    named: dict[str, Schedule] = {
        "vp": VPLinear(),
        "subvp": SubVP(),
        "ve": VE(sigma_min=0.01, sigma_max=50.0),
    }
    return named[meta["sde"]]


def levels_of(meta: dict[str, Any]) -> list[NoiseLevel]:
    """The authors' times: N equal steps from 1 to eps, both ends among them."""
    count, last = int(meta["N"]), float(meta["eps"])
    times = torch.linspace(1.0, last, count, dtype=torch.float64)
    return [schedule_of(meta)(t) for t in times]


def sampler_of(meta: dict[str, Any]) -> PredictorCorrector:
    """The authors' predictor and corrector, with their norms and their step."""
    return PredictorCorrector(
        predictor=PREDICTORS[meta["predictor"]],  # pyright: ignore[reportArgumentType]
        corrector=CORRECTORS[meta["corrector"]],  # pyright: ignore[reportArgumentType]
        corrector_steps=int(meta.get("n_corrector_steps", 1)),
        snr=float(meta["snr"]),
        norms="batch",
        dynamics="flow" if meta.get("probability_flow") else "sde",
        discretisation="fixed",
    )


class Draws:
    """The recorded noise in the order of the draws: the prior, then `per_step` for each hop.

    Our number of a draw within its hop is its place there, by `order`.
    """

    def __init__(self, noise: Tensor, per_step: int, order: dict[int, int] | None = None) -> None:
        self.noise, self.per_step, self.order = noise, per_step, order or {}

    def __call__(self, like: Image, step: int, draw: int = 0) -> Image:
        if step == START:
            return self.noise[0]
        return self.noise[1 + step * self.per_step + self.order.get(draw, draw)]


def heard(denoise: Denoise, levels: list[NoiseLevel]) -> Denoise:
    """`denoise` that writes down the levels at which it is asked."""

    def listen(x: Image, level: NoiseLevel) -> Estimate:
        levels.append(level)
        return denoise(x, level)

    return listen


def _predictor_corrector(case: Case) -> None:
    """All states, the noisy one after the last hop, and the result.

    The recorded states are x at the start, x after every hop of `state_index`, and the result.
    """
    meta, levels, sampler = case.meta, levels_of(case.meta), sampler_of(case.meta)
    schedule, count = schedule_of(meta), len(levels)
    draws_a_hop = (sampler.corrector != "none") * sampler.corrector_steps + (
        sampler.predictor != "none"
    )
    noise: NoiseSource = Draws(case.draws(1 + count * draws_a_hop), draws_a_hop)
    calls: list[NoiseLevel] = []
    x = case["x_init"]
    # a hop onto its own level is the last one with its noise: a fixed step knows no `to`
    noisy = [
        state for _, state in walk(case.mixture, x, [*levels, levels[-1]], sampler, noise, schedule)
    ]
    model = heard(case.mixture, calls)
    result = [state for _, state in walk(model, x, [*levels, CLEAN], sampler, noise, schedule)][-1]
    check_levels(calls, case)
    check_agrees("result", result, case["x_final"])
    recorded = [x, *(noisy[index] for index in meta["state_index"]), result]
    for place, reference in zip(case["xs_index"].long().tolist(), case["xs"], strict=True):
        check_agrees(f"state {place}", recorded[place], reference)


def controlled(case: Case, meta: dict[str, Any], known: Known) -> None:
    """Predictor-corrector under a constraint, as controllable_generation.py has it.

    Its known part is noised to the hop's own level after both moves. It starts from the known part
    without noise, its prior's draw is masked channel by channel whatever the basis, and its result
    is the noisy last state with only the known part's noise taken away: those are nobody's wish and
    are done here, around our sampler.
    """
    levels, schedule, sampler = levels_of(meta), schedule_of(meta), sampler_of(meta)
    corrections = sampler.corrector_steps if sampler.corrector != "none" else 0
    order = {KNOWN_DRAW: corrections, corrections: corrections + 1, KNOWN_DRAW + 1: corrections + 2}
    noise = Draws(case["noise"], corrections + 3, order)
    prior = scale(levels[0].sigma if meta["sde"] == "ve" else torch.tensor(1.0), noise.noise[0])
    prior = prior * noise.noise[0] * (1 - known.mask)
    x = known.pasted(torch.zeros_like(prior), CLEAN, None) + prior
    calls: list[NoiseLevel] = []
    shown: list[Image] = []

    def listen(x: Image, level: NoiseLevel) -> Estimate:
        shown.append(x)
        return heard(case.mixture, calls)(x, level)

    constrained = Constrained(sampler, known, level="now")
    x = sample(listen, x, [*levels, levels[-1]], constrained, noise, schedule)
    check_levels(calls, case)
    if "call_x" in case:
        check_agrees("states", torch.stack(shown[:: meta["call_x_thin"]]), case["call_x"])
    if "x_final_raw" in case:
        check_agrees("noisy result", x, case["x_final_raw"])
    check_agrees("result", known.pasted(x, levels[-1], None), case["x_final"])


def _flow(case: Case) -> None:
    """RK45 from t = 1 to eps; "denoise" is the mean of a reverse-diffusion step of N = 1000."""
    schedule, tolerance = schedule_of(case.meta), float(case.meta["tol"])
    ends = [schedule(torch.tensor(t, dtype=torch.float64)) for t in (1.0, float(case.meta["eps"]))]
    sampler = RK45(relative=tolerance, absolute=tolerance, over="batch")
    x = sample(case.mixture, case["x_init"], ends, sampler, None, schedule)
    if case.meta["denoise"]:
        last = PredictorCorrector(corrector="none", discretisation="fixed")
        x, _ = last.step(case.mixture, x, ends[1], CLEAN, None, Step(0, TABLE, x, None, schedule))
    check_agrees("result", x, case["x_final"])


def _likelihood(case: Case) -> None:
    """Latents, and bits per dimension by the one recorded probe; the exact divergence beside it.

    The authors' prior is N(0, 1), for VE N(0, sigma_max^2).
    """
    meta, schedule, tolerance = case.meta, schedule_of(case.meta), float(case.meta["tol"])
    options = FlowLikelihood(
        divergence="hutchinson",
        probes=1,
        control=ErrorControl(tolerance, tolerance, "batch"),
        t_min=float(meta["eps"]),
    )
    sigma = schedule.sigma_max if isinstance(schedule, VE) else 1.0

    def prior(latent: Image) -> Tensor:
        return torch.distributions.Normal(0.0, sigma).log_prob(latent).flatten(1).sum(1)

    probe = TapeNoise([[case["probe_rademacher"]]])
    found = log_likelihood(case.mixture, case["x0"], schedule, probe, options, prior)
    check_agrees("bits per dimension", found.bits_per_dim(8), case["bpd"])
    check_agrees("latent", found.latent, case["z"])
    loose = ErrorControl(1e-7, 1e-7)
    exact = replace(options, divergence="exact", control=loose)
    truth = case.mixture.log_density
    ours = log_likelihood(
        case.mixture,
        case["x0"],
        schedule,
        None,
        exact,
        lambda latent: truth(latent, schedule(torch.tensor(1.0, dtype=torch.float64))),
    )
    check_agrees("log-likelihood", ours.nats, case["exact_logp_eps"], EXACT_TOLERANCE)


def _tables(case: Case) -> None:
    """alpha, sigma, drift / x and g of the three equations at the recorded times."""
    for name in ("ve", "vp", "subvp"):
        schedule = schedule_of({"sde": name})
        level = schedule(case["t"])
        ours = {
            "alpha": level.alpha,
            "sigma": level.sigma,
            "drift": schedule.drift(case["t"]),
            "diffusion": schedule.diffusion(case["t"]).sqrt(),
        }
        for key, value in ours.items():
            check_agrees(f"{name} {key}", value, case[f"{name}_{key}"])
