"""A benchmark's text says what its figures are."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from medidiff.jobs.benchmark import Table, make_table, save_table
from medidiff.tasks.base import OURS, Account, Benchmarked, Limit, Target
from medidiff.tasks.denoise import Denoising

ACCOUNT = Account(
    "rician 0.1", "the mean of 4 samples", 3, 160.5, 1.25, None, "CPU, threads: 2",
    {"block matching": "strength 0.9"}, 6,
)  # fmt: skip


def found(bias: float) -> Benchmarked:
    columns = {"ssim_head": 0.9, "psnr": 30.0, "ssim": 0.9, "background_bias": bias}
    rows = [
        {
            "subject": f"s{i}",
            "setting": "rician 0.1",
            "method": method,
            "psnr_head": value,
            **columns,
        }
        for i in range(3)
        for method, value in ((OURS, 30.0 + i), ("block matching", 25.0))
    ]
    targets = [Target("rician 0.1", ("block matching",), 4.0)]
    limits = [Limit("rician 0.1", "background_bias", 0.01)]
    return Benchmarked(rows, targets=targets, limits=limits, accounts=[ACCOUNT])  # type: ignore[arg-type]


def table_of(bias: float) -> Table:
    return make_table(Denoising(noise="rician"), found(bias))  # type: ignore[arg-type]


def test_the_text_says_region_range_estimate_cost_and_how_baselines_were_chosen() -> None:
    text = table_of(0.002).text
    assert "psnr_head: dB, in-head, data range = the intensity window" in text
    assert "psnr: dB, whole image, data range = the intensity window" in text
    assert f"{OURS} is the mean of 4 samples" in text
    assert "160.5 network calls an image (a backward counts two), 1.25 s an image" in text
    assert "CPU, threads: 2" in text
    assert "tuned on 6 validation scans: block matching, strength 0.9" in text
    assert "simulated from the split's images and its noise level told to all methods" in text
    assert "95% bootstrap interval over subjects" in text


@pytest.mark.parametrize(("bias", "verdict"), [(0.002, "kept"), (0.02, "exceeded")])
def test_a_limit_is_held_beside_ours_alone(bias: float, verdict: str) -> None:
    table = table_of(bias)
    assert [goal.verdict for goal in table.goals] == ["reached", verdict]
    (line,) = [line for line in table.text.splitlines() if "<= 0.01" in line]
    assert verdict in line


def test_the_same_stands_in_the_files(tmp_path: Path) -> None:
    head: Any = Denoising(noise="rician")
    model: Any = SimpleNamespace(spec=SimpleNamespace(name="m"), digest="d")
    save_table(table_of(0.02), found(0.02), head, model, {"split": "test"}, tmp_path)
    tree = json.loads((tmp_path / "summary.json").read_text())
    assert tree["facts"]["accounts"][0]["equivalents"] == 160.5
    assert [goal["verdict"] for goal in tree["goals"]] == ["reached"]
    assert [limit["verdict"] for limit in tree["limits"]] == ["exceeded"]
    text = (tmp_path / "table.md").read_text()
    assert "- psnr_head: dB, in-head" in text
    assert "- rician 0.1: medidiff is the mean of 4 samples" in text
