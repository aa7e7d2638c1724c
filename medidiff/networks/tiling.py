"""A network over a large image by tiles, blended where they overlap: memory is that of a tile."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch

from medidiff.types import Tensor


@dataclass(frozen=True)
class Tiles:
    """How a codec goes over an image. Lengths are of latents."""

    size: int = 32
    """Latents along each axis of a tile."""
    overlap: int = 8
    """Latents over which a tile fades into the next."""

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
    """
    unit, unit_out = units
    lengths = [size // unit for size in x.shape[2:]]
    if all(length <= tiles.size for length in lengths):
        return call(x)
    weights = [window(tiles, length, unit_out, x) for length in lengths]
    result: Tensor | None = None
    for numbers in itertools.product(*(range(len(each)) for each in weights)):
        starts = [
            tiles.starts(length)[number] for length, number in zip(lengths, numbers, strict=True)
        ]
        sizes = [min(tiles.size, length) for length in lengths]
        y = call(_region(x, starts, sizes, unit))
        for axis, (weight, number) in enumerate(zip(weights, numbers, strict=True)):
            y = y * weight[number].to(y).view(-1, *[1] * (len(lengths) - axis - 1))
        if result is None:
            shape = (*y.shape[:2], *(length * unit_out for length in lengths))
            result = torch.zeros(shape, dtype=y.dtype, device=y.device)
        _region(result, starts, sizes, unit_out).add_(y)
    assert result is not None  # there is a tile
    return result


def _region(x: Tensor, starts: Sequence[int], sizes: Sequence[int], unit: int) -> Tensor:
    for axis, (start, size) in enumerate(zip(starts, sizes, strict=True), start=2):
        x = x.narrow(axis, start * unit, size * unit)
    return x
