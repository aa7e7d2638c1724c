"""What is true for every network, whatever its options."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from medidiff.networks.build import build
from medidiff.networks.conditions import ClassCondition, NumberCondition, encode_batch
from medidiff.networks.shape import NetworkShape
from medidiff.networks.unet import UNet, UNetOptions

CONDITIONS = (ClassCondition(name="sex", values=("F", "M")), NumberCondition(name="age"))
PLAIN = UNetOptions(channels=(4, 8), blocks=1, attention=(False, False), groups=2)
ATTENDING = dataclasses.replace(PLAIN, attention=(True, True), head_channels=4)
DEEP = dataclasses.replace(PLAIN, channels=(4, 6, 8), blocks=2, attention=(False,) * 3)
Made = tuple[UNetOptions, NetworkShape]
NETWORKS: dict[str, Made] = {
    "plain": (PLAIN, NetworkShape()),
    "attending": (ATTENDING, NetworkShape()),
    "deep": (DEEP, NetworkShape()),
    "conditional": (PLAIN, NetworkShape(conditions=CONDITIONS, concat_channels=1)),
    "two channels": (PLAIN, NetworkShape(in_channels=2, out_channels=2)),
}


def awake(options: UNetOptions, shape: NetworkShape) -> UNet:
    """A network as after some training: nothing in it is zero any more."""
    network = build(options, shape).double().eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.2 * torch.randn(weight.shape, generator=generator, dtype=weight.dtype))
    return network


def calls(shape: NetworkShape, batch: int, *space: int) -> tuple[torch.Tensor | None, ...]:
    """Image, label, condition and the image beside, as this shape wants them."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, shape.in_channels, *space, generator=generator, dtype=torch.float64)
    label = 1000 * torch.rand(batch, generator=generator, dtype=torch.float64)
    cases = [{"sex": "F", "age": 0.3 * index} for index in range(batch - 1)]
    condition = encode_batch(shape.conditions, [*cases, None]) if shape.conditions else None
    beside = shape.concat_channels
    concat = x.flip(0).repeat_interleave(beside, 1) if beside else None
    return x, label, condition, concat


@pytest.fixture(params=NETWORKS.values(), ids=list(NETWORKS))
def made(request: pytest.FixtureRequest) -> Made:
    return request.param


@pytest.mark.parametrize("space", [(8, 12), (7, 9), (4, 6, 8), (5, 4, 7)])
def test_a_batch_is_its_members_one_by_one(made: Made, space: tuple[int, ...]):
    options, shape = made
    network = awake(options, dataclasses.replace(shape, dims=len(space)))
    inputs = calls(shape, 3, *space)
    together = network(*inputs)
    for index in range(3):
        member = [None if part is None else part[index : index + 1] for part in inputs]
        torch.testing.assert_close(network(*member)[0], together[index], rtol=1e-10, atol=1e-10)


def embedded(flat: UNet) -> UNet:
    """The 3-D network with each 2-D kernel in the middle slice of its own."""
    solid = build(flat.options, dataclasses.replace(flat.shape, dims=3)).double().eval()
    flat_weights = flat.state_dict()
    weights = {}
    for name, weight in solid.state_dict().items():
        weights[name] = torch.zeros_like(weight)
        if weight.ndim == 5:
            weights[name][:, :, weight.shape[2] // 2] = flat_weights[name]
        else:
            weights[name].copy_(flat_weights[name])
    solid.load_state_dict(weights)
    return solid


@pytest.mark.parametrize("depth", [4, 3])
def test_a_2d_kernel_embedded_in_3d_gives_the_2d_result(made: Made, depth: int):
    flat = awake(*made)
    x, label, condition, concat = calls(flat.shape, 2, 8, 12)
    expected = flat(x, label, condition, concat)

    def stacked(image: torch.Tensor) -> torch.Tensor:
        return image[:, :, None].expand(-1, -1, depth, -1, -1)

    assert x is not None
    beside = None if concat is None else stacked(concat)
    result = embedded(flat)(stacked(x), label, condition, beside)
    torch.testing.assert_close(result, stacked(expected), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_network_is_the_same_each_time(made: Made, dims: int):
    options, shape = made
    network = awake(options, dataclasses.replace(shape, dims=dims))
    inputs = calls(shape, 2, *[6] * dims)
    assert torch.equal(network(*inputs), network(*inputs))
