"""Filtered back-projection: the inverse of a beam that sees enough, by formula."""

from __future__ import annotations

import math
from typing import Literal

import torch

from medidiff.physics.beams import FanBeam
from medidiff.physics.ct import Tomography
from medidiff.types import Image, Tensor

Window = Literal["ramp", "shepp-logan", "cosine", "hamming", "hann"]


def filtered_back_projection(
    operator: Tomography, sinogram: Tensor, window: Window = "ramp", *, cutoff: float = 1.0
) -> Image:
    """The image whose line integrals a sinogram holds, true to scale where the views suffice.

    Views may lie unevenly; each counts for the angle up to halfway to its neighbours. A parallel
    beam needs 180 degrees and a fan 360, or 180 and twice its opening (Parker's weights); of less
    there is no exact inverse by formula, and the result has the streaks of what was not seen.
    Shapes: sinogram (batch, channel, *depth, views, detectors).
    Units: the window ends at `cutoff` times the detector's highest frequency.
    Errors: ValueError for a sinogram of another beam, a single detector and a cutoff not above 0.
    Source: Kak and Slaney 1988, sections 3.3 (parallel) and 3.4.2 (equispaced fan); Parker 1982
    (doi:10.1118/1.595078) for short scans.
    """
    beam = operator.beam
    operator.check_sinogram(sinogram)
    if beam.detectors < 2 or not cutoff > 0:
        raise ValueError(
            "filtered back-projection needs at least two detectors and a cutoff above 0, "
            f"found {beam.detectors} and {cutoff}"
        )
    offsets = beam.offsets().to(sinogram)
    if isinstance(beam, FanBeam):
        offsets = offsets / beam.magnification
        distance = beam.source_mm
        sinogram = sinogram * _redundancy(beam).to(sinogram)
        sinogram = sinogram * distance / (distance**2 + offsets**2).sqrt()
    else:
        sinogram = sinogram * _steps(beam.angles, 180.0).to(sinogram)[:, None]
    filtered = _ramped(sinogram, float(offsets[1] - offsets[0]), window, cutoff)
    flat = filtered.flatten(0, -3)
    return _smeared(operator, flat, offsets).reshape(*sinogram.shape[:-2], *operator.shape)


def _smeared(operator: Tomography, filtered: Tensor, offsets: Tensor) -> Tensor:
    """The sum over views of what each pixel projects to, linearly between detectors."""
    beam, (rows, columns) = operator.beam, operator.shape
    high, wide = operator.spacing_mm
    x = (torch.arange(columns).to(offsets) - (columns - 1) / 2)[None, :] * wide
    y = -(torch.arange(rows).to(offsets) - (rows - 1) / 2)[:, None] * high
    total = torch.zeros((len(filtered), rows, columns), dtype=filtered.dtype, device=offsets.device)
    for view, angle in enumerate(beam.angles):
        cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        along, closer = x * cos + y * sin, torch.ones_like(x * y)
        if isinstance(beam, FanBeam):
            closer = (beam.source_mm - x * sin + y * cos) / beam.source_mm
            along = along / closer
        place = (along - offsets[0]) / (offsets[1] - offsets[0])
        total += _between(filtered[:, view], place) / closer**2
    return total


def _between(values: Tensor, place: Tensor) -> Tensor:
    """values (n, detectors) at fractional places, 0 beyond the last."""
    low = place.floor()
    share, low, last = place - low, low.long(), values.shape[1] - 1
    inside = (low >= 0) & (low < last)
    low = low.clamp(0, last - 1)
    mixed = values[:, low] * (1 - share) + values[:, low + 1] * share
    return mixed * inside


def _ramped(sinogram: Tensor, pitch: float, window: Window, cutoff: float) -> Tensor:
    """Each view convolved with the band-limited ramp (Kak and Slaney 1988, eq. 61 of chapter 3)."""
    count = sinogram.shape[-1]
    length = 2 ** math.ceil(math.log2(2 * count))
    n = torch.fft.fftfreq(length, 1 / length, dtype=torch.float64)
    kernel = torch.where(n.remainder(2) == 1, -1 / (math.pi * n) ** 2, 0.0)
    kernel[0] = 0.25
    # samples of h times the pitch of the sum over detectors, hence one pitch below
    response = torch.fft.rfft(kernel).real / pitch
    response = (response * _shape(window, len(response), cutoff)).to(
        sinogram.device, sinogram.dtype
    )
    return torch.fft.irfft(torch.fft.rfft(sinogram, length) * response, length)[..., :count]


def _shape(window: Window, count: int, cutoff: float) -> Tensor:
    """The filter's roll-off from 0 to the cutoff, and 0 from there to the highest frequency."""
    f = torch.linspace(0, 1, count, dtype=torch.float64) / cutoff
    shapes = {
        "ramp": torch.ones_like(f),
        "shepp-logan": torch.sinc(f / 2),
        "cosine": torch.cos(f * math.pi / 2),
        "hamming": 0.54 + 0.46 * torch.cos(f * math.pi),
        "hann": 0.5 + 0.5 * torch.cos(f * math.pi),
    }
    return torch.where(f <= 1, shapes[window], 0.0)


def _steps(angles: tuple[float, ...], period: float) -> Tensor:
    """The angle in radians that each view stands for, half the way to either neighbour.

    A gap of more than three times the median, as of a limited angle, counts as the median.
    """
    degrees = torch.tensor(angles, dtype=torch.float64).remainder(period)
    order = degrees.argsort()
    sorted_ = degrees[order]
    gaps = torch.cat((sorted_[1:], sorted_[:1] + period)) - sorted_
    median = gaps[gaps > 1e-6].median() if bool((gaps > 1e-6).any()) else gaps.max()
    gaps = torch.where(gaps > 3 * median, median, gaps)
    steps = torch.empty_like(gaps)
    steps[order] = (gaps + gaps.roll(1)) / 2
    return steps * (math.pi / 180)


def _redundancy(beam: FanBeam) -> Tensor:
    """Each view's angle times its rays' share, where two views see the same line: (views, rays)."""
    steps = _steps(beam.angles, 360.0)
    angle = torch.tensor(beam.angles, dtype=torch.float64) * (math.pi / 180)
    beta = angle - angle.min()
    span = float(beta.max() + steps.median())
    gamma = torch.atan(beam.offsets() / (beam.source_mm + beam.detector_mm))
    if span >= 2 * math.pi - 0.5 * float(steps.median()):
        return (steps / 2)[:, None].expand(-1, beam.detectors)
    return steps[:, None] * _parker(beta[:, None], -gamma[None], (span - math.pi) / 2)


def _parker(beta: Tensor, gamma: Tensor, margin: float) -> Tensor:
    """Parker 1982, eq. 12, with half of what the scan has above 180 degrees as the fan's angle."""
    if margin <= 0:
        return torch.ones(beta.shape[0], gamma.shape[1], dtype=beta.dtype)
    first = (margin - gamma).clamp_min(1e-9)
    last = (margin + gamma).clamp_min(1e-9)
    rising = torch.sin(math.pi / 4 * (beta / first).clamp(0, 2)) ** 2
    falling = torch.sin(math.pi / 4 * ((math.pi + 2 * margin - beta) / last).clamp(0, 2)) ** 2
    weight = torch.where(beta < 2 * first, rising, torch.ones_like(rising))
    return torch.where(beta > math.pi - 2 * gamma, falling, weight)
