"""Group norms of an image that is seen in tiles, with the statistics of the whole image.

    mean, variance of a group = over the own parts of all tiles    y = (x - mean) rstd weight + bias

Source: Wu and He 2018 (arXiv:1803.08494), section 3, for the norm.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import nn

from medidiff.networks.fields import group_norm, normalised_by
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
        self._known: dict[nn.GroupNorm, tuple[Tensor, Tensor]] = {}
        self._sums: dict[nn.GroupNorm, Tensor] = {}
        self._tile: tuple[Sequence[int], Own] | None = None

    @contextmanager
    def counting(self, sizes: Sequence[int], own: Own) -> Iterator[None]:
        """Within the block the network is called on a tile; the own part of what its first
        unsettled norm sees is counted, and the call ends there.

        Units: `sizes` and `own` in one unit, whatever the grid of a field.
        """
        self._tile = sizes, own
        try:
            with self.used():
                yield
        except _CountedError:
            pass
        finally:
            self._tile = None

    def used(self) -> AbstractContextManager[None]:
        """Within the block, norms are those of the whole image."""
        return normalised_by(self._normalise)

    @property
    def found(self) -> bool:
        """Whether a norm is being counted."""
        return bool(self._sums)

    def settle(self) -> None:
        """All tiles have been counted: from now on their statistics are used."""
        for norm, (count, total, square) in self._sums.items():
            mean = total / count
            variance = (square / count - mean**2).clamp_min(0)
            self._known[norm] = mean, (variance + norm.eps).rsqrt()
        self._sums.clear()

    def _normalise(self, x: Tensor, norm: nn.GroupNorm) -> Tensor:
        if norm not in self._known:
            if self._tile is None:  # the calls differ in their layers: nothing else can be done
                return group_norm(x, norm)
            self._count(x, norm, *self._tile)
            raise _CountedError
        wide = _wide(x)
        mean, rstd = (
            each.to(wide).repeat_interleave(norm.num_channels // norm.num_groups, dim=1)
            for each in self._known[norm]
        )
        gain = rstd * norm.weight.to(wide)
        bias = norm.bias.to(wide) - mean * gain
        shape = (len(gain), -1, *[1] * (x.ndim - 2))
        with torch.autocast(x.device.type, enabled=False):
            return torch.addcmul(bias.view(shape), x.to(wide), gain.view(shape)).to(x.dtype)

    def _count(self, x: Tensor, norm: nn.GroupNorm, sizes: Sequence[int], own: Own) -> None:
        for axis, (size, (low, high)) in enumerate(zip(sizes, own, strict=True), start=2):
            unit = x.shape[axis] / size
            x = x.narrow(axis, int(low * unit), int(high * unit) - int(low * unit))
        values = x.reshape(len(x), norm.num_groups, -1)
        variance, mean = torch.var_mean(values.to(_wide(x)), dim=2, correction=0)
        mean, variance = mean.double(), variance.double()
        count = torch.full_like(mean, values.shape[2])
        sums = torch.stack([count, count * mean, count * (variance + mean**2)])
        self._sums[norm] = self._sums.get(norm, 0) + sums


def _wide(x: Tensor) -> torch.dtype:
    """Half precisions are summed and scaled in float32."""
    return torch.promote_types(x.dtype, torch.float32)
