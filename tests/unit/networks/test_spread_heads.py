"""A head beside a frozen network."""

from __future__ import annotations

import pytest
import torch

from medidiff.networks import HeadedNetwork, NetworkShape, UNetOptions, build, build_head

OPTIONS = UNetOptions(channels=(8, 12), attention=(False, True), blocks=1, groups=4, dropout=0.5)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("form", ["simple", "complex"])
@pytest.mark.parametrize("out", [2, 4])
def test_the_prediction_is_the_trunk_s_and_only_the_head_learns(
    dims: int, form: str, out: int
) -> None:
    shape = NetworkShape(dims=dims, in_channels=2, out_channels=out)  # type: ignore[arg-type]
    trunk = build(OPTIONS, shape)
    for weight in trunk.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    network = HeadedNetwork(trunk, build_head(trunk, form, seed=1)).train()  # type: ignore[arg-type]
    x = torch.randn(3, 2, *(7, 6, 5)[:dims], generator=torch.Generator().manual_seed(0))
    label = torch.tensor([3.0, 500.0, 900.0])
    found = network(x, label)
    assert found.shape == (3, 4, *x.shape[2:])
    # dropout of the trunk is off, whether or not the head trains
    torch.testing.assert_close(found[:, :2], trunk(x, label)[:, :2])
    assert not found[:, 2:].any()
    found.sum().backward()
    assert all(weight.grad is None for weight in trunk.parameters())
    assert network.head.last.weight.grad is not None


def test_a_head_is_the_same_for_the_same_seed() -> None:
    trunk = build(OPTIONS, NetworkShape())
    one, again, other = (build_head(trunk, "complex", seed) for seed in (0, 0, 1))
    assert one.block is not None
    assert again.block is not None
    assert other.block is not None
    assert torch.equal(one.block.first.weight, again.block.first.weight)
    assert not torch.equal(one.block.first.weight, other.block.first.weight)
