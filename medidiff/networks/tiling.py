"""A network over a large image by tiles, blended where they overlap: memory is that of a tile.

Group norms take their statistics from all tiles, or each tile by itself (`Tiles.statistics`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch

from medidiff.networks.pooled import PooledNorms
from medidiff.types import Tensor


@dataclass(frozen=True)
class Tiles:
    """How a codec goes over an image. Lengths are of latents."""

    size: int = 32
    """Latents along each axis of a tile."""
    overlap: int = 8
    """Latents over which a tile fades into the next."""
    statistics: Literal["image", "tile"] = "image"
    """What a group norm sees: the whole image, at the cost of about half a pass over the tiles for
    each norm of the network; or its tile, at no cost, and the tiles differ."""

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < self.size:
            raise ValueError(
                f"overlap must be at least 0 and below the tile's size, not {self.overlap} of "
                f"{self.size}"
            )

    def starts(self, length: int) -> list[int]:
        """Where the tiles of an axis begin: evenly, the last one ending at the end."""
        if length <= self.size:
            return [0]
        count = math.ceil((length - self.overlap) / (self.size - self.overlap))
        return [round(index * (length - self.size) / (count - 1)) for index in range(count)]

    def weights(self, length: int, unit: int, like: Tensor) -> list[Tensor]:
        """What each tile of an axis counts, rising and falling linearly in the overlaps.

        Shapes: (size * unit,) each. They add up to 1 wherever tiles lie.
        """
        starts, size = self.starts(length), min(self.size, length)
        places = torch.arange(size * unit, dtype=torch.float64)
        ramp = max(1, self.overlap * unit)
        total = torch.zeros(length * unit, dtype=torch.float64)
        raw: list[Tensor] = []
        for start in starts:
            rising = (places + 0.5) / ramp if start > 0 else torch.ones_like(places)
            last = start + size == length
            falling = torch.ones_like(places) if last else (size * unit - places - 0.5) / ramp
            raw.append(torch.minimum(rising, falling).clamp(max=1.0))
            total[start * unit : (start + size) * unit] += raw[-1]
        return [
            (weight / total[start * unit : (start + size) * unit]).to(like)
            for start, weight in zip(starts, raw, strict=True)
        ]


@dataclass(frozen=True)
class Tile:
    """One tile: where it lies, and the part of it that is counted as its own. Units: latents."""

    numbers: tuple[int, ...]
    """Along each axis."""
    starts: tuple[int, ...]
    sizes: tuple[int, ...]
    own: tuple[tuple[float, float], ...]
    """From the tile's start: up to the middle of each overlap, so that the own parts of all tiles
    are the image."""


def tiles_of(lengths: Sequence[int], tiles: Tiles) -> list[Tile]:
    """The tiles of an image of so many latents along each axis."""
    starts = [tiles.starts(length) for length in lengths]
    sizes = tuple(min(tiles.size, length) for length in lengths)

    def own(axis: int, number: int) -> tuple[float, float]:
        here, size = starts[axis], sizes[axis]
        low = (here[number - 1] + size - here[number]) / 2 if number > 0 else 0
        last = number == len(here) - 1
        return low, size if last else (here[number + 1] + size - here[number]) / 2

    return [
        Tile(
            numbers,
            tuple(each[number] for each, number in zip(starts, numbers, strict=True)),
            sizes,
            tuple(own(axis, number) for axis, number in enumerate(numbers)),
        )
        for numbers in itertools.product(*(range(len(each)) for each in starts))
    ]


Window: TypeAlias = Callable[[Tiles, int, int, Tensor], list[Tensor]]
"""(tiles, length of the axis, voxels a unit, like) -> the weights of each tile, adding up to 1."""


def tiled(
    call: Callable[[Tensor], Tensor],
    x: Tensor,
    tiles: Tiles,
    *,
    units: tuple[int, int],
    window: Window = Tiles.weights,
) -> Tensor:
    """`call` over the tiles of `x`, blended.

    `units`: voxels for a latent in `x` and in the result: (8, 1) encodes, (1, 8) decodes. `window`
    says what the tiles of an axis count.
    Shapes: `x` (batch, channel, *space), its axes multiples of the first unit.
    A gradient takes the statistics of the whole image as given.
    """
    unit, unit_out = units
    lengths = [size // unit for size in x.shape[2:]]
    if all(length <= tiles.size for length in lengths):
        return call(x)
    places = tiles_of(lengths, tiles)
    weights = [window(tiles, length, unit_out, x) for length in lengths]
    with _statistics(call, x, places, tiles, unit):
        result: Tensor | None = None
        for tile in places:
            y = call(_region(x, tile, unit))
            for axis, (weight, number) in enumerate(zip(weights, tile.numbers, strict=True)):
                y = y * weight[number].to(y).view(-1, *[1] * (len(lengths) - axis - 1))
            if result is None:
                shape = (*y.shape[:2], *(length * unit_out for length in lengths))
                result = torch.zeros(shape, dtype=y.dtype, device=y.device)
            _region(result, tile, unit_out).add_(y)
    assert result is not None  # there is a tile
    return result


def _statistics(
    call: Callable[[Tensor], Tensor], x: Tensor, places: Sequence[Tile], tiles: Tiles, unit: int
) -> AbstractContextManager[None]:
    """Within the block, norms see what `tiles` says."""
    if tiles.statistics == "tile":
        return nullcontext()
    pooled = PooledNorms()
    with torch.no_grad():
        while True:
            for tile in places:
                pooled.count(call, _region(x, tile, unit), tile.sizes, tile.own)
                if not pooled.found:
                    return pooled.used()
            pooled.settle()


def _region(x: Tensor, tile: Tile, unit: int) -> Tensor:
    for axis, (start, size) in enumerate(zip(tile.starts, tile.sizes, strict=True), start=2):
        x = x.narrow(axis, start * unit, size * unit)
    return x
