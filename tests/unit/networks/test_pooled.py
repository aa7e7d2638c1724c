"""The memory of tiles: with norms of the whole image it is that with norms of each tile."""

from __future__ import annotations

import pytest
import torch

from medidiff.networks import AutoencoderOptions, NetworkShape, Tiles
from medidiff.networks import group_statistics as given
from medidiff.networks.autoencoder import Autoencoder
from medidiff.networks.kernels import plain
from medidiff.networks.memory import _LiveBytes, peak_of
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
