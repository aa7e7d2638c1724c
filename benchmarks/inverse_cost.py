"""What does a result of each head cost?

    python benchmarks/inverse_cost.py MODEL --manifest ixi_t1_slices/manifest.csv

A batch of sixteen slices, solved by the defaults of each head: one result of all, then eight
samples with maps beside it. Seconds are the median of three runs after one that is not counted,
from the measurement made ready to images on the CPU; GiB is the most that a run holds on the GPU,
the model and the measurement included. Forward-equivalent calls are all of an image's: a backward
counts two. A stopped measurement goes on with --keep RESULT: its rows stay, with their origin, and
what it lacks is measured beside them.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from record import Measured, write_result
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
    earlier = earlier_of(args.keep, facts)
    done = {row["what"] for row in earlier.get("rows", ())}
    for n, (name, head, problem) in product((1, SAMPLES), list(problems(model, cases))):
        what = titled(name, n, len(cases))
        if what in done:
            continue
        if time.monotonic() > end:
            print(f"{what}: not reached; go on with --keep", flush=True)
            continue
        rows.append(measured(what, head, problem, model, n))
        print(what, rows[-1].ours, rows[-1].peers, flush=True)
        write_result("inverse_cost", rows, facts=facts, folder=args.out, earlier=earlier)


def earlier_of(place: Path | None, facts: Mapping[str, object]) -> dict[str, Any]:
    """A result to go on with, of the same model and slices; empty without one."""
    if place is None:
        return {}
    found = json.loads(place.read_text(encoding="utf-8"))
    for name, value in facts.items():
        if found["facts"].get(name) != value:
            raise SystemExit(
                f"{place.name} cannot be gone on with: {name} was {found['facts'].get(name)}, and "
                f"is {value} here; measure all anew, without --keep"
            )
    return found


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


def measured(what: str, head: Head, problem: Problem, model: Model, n: int) -> Measured:
    """Seconds, with the calls and the memory beside them."""
    on_gpu = model.device.type == "cuda"
    solution = head.solve(problem, model, n, 0)  # to warm up
    calls = solution.nfe if solution.cost is None else solution.cost
    del solution
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    taken = [seconds(head, problem, model, n) for _ in range(RUNS)]
    beside = {"forward-equivalent calls": float(calls)}
    if on_gpu:
        beside["GiB"] = torch.cuda.max_memory_allocated() / 2**30
    return Measured(what, statistics.median(taken), "s", "lower", beside)


def seconds(head: Head, problem: Problem, model: Model, n: int) -> float:
    """Of one run, until its images are on the CPU."""
    begin = time.monotonic()
    head.solve(problem, model, n, 0).point.cpu()
    return time.monotonic() - begin


if __name__ == "__main__":
    main()
