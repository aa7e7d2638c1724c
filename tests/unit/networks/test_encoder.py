"""The half U-Net: any grid in 2-D and 3-D, told of the noise level, a gradient for the image."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from medidiff.networks import Encoder, EncoderOptions, NetworkShape, build, parameter_count

SMALL = EncoderOptions(channels=(8, 12), blocks=1, attention=(False, True), groups=4, waves=8)
GRIDS = {2: (9, 6), 3: (5, 6, 7)}


def encoder(dims: int, **changes: object) -> Encoder:
    options = dataclasses.replace(SMALL, **changes)  # type: ignore[arg-type]
    network = build(options, NetworkShape(dims=dims, out_channels=3), seed=1)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():  # away from the zeros that blocks start with
        for weight in network.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    assert isinstance(network, Encoder)
    return network.double().eval()


def inputs(dims: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 1, *GRIDS[dims], generator=generator, dtype=torch.float64)
    return x, torch.tensor([3.0, 400.0, 900.0], dtype=torch.float64)


CHOICES = [
    {},
    {"pooling": "mean"},
    {"modulation": "film"},
    {"modulation": "shift"},
    {"taps": "fir"},
    {"blocks": 2},
]


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("changes", CHOICES, ids=str)
def test_each_choice_reads_any_grid_and_a_batch_equals_its_members(
    dims: int, changes: dict[str, object]
) -> None:
    network, (x, label) = encoder(dims, **changes), inputs(dims)
    together = network(x, label)
    assert together.shape == (3, 3)
    alone = torch.cat([network(x[i : i + 1], label[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone)
    assert not torch.allclose(network(x, label), network(x, label.flip(0)))
    assert not torch.allclose(network(x, label), network(-x, label))


@pytest.mark.parametrize("dims", [2, 3])
def test_the_maps_go_from_fine_to_coarse_and_end_in_the_middle(dims: int) -> None:
    network, (x, label) = encoder(dims), inputs(dims)
    maps, vector = network.read(x, label)
    whole = [size + size % 2 for size in GRIDS[dims]]
    half = [size // 2 for size in whole]
    assert [(each.shape[1], [*each.shape[2:]]) for each in maps] == [
        (8, whole),
        (12, half),
        (12, half),
    ]
    assert torch.equal(vector, network(x, label))


@pytest.mark.parametrize("changes", CHOICES, ids=str)
def test_the_gradient_for_the_image_is_the_function_s(changes: dict[str, object]) -> None:
    network, (x, label) = encoder(2, **changes).requires_grad_(False), inputs(2)
    x = x[:1].requires_grad_()
    assert torch.autograd.gradcheck(lambda image: network(image, label[:1]), x, fast_mode=True)


def test_film_tells_every_norm() -> None:
    network = encoder(2, modulation="film")
    norms = [each for each in network.modules() if isinstance(each, nn.GroupNorm)]
    told = [each for name, each in network.named_modules() if name.endswith("modulate")]
    told += [each for name, each in network.named_modules() if name.endswith("modulate_first")]
    blocks = 2 + 1 + 2  # of the levels, the lead, the middle
    attention = 2
    assert len(told) == 2 * blocks + 1 == len(norms) - attention
    (x, label), before = inputs(2), network(*inputs(2))
    for layer in told:
        assert isinstance(layer, nn.Linear)
        kept = layer.weight.data.clone()
        layer.weight.data = 2 * kept
        assert not torch.allclose(network(x, label), before)
        layer.weight.data = kept


def test_it_counts_its_weights_and_is_the_same_for_the_same_seed() -> None:
    shape = NetworkShape(out_channels=2)
    one, again, other = (build(SMALL, shape, seed=seed) for seed in (0, 0, 1))
    assert parameter_count(SMALL, shape) == sum(each.numel() for each in one.parameters())
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), again.parameters(), strict=True))
    assert not torch.equal(one.first.weight, other.first.weight)  # type: ignore[arg-type]


def test_what_does_not_fit_is_refused() -> None:
    network, (x, label) = encoder(2), inputs(2)
    with pytest.raises(ValueError, match="axes of space"):
        network(x[..., None], label)
    with pytest.raises(ValueError, match="label"):
        network(x, label[:1])
    with pytest.raises(ValueError, match="no condition"):
        network(x, label, torch.zeros(3, 1))
    with pytest.raises(ValueError, match="no conditions"):
        build(SMALL, NetworkShape(concat_channels=1))
    with pytest.raises(ValueError, match="attention names"):
        dataclasses.replace(SMALL, attention=(True,))
