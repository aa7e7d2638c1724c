"""How far from the posterior are the images that each inverse method draws?

Two priors whose posterior is known in closed form, with their exact denoiser, so that nothing but
the method is to blame: a Gaussian field of 64 values, seen through a quarter of its Fourier
coefficients (with a known phase, in real numbers), a quarter of its values, or a blur; and a
mixture of three Gaussians of 16 values, seen through two coarse operators that leave two of the
three open. Each of 40 signals is drawn 40 times along 120 steps of EDM's levels.

    bias      root mean square of (mean of the draws - posterior mean) / posterior deviation,
              less what 40 draws make of it by chance
    spread    deviation of the draws / posterior deviation
    residual  (y - A draw) / sigma_y
    rank      distance of the truth's ranks from even (exact draws: below .1, for they are few)
    modes     of the mixture: distance of the draws' shares of its parts from the exact ones

    python benchmarks/posterior_calibration.py             # all, some 20 minutes of one core
    python benchmarks/posterior_calibration.py --only moment-matching daps
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from record import ROOT, Measured, write_result

from medidiff.conformance.oracles import Mixture, posterior
from medidiff.conformance.posteriors import (
    Discrepancy,
    discrepancy,
    gaussian_posterior,
    squared_exponential,
)
from medidiff.diffusion import DDPM, EDM, Denoise, Karras, KeyedNoise, path
from medidiff.inverse import (
    DAPS,
    DDNM,
    DDRM,
    DPS,
    AnyPosterior,
    CSGMLangevin,
    DiffPIR,
    Gaussian,
    MomentMatching,
    PiGDM,
    Projection,
    REDDiff,
    RePaint,
    sample_posterior,
)
from medidiff.physics import ConjugateGradients, DenseOperator
from medidiff.types import Tensor

COUNT, SIGNALS, EACH, STEPS = 64, 40, 40, 120
LENGTH = 4.0
"""Of the field's correlation, in values."""
SOLVER = ConjugateGradients(1e-4, 30)

METHODS: dict[str, AnyPosterior | None] = {
    "exact draws": None,
    "moment-matching": MomentMatching(solver=SOLVER),
    "moment-matching, DDPM": MomentMatching(solver=SOLVER, sampler=DDPM()),
    "moment-matching, 5 CG steps": MomentMatching(solver=ConjugateGradients(1e-3, 5)),
    "moment-matching, diagonal": MomentMatching(covariance="diagonal"),
    "pigdm": PiGDM(),
    "pigdm, no gradient": PiGDM(gradient="none"),
    "daps": DAPS(),
    "daps, width r": DAPS(width="noise-ratio"),
    "diffpir, weight 1, fresh .3": DiffPIR(weight=1.0),
    "diffpir, weight 1, fresh 1": DiffPIR(weight=1.0, fresh=1.0),
    "diffpir, weight 3, fresh .3": DiffPIR(),
    "dps, step 1": DPS(),
    "dps, step .3": DPS(step_size=0.3),
    "csgm-langevin": CSGMLangevin(),
    "csgm-langevin, balanced": CSGMLangevin(pull="balanced"),
    "projection, hard": Projection(measurement="hard"),
    "projection, noised": Projection(),
    "projection, weighed": Projection(measurement="weighed"),
    "ddnm, noise-free": DDNM(form="noise-free"),
    "ddnm, noisy": DDNM(),
    "ddrm": DDRM(),
    "ddrm, eta 0": DDRM(eta=0.0),
    "repaint, 2 repeats": RePaint(repeats=2),
    "red-diff": REDDiff(),
}
PROTOTYPE = {
    "moment-matching, DDPM": (
        (0.0, 0.94, 0.96, 0.09),
        (0.04, 0.96, 0.93, 0.09),
        (0.0, 0.95, 0.98, 0.08),
    ),
    "pigdm": ((0.43, 1.06, 1.03, 0.09), (1.01, 1.56, 2.5, 0.21), (0.07, 0.95, 0.98, 0.07)),
    "daps": ((0.21, 1.08, 1.0, 0.07), (0.85, 1.36, 1.28, 0.12), (0.06, 1.01, 0.99, 0.11)),
    "diffpir, weight 1, fresh .3": (
        (0.44, 1.06, 0.94, 0.09),
        (1.5, 1.8, 2.1, 0.12),
        (0.21, 0.91, 0.97, 0.11),
    ),
    "diffpir, weight 1, fresh 1": (
        (0.21, 0.73, 0.85, 0.33),
        (0.86, 0.97, 0.98, 0.26),
        (0.04, 0.68, 0.93, 0.30),
    ),
    "dps, step 1": ((0.31, 1.07, 1.77, 0.04), (1.06, 1.37, 2.5, 0.40), (0.46, 0.51, 0.86, 0.66)),
    "dps, step .3": ((0.83, 1.23, 0.67, 0.11), (2.3, 2.4, 0.78, 0.12), (1.0, 1.43, 1.26, 0.08)),
    "csgm-langevin": ((0.71, 1.18, 1.14, 0.12), (2.2, 2.3, 5.1, 0.12), (1.2, 1.5, 1.4, 0.08)),
}
"""An earlier prototype's bias, spread, residual and rank on such a field, its masks, length and
blur not kept: Fourier, quarter, blur."""


