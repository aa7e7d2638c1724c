"""How the figures of a benchmark were made: which estimate, at what cost, beside what."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from medidiff.data.datasets import Case
from medidiff.tasks.base import Account, Bench, Problem, Solution, Solves

GIB = 2**30
UNSTATED = "as the head says"


@dataclass(frozen=True)
class Spent:
    """What some cases took."""

    images: int
    equivalents: float
    """Of each image."""
    seconds: float
    """Of all of them."""
    gib: float | None
    estimate: str


def solved_at_cost(
    head: Solves, cases: Sequence[Case], bench: Bench
) -> tuple[Problem, Solution, Spent]:
    """The cases prepared and solved, and what that took.

    Units: seconds by the clock, until the device is done; the most memory that it held at once.
    """
    device = bench.model.device
    counted = device.type == "cuda"
    if counted:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    begin = time.perf_counter()
    problem = head.prepare(cases, bench.model)
    solution = head.solve(problem, bench.model, bench.samples, bench.seed)
    if counted:
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - begin
    gib = torch.cuda.max_memory_allocated(device) / GIB if counted else None
    calls = solution.nfe if solution.cost is None else solution.cost
    estimate = str(solution.facts.get("estimate", UNSTATED))
    return problem, solution, Spent(len(cases), float(calls), seconds, gib, estimate)


def account_of(
    setting: str, spent: Sequence[Spent], bench: Bench, tuned: Mapping[str, str], tuned_on: int
) -> Account:
    """All of a setting's batches together."""
    images = sum(each.images for each in spent)
    memory = [each.gib for each in spent if each.gib is not None]
    return Account(
        setting=setting,
        estimate=" or ".join(dict.fromkeys(each.estimate for each in spent)),
        images=images,
        equivalents=sum(each.equivalents * each.images for each in spent) / images,
        seconds=sum(each.seconds for each in spent) / images,
        gib=max(memory) if memory else None,
        hardware=hardware(bench.model.device),
        tuned=dict(tuned),
        tuned_on=tuned_on,
    )


def hardware(device: torch.device) -> str:
    """Such as "NVIDIA H100" or "CPU, threads: 2"."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type.upper()}, threads: {torch.get_num_threads()}"
