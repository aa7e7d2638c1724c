"""What does a result of each head cost?

    python benchmarks/inverse_cost.py MODEL --manifest ixi_t1_slices/manifest.csv

A batch of sixteen slices, solved by the defaults of each head: one result of all, then eight
samples with maps beside it. Seconds are the median of three runs after one that is not counted,
from the measurement made ready to images on the CPU; GiB is the most that a run holds on the GPU,
the model and the measurement included. Forward-equivalent calls are all of an image's: a backward
counts two. Where the seconds go is told of one more run, in which the device is waited for around
each part: the network; the fit of what is estimated of the measurement, such as a phase; and the
rest, which is the measurement's proximal steps and noise. Beside them is what making the
measurement ready takes, which is not part of the run.

A stopped measurement goes on with --keep RESULT: its rows stay, with their origin, and what it
lacks is measured beside them. --settings takes the beginnings of names. Without a GPU five runs of
one slice of k-space take about three minutes, and of its eight samples a quarter of an hour:

    python benchmarks/inverse_cost.py brain-t1-2d --manifest M --out W --slices 1 --minutes 30 \\
        --settings "mri 1 coil R=4"
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

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

Given = ParamSpec("Given")
Found = TypeVar("Found")
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
    parser.add_argument("--settings", nargs="*", help="beginnings of names; all unless told")
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
    facts["parts"] = "of one more run, in which the device is waited for around each"
    facts["threads"] = None if model.device.type == "cuda" else torch.get_num_threads()
    done = {row["what"] for row in earlier.get("rows", ())}
    ready = list(readied(model, cases, tuple(args.settings or ("",))))
    for n, each in product((1, SAMPLES), ready):
        what = titled(each.name, n, len(cases))
        if what in done:
            continue
        if time.monotonic() > end:
            print(f"{what}: not reached; go on with --keep", flush=True)
            continue
        rows.append(measured(what, each, model, n))
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


@dataclass(frozen=True, eq=False)
class Ready:
    """A way of measuring, its cases, and these made ready."""

    name: str
    head: Head
    given: Sequence[Case]
    problem: Problem


def readied(model: Model, cases: Sequence[Case], starts: tuple[str, ...]) -> Iterator[Ready]:
    """Each way of measuring whose name begins like one of `starts`."""
    for name, head in NOISY.items():
        clean = torch.stack([case.images for case in cases])
        noise = KeyedNoise(0, [(f"degradation {noise_key(case)}", 0) for case in cases])
        noisy = head.corrupt(clean, cases, noise)
        given = [replace(case, images=x) for case, x in zip(cases, noisy, strict=True)]
        if name.startswith(starts):
            yield Ready(name, head, given, head.prepare(given, model))
    for each in settings(model, cases):
        if each.name.startswith(starts):
            given = simulated(each, cases, seed=0)
            yield Ready(each.name, each.head, given, each.head.prepare(given, model))


def titled(name: str, n: int, slices: int) -> str:
    """What a row is about."""
    made = "one result" if n == 1 else f"{n} samples"
    return f"{name}: {made} of each of {slices} slices"


def measured(what: str, ready: Ready, model: Model, n: int) -> Measured:
    """Seconds, with the calls, the memory and the seconds' parts beside them."""
    head, problem, on_gpu = ready.head, ready.problem, model.device.type == "cuda"
    solution = head.solve(problem, model, n, 0)  # to warm up
    calls = solution.nfe if solution.cost is None else solution.cost
    del solution
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    taken = [seconds(head, problem, model, n) for _ in range(RUNS)]
    beside = {"forward-equivalent calls": float(calls)}
    if on_gpu:
        beside["GiB"] = torch.cuda.max_memory_allocated() / 2**30
    beside |= parts(ready, model, n)
    return Measured(what, statistics.median(taken), "s", "lower", beside)


def seconds(head: Head, problem: Problem, model: Model, n: int) -> float:
    """Of one run, until its images are on the CPU."""
    begin = time.monotonic()
    head.solve(problem, model, n, 0).point.cpu()
    return time.monotonic() - begin


def parts(ready: Ready, model: Model, n: int) -> dict[str, float]:
    """Seconds of one run by where they go, and of making its measurement ready."""
    clock = Clock(model.device)
    clock.timed("to make ready", ready.head.prepare)(ready.given, model)
    before, after = (
        model.called.register_forward_pre_hook(lambda _, given: clock.begin("in the network")),
        model.called.register_forward_hook(lambda _, given, found: clock.end("in the network")),
    )
    try:
        clock.timed("all", ready.head.solve)(watched(ready.problem, clock), model, n, 0)
    finally:
        before.remove()
        after.remove()
    named = {name: clock.spent.get(name, 0.0) for name in ("in the network", "in the fit")}
    named["in the rest"] = clock.spent["all"] - sum(named.values())
    named["to make ready"] = clock.spent["to make ready"]
    return {f"s {name}": value for name, value in named.items()}


class Clock:
    """Seconds by name, the device's work included."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.spent = device, dict[str, float]()

    def begin(self, name: str) -> None:
        self.spent[name] = self.spent.get(name, 0.0) - self._now()

    def end(self, name: str) -> None:
        self.spent[name] += self._now()

    def timed(self, name: str, call: Callable[Given, Found]) -> Callable[Given, Found]:
        """`call`, whose time is counted."""

        def called(*args: Given.args, **kwargs: Given.kwargs) -> Found:
            self.begin(name)
            found = call(*args, **kwargs)
            self.end(name)
            return found

        return called

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def watched(problem: Problem, clock: Clock) -> Problem:
    """The problem with the fits of what is estimated of its measurement timed."""
    measurement = problem.measurement
    if measurement is None or measurement.refit is None or measurement.refined is None:
        return problem
    refit, refined = measurement.refit, measurement.refined
    timed = replace(
        measurement,
        refit=lambda members: clock.timed("in the fit", refit(members)),
        refined=clock.timed("in the fit", refined),
    )
    return replace(problem, measurement=timed)


if __name__ == "__main__":
    main()
