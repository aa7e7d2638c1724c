"""baofff/Extended-Analytic-DPM: SN, NPR, heuristic and learned-range variances, and their bounds.

The model is wrong by err * sin(3 x); its second head is exact for that error: E[eps^2 | x] (SN),
E[(eps - eps-hat)^2 | x] (NPR), tanh(.7 x) (learned range).
"""

from __future__ import annotations

from medidiff.conformance.families.analytic import check_nelbo, check_sparse, sampler_of
from medidiff.conformance.families.tables import (
    check_betas,
    levels_at,
    states_of,
    table_of,
    with_error,
)
from medidiff.conformance.oracles import Mixture
from medidiff.conformance.recordings import Case, Unsupported
from medidiff.diffusion.denoiser import clipped
from medidiff.diffusion.levels import Denoise, Estimate, NoiseLevel
from medidiff.diffusion.steps import linspace_steps
from medidiff.diffusion.variance import AnyVariance, OptimalVariance
from medidiff.types import Image

VARIANCES: dict[str, AnyVariance] = {
    "sn": OptimalVariance(source="sn"),
    "npr": OptimalVariance(source="npr"),
    "heur": OptimalVariance(source="heuristic"),
    "iddpm": "learned-range",
}


def replay(case: Case) -> None:
    """A trajectory, or a bound along even steps."""
    if case.kind == "likelihood":
        _bound(case)
        return
    source, _, kind = case.sampler.partition("-")
    if source not in VARIANCES or kind not in ("ddpm", "ddim"):
        raise Unsupported(f"Extended-Analytic-DPM has no {case.sampler!r}")
    schedule = table_of(case.meta["schedule"])
    check_betas(case, schedule)
    levels = levels_at(schedule, linspace_steps(schedule.steps, len(case["s_t"])))
    # the size of the error is in meta as a formula only; its value closes the case's name
    model = with_head(case.mixture, source, float(case.name.rsplit("err", 1)[1]))
    ddim = kind == "ddim"
    pixels = 1 if ddim or case.meta["schedule"] == "cosine" else 2
    sampler = sampler_of("Extended-Analytic-DPM", ddim, case.meta, VARIANCES[source], pixels)
    check_sparse(states_of(case, model, levels, sampler), case)


def with_head(mixture: Mixture, source: str, error: float) -> Denoise:
    """The wrong model with its second head, clean clipped to [-1, 1] and eps kept."""
    wrong = with_error(mixture, error)

    def two(x: Image, level: NoiseLevel) -> Estimate:
        here, exact = wrong(x, level), mixture(x, level).eps
        square = mixture.eps_square(x, level)
        spreads = {
            "sn": square,
            "npr": square - 2 * exact * here.eps + here.eps**2,
            "iddpm": (0.7 * x).tanh(),
            "heur": None,
        }
        return Estimate(here.clean, here.eps, spreads[source])

    return clipped(two, -1, 1, eps="keep")


def _bound(case: Case) -> None:
    source = case.name.split("_")[2]
    if source not in VARIANCES:
        raise Unsupported(f"Extended-Analytic-DPM has no bound of {source!r}")
    schedule = table_of(case.meta["schedule"])
    count = len(case["rev_terms"]) - 1
    levels = levels_at(schedule, linspace_steps(schedule.steps, count))
    model = with_head(case.mixture, source, float(case.meta["err"]))
    check_nelbo(case, model, schedule, levels, VARIANCES[source], case.draws(count))
