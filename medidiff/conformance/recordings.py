"""Recordings of original implementations: a folder of index.json and FAMILY.npz files.

`index.json` lists the cases (name, kind, source, sampler, meta, arrays); the arrays of a case lie
in FAMILY.npz under CASE/ARRAY, where the family is the case's name up to the first underscore.
Nothing in them is executed or unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medidiff.conformance.oracles import Mixture
from medidiff.diffusion.noise import TapeNoise
from medidiff.types import Tensor

TOLERANCE = 1e-7
"""Relative to 1 + max|reference|, float64 on both sides."""
LEVEL_TOLERANCE = 1e-10


class Unsupported(Exception):  # noqa: N818 - an outcome, not a fault
    """There is nothing of ours to set beside this case; the text says why."""


@dataclass(frozen=True, eq=False)
class Case:
    """One recording: what made it, and its arrays in float64."""

    folder: Path
    name: str
    kind: str
    sampler: str
    meta: dict[str, Any]
    source: str = ""

    @property
    def family(self) -> str:
        """The name up to the first underscore."""
        return self.name.split("_")[0]

    @cached_property
    def arrays(self) -> dict[str, Tensor]:
        """All arrays of the case by name."""
        with np.load(self.folder / f"{self.family}.npz", allow_pickle=False) as stored:
            return {
                key.removeprefix(f"{self.name}/"): _tensor(stored[key])
                for key in stored.files
                if key.startswith(f"{self.name}/")
            }

    def __getitem__(self, array: str) -> Tensor:
        return self.arrays[array]

    def __contains__(self, array: str) -> bool:
        return array in self.arrays

    def sibling(self, name: str) -> Case:
        """Another case of the same folder, for a table that several cases share."""
        return find_case(self.folder, name)

    @cached_property
    def mixture(self) -> Mixture:
        """The model behind the recording: its own, or the folder's."""
        if "gm_w" in self:
            return Mixture(self["gm_w"], self["gm_mu"], self["gm_v"])
        model = self.sibling("model")
        return Mixture(model["w"], model["mu"], model["v"])

    def draws(self, count: int, seed: str = "noise_seed") -> Tensor:
        """The recorded noise, or `count` fields by numpy's generator of the recorded seed."""
        if "noise" in self:
            return self["noise"]
        shape = (count, *self["x_init" if "x_init" in self else "x0"].shape)
        return torch.from_numpy(np.random.default_rng(self.meta[seed]).standard_normal(shape))

    def tape(self, count: int) -> TapeNoise:
        """The recorded noise, one draw for each of `count` hops."""
        return TapeNoise([[field] for field in self.draws(count)])


def read_cases(folder: Path) -> Iterator[Case]:
    """Every case of a folder, in the order of its index."""
    for entry in json.loads((folder / "index.json").read_text()):
        yield Case(
            folder,
            entry["name"],
            entry["kind"],
            entry.get("sampler", ""),
            entry["meta"],
            entry.get("source", ""),
        )


def find_case(folder: Path, name: str) -> Case:
    """The case of that name. Errors: KeyError."""
    for case in read_cases(folder):
        if case.name == name:
            return case
    raise KeyError(f"{folder.name} holds no case {name}")


def check_agrees(what: str, ours: Tensor, reference: Tensor, tolerance: float = TOLERANCE) -> None:
    """Raise AssertionError, with the difference, unless ours is the reference's.

    The bound is tolerance * (1 + max|reference|); shapes must be equal and ours finite wherever the
    reference is.
    """
    if ours.shape != reference.shape:
        raise AssertionError(f"{what}: shape {tuple(ours.shape)}, not {tuple(reference.shape)}")
    known = reference.isfinite()
    bound = tolerance * (1 + float(reference[known].abs().max())) if bool(known.any()) else 0.0
    worst = (ours - reference)[known].abs()
    found = float(worst.max()) if worst.numel() else 0.0
    if not found <= bound or not bool((ours.isfinite() == known).all()):
        raise AssertionError(f"{what}: differs by {found:.3g}, allowed {bound:.3g}")


def check_levels(ours: list[Any], case: Case) -> None:
    """Raise AssertionError unless our levels are those at which the original called its model.

    `ours` are the levels of the calls, one each, in the order of `call_alphas` and `call_sigmas`.
    """
    for name, mine in (("alpha", [x.alpha for x in ours]), ("sigma", [x.sigma for x in ours])):
        array = f"call_{name}s"
        if array in case:
            check_agrees(f"levels' {name}", torch.stack(mine), case[array], LEVEL_TOLERANCE)


def check_states(states: list[Tensor], case: Case) -> None:
    """Raise AssertionError unless our states are `xs` (at `xs_index`, thinned) and `x_final`.

    `states` begin with the initial one and end with the result.
    """
    check_agrees("result", states[-1], case["x_final"])
    if "xs" not in case:
        return
    thin = int(case.meta.get("thin", 1))
    count = len(case["xs"])
    index = case["xs_index"].long() if "xs_index" in case else torch.arange(count)
    for place, reference in zip(index.tolist(), case["xs"], strict=True):
        check_agrees(f"state {place * thin}", states[place * thin], reference)


def _tensor(stored: Any) -> Tensor:
    return torch.from_numpy(np.array(stored, np.float64))
