"""What the middle of k-space tells of the coils and of the image's phase."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from medidiff.physics.fourier import from_kspace
from medidiff.types import Image, Tensor

KERNELS_AT_ONCE = 16


@dataclass(frozen=True)
class ESPIRiT:
    """Coil sensitivities from autocalibration samples, by an eigenvector at each voxel.

    calibration: samples of each axis in the middle of k-space that are used, at most;
    kernel: the side of the local k-space kernels; threshold: singular values of the calibration
    matrix below this share of the largest are noise; crop: where the largest eigenvalue is below
    it there is no signal and the sensitivities are 0.
    Source: Uecker et al. 2014 (doi:10.1002/mrm.24751), the first map.
    """

    calibration: int = 24
    kernel: int = 6
    threshold: float = 0.02
    crop: float = 0.95

    def maps(self, kspace: Tensor) -> Tensor:
        """The sensitivities; their squares sum to 1 over coils, and the first coil's is real.

        Shapes: (batch, coil, *space) in and out; the calibration region fully sampled.
        Errors: ValueError if the region is smaller than a kernel, or without signal.
        """
        return torch.stack([self._of_one(each) for each in kspace])

    def _of_one(self, kspace: Tensor) -> Tensor:
        space = tuple(kspace.shape[1:])
        width = tuple(min(self.calibration, size) for size in space)
        if not bool((kspace != 0).any()):
            raise ValueError("k-space without signal tells nothing of the coils")
        if min(width) < self.kernel:
            raise ValueError(
                f"calibration with kernels of {self.kernel} needs as many samples on each axis; "
                f"found {width}"
            )
        kernels = self._kernels(_middle(kspace, width))
        values, vectors = torch.linalg.eigh(self._covariance(kernels, space))
        coils = vectors[..., -1].T
        coils = coils * (coils[:1].conj() / coils[:1].abs().clamp_min(1e-30))
        return (coils * (values[..., -1] > self.crop)).reshape(len(kspace), *space)

    def _kernels(self, calibration: Tensor) -> Tensor:
        """The row space of the calibration matrix, (kernels, coil, *kernel)."""
        blocks = calibration
        for axis in range(1, calibration.ndim):
            blocks = blocks.unfold(axis, self.kernel, 1)
        axes = calibration.ndim - 1
        order = (*range(1, axes + 1), 0, *range(axes + 1, 2 * axes + 1))
        size = len(calibration) * self.kernel**axes
        _, s, rows = torch.linalg.svd(blocks.permute(order).reshape(-1, size), full_matrices=False)
        kept = rows[s > self.threshold * s[0]]
        return kept.reshape(-1, len(calibration), *(self.kernel,) * axes)

    def _covariance(self, kernels: Tensor, space: tuple[int, ...]) -> Tensor:
        """The kernels' images, coil against coil, at each voxel: (voxels, coil, coil)."""
        coils = kernels.shape[1]
        total = kernels.new_zeros((math.prod(space), coils, coils))
        for some in kernels.split(KERNELS_AT_ONCE):
            images = from_kspace(_placed(some, space)).flatten(2)
            total += torch.einsum("kcn,kdn->ncd", images, images.conj())
        return total * (math.prod(space) / self.kernel ** len(space))


def calibration_box(mask: Tensor) -> tuple[int, ...]:
    """The sides of the largest box around zero frequency that is fully sampled.

    Shapes: mask (*space). The box grows one axis after the other, by one line at either side.
    """
    sides = [0] * mask.ndim
    growing = list(range(mask.ndim))
    while growing:
        for axis in tuple(growing):
            wider = [
                min(s + 1, n) if a == axis else max(s, 1)
                for a, (s, n) in enumerate(zip(sides, mask.shape, strict=True))
            ]
            if sides[axis] < mask.shape[axis] and bool((_middle(mask[None], wider) == 1).all()):
                sides = wider
            else:
                growing.remove(axis)
    return tuple(sides)


def image_of_centre(kspace: Tensor, box: tuple[int, ...], coils: Tensor | None = None) -> Image:
    """The complex low-resolution image that a box of k-space holds.

    The box is tapered (Hann), so that the image does not ring. It is cut to the same share of each
    axis, that of the smallest. Its phase is that of homodyne reconstruction.
    Shapes: kspace (batch, coil, *space), coils as in `CartesianMRI` (none: one coil); gives
    (batch, 1, *space).
    Source: Noll et al. 1991 (doi:10.1109/42.79473).
    """
    space = tuple(kspace.shape[2:])
    share = min(side / size for side, size in zip(box, space, strict=True))
    sides = tuple(max(1, round(share * size)) for size in space)
    taper = torch.ones((), dtype=kspace.dtype.to_real(), device=kspace.device)
    for side in sides:
        along = torch.hann_window(side + 2, periodic=False, dtype=taper.dtype, device=taper.device)
        taper = taper[..., None] * along[1:-1]
    middle = torch.stack([_middle(each, sides) for each in kspace]) * taper
    images = from_kspace(_placed(middle, space))
    return images if coils is None else (coils.conj() * images).sum(1, keepdim=True)


def _window(size: int, side: int) -> slice:
    """`side` samples around zero frequency, n // 2."""
    start = size // 2 - side // 2
    return slice(start, start + side)


def _middle(kspace: Tensor, sides: tuple[int, ...] | list[int]) -> Tensor:
    """The middle of (first, *space)."""
    cut = [_window(size, side) for size, side in zip(kspace.shape[1:], sides, strict=True)]
    return kspace[(slice(None), *cut)]


def _placed(middle: Tensor, space: tuple[int, ...]) -> Tensor:
    """(batch, coil, *sides) in the middle of zeros of `space`."""
    whole = middle.new_zeros((*middle.shape[:2], *space))
    cut = [_window(size, side) for size, side in zip(space, middle.shape[2:], strict=True)]
    whole[(..., *cut)] = middle
    return whole
