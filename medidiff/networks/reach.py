"""A network over images larger than those it can see at once: by tiles, or slice by slice.

Each call at a noise level is made of calls on overlapping tiles (or on slices), whose answers are
blended; the sampler, its noise and every head see one image. Where the network is told coordinates
or an image beside, each tile is given its own part of them. The answer is blended, not the image:
at one level the clean estimate is the network's answer times one number plus the image times
another, so both are the same.
Source: Bar-Tal et al. 2023 (MultiDiffusion, arXiv:2302.08113), who average without weights.
Differs: the window falls to 0 before a tile's edge, where the network sees no neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from medidiff.networks.tiling import Tiles, tiled
from medidiff.types import Image, Tensor

MARGIN = 4  # the part of an overlap next to a tile's edge that does not count: one in so many


@dataclass(frozen=True)
class Reach:
    """How a network goes over an image that it cannot see at once."""

    tiles: Tiles | None = None
    """In voxels of the network's space."""
    slices: tuple[int, ...] = ()
    """Axes of a volume across which a network of slices is called; the answers of several are
    averaged."""
    at_once: int = 16
    """Slices in one call."""
    thickness: int = 1
    """Neighbouring slices that the network takes as channels."""

    def of(self, network: nn.Module) -> nn.Module:
        """The network by tiles; slices are cut around what else it is told."""
        return network if self.tiles is None else Tiled(network, self.tiles)

    def over_slices(self, network: nn.Module) -> nn.Module:
        """The network of slices as one of volumes."""
        if not self.slices:
            return network
        return SliceBySlice(network, self.slices, self.at_once, self.thickness)


class Tiled(nn.Module):
    """A network by tiles, one at a time: its memory is that of a tile.

    With a gradient, each tile is computed again on the way back, to the same end.
    """

    def __init__(self, network: nn.Module, tiles: Tiles) -> None:
        super().__init__()
        self.network = network
        self.tiles = tiles

    def forward(
        self,
        x: Image,
        label: Tensor,
        condition: Tensor | None = None,
        concat: Tensor | None = None,
    ) -> Image:
        """As the network's own call, on images of any size.

        Errors: ValueError for an image beside that is not on the grid of `x`.
        """
        if concat is not None and concat.shape[2:] != x.shape[2:]:
            raise ValueError("by tiles, what is given beside must be on the image's grid")
        together = (
            x if concat is None else torch.cat([x, concat.expand(len(x), *concat.shape[1:])], 1)
        )

        def call(part: Tensor) -> Tensor:
            beside = None if concat is None else part[:, x.shape[1] :]
            given = (part[:, : x.shape[1]], label, condition, beside)
            if torch.is_grad_enabled() and part.requires_grad:
                return checkpoint(self.network, *given, use_reentrant=False)  # pyright: ignore
            return self.network(*given)

        return tiled(call, together, self.tiles, units=(1, 1), window=windows)


