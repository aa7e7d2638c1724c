"""The verdicts on calibration that lie with the benchmark's prior are found by the heads."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from medidiff.data.datasets import Case, Original
from medidiff.data.intensity import FittedIntensity, Scale
from medidiff.data.options import Space
from medidiff.jobs.pretrained import SHIPPED
from medidiff.model import Model
from medidiff.networks import NetworkShape, UNetOptions, build
from medidiff.spec import ModelSpec
from medidiff.tasks import Inpainting, Reconstruction, SuperResolution, calibrated
from medidiff.tasks.base import Bench
from medidiff.tasks.calibrated import FILE, verdict
from medidiff.tasks.counted import CountNoise
from medidiff.tasks.defaults import chosen_for
from medidiff.tasks.denoise import LEVELS, Denoising
from medidiff.tasks.reconstruct import SETTINGS
from medidiff.tasks.settings import Setting, simulated

KEPT = Path(__file__).parents[3] / "benchmarks" / "weights" / "brain-t1-2d-benchmark"
OF_THE_SHIPPED = SHIPPED / "brain-t1-2d" / FILE
STORED = json.loads((KEPT / FILE).read_text(encoding="utf-8"))
NETWORK = UNetOptions(channels=(4, 8), blocks=1, attention=(False, False), groups=2)
# what was measured does not depend on them, but that a phase of few lines is no smooth one
SIZES = {"mri": (80, 176), "radon": (24, 24)}
NAMES = (*SETTINGS, "super-resolution", "inpaint")


def model_of(size: tuple[int, int]) -> Model:
    intensity = FittedIntensity((0.0,), (255.0,), "train", None, (-1.0, 1.0))
    shape, space = NetworkShape(dims=2), Space(2, size, (1.0, 1.0))
    spec = ModelSpec("tiny", "MR", ("image",), space, intensity, NETWORK, shape)
    return Model(spec, build(NETWORK, shape).eval().requires_grad_(False))


def case_of(size: tuple[int, int]) -> Case:
    down, across = np.mgrid[: 1 : complex(size[0]), : 1 : complex(size[1])] - 0.5
    disc = np.exp(-8 * (down**2 + across**2)) * (1 + 0.3 * np.sin(9 * across))
    image = torch.from_numpy(1.4 * disc - 1).float()[None]
    scale = Scale((0.0,), (255.0,))
    return Case(
        "", 1, image, {}, None, scale, np.eye(4), Original(size, np.eye(4), True, "MR", (0.0,))
    )


def setting(name: str, model: Model, case: Case) -> Setting:
    if name in SETTINGS:
        (found,) = Reconstruction(settings=(name,))._settings()
        return found
    head = SuperResolution() if name == "super-resolution" else Inpainting()
    (found,) = head.settings_of(Bench(model, [case], [case], [case]))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_each_setting_of_the_benchmarks_finds_its_verdict(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = SIZES.get(name.split()[0], (208, 176))
    model, case = model_of(size), case_of(size)
    judge = setting(name, model, case)
    problem = judge.head.prepare(simulated(judge, [case], seed=0), model)
    assert problem.measurement is not None
    kind = problem.measurement.kind
    stored = [each for each in STORED["verdicts"] if each["kind"] == kind]
    assert stored, f"nothing was ever judged of {kind!r}"
    # a model folder that holds the verdicts, as if with the weights that they are of
    (tmp_path / FILE).write_bytes((KEPT / FILE).read_bytes())
    monkeypatch.setattr(calibrated, "_weights", lambda folder: STORED["weights"])
    monkeypatch.setattr(model, "folder", tmp_path)
    how = chosen_for(kind, 8)
    today = calibrated._sampler(kind, calibrated._tree(how))
    current = [each for each in stored if calibrated._sampler(kind, each["posterior"]) == today]
    assert current, f"{name} is drawn by another sampler now: judge it again (--n 8)"
    right = any(each["calibrated"] for each in current)
    found = verdict(model, [kind], [current[0]["noise"]], how)
    assert found == ("calibrated" if right else "uncalibrated")
    ours = json.loads(OF_THE_SHIPPED.read_text(encoding="utf-8"))["verdicts"]
    assert today in [
        calibrated._sampler(kind, each["posterior"]) for each in ours if each["kind"] == kind
    ]


def test_the_verdicts_are_of_the_weights_beside_them() -> None:
    sums = (KEPT / "SHA256SUMS").read_text(encoding="utf-8").split()
    assert STORED["weights"] == sums[sums.index("model.safetensors") - 1]
    assert any(each["calibrated"] for each in STORED["verdicts"])


@pytest.mark.parametrize("file", [KEPT / FILE, OF_THE_SHIPPED], ids=["benchmark", "shipped"])
def test_each_kind_and_level_of_noise_was_judged_for_todays_samples(file: Path) -> None:
    judged = json.loads(file.read_text(encoding="utf-8"))["verdicts"]
    for noise, levels in LEVELS.items():
        for level in levels:
            stated_by = Denoising(noise=noise).noise_law.stated_by  # type: ignore[arg-type]
            head = Denoising(noise=noise, **{stated_by: level})  # type: ignore[arg-type]
            law, kind = head.noise_law, head.measured_as
            how = chosen_for(kind, 8) if isinstance(law, CountNoise) else head.drawn_by
            today = calibrated._sampler(kind, calibrated._tree(how))
            sigma = law.sigma(level)
            assert [
                each
                for each in judged
                if (each["kind"], each["calibrated"]) == (kind, True)
                and each["noise"] == pytest.approx(sigma)
                and calibrated._sampler(kind, each["posterior"]) == today
            ], (noise, level)


@pytest.mark.parametrize("name", ["mri 1 coil R=4", "radon 60 views"])
def test_another_level_of_noise_is_judged_by_itself(name: str) -> None:
    model, case = model_of((80, 176)), case_of((80, 176))
    plain = Reconstruction(settings=(name,))
    (quiet,), (loud,) = plain._settings(), replace(plain, noise_scale=2.0)._settings()
    (level,), (doubled,) = (
        each.head.prepare(simulated(each, [case], seed=0), model).levels for each in (quiet, loud)
    )
    assert doubled == pytest.approx(2 * level, rel=0.1)
    assert loud.name == f"{name} (noise x2)"
    assert quiet.targets
    assert not loud.targets


def test_what_is_judged_anew_takes_the_place_of_the_earlier_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of((80, 176))
    monkeypatch.setattr(calibrated, "_weights", lambda folder: STORED["weights"])
    monkeypatch.setattr(model, "folder", tmp_path)
    how = chosen_for("radon 60", 8)
    before = {
        "kind": "radon 60",
        "noise": 0.01,
        "posterior": calibrated._tree(how),
        "calibrated": True,
    }
    calibrated.keep(model, [before])
    calibrated.keep(model, [before | {"noise": 0.0102, "calibrated": False}])  # a little apart
    assert verdict(model, ["radon 60"], [0.01], how) == "uncalibrated"
    calibrated.keep(model, [before | {"noise": 0.011}])  # another level: the nearest one counts
    assert verdict(model, ["radon 60"], [0.01], how) == "uncalibrated"
    assert verdict(model, ["radon 60"], [0.0108], how) == "calibrated"
    kept = json.loads((tmp_path / FILE).read_text(encoding="utf-8"))["verdicts"]
    assert [each["noise"] for each in kept] == [0.0102, 0.011]
