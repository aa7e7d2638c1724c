"""Snapshots of averaged weights on disk, and the average of another length out of them.

Half precision (float16): as small as bfloat16 and eight times as fine, and no weight is near its
65504. A combination of snapshots multiplies their rounding by the norm of its coefficients (1 to 4
for the lengths that are allowed); where weights have settled, bfloat16's is then a fifth of what
tells averages of 0.05 and 0.1 apart, float16's a fortieth.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from medidiff.errors import TrainingError
from medidiff.training.options import SPANNED
from medidiff.training.posthoc_ema import combined, posthoc_coefficients, profile_error


@dataclass(frozen=True)
class Snapshot:
    """The average of relative standard deviation `std` after optimiser step `step`."""

    file: Path
    step: int
    std: float


def save_snapshot(
    folder: Path, step: int, std: float, network: nn.Module, names: Collection[str]
) -> Path:
    """Write the parameters `names` of an averaged network."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        name: value.detach().to(torch.float16).cpu().contiguous()
        for name, value in network.named_parameters()
        if name in names
    }
    file = folder / f"step-{step:08d}-std-{std:g}.safetensors"
    part = file.with_suffix(".part")
    save_file(weights, part, metadata={"step": str(step), "std": repr(std)})
    part.replace(file)
    return file


def snapshots_until(folder: Path, step: int) -> list[Snapshot]:
    """The snapshots up to a step, in the order of their steps."""
    found = []
    for file in sorted(folder.glob("step-*.safetensors")):
        with safe_open(file, framework="pt") as content:
            facts = content.metadata()
        found.append(Snapshot(file, int(facts["step"]), float(facts["std"])))
    return [each for each in found if each.step <= step]


def spanned(snapshots: list[Snapshot], step: int, std: float) -> bool:
    """Whether the average of length `std` at `step` can be found from the snapshots."""
    if not snapshots:
        return False
    return profile_error(*_places(snapshots), step, std) <= SPANNED


def reconstructed(snapshots: list[Snapshot], step: int, std: float) -> dict[str, Tensor]:
    """The average of length `std` at `step`, in float32.

    Errors: TrainingError if the snapshots do not span it.
    """
    if not spanned(snapshots, step, std):
        raise TrainingError(
            f"the average of relative std {std:g} at step {step} cannot be found from the "
            f"{len(snapshots)} snapshots that were kept; lengths between those of the snapshots "
            "and up to twice as long can"
        )
    coefficients = posthoc_coefficients(*_places(snapshots), step, std)
    return combined([load_file(each.file) for each in snapshots], coefficients)


def _places(snapshots: list[Snapshot]) -> tuple[list[float], list[float]]:
    return [float(each.step) for each in snapshots], [each.std for each in snapshots]
