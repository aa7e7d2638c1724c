"""What a measurement of costs tells of where the seconds go."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from medidiff.data.datasets import Case
from medidiff.data.images import Original
from medidiff.data.intensity import Scale
from medidiff.diffusion import KeyedNoise
from medidiff.inverse import DiffPIR
from medidiff.tasks import Reconstruction
from medidiff.tasks.defaults import Posterior
from medidiff.tasks.simulate import SimulatedMRI

from .conftest import Make

SIZE = (24, 24)


def test_the_network_the_fit_and_the_rest_are_all_of_a_result(benchmarks: Path, make: Make) -> None:
    from inverse_cost import Ready, measured, parts

    model, head = make("tiny"), Reconstruction(posterior=Posterior(DiffPIR(), steps=2, draws=2))
    image = torch.rand((1, *SIZE), generator=torch.Generator().manual_seed(0)) - 0.5
    original = Original(SIZE, np.eye(4), True, "MR", (0.0,))
    clean = Case("s", 0, image, {}, None, Scale((0.0,), (255.0,)), np.eye(4), original, "c")
    given = SimulatedMRI(2, 0.3)([clean], KeyedNoise(0, [("s", 0)]))
    ready = Ready("mri", head, given, head.prepare(given, model))
    calls: list[int] = []
    model.called.register_forward_hook(lambda _, given, found: calls.append(len(given[0])))
    found = parts(ready, model, 1)
    assert sum(calls) == 4
    assert list(found) == ["s in the network", "s in the fit", "s in the rest", "s to make ready"]
    assert min(found.values()) > 0
    row = measured("mri", ready, model, 1)
    assert set(row.peers) == {"forward-equivalent calls", *found}
    assert row.peers["forward-equivalent calls"] == 4
    assert len(model.called._forward_hooks) == 1  # those of the clock are gone
