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
    python benchmarks/posterior_calibration.py --only moment-matching daps  # the others' rows stay
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from record import ROOT, Measured, write_result

from medidiff.conformance.inverse_cases import (
    LENGTH,
    Case,
    drawn,
    field_cases,
    judged,
    mixture_cases,
)
from medidiff.conformance.posteriors import Discrepancy
from medidiff.diffusion import DDPM, Karras, UniformLogSNR
from medidiff.inverse import (
    DAPS,
    DDNM,
    DDRM,
    DPS,
    AnyPosterior,
    CSGMLangevin,
    DiffPIR,
    MomentMatching,
    PiGDM,
    Projection,
    REDDiff,
    RePaint,
)
from medidiff.physics import ConjugateGradients

SIGNALS, EACH, STEPS = 40, 40, 120
SOLVER = ConjugateGradients(1e-4, 30)
FIVE = ConjugateGradients(1e-3, 5)
EQUAL = UniformLogSNR(end=0.02)
FEW = "moment-matching, below 10, 9 levels"

METHODS: dict[str, AnyPosterior | None] = {
    "exact draws": None,
    "moment-matching": MomentMatching(solver=SOLVER, below=math.inf),
    "moment-matching, DDPM": MomentMatching(solver=SOLVER, below=math.inf, sampler=DDPM()),
    FEW: MomentMatching(below=10.0),
    "moment-matching, 5 CG steps": MomentMatching(solver=FIVE, below=math.inf),
    "moment-matching, diagonal": MomentMatching(covariance="diagonal", below=math.inf),
    "moment-matching, below 1": MomentMatching(below=1.0),
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
    if method is None:
        generator = torch.Generator().manual_seed(2)
        shape = (EACH, *case.truth.shape)
        draws = case.exact(torch.randn(shape, generator=generator, dtype=torch.float64))
        cost = 0.0
    else:
        try:
            steps, spacing = (9, EQUAL) if name == FEW else (STEPS, Karras())
            draws, cost = drawn(case, method, EACH, steps, spacing)
        except ValueError:  # the method says that it is not for this
            return None
    modes = None if case.modes is None else case.modes(draws)
    return Outcome(case.name, name, judged(case, draws), modes, cost)


def rows_of(outcome: Outcome) -> list[Measured]:
    """One a figure, beside the prototype's where it has one."""
    found, where = outcome.found, f"{outcome.method} | {outcome.case}"
    names = ["fourier R=4", "quarter seen", "blur"]
    theirs = PROTOTYPE.get(outcome.method)
    peers = theirs[names.index(outcome.case)] if theirs and outcome.case in names else ()
    gated = outcome.method in ("moment-matching", FEW) and outcome.case in names
    goal = 0.1 if gated else None
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
        for case in [*field_cases(SIGNALS), *mixture_cases(SIGNALS)]:
            outcome = run(case, name, method)
            outcomes += [outcome] if outcome else []
            print(f"{time.perf_counter() - began:4.0f} s  {outcome or 'refused'}", flush=True)
        write(outcomes, options.out)


def write(outcomes: list[Outcome], folder: Path) -> None:
    """The figures so far and their table; lines of methods that were not run stay."""
    lines = table(outcomes).splitlines()
    file = folder / "posterior_calibration.md"
    before = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    known = {_name(line): line for line in before if line.startswith("| ")}
    known |= {_name(line): line for line in lines[2:]}
    kept = [known[name] for name in METHODS if name in known]
    text = "\n".join([*lines[:2], *kept]) + "\n"
    file.write_text(
        "Bias · spread · residual · rank distance (· modes); exact draws have 0, 1, about 1, "
        "near 0 (and 0 modes).\nIn brackets forward-equivalent calls of the network an image.\n\n"
        + text,
        encoding="utf-8",
    )
    run = {outcome.method for outcome in outcomes}
    rows = [*_rows_before(folder, run), *(row for each in outcomes for row in rows_of(each))]
    order = list(METHODS)
    rows.sort(key=lambda row: order.index(row.what.split(" | ")[0]))
    facts: dict[str, object] = {"signals": SIGNALS, "draws": EACH, "steps": STEPS}
    facts |= {"correlation length": LENGTH, "run at this commit": sorted(run)}
    write_result("posterior_calibration", rows, facts=facts, folder=folder)


def _name(line: str) -> str:
    """Of the method in a line of the table, whose cost stands behind it in brackets."""
    return line.removeprefix("| ").split(" (")[0]


def _rows_before(folder: Path, run: set[str]) -> list[Measured]:
    file = folder / "posterior_calibration.json"
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.is_file() else []
    kept = set(METHODS) - run
    return [Measured(**row) for row in rows if row["what"].split(" | ")[0] in kept]


if __name__ == "__main__":
    main()
