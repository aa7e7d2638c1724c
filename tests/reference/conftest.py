"""The exactly solvable model behind the recorded trajectories, and the recordings themselves."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from medidiff.diffusion import Estimate, NoiseLevel, scale

SUBSET = Path(__file__).parent / "data"


@dataclass(frozen=True, eq=False)
class Case:
    """One recording: what made it, and its arrays in float64."""

    name: str
    meta: dict
    arrays: dict[str, Tensor]

    def __getitem__(self, array: str) -> Tensor:
        return self.arrays[array]

    def __contains__(self, array: str) -> bool:
        return array in self.arrays


@dataclass(frozen=True, eq=False)
class Mixture:
    """Clean images from sum_k w_k N(mu_k, diag v_k): its exact denoiser."""

    weights: Tensor
    means: Tensor
    variances: Tensor

    def parts(self, x: Tensor, level: NoiseLevel) -> tuple[Tensor, Tensor, Tensor]:
        """Responsibilities, residuals and variances of x for every component."""
        alpha, sigma = scale(level.alpha, x), scale(level.sigma, x)
        variance = alpha**2 * self.variances + sigma**2
        residual = x[:, None] - alpha * self.means
        logits = self.weights.log() - 0.5 * (residual**2 / variance + variance.log()).sum((2, 3, 4))
        return logits.softmax(1)[..., None, None, None], residual, variance

    def __call__(self, x: Tensor, level: NoiseLevel) -> Estimate:
        share, residual, variance = self.parts(x, level)
        alpha, sigma = scale(level.alpha, x), scale(level.sigma, x)
        gain = alpha * self.variances / variance
        clean = (share * (self.means + gain * residual)).sum(1)
        return Estimate(clean, (share * sigma * residual / variance).sum(1))


@cache
def _index(folder: Path) -> dict[str, dict]:
    return {case["name"]: case for case in json.loads((folder / "index.json").read_text())}


def read_case(folder: Path, name: str) -> Case:
    """The case of that name from a folder with index.json and FAMILY.npz."""
    with np.load(folder / f"{name.split('_')[0]}.npz") as arrays:
        found = {
            key.removeprefix(f"{name}/"): torch.from_numpy(np.asarray(arrays[key], np.float64))
            for key in arrays.files
            if key.startswith(f"{name}/")
        }
    return Case(name, _index(folder)[name]["meta"], found)


@pytest.fixture(scope="session")
def recorded(request: pytest.FixtureRequest) -> Callable[[str], Case]:
    """name -> Case, from the committed subset or else from the full set."""

    def find(name: str) -> Case:
        if name in _index(SUBSET):
            return read_case(SUBSET, name)
        return read_case(request.getfixturevalue("trajectories"), name)

    return find


@pytest.fixture(scope="session")
def mixture(recorded: Callable[[str], Case]) -> Mixture:
    """The model of all recordings."""
    model = recorded("model")
    return Mixture(model["w"], model["mu"], model["v"])
