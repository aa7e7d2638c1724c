"""Averages in the loop: snapshots, the length chosen afterwards, a resumed run."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from medidiff.data.options import Augment
from medidiff.errors import TrainingError
from medidiff.training.averages import SeveralAverages, make_averages
from medidiff.training.batches import Batch, TrainingSet
from medidiff.training.loop import Job, Outcome, train
from medidiff.training.options import (
    AnyAverage,
    EarlyStop,
    ExponentialAverage,
    PowerAverages,
    TrainOptions,
)
from medidiff.training.posthoc_ema import (
    PowerAveragedWeights,
    combined,
    posthoc_coefficients,
)
from medidiff.training.snapshots import reconstructed, snapshots_until, spanned
from medidiff.training.stop import Stopped, StopSignal

CPU = torch.device("cpu")
STEPS = 240
POWER = PowerAverages(snapshots=12, lengths=(0.04, 0.07, 0.1, 0.2))


@dataclass(frozen=True)
class Descent:
    """A quadratic that SGD walks down with noise, measured at two levels."""

    memory = None

    def trainable(self, network: nn.Module) -> list[nn.Parameter]:
        return [value for value in network.parameters() if value.requires_grad]

    def loss(self, module: nn.Module, batch: Batch, seed: int, step: int) -> Tensor:
        noise = torch.randn(len(batch.clean), 6, generator=torch.Generator().manual_seed(step))
        return (module(batch.clean) - batch.clean - noise).square().mean(1)

    def loss_by_level(self, module: nn.Module, batch: Batch, levels: int, seed: int) -> Tensor:
        error = (module(batch.clean) - batch.clean).square().mean()
        return torch.stack([error, error / 10])


def trained(
    folder: Path,
    ema: AnyAverage,
    *,
    stop_at: int = 0,
    keep: str = "best",
    logged: dict | None = None,
) -> Outcome:
    images = torch.randn(16, 6, generator=torch.Generator().manual_seed(1))
    data = TrainingSet(lambda places: images[list(places)], None, range(16))
    network = nn.Linear(6, 6)
    nn.init.zeros_(network.weight)
    nn.init.zeros_(network.bias)

    def log(metrics: Mapping[str, float], step: int) -> None:
        if logged is not None:
            logged.update({name: (value, step) for name, value in metrics.items()})

    stop = StopSignal()

    def progress(step: int, steps: int, loss: float) -> None:
        stop.reason = "asked" if step == stop_at else None

    job = Job(
        Descent(),
        data,
        data,
        Augment(),
        folder / "checkpoints",
        folder / "snapshots",
        log,
        lambda network, step: None,
        progress,
    )
    options = TrainOptions(
        steps=STEPS,
        batch=8,
        learning_rate=0.02,
        warmup_steps=0,
        rate="constant",
        ema=ema,
        log_every=5,
        validate_every=20,
        save_every=50,
        sample_every=0,
        acceleration="none",
        early_stop=EarlyStop(patience=0, rise=100.0),
        keep=keep,  # type: ignore[arg-type]
    )
    return train(network, job, options, CPU, stop)


def test_the_length_with_the_lowest_validation_loss_becomes_the_model(tmp_path: Path) -> None:
    logged: dict[str, tuple[float, int]] = {}
    found = trained(tmp_path, POWER, keep="last", logged=logged)
    assert set(found.losses) == {0.04, 0.07, 0.1, 0.2}
    assert found.std == min(found.losses, key=lambda std: found.losses[std])
    assert len(set(found.losses.values())) == 4
    assert found.validation_loss == found.losses[found.std]
    assert logged["validation_loss_by_length.0.07"] == (found.losses[0.07], STEPS)
    images = torch.randn(16, 6, generator=torch.Generator().manual_seed(1))
    error = (found.network(images) - images).square().mean()
    assert float(error + error / 10) / 2 == pytest.approx(found.validation_loss, rel=1e-5)


def test_a_single_length_is_a_choice_made_beforehand(tmp_path: Path) -> None:
    found = trained(tmp_path, PowerAverages(lengths=(0.2,)))
    assert found.std == 0.2


@pytest.mark.parametrize("ema", [POWER, ExponentialAverage(0.9)], ids=lambda each: each.kind)
def test_a_resumed_run_has_the_same_averages_bit_by_bit(tmp_path: Path, ema: AnyAverage) -> None:
    whole = trained(tmp_path / "whole", ema)
    with pytest.raises(Stopped):
        trained(tmp_path / "parts", ema, stop_at=115)
    parts = trained(tmp_path / "parts", ema)
    assert (parts.std, parts.best_step, parts.losses) == (whole.std, whole.best_step, whole.losses)
    for ours, theirs in zip(parts.network.parameters(), whole.network.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    names = [
        [file.name for file in sorted((tmp_path / run / "snapshots").glob("*"))]
        for run in ("whole", "parts")
    ]
    assert names[0] == names[1]


def test_the_best_step_between_regular_snapshots_is_kept_and_earlier_bests_are_not(
    tmp_path: Path,
) -> None:
    network = nn.Linear(2, 2)
    averages = SeveralAverages(network, PowerAverages(snapshots=4, lengths=(0.1,)), tmp_path, 100)
    for step in range(1, 71):
        averages.update(network, step)
        if step in (30, 40, 60):
            averages.keep(step)
    assert {each.step for each in snapshots_until(tmp_path, 100)} == {25, 30, 40, 50, 60}
    averages.tidy({40, 70})
    assert {each.step for each in snapshots_until(tmp_path, 100)} == {25, 40, 50}
    assert averages.choose(40, lambda _: 1.0).std == 0.1
    with pytest.raises(TrainingError, match="missing"):
        averages.choose(60, lambda _: 1.0)


def test_what_is_frozen_is_in_no_snapshot_and_is_the_network_s_in_the_model(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    network[0].requires_grad_(False)
    averages = SeveralAverages(network, PowerAverages(), tmp_path, 24)
    for step in range(1, 25):
        averages.update(network, step)
    assert set(reconstructed(snapshots_until(tmp_path, 24), 24, 0.1)) == {"1.weight", "1.bias"}
    chosen = averages.choose(24, lambda _: 1.0).network
    assert torch.equal(chosen[0].weight, network[0].weight)


def walk(steps: int, size: int = 4000) -> list[Tensor]:
    """Weights that settle while the rate falls: a walk with ever smaller steps."""
    generator = torch.Generator().manual_seed(0)
    weights, found = 0.1 * torch.randn(size, generator=generator), []
    for step in range(steps):
        rate = 2e-3 * (1 - step / steps)
        weights = weights + rate * (torch.randn(size, generator=generator) - 0.02 * weights / 1e-1)
        found.append(weights)
    return found


def test_float16_snapshots_give_the_average_of_another_length_and_bfloat16_would_not(
    tmp_path: Path,
) -> None:
    steps, lengths = 600, (0.07, 0.14, 0.2)
    weights = walk(steps)
    layer = nn.Linear(1, len(weights[0]), bias=False)
    kept = SeveralAverages(layer, PowerAverages(lengths=lengths), tmp_path, steps)
    exact = {std: PowerAveragedWeights(layer, std) for std in (*lengths, 0.05, 0.1)}
    snapshots: list[dict[str, Tensor]] = []
    for step in range(1, steps + 1):
        with torch.no_grad():
            layer.weight.copy_(weights[step - 1][:, None])
        kept.update(layer, step)
        for average in exact.values():
            average.update(layer, step)
        if step in kept.regular:
            snapshots += [{"weight": exact[std].network.weight.clone()} for std in (0.05, 0.1)]
    found = snapshots_until(tmp_path, steps)
    places = [float(each.step) for each in found], [each.std for each in found]
    short, long = (exact[std].network.weight for std in (0.05, 0.1))
    for std in lengths:
        true = exact[std].network.weight
        coefficients = posthoc_coefficients(*places, steps, std)
        fine = combined(snapshots, coefficients)["weight"]
        rough = combined(
            [{"weight": each["weight"].bfloat16()} for each in snapshots], coefficients
        )
        ours = reconstructed(found, steps, std)["weight"]
        nearest = min((near - true).norm() for near in (short, long))
        assert (ours - true).norm() < 0.25 * nearest
        assert (ours - fine).norm() < 0.05 * (short - long).norm()
        assert (rough["weight"] - fine).norm() > 0.1 * (short - long).norm()


def test_lengths_that_snapshots_do_not_span_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be found from 12 snapshots"):
        PowerAverages(lengths=(0.01,))
    layer = nn.Linear(2, 2)
    averages = make_averages(POWER, layer, tmp_path, 12)
    for step in range(1, 13):
        averages.update(layer, step)
    found = snapshots_until(tmp_path, 12)
    assert spanned(found, 12, 0.07)
    assert not spanned(found, 12, 0.01)
    assert not spanned(found[:4], 12, 0.07), "the last third of the training is in none of these"
    with pytest.raises(TrainingError, match="cannot be found"):
        reconstructed(found, 12, 0.01)


def test_the_averages_follow_the_network_and_not_each_other(tmp_path: Path) -> None:
    layer = nn.Linear(2, 2)
    averages = SeveralAverages(layer, POWER, tmp_path, 1000)
    averages.update(layer, 1)
    before = copy.deepcopy(layer)
    with torch.no_grad():
        layer.weight += 1
    averages.update(layer, 2)
    short, long = ((each.network.weight - before.weight).detach() for each in averages.averages)
    assert float(short.min()) > float(long.max()) > 0.9
