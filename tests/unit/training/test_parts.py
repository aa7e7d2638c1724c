"""The parts of a training: rates, averages, checkpoints, stopping, the validation watch."""

from __future__ import annotations

import math
import os
import signal
from pathlib import Path

import pytest
import torch
from torch import nn

from medidiff.errors import TrainingError
from medidiff.training.checkpoint import POINTER, load_checkpoint, save_checkpoint
from medidiff.training.ema import AveragedWeights
from medidiff.training.optimiser import learning_rate
from medidiff.training.options import EarlyStop, TrainOptions
from medidiff.training.precision import choose_precision
from medidiff.training.stop import StopSignal
from medidiff.training.watch import Watch

CPU = torch.device("cpu")


def test_the_rate_rises_linearly_and_falls_along_half_a_cosine() -> None:
    options = TrainOptions(steps=110, warmup_steps=10, learning_rate=1.0)
    assert learning_rate(4, options) == pytest.approx(0.5)
    assert learning_rate(10, options) == pytest.approx(1.0)
    assert learning_rate(60, options) == pytest.approx(0.5)
    assert learning_rate(110, options) == pytest.approx(0.0, abs=1e-12)
    constant = TrainOptions(steps=110, warmup_steps=10, learning_rate=1.0, rate="constant")
    assert learning_rate(100, constant) == 1.0


def test_the_average_of_constant_weights_is_the_constant_and_it_lags_behind_a_change() -> None:
    network = nn.Linear(2, 2)
    average = AveragedWeights(network, decay=0.9)
    average.update(network, 1)
    assert torch.equal(average.network.weight, network.weight)
    before = network.weight.detach().clone()
    with torch.no_grad():
        network.weight += 1
    average.update(network, 1000)
    assert torch.allclose(average.network.weight, before + 0.1)


def test_an_averaged_network_asks_for_no_gradient() -> None:
    average = AveragedWeights(nn.Linear(2, 2), 0.9)
    assert not any(value.requires_grad for value in average.network.parameters())


def test_a_checkpoint_comes_back_as_it_was_saved_and_replaces_the_one_before(
    tmp_path: Path,
) -> None:
    save_checkpoint(tmp_path, 1, {"a": torch.ones(2)}, {"watch": {"best": math.inf}})
    save_checkpoint(tmp_path, 2, {"a": torch.zeros(2)}, {"watch": {"best": 0.5}})
    found = load_checkpoint(tmp_path, CPU)
    assert found is not None
    tensors, facts = found
    assert torch.equal(tensors["a"], torch.zeros(2))
    assert facts["step"] == 2
    assert len(list(tmp_path.glob("step-*.pt"))) == 1


def test_an_altered_checkpoint_is_refused(tmp_path: Path) -> None:
    file = save_checkpoint(tmp_path, 1, {"a": torch.ones(2)}, {})
    content = bytearray(file.read_bytes())
    content[-30] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(TrainingError, match="missing or altered"):
        load_checkpoint(tmp_path, CPU)


def test_a_crash_while_saving_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, {"a": torch.ones(2)}, {})
    (tmp_path / "step-00000002.part").write_bytes(b"half a file")
    (tmp_path / (POINTER + ".part")).write_text("{")
    found = load_checkpoint(tmp_path, CPU)
    assert found is not None
    assert found[1]["step"] == 1


def test_a_signal_asks_for_a_stop_and_the_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopSignal() as stop:
        assert not stop.requested
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
        assert stop.reason == "SIGTERM received"
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_second_ctrl_c_interrupts_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), StopSignal() as stop:  # noqa: PT012
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested
        os.kill(os.getpid(), signal.SIGINT)


def test_a_spent_budget_asks_for_a_stop() -> None:
    with StopSignal(minutes=1e-9) as stop:
        assert stop.requested


def test_memorising_is_a_validation_loss_that_rises_while_the_training_loss_falls() -> None:
    watch, options = Watch(), EarlyStop(patience=2, rise=10.0)
    assert watch.note([1.0], [1.0], 1, options)
    assert not watch.note([1.1], [0.9], 2, options)
    assert not watch.memorising(2)
    assert not watch.note([1.2], [0.8], 3, options)
    assert watch.memorising(2)
    assert not watch.memorising(0)
    assert not watch.note([1.2], [1.1], 4, options)
    assert not watch.memorising(2), "both losses rise: that is not memorising"


def test_memorising_at_one_noise_level_stops_the_training_though_the_mean_still_falls() -> None:
    watch, options = Watch(), EarlyStop(patience=2, rise=0.05)
    assert watch.note([9.0, 0.01], [9.0, 0.01], 1, options)
    assert watch.note([8.0, 0.0104], [8.0, 0.009], 2, options), "within the tolerance"
    assert not watch.note([7.0, 0.0106], [7.0, 0.008], 3, options), "a gap is no best"
    assert not watch.memorising(2)
    assert not watch.note([6.0, 0.012], [6.0, 0.007], 4, options)
    assert "noise level 2 of 2 (1 is the least noise)" in watch.memorising(2)
    assert "20%" in watch.memorising(2)
    assert watch.best_step == 2
    assert not watch.memorising(3)


def test_a_level_that_rises_once_or_in_both_splits_has_no_lasting_gap() -> None:
    watch, options = Watch(), EarlyStop(patience=2, rise=0.05)
    for step, (validation, train) in enumerate([(1.0, 1.0), (1.2, 0.9), (0.99, 0.9), (1.2, 0.95)]):
        watch.note([validation], [train], step + 1, options)
        assert not watch.memorising(2)
    assert watch.gaps == [0]


def test_without_patience_a_gap_bars_no_step_from_being_the_best() -> None:
    watch, options = Watch(), EarlyStop(patience=0, rise=0.05)
    for step in range(1, 6):
        assert watch.note([9.0 - step, 0.01 * step], [9.0 - step, 0.01 / step], step, options)
    assert watch.best_step == 5


@pytest.mark.parametrize("lowest", [0.0, 1e-9])
def test_a_loss_that_reached_zero_has_no_gap_by_rounding_but_by_a_true_rise(lowest: float) -> None:
    watch, options = Watch(), EarlyStop(patience=2, rise=0.05)
    for step, loss in enumerate([lowest, 2e-9, 3e-9, 4e-9]):
        watch.note([loss], [1e-9 / (step + 1)], step + 1, options)
    assert watch.gaps == [0]
    watch.note([0.1], [1e-10], 5, options)
    assert watch.gaps == [1]


def test_a_cpu_trains_in_fp32_and_only_fp16_scales_its_loss() -> None:
    assert choose_precision("auto", CPU).dtype == torch.float32
    assert not choose_precision("bf16", CPU).scaler().is_enabled()
    assert choose_precision("fp16", CPU).scaler().is_enabled()


@pytest.mark.parametrize(
    ("capability", "dtype"), [((7, 5), torch.float16), ((8, 0), torch.bfloat16)]
)
def test_a_gpu_without_bfloat16_trains_in_fp16(
    capability: tuple[int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert choose_precision("auto", torch.device("cuda")).dtype == dtype
