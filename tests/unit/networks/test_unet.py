from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from pydantic import TypeAdapter

from medidiff.networks.blocks import Attention
from medidiff.networks.build import AnyNetwork, build, parameter_count
from medidiff.networks.conditions import ClassCondition, NumberCondition, encode_batch
from medidiff.networks.shape import NetworkShape
from medidiff.networks.unet import UNet, UNetOptions

Awake = Callable[[UNetOptions, NetworkShape], UNet]
FLAT = NetworkShape()
CONDITIONS = (
    ClassCondition(name="sex", values=("F", "M")),
    NumberCondition(name="age", mean=50.0, std=10.0),
)
TOLD = NetworkShape(conditions=CONDITIONS)


def inputs(
    random: torch.Generator, *space: int, batch: int = 2, channels: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(batch, channels, *space, generator=random)
    return x, 1000 * torch.rand(batch, generator=random)


def test_a_fresh_network_predicts_zero(small: UNetOptions, random: torch.Generator):
    assert not build(small, FLAT)(*inputs(random, 8, 8)).any()


def test_the_same_seed_gives_the_same_weights_and_moves_no_global_generator(small: UNetOptions):
    before = torch.get_rng_state()
    first, again, other = (build(small, FLAT, seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.first.weight, again.first.weight)
    assert not torch.equal(first.first.weight, other.first.weight)


def test_weights_are_counted_without_making_them():
    options = UNetOptions(channels=(8, 16), attention=(True, False))
    made = sum(p.numel() for p in build(options, TOLD).parameters())
    assert parameter_count(options, TOLD) == made


def test_every_weight_gets_a_gradient(awake: Awake, random: torch.Generator):
    options = UNetOptions(channels=(8, 8, 16), blocks=1, attention=(False, True, True), groups=4)
    network = awake(options, NetworkShape(conditions=CONDITIONS, concat_channels=1))
    x, label = inputs(random, 8, 8)
    condition = encode_batch(CONDITIONS, [{"sex": "F", "age": 40.0}, {"sex": "M"}])
    network(x, label, condition, x.flip(0)).square().mean().backward()
    idle = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


@pytest.mark.parametrize("place", [0, 1])
def test_each_condition_has_an_effect(place: int, awake: Awake, small: UNetOptions):
    network = awake(small, TOLD)
    x = torch.randn(1, 1, 8, 8).expand(3, -1, -1, -1)
    rows = torch.zeros(3, 2)
    rows[:, place] = torch.tensor([0.0, 1.0, math.nan])
    first, second, unknown = network(x, torch.full((3,), 100.0), rows)
    assert (first - second).abs().max() > 1e-3
    assert (first - unknown).abs().max() > 1e-3


def test_no_condition_is_the_same_as_nothing_known(
    awake: Awake, small: UNetOptions, random: torch.Generator
):
    network = awake(small, TOLD)
    x, label = inputs(random, 8, 8)
    unknown = torch.full((2, 2), math.nan)
    torch.testing.assert_close(network(x, label), network(x, label, unknown), rtol=0, atol=0)


def test_the_noise_label_and_the_image_beside_have_an_effect(
    awake: Awake, small: UNetOptions, random: torch.Generator
):
    network = awake(small, NetworkShape(concat_channels=2))
    x, label = inputs(random, 8, 8)
    beside = torch.randn(2, 2, 8, 8, generator=random)
    result = network(x, label, concat=beside)
    assert (result - network(x, label + 50, concat=beside)).abs().max() > 1e-3
    assert (result - network(x, label, concat=beside.flip(1))).abs().max() > 1e-3


def test_dropout_acts_in_training_only(awake: Awake, small: UNetOptions, random: torch.Generator):
    network = awake(dataclasses.replace(small, dropout=0.5), FLAT)
    x, label = inputs(random, 8, 8)
    assert not torch.equal(network.train()(x, label), network(x, label))
    assert torch.equal(network.eval()(x, label), network(x, label))


def attention_places(options: UNetOptions) -> list[str]:
    return [name for name, m in build(options, FLAT).named_modules() if isinstance(m, Attention)]


def test_attention_stands_only_where_it_was_asked_for():
    options = UNetOptions(channels=(8, 8, 8), blocks=1, attention=(False, False, False), groups=4)
    assert attention_places(options) == []
    second = attention_places(dataclasses.replace(options, attention=(False, True, False)))
    assert second == [
        "down.1.stages.0.attention", "up.1.stages.0.attention", "up.1.stages.1.attention"
    ]  # fmt: skip
    last = attention_places(dataclasses.replace(options, attention=(False, False, True)))
    assert "middle.0.attention" in last
    assert len(last) == 4


@pytest.mark.parametrize("space", [(7, 10), (1, 5), (3, 2), (9, 16, 6), (1, 1, 5)])
def test_any_grid_comes_back_as_it_was(
    space: tuple[int, ...], awake: Awake, random: torch.Generator
):
    options = UNetOptions(channels=(4, 8, 8), blocks=1, attention=(False,) * 3, groups=2)
    shape = NetworkShape(dims=2 if len(space) == 2 else 3, in_channels=2, out_channels=3)
    x, label = inputs(random, *space, channels=2)
    result = awake(options, shape)(x, label)
    assert result.shape == (2, 3, *space)
    assert result.isfinite().all()


def test_padding_mirrors_the_border_and_is_cut_off_again(
    awake: Awake, small: UNetOptions, random: torch.Generator
):
    network = awake(dataclasses.replace(small, channels=(8, 8, 8), attention=(False,) * 3), FLAT)
    x, label = inputs(random, 8, 6)
    mirrored = torch.cat([x[..., 1:2], x, x[..., 4:5]], dim=-1)
    expected = network(mirrored, label)[..., 1:-1]
    torch.testing.assert_close(network(x, label), expected, rtol=0, atol=0)


@pytest.mark.parametrize("dims", [2, 3])
def test_channels_last_gives_the_same_result(awake: Awake, random: torch.Generator, dims: int):
    options = UNetOptions(channels=(8, 16), blocks=1, attention=(False, True), groups=4)
    network = awake(options, NetworkShape(dims=2 if dims == 2 else 3))
    x, label = inputs(random, *[8] * dims)
    expected = network(x, label)
    layout = torch.channels_last if dims == 2 else torch.channels_last_3d
    for weight in network.parameters():
        if weight.ndim == x.ndim:
            weight.data = weight.data.contiguous(memory_format=layout)
    result = network(x.contiguous(memory_format=layout), label)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)


def test_autocast_gives_nearly_the_same_in_the_dtype_of_the_image(
    awake: Awake, small: UNetOptions, random: torch.Generator
):
    network = awake(small, FLAT)
    x, label = inputs(random, 16, 16)
    exact = network(x, label)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = network(x, label)
    mixed.square().mean().backward()
    assert mixed.dtype == torch.float32
    assert (mixed - exact).norm() < 0.03 * exact.norm()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_bfloat16_weights_give_nearly_the_same(
    awake: Awake, small: UNetOptions, random: torch.Generator
):
    network = awake(small, FLAT)
    x, label = inputs(random, 16, 16)
    exact = network(x, label)
    rounded = network.to(torch.bfloat16)(x.to(torch.bfloat16), label)
    assert rounded.dtype == torch.bfloat16
    assert (rounded.float() - exact).norm() < 0.05 * exact.norm()


def fields_kept(network: UNet, x: torch.Tensor, label: torch.Tensor) -> int:
    """How many tensors the forward pass keeps; the gradients are left in the network."""
    kept: list[torch.Tensor] = []

    def keep(field: torch.Tensor) -> torch.Tensor:
        kept.append(field)
        return field

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda field: field):
        loss = network(x, label).sum()
    loss.backward()
    return len(kept)


