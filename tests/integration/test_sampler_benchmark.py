"""benchmarks/sampler_quality.py: several processes give one's numbers; what a sampler warned of."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ("own_samplers", "peer_samplers", "record", "sampler_quality", "sampler_quality_page")


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    for name in SCRIPTS:
        monkeypatch.delitem(sys.modules, name, raising=False)
    import sampler_quality

    threads = torch.get_num_threads()
    yield sampler_quality
    torch.set_num_threads(threads)


def named(benchmark: Any, name: str) -> Any:
    return next(one for one in benchmark.own() if one.name == name)


def test_a_short_chain_s_fault_is_told_with_the_sampler_s_own_words(
    benchmark: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "FAULT_COUNTS", (50,))
    monkeypatch.setattr(benchmark, "wide_noise", lambda: benchmark.noises(4)[:, :, :1, :1])
    short, settled = "20 half steps a level", "half steps, settled"
    found = benchmark.faults(named(benchmark, f"AnnealedLangevin {short} leading"))
    assert list(found.structural) == [50]
    assert "take steps >= 30" in found.warned[50]
    page = benchmark.page({}, {short: found.structural}, {short: found.warned})
    assert f"| {short} | 50: 0." in page
    assert "take steps >= 30" in page
    none = benchmark.faults(named(benchmark, f"AnnealedLangevin {settled} leading"))
    assert none == benchmark.Faults({}, {}, {})


def test_chains_that_grow_are_counted_before_they_run(benchmark: Any) -> None:
    settled = named(benchmark, "AnnealedLangevin half steps, settled uniform")
    assert settled.steps_within(20) is None
    assert settled.steps_within(50) == 1
    assert settled.calls(1) == 21
    assert settled.calls(50) > 20 * 50 + 1
    refused = named(benchmark, "AnnealedLangevin half steps, settled karras")
    assert refused.calls(2) == float("inf")
    assert refused.steps_within(50) == 1


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(benchmark: Any) -> None:
    names = ("DDIM uniform", "DDPM leading", "SASolver karras", "PNDM F uniform")
    runs = [benchmark.Run(named(benchmark, name), 7, 64) for name in names]
    found = []
    for count in (1, 2):
        with benchmark.workers(count) as each:
            found.append(list(each(benchmark.run_one, runs)))
    assert [outcome is None for outcome in found[0]] == [False, False, False, True]
    for one, two in zip(*found, strict=True):
        assert (one is None) == (two is None)
        assert one is None or (one.name, one.calls) == (two.name, two.calls)
        assert one is None or torch.equal(one.functions, two.functions)
