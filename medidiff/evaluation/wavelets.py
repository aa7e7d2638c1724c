"""Daubechies's orthogonal wavelets on a grid that goes on at its other side."""

from __future__ import annotations

from functools import lru_cache

import torch

from medidiff.types import Image, Tensor

# Daubechies 1992, table 6.1, N = 4: the low-pass filter with four vanishing moments
SMOOTH = (
    0.2303778133088964,
    0.7148465705529154,
    0.6308807679398587,
    -0.0279837694168599,
    -0.1870348117190931,
    0.0308413818355607,
    0.0328830116668852,
    -0.0105974017850690,
)
LEVELS = 4


def shrunk(x: Image, threshold: float | Tensor) -> Image:
    """x with its wavelet details made smaller by the threshold; the coarsest means stay.

    The proximal map of threshold * |details|_1, for the transform is orthogonal; complex details
    keep their phase.
    Shapes: (batch, channel, *space). An axis is halved as long as it is even, 4 times at most.
    """
    return _shrunk(x, threshold, LEVELS)


def _shrunk(x: Image, threshold: float | Tensor, levels: int) -> Image:
    axes = [axis for axis in range(2, x.ndim) if x.shape[axis] % 2 == 0]
    if levels == 0 or not axes:
        return x
    parts = [x]
    for axis in axes:
        parts = [half for part in parts for half in analysed(part, axis)]
    parts = [
        _shrunk(parts[0], threshold, levels - 1),
        *(_softened(part, threshold) for part in parts[1:]),
    ]
    for axis in reversed(axes):
        pairs = zip(parts[::2], parts[1::2], strict=True)
        parts = [synthesised(smooth, detail, axis) for smooth, detail in pairs]
    return parts[0]


def analysed(x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """The smooth half and the details of an axis of even length."""
    smooth, detail = _matrix(x.shape[axis], x.dtype, x.device).chunk(2)
    moved = x.movedim(axis, -1)
    return (moved @ smooth.T).movedim(-1, axis), (moved @ detail.T).movedim(-1, axis)


def synthesised(smooth: Tensor, detail: Tensor, axis: int) -> Tensor:
    """What has this smooth half and these details: the transpose is the inverse."""
    both = torch.cat((smooth, detail), dim=axis).movedim(axis, -1)
    return (both @ _matrix(both.shape[-1], both.dtype, both.device)).movedim(-1, axis)


@lru_cache(maxsize=64)
def _matrix(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The orthogonal matrix of one level: smooth rows, then those of the details."""
    taps = torch.tensor(SMOOTH, dtype=torch.float64)
    signs = torch.tensor([1.0, -1.0] * (len(SMOOTH) // 2), dtype=torch.float64)
    rows = []
    for filter_ in (taps, taps.flip(0) * signs):
        row = torch.zeros(size // 2, size, dtype=torch.float64)
        place = 2 * torch.arange(size // 2)
        for tap, value in enumerate(filter_):
            row[torch.arange(size // 2), (place + tap) % size] += value
        rows.append(row)
    return torch.cat(rows).to(device, dtype)


def _softened(x: Tensor, threshold: float | Tensor) -> Tensor:
    size = x.abs()
    return x * ((size - threshold).clamp_min(0) / size.clamp_min(torch.finfo(size.dtype).tiny))
