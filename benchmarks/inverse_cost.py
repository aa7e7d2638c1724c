"""What does a result of each head cost?

    python benchmarks/inverse_cost.py MODEL --manifest ixi_t1_slices/manifest.csv

A batch of sixteen slices, solved by the defaults of each head: one result of all, then eight
samples with maps beside it. Seconds are the median of three runs after one that is not counted,
from the measurement made ready to images on the CPU; GiB is the most that a run holds on the GPU,
the model and the measurement included. Forward-equivalent calls are all of an image's: a backward
counts two. A stopped measurement goes on with --keep RESULT: its rows stay, and what it lacks is
measured beside them.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import torch
from record import HEADER, Measured, write_result
from tune_inverse import settings
from validation import parser_of, validation_cases

from medidiff import api
from medidiff.data.datasets import Case
from medidiff.diffusion import KeyedNoise
from medidiff.model import Model
from medidiff.tasks.base import Head, Problem, noise_key
from medidiff.tasks.denoise import Denoising
from medidiff.tasks.settings import simulated

SLICES = 16
RUNS = 3
SAMPLES = 8
NOISY = {
    "gaussian 0.1": Denoising(sigma=0.1),
    "rician 0.1": Denoising(noise="rician", sigma=0.1),
    "poisson 100": Denoising(noise="poisson", counts=100.0),
    "transmission 500": Denoising(noise="transmission", counts=500.0),
}


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--slices", type=int, default=SLICES)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--keep", type=Path, help="an earlier result whose rows stay")
    args = parser.parse_args()
    model = api.load(args.model)
    cases = validation_cases(model, args.manifest, "val", args.slices)
    facts: dict[str, object] = {
        "slices": len(cases),
        "grid": list(model.spec.space.size),
        "model_digest": model.digest,
        "seconds": f"median of {RUNS} runs, after one to warm up",
    }
    rows: list[Measured] = []
    end = time.monotonic() + 60 * args.minutes
    if args.keep:
        earlier = json.loads(args.keep.read_text(encoding="utf-8"))
        rows = [Measured(**row) for row in earlier["rows"]]
        facts["kept"] = {name: earlier[name] for name in HEADER} | {"rows": len(rows)}
    done = {row.what for row in rows}
    made = list(problems(model, cases))
    for n, (name, head, problem) in product((1, SAMPLES), made):
        if titled(name, n, len(cases)) not in done and time.monotonic() < end:
            rows.append(measured(name, head, problem, model, n))
            print(rows[-1].what, rows[-1].ours, rows[-1].peers, flush=True)
            write_result("inverse_cost", rows, facts=facts, folder=args.out)


def problems(model: Model, cases: Sequence[Case]) -> Iterator[tuple[str, Head, Problem]]:
    """Each way of measuring, made ready."""
    for name, head in NOISY.items():
        clean = torch.stack([case.images for case in cases])
        noise = KeyedNoise(0, [(f"degradation {noise_key(case)}", 0) for case in cases])
        noisy = head.corrupt(clean, cases, noise)
        given = [replace(case, images=x) for case, x in zip(cases, noisy, strict=True)]
        yield name, head, head.prepare(given, model)
    for each in settings(model, cases):
        yield each.name, each.head, each.head.prepare(simulated(each, cases, seed=0), model)


def titled(name: str, n: int, slices: int) -> str:
    """What a row is about."""
    made = "one result" if n == 1 else f"{n} samples"
    return f"{name}: {made} of each of {slices} slices"


def measured(name: str, head: Head, problem: Problem, model: Model, n: int) -> Measured:
    """Seconds, with the calls and the memory beside them."""
    on_gpu, taken, solution = model.device.type == "cuda", [], None
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    for _ in range(1 + RUNS):
        begin = time.monotonic()
        solution = head.solve(problem, model, n, 0)
        solution.point.cpu()
        taken.append(time.monotonic() - begin)
    assert solution is not None
    calls = solution.nfe if solution.cost is None else solution.cost
    beside = {"forward-equivalent calls": float(calls)}
    if on_gpu:
        beside["GiB"] = torch.cuda.max_memory_allocated() / 2**30
    what = titled(name, n, len(problem.cases))
    return Measured(what, statistics.median(taken[1:]), "s", "lower", beside)


if __name__ == "__main__":
    main()
