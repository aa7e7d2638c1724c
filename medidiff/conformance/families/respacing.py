"""openai/guided-diffusion's respacings: names such as `10_15_20_of300` and `ddim25_of1000`."""

from __future__ import annotations

import torch

from medidiff.conformance.recordings import Case, check_agrees
from medidiff.diffusion.steps import respaced_steps, strided_steps


def replay(case: Case) -> None:
    """Compare every list; DDPM's index is one less than our step."""
    for name, theirs in case.arrays.items():
        spelled, table = name.split("_of")
        ours = respaced(spelled.replace("_", ","), int(table))
        check_agrees(name, torch.tensor(ours, dtype=torch.float64) - 1, theirs, 0)


def respaced(spelled: str, table: int) -> list[int]:
    """guided-diffusion's spelling: "" (all), "ddimN", or sections with commas."""
    if not spelled or spelled.startswith("none"):
        return list(range(1, table + 1))
    if spelled.startswith("ddim"):
        return strided_steps(table, int(spelled.removeprefix("ddim")))
    return respaced_steps(table, tuple(int(count) for count in spelled.split(",")))
