"""What a head found, back on each input's grid and in its intensity units, with maps and
provenance."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medidiff import options
from medidiff.data.datasets import Case, inside, restore
from medidiff.evaluation.calibration import central_interval, interval_share
from medidiff.model import Model
from medidiff.tasks.base import Filled, Head, Problem, Solution
from medidiff.tasks.results import Result

VALUES = 2**24  # of samples that are sorted for maps at a time


def finish(
    head: Head, problem: Problem, solution: Solution, model: Model, n: int, seed: int
) -> list[Result]:
    """Back to each input's grid and intensity units, with provenance."""
    results = []
    for index, case in enumerate(problem.cases):
        filled = solution.filled[index] if solution.filled else None
        image, affine = restore(case, _intensities(case, solution.point[index]))
        image = image if filled is None else filled(image)
        maps, samples = {}, []
        if solution.samples is not None:
            maps = _maps(case, solution.samples[:, index], filled)
            if solution.kept == "all":
                samples = [_restored(case, x, filled) for x in solution.samples[:, index]]
        made = model.provenance(
            "AI-PROCESSED", seed=seed, nfe=solution.nfe, sampling=solution.sampling
        )
        provenance = made | {
            "task": options.tree(head),
            "samples": n,
            "forward_equivalents": solution.nfe if solution.cost is None else solution.cost,
            "uncertainty": "uncalibrated" if maps else "none",
            **({"interval": round(interval_share(n), 4)} if maps else {}),
            **solution.facts,
        }
        came = case.original
        modality = came.modality or model.spec.modality
        results.append(
            Result(image, affine, provenance, maps, samples, modality, came.known, came.sized)
        )
    return results


def _restored(case: Case, x: Tensor, filled: Filled | None) -> NDArray[np.float32]:
    """A sample (channel, *space) on the input's grid."""
    image, _ = restore(case, _intensities(case, x))
    return image if filled is None else filled(image)


def _maps(case: Case, drawn: Tensor, filled: Filled | None) -> dict[str, NDArray[np.float32]]:
    """Standard deviation and central 90 % of samples (n, channel, *space) in model units, on the
    input's grid."""
    rows = max(1, VALUES // drawn[:, :, :1].numel())
    parts = [_spread_of(case, part) for part in drawn.split(rows, dim=2)]
    spread, *ends = (torch.cat(each, 1) for each in zip(*parts, strict=True))
    low, high = (restore(case, end)[0] for end in ends)
    std = restore(case, spread)[0] * inside(case)
    if filled is not None:
        std, low, high = std * filled.hole, filled(low), filled(high)
    return {"std": std, "p05": low, "p95": high}


def _spread_of(case: Case, drawn: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(standard deviation, lower and upper end) of part of the samples, in intensity units."""
    values = torch.stack([_intensities(case, x) for x in drawn])
    ends = central_interval(values.numpy())
    low, high = (torch.from_numpy(end.astype(np.float32)) for end in ends)
    return values.std(0), low, high


def _intensities(case: Case, x: Tensor) -> Tensor:
    return case.scale.inverse(x.cpu(), axis=0)
