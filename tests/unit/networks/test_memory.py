"""The memory of a call is that of the network itself, on the way that a GPU takes."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from medidiff.diffusion import training_noise
from medidiff.networks import NetworkShape, NumberCondition, UNetOptions, build
from medidiff.networks.bounds import call_bytes
from medidiff.networks.kernels import plain
from medidiff.networks.memory import (
    BLOCK,
    CallKind,
    CallMemory,
    inference_memory,
    peak_of,
    training_memory,
)

SMALL = UNetOptions(channels=(8, 16), blocks=1, attention=(False, True), groups=4, head_channels=8)
SHAPE = NetworkShape(dims=2)
CALL = CallKind(batch=4, space=(64, 64), number="fp32")


def storages(tensors: list[Tensor]) -> dict[int, int]:
    """Bytes of each memory that the tensors lie in, as CUDA's allocator rounds them."""
    each = {
        tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in tensors
    }
    return {place: -(-size // BLOCK) * BLOCK for place, size in each.items()}


@pytest.mark.parametrize(
    ("options", "shape", "space"),
    [
        (SMALL, SHAPE, (64, 64)),
        (dataclasses.replace(SMALL, dropout=0.1), NetworkShape(dims=3), (16, 16, 16)),
        (
            dataclasses.replace(SMALL, modulation="shift", resampling="convolution"),
            NetworkShape(dims=2, conditions=(NumberCondition(name="age"),), concat_channels=2),
            (30, 64),
        ),
    ],
)
def test_what_is_counted_is_what_the_real_network_keeps_for_the_way_back(
    options: UNetOptions, shape: NetworkShape, space: tuple[int, ...]
) -> None:
    network = build(options, shape).train()
    saved: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    x = torch.randn(4, shape.in_channels, *space)
    condition = torch.randn(4, len(shape.conditions)) if shape.conditions else None
    beside = torch.randn(4, shape.concat_channels, *space) if shape.concat_channels else None
    label, aim = torch.rand(4), torch.randn(4, shape.out_channels, *space)
    with plain(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        prediction = network(x, label, condition, beside)
        loss = F.mse_loss(prediction, aim)
    held = [
        x,
        label,
        aim,
        prediction,
        loss,
        *(each for each in (condition, beside) if each is not None),
    ]
    kept = storages([*saved, *held])
    for weight in network.parameters():
        kept.pop(weight.untyped_storage()._cdata, None)
    counted = training_memory(options, shape, CallKind(4, space, "fp32", fused=False))
    assert counted.kept == pytest.approx(sum(kept.values()), rel=0.01)
    assert counted.parameters == sum(weight.numel() for weight in network.parameters())


def counted(call: CallKind = CALL, **changed: object) -> CallMemory:
    return training_memory(dataclasses.replace(SMALL, **changed), SHAPE, call)  # type: ignore[arg-type]


def test_it_grows_with_the_batch_in_proportion() -> None:
    kept = [counted(dataclasses.replace(CALL, batch=batch)).kept for batch in (2, 4, 8)]
    assert kept[2] - kept[1] == pytest.approx(2 * (kept[1] - kept[0]), rel=0.02)
    assert kept[0] < kept[1]


def test_fused_and_half_precision_take_less() -> None:
    fused, half = counted(), counted(dataclasses.replace(CALL, number="bf16"))
    plainly = counted(dataclasses.replace(CALL, fused=False))
    assert fused.kept < 0.7 * plainly.kept
    assert 0.4 * fused.kept < half.kept < 0.65 * fused.kept
    assert fused.gradients == half.gradients


@pytest.mark.parametrize("fused", [True, False])
def test_a_level_that_is_computed_again_keeps_only_what_enters_and_leaves_its_stages(
    fused: bool,
) -> None:
    call = dataclasses.replace(CALL, fused=fused)
    kept, again = counted(call), counted(call, checkpoint_levels=(True, False))
    assert again.by_grid[(32, 32)] == pytest.approx(kept.by_grid[(32, 32)], rel=0.05)
    field = 4 * 8 * 64 * 64 * 4  # batch, channels, voxels, float32
    stages = 2 + 2  # of a level of one block: those down and up, and the two that lead on
    assert again.by_grid[(64, 64)] < (stages + 2) * field
    assert again.by_grid[(64, 64)] < 0.6 * kept.by_grid[(64, 64)]
    assert again.peak < kept.peak


def test_the_levels_are_most_of_what_is_kept() -> None:
    found = counted()
    assert sum(found.by_grid.values()) <= found.kept
    assert sum(found.by_grid.values()) > 0.9 * found.kept
    assert list(found.by_grid)[1:] == [(64, 64), (32, 32)]


def test_a_call_without_a_gradient_keeps_no_activations() -> None:
    inference = inference_memory(SMALL, SHAPE, CALL)
    assert inference < 0.5 * counted().peak
    half = inference_memory(SMALL, SHAPE, dataclasses.replace(CALL, number="bf16"))
    assert half < 0.65 * inference


@pytest.mark.parametrize(
    ("options", "shape", "space"),
    [
        (SMALL, SHAPE, (64, 64)),
        (UNetOptions(channels=(8,), blocks=3, attention=(False,), groups=4), SHAPE, (48, 64)),
        (dataclasses.replace(SMALL, blocks=2), NetworkShape(dims=3), (16, 16, 16)),
    ],
)
def test_the_quick_bound_is_above_what_is_counted(
    options: UNetOptions, shape: NetworkShape, space: tuple[int, ...]
) -> None:
    call = CallKind(1, space, "fp32", fused=False)
    counted = inference_memory(options, shape, call)
    assert counted < call_bytes(options, space, 4, gradient=False) < 3 * counted
    with_gradient = training_memory(options, shape, call)
    kept = with_gradient.peak - with_gradient.gradients
    assert kept < call_bytes(options, space, 4, gradient=True) < 3 * kept


def test_counting_leaves_nothing_switched_on() -> None:
    counted()
    network, x = build(SMALL, SHAPE), torch.zeros(1, 1, 16, 16)
    assert type(network(x, torch.zeros(1))) is Tensor
    assert not torch.is_autocast_enabled("cpu")


def test_noise_is_counted_as_a_gpu_makes_it_and_stays_what_it_is() -> None:
    def noise() -> Tensor:
        return training_noise(0, 0, range(2))(torch.zeros(2, 1, 64, 64), 0)

    before = noise()
    field = before.numel() * before.element_size()
    assert 2 * field < peak_of(noise) < 8 * field  # torch's own words of 64 bits take more
    assert torch.equal(noise(), before)
