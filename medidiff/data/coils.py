"""What an MR scanner adds to anatomy: coil sensitivities, a smooth phase, complex noise.

Simulated: good for testing a reconstruction, no evidence about a scanner.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Complex = NDArray[np.complex64]
COILS_A_RING = 8
COIL_SIZE = 0.3  # in half lengths of the image: nothing is steeper beside a coil than this


def coil_sensitivities(
    shape: tuple[int, ...], coils: int, random: np.random.Generator, *, distance: float = 1.5
) -> Complex:
    """Smooth complex maps of a birdcage-like array whose squared magnitudes add up to 1.

    Shapes: (coils, *shape) for 2 or 3 axes; in 3-D the coils lie on rings of up to eight along the
    first axis. `distance` is that of a coil from the centre, in half lengths of the image. Each map
    falls with the distance from its coil, and its phase turns around it; places and phases vary by
    a few percent from draw to draw.
    Errors: ValueError for fewer than one coil or a distance of 1 or less (a coil in the image).
    """
    if coils < 1 or distance <= 1:
        raise ValueError(f"{coils} coils at distance {distance:g}: at least one, outside of 1")
    centres = _centres(len(shape), coils, distance, random)
    axes = [np.linspace(-1, 1, size, dtype=np.float32) for size in shape]
    points = np.stack(np.meshgrid(*axes, indexing="ij"))
    maps = np.empty((coils, *shape), dtype=np.complex64)
    phases = random.uniform(0, 2 * np.pi, coils)
    for coil, (centre, phase) in enumerate(zip(centres, phases, strict=True)):
        away = points - centre.reshape(-1, *([1] * len(shape))).astype(np.float32)
        strength = 1 / np.sqrt((away**2).sum(axis=0) + COIL_SIZE**2)
        turn = np.arctan2(away[-2], away[-1])
        maps[coil] = strength * np.exp(1j * (turn + phase))
    return maps / np.sqrt((np.abs(maps) ** 2).sum(axis=0))


def _centres(
    dims: int, coils: int, distance: float, random: np.random.Generator
) -> NDArray[np.float64]:
    rings = -(-coils // COILS_A_RING) if dims == 3 else 1
    number = np.arange(coils)
    on_ring = -(-coils // rings)
    angle = 2 * np.pi * (number % on_ring + 0.5 * (number // on_ring)) / on_ring
    angle = angle + random.normal(0, 0.05, coils)
    centres = distance * np.stack([np.sin(angle), np.cos(angle)], axis=1)
    if dims == 3:
        height = (2 * (number // on_ring) + 1) / rings - 1
        centres = np.concatenate([height[:, None], centres], axis=1)
    return centres


def smooth_phase(
    shape: tuple[int, ...], random: np.random.Generator, *, turns: float = 0.5
) -> Complex:
    """A factor of modulus 1 whose phase is a random quadratic that spans about `turns` full turns:
    real images would make reconstruction too easy (half of k-space is then known)."""
    axes = np.meshgrid(*(np.linspace(-1, 1, size) for size in shape), indexing="ij")
    phase = np.zeros(shape)
    for index, axis in enumerate(axes):
        phase += random.normal() * axis
        for other in axes[index:]:
            phase += 0.5 * random.normal() * axis * other
    span = float(np.ptp(phase)) or 1.0
    return np.exp(2j * np.pi * (turns * phase / span + random.uniform())).astype(np.complex64)


def complex_noise(shape: tuple[int, ...], sigma: float, random: np.random.Generator) -> Complex:
    """White Gaussian noise of standard deviation `sigma` in the real and in the imaginary part.
    The magnitude of an image with it is Rician."""
    real, imaginary = random.normal(0, sigma, (2, *shape))
    return (real + 1j * imaginary).astype(np.complex64)


def multi_coil(
    image: NDArray[np.floating], sensitivities: Complex, phase: Complex, noise: Complex
) -> Complex:
    """Fully sampled k-space of each coil: the centred orthonormal Fourier transform of sensitivity
    x phase x image, plus noise.

    Shapes: (coils, *space); zero frequency in the middle.
    """
    axes = tuple(range(1, sensitivities.ndim))
    seen = np.fft.ifftshift(sensitivities * phase * image, axes=axes)
    return (np.fft.fftshift(np.fft.fftn(seen, axes=axes, norm="ortho"), axes=axes) + noise).astype(
        np.complex64
    )
