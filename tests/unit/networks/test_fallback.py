"""Where the fused kernels do not run: plain torch, and one warning that says why."""

from __future__ import annotations

import importlib.util
import sys
import types
import warnings
from collections.abc import Iterator

import pytest
import torch

from medidiff.networks import NetworkShape, UNetOptions, build, kernels
from medidiff.networks.graphs import accelerated
from medidiff.types import Tensor


@pytest.fixture(autouse=True)
def asked_afresh() -> Iterator[None]:
    kernels.available.cache_clear()
    yield
    kernels.available.cache_clear()


def failing_probe(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def run() -> None:
        raise error

    probe = types.ModuleType("medidiff.networks.kernels.probe")
    monkeypatch.setattr(probe, "run", run, raising=False)
    monkeypatch.setitem(sys.modules, probe.__name__, probe)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("Failed to find C compiler."), "C compiler"),
        (PermissionError(13, "Permission denied", "/root/.triton"), "Permission denied"),
        (OSError("cuda_utils.so: failed to map segment from shared object"), "failed to map"),
        (ValueError("unknown target sm_37\nand a long trace"), "sm_37"),
    ],
)
def test_what_is_missing_is_said_once(
    error: Exception, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing_probe(monkeypatch, error)
    with pytest.warns(RuntimeWarning, match="plain torch is used") as seen:
        assert not any(kernels.available() for _ in range(3))
    assert len(seen) == 1
    assert reason in str(seen[0].message)
    assert "TRITON_CACHE_DIR" in str(seen[0].message)
    assert "long trace" not in str(seen[0].message)


def test_a_missing_triton_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.warns(RuntimeWarning, match="Triton is not installed") as seen:
        assert not any(kernels.available() for _ in range(3))
    assert len(seen) == 1


def test_a_cpu_asks_for_no_kernel_and_hears_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    failing_probe(monkeypatch, RuntimeError("must not be asked"))
    network = build(UNetOptions(channels=(8,), attention=(False,), groups=4), NetworkShape())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        accelerated(network, "auto")(torch.zeros(1, 1, 8, 8), torch.zeros(1))


def test_every_layer_goes_the_plain_way_where_the_kernels_fail(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # a CPU's fields would go through the kernels
    failing_probe(monkeypatch, RuntimeError("no compiler"))
    options = UNetOptions(channels=(8, 8), attention=(False, True), groups=4, blocks=1)
    network = build(options, NetworkShape())
    x, label = torch.randn(2, 1, 8, 8), torch.tensor([1.0, 900.0])

    def called() -> Tensor:
        with torch.no_grad():
            return network(x, label)

    with pytest.warns(RuntimeWarning, match="no compiler") as seen:
        fallen = called()
    assert len(seen) == 1
    with kernels.plain():
        assert torch.equal(fallen, called())
