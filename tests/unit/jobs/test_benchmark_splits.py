"""What a benchmark does with a split that is no test, and with a place that fails it."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from medidiff.errors import OutputError, TaskError
from medidiff.evaluation.bootstrap import bootstrap_interval
from medidiff.evaluation.calibration import Calibration
from medidiff.jobs import benchmark as job
from medidiff.jobs.reporting import Quiet
from medidiff.jobs.splits import Splits
from medidiff.tasks.base import OURS, Benchmarked, Calibrated, Needs


class Answered:
    """A head whose benchmark is done."""

    kind = "answered"

    def needs(self) -> Needs:
        return Needs()

    def baselines(self) -> tuple[str, ...]:
        return ("rival",)

    def metrics(self) -> dict[str, str]:
        return {"psnr": "dB; higher"}

    def benchmark(self, bench: Any) -> Benchmarked:
        rows = [
            {"subject": f"s{i}", "setting": "a", "method": method, "psnr": value}
            for i in range(3)
            for method, value in ((OURS, 30.0), ("rival", 25.0))
        ]
        return Benchmarked(rows)  # type: ignore[arg-type]


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Splits whose verdicts were left with the model; nothing is read."""
    told: list[str] = []
    for name in ("check_fit", "check_splits"):
        monkeypatch.setattr(job, name, lambda *given: None)
    for name in ("cases_of_split", "check_cases"):
        monkeypatch.setattr(job, name, lambda *given: [])
    monkeypatch.setattr(job, "keep_verdicts", lambda model, found, split: told.append(split))
    return told


def judged(split: str, out: Path | None = None) -> job.Table:
    model: Any = SimpleNamespace(spec=SimpleNamespace(name="m"), digest="d")
    head: Any = Answered()
    return job.benchmark_head(
        head, model, "manifest.csv", split=split, splits=Splits(), out=out, n=1, seed=0,
        limit=None, mismatch="refuse", report=Quiet(),
    )  # fmt: skip


def test_scans_that_were_learned_are_no_test_and_leave_no_verdict(kept: list[str]) -> None:
    with pytest.warns(UserWarning, match="say nothing of new subjects"):
        table = judged("train")
    assert "say nothing of new subjects" in table.text
    assert kept == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "new subjects" not in judged("test").text
    assert kept == ["test"]


@pytest.mark.parametrize(("subjects", "written"), [(job.LEAST_SUBJECTS - 1, 0), (20, 1)])
def test_a_few_subjects_take_no_verdict_away(
    subjects: int, written: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    monkeypatch.setattr(job, "keep", lambda model, verdicts: told.extend(verdicts))
    right = bootstrap_interval([0.9] * subjects)
    found = Calibrated("a", "inpaint", 0.01, {}, Calibration(right, right, (0.1,) * 10, 8))
    model: Any = None
    job.keep_verdicts(model, Benchmarked([], calibrated=[found]), "test")
    assert len(told) == written


def test_the_split_that_baselines_are_tuned_on_is_not_reported(kept: list[str]) -> None:
    with pytest.raises(TaskError, match="name two splits"):
        judged("val")


def test_results_that_cannot_be_written_are_told(
    kept: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(job, "save_table", full)
    monkeypatch.setattr(job.options, "tree", lambda head: {})
    with pytest.raises(OutputError, match=r"(?s)No space left.*rival.*25\.00"):
        judged("test", tmp_path / "out")
