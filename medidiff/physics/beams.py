"""Where the rays of a CT scanner run: parallel and fan beams, in millimetres.

The centre of rotation is the middle of the image; x grows with the columns, y against the rows. At
angle 0 rays run along the columns of pixels and the detector along x; angles grow anticlockwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from medidiff.types import Tensor


@dataclass(frozen=True)
class ParallelBeam:
    """Parallel rays, `pitch_mm` apart, at each angle.

    Units: angles in degrees; shift_mm moves the detector along itself.
    Errors: ValueError without angles or detectors.
    """

    angles: tuple[float, ...]
    detectors: int
    pitch_mm: float = 1.0
    shift_mm: float = 0.0

    def __post_init__(self) -> None:
        _check(self.angles, self.detectors, self.pitch_mm)

    def rays(self) -> tuple[Tensor, Tensor]:
        """A point of each ray and its unit direction, (views, detectors, 2) each, as (x, y)."""
        along, across = _axes(self.angles)
        point = self.offsets()[None, :, None] * along[:, None]
        return point, across[:, None].expand_as(point)

    def offsets(self) -> Tensor:
        """Where each detector lies along the detector."""
        return _offsets(self.detectors, self.pitch_mm, self.shift_mm)


@dataclass(frozen=True)
class FanBeam:
    """Rays from a source to a flat detector opposite, which turn around the image together.

    Units: angles in degrees, 0 with the source below the image; source_mm and detector_mm from the
    centre of rotation to each; pitch_mm and shift_mm on the detector.
    Errors: ValueError without angles or detectors, and for distances that are not positive.
    """

    angles: tuple[float, ...]
    detectors: int
    pitch_mm: float
    source_mm: float
    detector_mm: float
    shift_mm: float = 0.0

    def __post_init__(self) -> None:
        _check(self.angles, self.detectors, self.pitch_mm)
        if not (0 < self.source_mm < math.inf and 0 <= self.detector_mm < math.inf):
            raise ValueError(
                "a fan's source lies at a distance and its detector not before the centre; "
                f"found source_mm {self.source_mm}, detector_mm {self.detector_mm}"
            )

    def rays(self) -> tuple[Tensor, Tensor]:
        """The source and the unit direction of each ray, (views, detectors, 2) each, as (x, y)."""
        along, across = _axes(self.angles)
        source = -self.source_mm * across[:, None]
        cell = self.detector_mm * across[:, None] + self.offsets()[None, :, None] * along[:, None]
        direction = cell - source
        return source.expand_as(cell), direction / direction.norm(dim=-1, keepdim=True)

    def offsets(self) -> Tensor:
        """Where each detector lies along the detector."""
        return _offsets(self.detectors, self.pitch_mm, self.shift_mm)

    @property
    def magnification(self) -> float:
        """How much larger a thing at the centre is on the detector."""
        return (self.source_mm + self.detector_mm) / self.source_mm


Beam = ParallelBeam | FanBeam


def even_angles(count: int, span: float = 180.0, start: float = 0.0) -> tuple[float, ...]:
    """`count` angles over `span` degrees, the end left out: sparse views, or a limited angle.

    A fan needs 360 degrees, a parallel beam 180.
    """
    return tuple(start + span * index / count for index in range(count))


def _axes(angles: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """The unit vectors along the detector and along the central ray, (views, 2) each."""
    theta = torch.tensor(angles, dtype=torch.float64) * (math.pi / 180)
    along = torch.stack((theta.cos(), theta.sin()), -1)
    return along, torch.stack((-theta.sin(), theta.cos()), -1)


def _offsets(detectors: int, pitch_mm: float, shift_mm: float) -> Tensor:
    places = torch.arange(detectors, dtype=torch.float64) - (detectors - 1) / 2
    return places * pitch_mm + shift_mm


def _check(angles: tuple[float, ...], detectors: int, pitch_mm: float) -> None:
    if not angles or detectors < 1 or not 0 < pitch_mm < math.inf:
        raise ValueError(
            "a beam needs angles, detectors and a pitch above 0; "
            f"found {len(angles)} angles, {detectors} detectors, pitch_mm {pitch_mm}"
        )
    if not all(map(math.isfinite, angles)):
        raise ValueError("a beam's angles are finite numbers of degrees")
