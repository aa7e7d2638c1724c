"""The verb `doctor`: it passes on this package, and a wrong sampler makes it fail."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor
from typer.testing import CliRunner

from medidiff import api
from medidiff.cli import app
from medidiff.conformance import doctor
from medidiff.conformance.doctor import RECORDED, Checked, Findings, examine, examine_sampler
from medidiff.conformance.recordings import read_cases
from medidiff.diffusion import DDIM, DDPM, VE, Denoise, Heun, NoiseLevel, Step, VPLinear, scale
from medidiff.diffusion.variance import renewed
from medidiff.errors import OutputError


@dataclass(frozen=True)
class Silent:
    """DDPM without its noise."""

    finishes: bool = False

    def step(
        self, denoise: Denoise, x: Tensor, now: NoiseLevel, to: NoiseLevel, memory: Any, at: Step
    ) -> tuple[Tensor, None]:
        """The posterior's mean alone."""
        return DDPM().transition(x, denoise(x, now), now, to).mean, None


@dataclass(frozen=True)
class Skewed:
    """DDIM a little too far: right in the limit of nothing."""

    finishes: bool = False

    def step(
        self, denoise: Denoise, x: Tensor, now: NoiseLevel, to: NoiseLevel, memory: Any, at: Step
    ) -> tuple[Tensor, None]:
        """DDIM's step with a little of the noise left in."""
        here = denoise(x, now)
        return scale(to.alpha, x) * here.clean + scale(1.001 * to.sigma, x) * here.eps, None


def test_right_samplers_have_no_fault() -> None:
    for checked in (Checked("DDPM", DDPM()), Checked("Heun", Heun(), 2)):
        row = examine_sampler(checked, VE())
        assert row.fault == ""
        assert row.std == pytest.approx(0.2, rel=0.08)


def test_a_sampler_without_its_noise_is_found() -> None:
    row = examine_sampler(Checked("DDPM", Silent()), VPLinear())
    assert "std" in row.fault


def test_a_solver_that_does_not_converge_is_found() -> None:
    row = examine_sampler(Checked("DDIM", Skewed(), 1), VPLinear())
    assert "order" in row.fault


def test_a_sampler_that_breaks_is_a_fault_and_not_the_end() -> None:
    row = examine_sampler(Checked("DDIM", object(), 1), VPLinear())  # type: ignore[arg-type]
    assert row.fault.startswith("AttributeError")


def test_the_packaged_recordings_are_small_and_followed() -> None:
    assert sum(file.stat().st_size for file in RECORDED.iterdir()) < 1e6
    found = examine(samplers=[])
    assert found.faults == []
    assert len(found.outcomes) == len(list(read_cases(RECORDED))) > 60


def test_a_wrong_formula_fails_its_recordings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DDIM, "_fresh", lambda self, now, to: 0.9 * renewed(now, to))
    faults = examine(samplers=[]).faults
    assert any(fault.startswith("recording ermon_ddim") for fault in faults)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """One sampler on one schedule, and no recordings, for tests of the verb itself."""
    row = examine_sampler(Checked("DDIM", DDIM(), 1), VE())
    monkeypatch.setattr("medidiff.jobs.doctor.examine", lambda progress: Findings((row,), ()))


def test_the_verb_prints_its_tables_and_writes_the_same_as_json(
    quick: None, tmp_path: Path
) -> None:
    file = tmp_path / "found.json"
    done = CliRunner().invoke(app, ["doctor", "--json", str(file)])
    assert done.exit_code == 0, done.output
    for part in ("DDIM", "(target)", "order", "torch", "MLflow store", "All is well."):
        assert part in done.output
    tree = json.loads(file.read_text())
    assert tree["well"]
    assert tree["samplers"][0]["sampler"] == "DDIM"
    assert tree["environment"]["torch"]


def test_the_verb_exits_1_with_the_names_of_what_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = examine_sampler(Checked("silent DDPM", Silent()), VE())
    monkeypatch.setattr("medidiff.jobs.doctor.examine", lambda progress: Findings((wrong,), ()))
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 1
    assert "silent DDPM on ve: std" in done.output.splitlines()[-1]


def test_a_file_that_cannot_be_written_is_the_users_to_mend(quick: None, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        api.doctor(json_file=tmp_path / "absent" / "found.json")


@pytest.mark.slow
def test_the_whole_suite_finds_nothing_wrong_here() -> None:
    told: list[tuple[str, int, int]] = []
    found = examine(progress=lambda what, done, total: told.append((what, done, total)))
    assert found.faults == []
    assert len(found.rows) == len(doctor.SAMPLERS) * len(doctor.SCHEDULES)
    assert ("samplers", len(found.rows), len(found.rows)) in told
