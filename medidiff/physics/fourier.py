"""The discrete Fourier transform as scanners use it: zero frequency in the middle, unitary."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from medidiff.types import Image, Tensor


def to_kspace(x: Image) -> Tensor:
    """The centred unitary Fourier transform over all axes of space.

    Shapes: (batch, channel, *space); voxel n // 2 is the origin of space and of k-space.
    """
    axes = tuple(range(2, x.ndim))
    moved = torch.fft.ifftshift(x, dim=axes)
    return torch.fft.fftshift(torch.fft.fftn(moved, dim=axes, norm="ortho"), dim=axes)


def from_kspace(kspace: Tensor) -> Image:
    """The inverse, and the adjoint, of `to_kspace`."""
    axes = tuple(range(2, kspace.ndim))
    moved = torch.fft.ifftshift(kspace, dim=axes)
    return torch.fft.fftshift(torch.fft.ifftn(moved, dim=axes, norm="ortho"), dim=axes)


@dataclass(frozen=True, eq=False)
class Filter:
    """x -> F* (gain * F x) with F as `to_kspace`.

    The gain is brought into the order of `torch.fft` once, which spares two of the four
    reorderings that F and F* cost an image, and no value changes but for the sign of zeros.
    Shapes: gain broadcasts over k-space (batch, channel, *space), zero frequency in the middle.
    """

    gain: Tensor
    _made: dict[Any, Tensor] = field(default_factory=dict, init=False, repr=False)

    def __call__(self, x: Image) -> Image:
        """Complex."""
        axes = tuple(range(2, x.ndim))
        spectrum = torch.fft.fftn(torch.fft.ifftshift(x, dim=axes), dim=axes, norm="ortho")
        kept = torch.fft.ifftn(spectrum * self._ordered(x), dim=axes, norm="ortho")
        return torch.fft.fftshift(kept, dim=axes)

    def _ordered(self, like: Image) -> Tensor:
        """As complex as the spectrum: a real factor would be made so at every product."""
        key = (like.ndim, like.dtype.to_complex(), like.device)
        if key not in self._made:
            gain = self.gain.reshape((1,) * (like.ndim - self.gain.ndim) + self.gain.shape)
            ordered = torch.fft.ifftshift(gain, dim=tuple(range(2, like.ndim)))
            self._made[key] = ordered.to(key[2], key[1])
        return self._made[key]
