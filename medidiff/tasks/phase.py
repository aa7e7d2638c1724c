"""A better phase of a magnetic resonance image, once its magnitude is roughly known.

The middle of k-space gives a phase of low resolution. With a magnitude m from the prior, what is
left of the phase is a smooth field, fitted to all samples, also those outside of the middle:

    min over theta of |y - A(m exp(i (phase + sum_k theta_k B_k)))|^2,   B_k products of cosines

by Gauss-Newton steps with Levenberg's damping (Levenberg 1944, doi:10.1090/qam/10666), each case by
itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

WAVES = {2: 12, 3: 5}  # cosines along each axis, by dimensions, at most
SHORTEST = 12  # voxels that a cosine's half period has at least
AT_ONCE = 16  # waves
ROUNDS = 4
DAMPING = 1e-3
SMOOTH = 0.05  # of each axis: what of a phase is finer is its noise


def fitted_phase(
    forward: Callable[[Tensor], Tensor], kspace: Tensor, magnitude: Tensor, phase: Tensor
) -> Tensor:
    """The phase of one case that explains the samples best: `phase`, smoothed, and a smooth field.

    Shapes: `forward` takes complex images (n, 1, *space) to (n, coil, *space); kspace is
    (1, coil, *space), magnitude and phase (1, 1, *space).
    """
    precision, kspace = phase.dtype, kspace.to(torch.complex128)
    magnitude, phase = magnitude.double(), phase.double()
    basis = cosines(tuple(phase.shape[2:])).to(phase)
    seen = kspace[0] != 0
    phase = smoothed(magnitude**2 * torch.polar(torch.ones_like(phase), phase)).angle()
    for _ in range(ROUNDS):
        image = magnitude * torch.polar(torch.ones_like(phase), phase)
        apart = (kspace - forward(image))[0, seen]
        slopes = torch.cat([forward(1j * image * some)[:, seen] for some in basis.split(AT_ONCE)])
        normal = (slopes.conj() @ slopes.T).real
        right = (slopes.conj() @ apart).real
        damped = normal + DAMPING * normal.diagonal().mean() * torch.eye(
            len(normal), dtype=normal.dtype, device=normal.device
        )
        theta = torch.linalg.solve(damped, right)
        phase = phase + (theta.reshape(-1, *[1] * (basis.ndim - 1)) * basis).sum(0, keepdim=True)
    return phase.to(precision)


def smoothed(image: Tensor) -> Tensor:
    """The image blurred by a Gaussian of `SMOOTH` of each axis, which goes on around its ends."""
    axes = tuple(range(2, image.ndim))
    spectrum = torch.fft.fftn(image, dim=axes)
    for axis in axes:
        turns = torch.fft.fftfreq(image.shape[axis], device=image.device) * image.shape[axis]
        gain = torch.exp(-2 * (math.pi * SMOOTH * turns) ** 2)
        spectrum = spectrum * gain.reshape([-1 if a == axis else 1 for a in range(image.ndim)])
    return torch.fft.ifftn(spectrum, dim=axes)


def cosines(space: tuple[int, ...]) -> Tensor:
    """Products of the lowest cosines along each axis: (waves, 1, *space)."""
    count = WAVES[len(space)]
    products = torch.ones(1, *[1] * len(space))
    for axis, n in enumerate(space):
        angle = math.pi * (torch.arange(n) + 0.5) / n
        waves = torch.stack([(k * angle).cos() for k in range(min(count, 1 + n // SHORTEST))])
        shape = [1] * (len(space) + 1)
        shape[axis + 1] = n
        products = (products[:, None] * waves.reshape(1, len(waves), *shape[1:])).flatten(0, 1)
    return products[:, None]