@dataclass(frozen=True, eq=False)
class Case:
    """A prior, what is seen of it, and what is known of its posteriors."""

    name: str
    prior: Denoise
    matrix: Tensor
    noise_std: float
    truth: Tensor
    measurement: Tensor
    mean: Tensor
    std: Tensor
    exact: Callable[[Tensor], Tensor]
    """Draws (each, signals, n) of the posterior from unit Gaussian numbers."""
    modes: Callable[[Tensor], float] | None = None
    """Of draws (each, signals, n)."""


def field_cases() -> list[Case]:
    """The Gaussian field, seen in three ways."""
    generator = torch.Generator().manual_seed(0)
    prior = squared_exponential(COUNT, LENGTH)
    seen = torch.randperm(COUNT, generator=generator)[: COUNT // 4].sort().values
    unit = torch.eye(COUNT, dtype=torch.float64)
    operators = {
        "fourier R=4": (fourier_rows(generator), 0.05),
        "quarter seen": (unit[seen], 0.05),
        "blur": (circular_blur(), 0.1),
    }
    cases = []
    for name, (matrix, noise_std) in operators.items():
        truth = prior.draw(torch.randn((SIGNALS, COUNT), generator=generator, dtype=torch.float64))
        y = measured(truth, matrix, noise_std, generator)
        known = gaussian_posterior(prior, matrix, y, noise_std)
        cases.append(
            Case(name, prior, matrix, noise_std, truth, y, known.mean, known.std, known.draw)
        )
    return cases


def fourier_rows(generator: torch.Generator) -> Tensor:
    """Real and imaginary parts of 16 Fourier coefficients of the field times a smooth phase: the
    five lowest, the others drawn."""
    place = torch.arange(COUNT, dtype=torch.float64)
    phase = (2 * torch.pi * place / COUNT + 0.7).sin() + 0.6 * (4 * torch.pi * place / COUNT).cos()
    lowest = torch.tensor([0, 1, 2, COUNT - 1, COUNT - 2])
    order = torch.randperm(COUNT, generator=generator)
    kept = torch.cat((lowest, order[~torch.isin(order, lowest)]))[: COUNT // 4]
    whole = torch.fft.fft(torch.eye(COUNT, dtype=torch.complex128), norm="ortho")
    rows = (whole * torch.polar(torch.ones_like(phase), phase))[kept]
    return torch.cat((rows.real, rows.imag))


def circular_blur(width: float = 2.0) -> Tensor:
    """A Gaussian of `width` values on a circle, of unit sum."""
    place = torch.arange(COUNT, dtype=torch.float64)
    apart = (place[:, None] - place).abs()
    weight = (-(torch.minimum(apart, COUNT - apart) ** 2) / (2 * width**2)).exp()
    return weight / weight.sum(1, keepdim=True)


def mixture_cases() -> list[Case]:
    """Three Gaussians of which the operator tells one apart from the other two."""
    place = torch.arange(16, dtype=torch.float64)
    wave = (2 * torch.pi * place / 16).sin()
    fine = torch.where(place % 2 == 0, 0.6, -0.6)
    means = torch.stack((wave + fine, wave - fine, -wave))
    variances = 0.05 + 0.1 * torch.stack((place, place.flip(0), torch.full_like(place, 8))) / 16
    weights = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
    prior = Mixture(weights, means[:, None], variances[:, None])
    pairs = (torch.eye(8, dtype=torch.float64).repeat_interleave(2, 1)) / 2
    sampled = torch.eye(16, dtype=torch.float64)[[0, 5, 10, 15]]
    generator = torch.Generator().manual_seed(1)
    return [
        _mixture_case(name, prior, matrix, noise_std, generator)
        for name, matrix, noise_std in (("pairs", pairs, 0.1), ("four seen", sampled, 0.3))
    ]


def _mixture_case(
    name: str, prior: Mixture, matrix: Tensor, noise_std: float, generator: torch.Generator
) -> Case:
    means, variances = prior.means.flatten(1), prior.variances.flatten(1)
    part = torch.multinomial(prior.weights, SIGNALS, replacement=True, generator=generator)
    unit = torch.randn((SIGNALS, means.shape[1]), generator=generator, dtype=torch.float64)
    truth = means[part] + variances[part].sqrt() * unit
    y = measured(truth, matrix, noise_std, generator)
    known = posterior(prior, matrix, y, noise_std)

    def exact(unit: Tensor) -> Tensor:
        chosen = torch.multinomial(known.weights, len(unit), True, generator=generator).T
        precision = torch.diag_embed(1 / variances) + matrix.T @ matrix / noise_std**2
        root = torch.linalg.cholesky(torch.linalg.inv(precision))[chosen]
        centre = known.means[torch.arange(SIGNALS), chosen]
        return centre + (root @ unit[..., None])[..., 0]

    def modes(draws: Tensor) -> float:
        around = (draws[:, :, None] - means) ** 2 / variances + variances.log()
        nearest = (prior.weights.log() - 0.5 * around.sum(-1)).argmax(-1)
        share = torch.nn.functional.one_hot(nearest, len(means)).double().mean(0)
        return float((share - known.weights).abs().sum(1).mean() / 2)

    return Case(
        f"mixture, {name}", prior, matrix, noise_std, truth, y,
        known.mean, known.variance.sqrt(), exact, modes,
    )  # fmt: skip


def measured(truth: Tensor, matrix: Tensor, noise_std: float, generator: torch.Generator) -> Tensor:
    """matrix truth + noise."""
    y = truth @ matrix.T
    return y + noise_std * torch.randn(y.shape, generator=generator, dtype=y.dtype)


@dataclass(frozen=True)
class Outcome:
    """A method on a case."""

    case: str
    method: str
    found: Discrepancy
    modes: float | None
    forward_equivalents: float


def run(case: Case, name: str, method: AnyPosterior | None) -> Outcome | None:
    """Draw, and compare with what is known; None where the method refuses."""
    size = case.truth.shape[1]
    if method is None:
        generator = torch.Generator().manual_seed(2)
        unit = torch.randn((EACH, SIGNALS, size), generator=generator, dtype=torch.float64)
        draws, cost = case.exact(unit), 0.0
    else:
        try:
            draws, cost = sampled(case, method, size)
        except ValueError:  # the method says that it is not for this
            return None
    residual = case.measurement - draws @ case.matrix.T
    found = discrepancy(draws, case.truth, case.mean, case.std, residual, case.noise_std)
    modes = None if case.modes is None else case.modes(draws)
    return Outcome(case.name, name, found, modes, cost)


def sampled(case: Case, method: AnyPosterior, size: int) -> tuple[Tensor, float]:
    """Draws (each, signals, n) and their cost."""
    members = [(f"signal {signal}", draw) for draw in range(EACH) for signal in range(SIGNALS)]
    drawn = sample_posterior(
        case.prior,
        DenseOperator(case.matrix, (1, size)),
        case.measurement.repeat(EACH, 1),
        Gaussian(case.noise_std),
        method,
        torch.zeros((len(members), 1, size), dtype=torch.float64),
        KeyedNoise(0, members),
        levels=path(Karras(), EDM(), STEPS),
        schedule=EDM(),
    )
    return drawn.images.reshape(EACH, SIGNALS, size), drawn.forward_equivalents


def rows_of(outcome: Outcome) -> list[Measured]:
    """One a figure, beside the prototype's where it has one."""
    found, where = outcome.found, f"{outcome.method} | {outcome.case}"
    names = ["fourier R=4", "quarter seen", "blur"]
    theirs = PROTOTYPE.get(outcome.method)
    peers = theirs[names.index(outcome.case)] if theirs and outcome.case in names else ()
    goal = 0.1 if outcome.method == "moment-matching" and outcome.case in names else None
    figures = (
        ("bias", found.bias, "posterior deviations", goal),
        ("|spread - 1|", abs(found.spread - 1), "of the posterior's deviation", goal),
        ("|residual - 1|", abs(found.residual - 1), "of sigma_y", None),
        ("rank", found.rank, "L1 distance", None),
    )
    rows = []
    for index, (name, value, unit, aim) in enumerate(figures):
        peer = {}
        if peers:
            peer = {"prototype": round(abs(peers[index] - (1 if name.startswith("|") else 0)), 3)}
        rows.append(Measured(f"{where}: {name}", _short(value), unit, "lower", peer, aim))
    if outcome.modes is not None:
        rows.append(Measured(f"{where}: modes", _short(outcome.modes), "total variation", "lower"))
    return rows


def _short(value: float) -> float:
    return float(f"{value:.3g}")


def table(outcomes: list[Outcome]) -> str:
    """Markdown: a method a line, a case a column."""
    cases = list(dict.fromkeys(outcome.case for outcome in outcomes))
    lines = [
        f"| method (calls) | {' | '.join(cases)} |",
        f"| --- |{' --- |' * len(cases)}",
    ]
    for name in dict.fromkeys(outcome.method for outcome in outcomes):
        mine = {outcome.case: outcome for outcome in outcomes if outcome.method == name}
        cost = max(outcome.forward_equivalents for outcome in mine.values())
        lines.append(
            f"| {name} ({cost:.0f}) | {' | '.join(_cell(mine.get(case)) for case in cases)} |"
        )
    return "\n".join(lines) + "\n"


def _cell(outcome: Outcome | None) -> str:
    if outcome is None:
        return "refused"
    found = outcome.found
    if not found.bias < 50:
        return "diverges"
    values = [found.bias, found.spread, found.residual, found.rank]
    return " · ".join(
        f"{v:.2f}" for v in values + ([] if outcome.modes is None else [outcome.modes])
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", help="methods whose name begins so")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    outcomes, began = [], time.perf_counter()
    for name, method in METHODS.items():
        if options.only and not name.startswith(tuple(options.only)):
            continue
        for case in [*field_cases(), *mixture_cases()]:
            outcome = run(case, name, method)
            outcomes += [outcome] if outcome else []
            print(f"{time.perf_counter() - began:4.0f} s  {outcome or 'refused'}", flush=True)
        write(outcomes, options.out)


def write(outcomes: list[Outcome], folder: Path) -> None:
    """The figures so far, and their table."""
    (folder / "posterior_calibration.md").write_text(
        "Bias · spread · residual · rank distance (· modes); exact draws have 0, 1, about 1, "
        "near 0 (and 0 modes).\nIn brackets forward-equivalent calls of the network an image.\n\n"
        + table(outcomes),
        encoding="utf-8",
    )
    facts = {"signals": SIGNALS, "draws": EACH, "steps": STEPS, "correlation length": LENGTH}
    rows = [row for outcome in outcomes for row in rows_of(outcome)]
    write_result("posterior_calibration", rows, facts=facts, folder=folder)


if __name__ == "__main__":
    main()
