"""The memory of tiles: with norms of the whole image it is that with norms of each tile."""

from __future__ import annotations

import pytest
import torch

from medidiff.networks import AutoencoderOptions, NetworkShape, Tiles
from medidiff.networks import group_statistics as given
from medidiff.networks.autoencoder import Autoencoder
from medidiff.networks.kernels import plain
from medidiff.networks.memory import _LiveBytes, peak_of
from medidiff.networks.pooled import PooledNorms, _CountedError
from medidiff.networks.tiling import tiled

OPTIONS = AutoencoderOptions(channels=(8, 16), blocks=1, latent_channels=2, groups=4)
TILE, IMAGE = Tiles(10, 2, "tile"), Tiles(10, 2, "image")


def decode(network: Autoencoder, tiles: Tiles) -> None:
    """Two tiles of 10 x 8 x 8 latents."""
    latents = torch.ones(1, 2, 18, 8, 8, dtype=network.mean.weight.dtype)
    with torch.no_grad():
        tiled(network.decode, latents, tiles, units=(1, 2))


def test_on_a_gpu_the_statistics_of_all_tiles_take_no_more_than_a_tile() -> None:
    image, tile = (
        peak_of(lambda t=tiles: decode(Autoencoder(OPTIONS, NetworkShape(3)), t))
        for tiles in (IMAGE, TILE)
    )
    assert image < 1.05 * tile


def test_the_plain_way_takes_no_more_than_a_tile_and_a_slab(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(given, "SLAB", 2**12)
    network = Autoencoder(OPTIONS, NetworkShape(3)).to(torch.bfloat16)
    found = {}
    for tiles in (IMAGE, TILE):
        with plain(), _LiveBytes([]) as live:
            decode(network, tiles)
        found[tiles.statistics] = live.most
    assert found["image"] < 1.05 * found["tile"]


def test_a_counted_tile_s_frames_are_let_go_at_once() -> None:
    network, found = Autoencoder(OPTIONS, NetworkShape(3)), []

    def call(x: torch.Tensor) -> torch.Tensor:
        try:
            return network.decode(x)
        except _CountedError as counted:
            found.append(counted)
            raise

    PooledNorms().count(call, torch.ones(1, 2, 8, 8, 8), (8, 8, 8), ((0, 8),) * 3)
    assert [each.__traceback__ for each in found] == [None]


@pytest.mark.parametrize("slab", [1, 100, 2**22])
def test_slabs_are_the_whole(slab: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(given, "SLAB", slab)
    generator = torch.Generator().manual_seed(0)
    x = (5 + torch.randn(2, 3, 7, 4, 5, generator=generator)).to(torch.bfloat16)[..., 1:4]
    gain, bias = torch.randn(2, 2, 3, generator=generator)
    offset = torch.randn(1, 3, generator=generator)
    exact = x.double() + offset.view(1, 3, 1, 1, 1)
    count, total, square = given.channel_moments(x).sums(offset)
    assert bool((count == 7 * 4 * 3).all())
    torch.testing.assert_close(total, exact.sum((2, 3, 4)), rtol=1e-6, atol=0)
    torch.testing.assert_close(square, exact.square().sum((2, 3, 4)), rtol=1e-6, atol=0)
    y = x.float() * gain.view(2, 3, 1, 1, 1) + bias.view(2, 3, 1, 1, 1)
    with torch.no_grad():
        assert torch.equal(given.scaled(x, gain, bias), y.to(torch.bfloat16))
    torch.testing.assert_close(given.scaled(x, gain, bias), y.to(torch.bfloat16))
