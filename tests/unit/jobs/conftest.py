"""A model so small that it is made, saved and loaded in no time."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from medidiff.data.intensity import fit
from medidiff.data.options import Space, Window
from medidiff.model import Model
from medidiff.networks import NetworkShape, UNetOptions, build
from medidiff.spec import Lineage, ModelSpec, SamplingOptions

Make = Callable[[str], Model]


@pytest.fixture
def make() -> Make:
    """A model of a name, on 24 x 24 images with intensities 0 .. 255."""

    def tiny(name: str) -> Model:
        options = UNetOptions(channels=(4, 8), blocks=1, attention=(False, False), groups=2)
        shape = NetworkShape()
        network = build(options, shape).eval().requires_grad_(False)
        intensity = fit(Window(low=0, high=255), [torch.linspace(0, 255, 576).view(1, 24, 24)])
        spec = ModelSpec(
            name,
            "MR",
            ("image",),
            Space(2, (24, 24)),
            intensity,
            options,
            shape,
            sampling=SamplingOptions(steps=2),
            lineage=Lineage(train_images=3, train_subjects=3, steps=7),
        )
        return Model(spec, network)

    return tiny


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the benchmarks, whose scripts import each other."""
    folder = Path(__file__).resolve().parents[3] / "benchmarks"
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    names = ("record", "ship", "weights", "inverse_problems", "supervised_peers")
    for name in (*names, "inverse_cost", "tune_inverse", "validation"):
        sys.modules.pop(name, None)
