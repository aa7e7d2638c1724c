"""Group norms of an image that is seen in tiles, with the statistics of the whole image.

    mean, variance of a group = over the own parts of all tiles

Source: Wu and He 2018 (arXiv:1803.08494), section 3, for the norm.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import nn

from medidiff.networks.fields import Field, moments_of_region, with_statistics
from medidiff.networks.group_statistics import GroupStatistics
from medidiff.types import Tensor

Own = Sequence[tuple[float, float]]


class _CountedError(Exception):
    """A norm was counted whose statistics are not settled: what is behind it has to wait."""


class PooledNorms:
    """Counts what each norm of a network sees in all tiles, one norm after the other.

    What a norm sees depends on the norms before it, so that a pass over the tiles settles one of
    them, and ends where the next is found.
    """

    def __init__(self) -> None:
        self._known: dict[nn.GroupNorm, GroupStatistics] = {}
        self._sums: dict[nn.GroupNorm, Tensor] = {}
        self._tile: tuple[Sequence[int], Own] | None = None

    def count(
        self, call: Callable[[Tensor], Tensor], x: Tensor, sizes: Sequence[int], own: Own
    ) -> None:
        """Call the network on a tile; the own part of what its first unsettled norm sees is
        counted, and the call ends there.

        Units: `sizes` and `own` in one unit, whatever the grid of a field.
        """
        self._tile = sizes, own
        try:
            with self.used():
                call(x)
        except _CountedError as found:
            # its frames hold the tile's fields; in a cycle they would wait for the collector, and
            # the memory would be that of many tiles
            found.__traceback__ = None
        finally:
            self._tile = None

    def used(self) -> AbstractContextManager[None]:
        """Within the block, norms are those of the whole image."""
        return with_statistics(self._statistics)

    @property
    def found(self) -> bool:
        """Whether a norm is being counted."""
        return bool(self._sums)

    def settle(self) -> None:
        """All tiles have been counted: from now on their statistics are used."""
        for norm, (count, total, square) in self._sums.items():
            mean = total / count
            variance = (square / count - mean**2).clamp_min(0)
            self._known[norm] = GroupStatistics(mean, (variance + norm.eps).rsqrt())
        self._sums.clear()

    def _statistics(self, parts: Sequence[Field], norm: nn.GroupNorm) -> GroupStatistics | None:
        if norm in self._known:
            return self._known[norm]
        if self._tile is None:  # the calls differ in their layers: nothing else can be done
            return None
        self._count(parts, norm, *self._tile)
        raise _CountedError

    def _count(
        self, parts: Sequence[Field], norm: nn.GroupNorm, sizes: Sequence[int], own: Own
    ) -> None:
        """Adds count, sum and sum of squares of each group over the tile's own part."""
        channels = torch.cat(
            [moments_of_region(_own(x.data, sizes, own)).sums(x.offset) for x in parts], dim=2
        )
        groups = channels.unflatten(2, (norm.num_groups, -1)).sum(3)
        self._sums[norm] = self._sums.get(norm, 0) + groups


def _own(x: Tensor, sizes: Sequence[int], own: Own) -> Tensor:
    """The view of a tile's field that no other tile counts."""
    for axis, (size, (low, high)) in enumerate(zip(sizes, own, strict=True), start=2):
        unit = x.shape[axis] / size
        x = x.narrow(axis, int(low * unit), int(high * unit) - int(low * unit))
    return x