class SliceBySlice(nn.Module):
    """A network of slices, called on a volume's slices across some axes, their answers averaged.

    Averaging over three orientations joins slices that know nothing of each other. With a thickness
    the network is called on every slab of so many neighbouring slices, its channels, and a slice's
    answer is the mean of those of all slabs that hold it, weighted by squared sines: most where the
    slab reaches as far on both sides. A network that sees nothing of the neighbours gives what it
    gives slice by slice.
    Source: Lee et al. 2023 (TPDM, arXiv:2303.08440), who alternate between two priors; Bar-Tal et
    al. 2023 (MultiDiffusion, arXiv:2302.08113), who average without weights. Differs: one prior for
    all, averaged at each level; weights.
    """

    def __init__(
        self, network: nn.Module, axes: Sequence[int], at_once: int, thickness: int = 1
    ) -> None:
        super().__init__()
        self.network = network
        self.axes = tuple(axes)
        self.at_once = at_once
        self.thickness = thickness

    def forward(
        self,
        x: Image,
        label: Tensor,
        condition: Tensor | None = None,
        concat: Tensor | None = None,
    ) -> Image:
        """As the network's own call, on (batch, channel, depth, height, width).

        Errors: ValueError for a volume of fewer slices than a slab, or an image beside with slabs.
        """
        if min(x.shape[2 + axis] for axis in self.axes) < self.thickness:
            raise ValueError(
                f"slabs of {self.thickness} slices in a volume of {tuple(x.shape[2:])}"
            )
        if concat is not None and self.thickness > 1:
            raise ValueError("a network of slabs takes no image beside")
        total = self._across(self.axes[0], x, label, condition, concat)
        for axis in self.axes[1:]:
            total = total + self._across(axis, x, label, condition, concat)
        return total / len(self.axes)

    def _across(
        self, axis: int, x: Image, label: Tensor, condition: Tensor | None, concat: Tensor | None
    ) -> Image:
        count = x.shape[2 + axis] - self.thickness + 1
        flat = _as_slabs(x, axis, self.thickness)
        beside = None if concat is None else _as_slabs(concat, axis, 1)
        told = None if condition is None else condition.repeat_interleave(count, 0)
        labels = label.expand(len(x)).repeat_interleave(count, 0)
        given = [
            [None] if each is None else each.split(self.at_once)
            for each in (flat, labels, told, beside)
        ]
        calls = range(len(given[0]))
        made = torch.cat(
            [self.network(*(each[call % len(each)] for each in given)) for call in calls]
        )
        return _blended(made.unflatten(0, (len(x), count)), self.thickness).movedim(2, 2 + axis)


def _as_slabs(x: Image, axis: int, thickness: int) -> Tensor:
    """Every slab of neighbouring slices across an axis, one after the other: (batch * slab, channel
    * thickness, *slice)."""
    slabs = x.unfold(2 + axis, thickness, 1).movedim(2 + axis, 1).movedim(-1, 3)
    return slabs.flatten(2, 3).flatten(0, 1).contiguous()


def _blended(made: Tensor, thickness: int) -> Tensor:
    """Answers for slabs (batch, slab, channel * thickness, *slice) as those for slices: (batch,
    channel, slice, *slice)."""
    parts = made.unflatten(2, (-1, thickness)).movedim(1, 3)
    if thickness == 1:
        return parts.squeeze(2)
    count = parts.shape[3]
    window = slab_window(thickness).tolist()
    depth = count + thickness - 1
    kind = torch.promote_types(torch.float32, made.dtype)
    shape = (*parts.shape[:2], depth, *parts.shape[4:])
    total = torch.zeros(shape, dtype=kind, device=made.device)
    weight = torch.zeros(depth, dtype=total.dtype, device=made.device)
    for place, share in enumerate(window):
        total[:, :, place : place + count] += share * parts[:, :, place]
        weight[place : place + count] += share
    return (total / weight.view(-1, 1, 1)).to(made.dtype)


def slab_window(thickness: int) -> Tensor:
    """What each slice of a slab counts where slabs overlap: squared sines."""
    places = (torch.arange(thickness, dtype=torch.float64) + 0.5) / thickness
    return torch.sin(math.pi * places) ** 2


def windows(tiles: Tiles, length: int, unit: int, like: Tensor) -> list[Tensor]:
    """What each tile of an axis counts: squared sines in the overlaps, 0 next to inner edges.

    Shapes: (size * unit,) each. They add up to 1 wherever tiles lie. A network that sees no further
    than a quarter of the overlap gives by tiles what it gives whole.
    """
    starts, size = tiles.starts(length), min(tiles.size, length)
    margin = tiles.overlap // MARGIN
    ramp = max(1, tiles.overlap - 2 * margin) * unit
    places = torch.arange(size * unit, dtype=torch.float64) + 0.5 - margin * unit
    rising = torch.sin(math.pi / 2 * (places / ramp).clamp(0, 1)) ** 2
    total = torch.zeros(length * unit, dtype=torch.float64)
    raw: list[Tensor] = []
    for start in starts:
        weight = torch.ones_like(rising)
        weight = weight * rising if start > 0 else weight
        weight = weight * rising.flip(0) if start + size < length else weight
        raw.append(weight)
        total[start * unit : (start + size) * unit] += weight
    return [
        (weight / total[start * unit : (start + size) * unit]).to(like)
        for start, weight in zip(starts, raw, strict=True)
    ]
