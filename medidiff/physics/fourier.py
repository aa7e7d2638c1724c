"""The discrete Fourier transform as scanners use it: zero frequency in the middle, unitary."""

from __future__ import annotations

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
