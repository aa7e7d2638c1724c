"""Results are handed over one by one, and what speaks against all of them is said at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medidiff import api
from medidiff.data.intensity import FittedIntensity
from medidiff.data.options import Space
from medidiff.errors import DataError, TaskError
from medidiff.model import Model
from medidiff.networks import NetworkShape, UNetOptions, build
from medidiff.spec import ModelSpec

SIZE = (16, 12)


def tiny() -> Model:
    network = UNetOptions(channels=(8,), blocks=1, attention=(False,), groups=2)
    intensity = FittedIntensity((0.0,), (255.0,), "train", None, (-1.0, 1.0))
    shape = NetworkShape(2, 1, 1)
    spec = ModelSpec("tiny", "MR", ("image",), Space(2, SIZE), intensity, network, shape)
    return Model(spec, build(network, shape).eval())


def test_a_result_is_there_before_a_later_input_fails(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    values = np.random.default_rng(0).integers(0, 255, SIZE, np.uint8)
    Image.fromarray(values).save(good)
    bad.write_bytes(b"none")
    results = api.run_each("denoise", tiny(), [good, bad], sigma=0.3)
    assert next(results).image.shape == (1, *SIZE)
    with pytest.raises(DataError, match="input 2: "):
        next(results)


def test_an_unknown_task_or_option_is_refused_before_a_result_is_asked_for() -> None:
    with pytest.raises(TaskError, match="no task is called"):
        api.run_each("nothing", tiny(), ["scan.png"])
    with pytest.raises(TaskError, match="sigma must lie"):
        api.run_each("denoise", tiny(), ["scan.png"], sigma=-1.0)
    with pytest.raises(TaskError, match="a plane is two letters"):
        api.run_each("denoise", tiny(), ["scan.png"], plane="PP")
    with pytest.raises(TaskError, match="takes a list of scans"):
        api.run_each("denoise", tiny(), "scan.png")