def test_recomputed_levels_give_the_same_gradients(
    awake: Awake, small: UNetOptions, random: torch.Generator
):
    x, label = inputs(random, 8, 8)
    kept = awake(small, FLAT)
    recomputed = awake(dataclasses.replace(small, checkpoint_levels=(True, True)), FLAT)
    kept_count, recomputed_count = fields_kept(kept, x, label), fields_kept(recomputed, x, label)
    assert recomputed_count < kept_count / 3
    for ours, theirs in zip(recomputed.parameters(), kept.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize(
    ("shape", "label", "condition", "concat", "message"),
    [
        ((2, 1, 8), (2,), None, (2, 1, 8), "the image must be"),
        ((2, 2, 8, 8), (2,), None, (2, 1, 8, 8), "the image must be"),
        ((2, 1, 8, 8), (), None, (2, 1, 8, 8), "label must be"),
        ((2, 1, 8, 8), (2,), (2, 1), (2, 1, 8, 8), "condition must be"),
        ((2, 1, 8, 8), (2,), None, None, "concat must be"),
        ((2, 1, 8, 8), (2,), None, (2, 1, 8, 4), "concat must be"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(
    shape: tuple[int, ...],
    label: tuple[int, ...],
    condition: tuple[int, ...] | None,
    concat: tuple[int, ...] | None,
    message: str,
    small: UNetOptions,
):
    network = build(small, NetworkShape(conditions=CONDITIONS, concat_channels=1))
    rows = None if condition is None else torch.zeros(condition)
    beside = None if concat is None else torch.zeros(concat)
    with pytest.raises(ValueError, match=message):
        network(torch.zeros(shape), torch.zeros(label), rows, beside)


def test_an_image_beside_is_refused_where_none_is_taken(
    small: UNetOptions, random: torch.Generator
):
    x, label = inputs(random, 8, 8)
    with pytest.raises(ValueError, match="concat must be"):
        build(small, FLAT)(x, label, concat=x)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": ()}, "channels needs a level"),
        ({"channels": (8, 0)}, "channels needs a level"),
        ({"blocks": 0}, "blocks must be at least 1"),
        ({"groups": 0}, "groups must be at least 1"),
        ({"attention": (True,)}, "attention names 1 levels, channels 2"),
        ({"checkpoint_levels": (True,)}, "checkpoint_levels names 1 levels, channels 2"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    change: dict[str, object], message: str, small: UNetOptions
):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(small, **change)  # pyright: ignore[reportArgumentType]


def test_options_are_read_back_from_their_json():
    adapter = TypeAdapter(AnyNetwork)
    options = UNetOptions(channels=(8, 16), attention=(True, False))
    assert adapter.validate_json(adapter.dump_json(options)) == options


@pytest.mark.parametrize("how", ["skip", "residual"])
@pytest.mark.parametrize("dims", [2, 3])
def test_a_progressive_input_reaches_the_coarse_levels_by_itself(
    how: str, dims: int, awake: Awake, random: torch.Generator
):
    options = UNetOptions(
        channels=(8, 12, 16), attention=(False,) * 3, blocks=1, groups=4, progressive_input=how
    )  # type: ignore[arg-type]
    network = awake(options, NetworkShape(dims=dims))  # type: ignore[arg-type]
    if how == "skip":  # the other way in is closed
        torch.nn.init.zeros_(network.first.weight)
    x, label = inputs(random, *[9, 8, 7][:dims])
    assert network(x, label).shape == x.shape
    assert not torch.allclose(network(x, label), network(-x, label))


def test_a_low_resolution_image_beside_is_interpolated(awake: Awake, random: torch.Generator):
    shape = NetworkShape(concat_channels=1)
    options = UNetOptions(channels=(8,), attention=(False,), blocks=1, groups=4)
    network = awake(dataclasses.replace(options, beside="low-resolution"), shape)
    x, label = inputs(random, 8, 8)
    low = torch.randn(2, 1, 4, 4, generator=random)
    full = torch.nn.functional.interpolate(low, (8, 8), mode="bilinear", align_corners=False)
    assert torch.equal(network(x, label, concat=low), network(x, label, concat=full))
    with pytest.raises(ValueError, match="concat must be"):
        build(options, shape)(x, label, concat=low)


def test_smoothing_belongs_to_residual_resampling():
    with pytest.raises(ValueError, match="taps 'fir' belongs to resampling 'residual'"):
        UNetOptions(taps="fir", resampling="convolution")
