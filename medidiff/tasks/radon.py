"""Tomography as the head `reconstruct` takes it: sinograms of line integrals, and their beam."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from medidiff.data.datasets import Case
from medidiff.data.intensity import Scale
from medidiff.data.modality import is_ct
from medidiff.errors import TaskError
from medidiff.evaluation.noise_level import MAD_TO_DEVIATION
from medidiff.model import Model
from medidiff.physics import (
    ConjugateGradients,
    FanBeam,
    LinearOperator,
    ParallelBeam,
    Tomography,
    even_angles,
    filtered_back_projection,
)
from medidiff.physics.operators import per_image
from medidiff.physics.window import Weighted
from medidiff.tasks.base import Measurement, Problem, Signal
from medidiff.tasks.given import lines, scale_of, stacked
from medidiff.tasks.kspace import BRIGHT
from medidiff.tasks.restoration import WINDOW

STEPS = ConjugateGradients(tolerance=1e-6, steps=15)  # of one proximal step, begun at the estimate
SIGNED = 0.5  # the mean of what is negative for the most part, over that of its size
FEWEST_PHOTONS = 1.0


@dataclass(frozen=True)
class Radon:
    """Line integrals along parallel rays or a fan, the centre of rotation in the image's middle."""

    kind: Literal["radon"] = "radon"
    span: float = 180.0
    """Degrees over which the views lie evenly, where their angles are not given."""
    start: float = 0.0
    """The first view's angle in degrees: 0 looks along the columns of pixels."""
    pitch_mm: float = 1.0
    """Between detectors."""
    shift_mm: float = 0.0
    """Of the detector along itself."""
    source_mm: float | None = None
    """Of a fan: from its source to the centre of rotation; none for parallel rays."""
    detector_mm: float = 0.0
    """Of a fan: from the centre of rotation to the detector."""
    photons: float | None = None
    """Expected in a ray that meets nothing; then rays that meet much are noisier."""
    sigma: float | Literal["estimate"] = "estimate"
    """Without photons: standard deviation of each line integral's noise, estimated from
    neighbouring detectors."""
    attenuation: tuple[float, float] | None = None
    """Attenuation (1/mm) at the ends of the model's intensity window. None: a CT model's
    intensities are Hounsfield units; of others the brightness is taken from the sinogram."""
    water: float = 0.02
    """Attenuation of water (1/mm), which Hounsfield units refer to."""

    def __post_init__(self) -> None:
        values = (self.shift_mm, self.water, self.photons or 0.0, *(self.attenuation or ()))
        if not all(map(math.isfinite, values)):  # a beam looks at its own
            raise ValueError("shift_mm, water, photons and attenuation are finite numbers")
        for name in ("pitch_mm", "water"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0")
        if not 0 < self.span <= 360:
            raise ValueError("span must be above 0 and at most 360 degrees")
        if self.source_mm is not None and not (self.source_mm > 0 and self.detector_mm >= 0):
            raise ValueError("source_mm must be above 0 and detector_mm 0 or more")
        if self.photons is not None and not self.photons > 0:
            raise ValueError("photons must be above 0, or be left out")
        if self.sigma != "estimate" and not 0 < float(self.sigma) < math.inf:
            raise ValueError("sigma must be a finite number above 0, or be estimate")
        if self.attenuation is not None and not self.attenuation[0] < self.attenuation[1]:
            raise ValueError(f"attenuation rises, found {self.attenuation}")

    def problem(self, cases: Sequence[Case], model: Model) -> Problem:
        """The cases' sinograms as one measurement in model units.

        Errors: TaskError for cases of other views or pixels than each other's, and for a fan that
        does not turn around the image.
        """
        size, stated = model.spec.space.size, model.spec.space.spacing_mm
        spacing = plane_spacing(cases) if isinstance(stated, str) else (stated[-2], stated[-1])
        sinogram = stacked(cases, "sinogram", model)
        self._check_sign(sinogram)
        angles = self._angles(cases, sinogram.shape[-2])
        try:
            beam = self._beam(angles, sinogram.shape[-1])
            projector = projector_of(beam, (size[-2], size[-1]), spacing)
        except ValueError as error:  # angles that are none, a source within the image
            raise TaskError(str(error)) from None
        deviation = self._deviation(sinogram)
        scaled = self._scaled(cases, model, projector, sinogram)
        blank = torch.zeros((len(cases), 1, *size), device=sinogram.device)
        gain, offset = lines(scaled)
        shift = projector.forward(blank + per_image(offset, blank))
        # every ray brought to one noise level
        level = deviation.flatten(1).median(1).values.double().cpu()
        weight = per_image(level, deviation) / deviation

        def operator(members: Sequence[int]) -> LinearOperator:
            return Weighted(projector, weight[[*members]], blank[:1], STEPS)

        measurement = Measurement(
            operator,
            weight * (per_image(gain, sinogram) * sinogram + shift),
            gain * level,
            torch.full((len(cases),), float(sinogram[0].numel()), dtype=torch.float64),
            (self._kind(angles),) * len(cases),
            Signal(lambda members: projector, sinogram, level),
        )
        levels = tuple((gain * level / WINDOW).tolist())
        return Problem(blank, scaled, levels, measurement=measurement)

    def _check_sign(self, sinogram: Tensor) -> None:
        """Errors: TaskError for line integrals that are negative for the most part.

        Of all slices together: through air alone there is noise of either sign.
        """
        mean = float(sinogram.mean())
        if self.attenuation is None and -mean > SIGNED * float(sinogram.abs().mean()):
            raise TaskError(
                f"the measurement holds no signal: its line integrals are {mean:.3g} on the "
                "average, and attenuation is above 0. A line integral is minus the logarithm of "
                "what arrives over what is sent"
            )

    def _angles(self, cases: Sequence[Case], views: int) -> tuple[float, ...]:
        given = [case.beside["angles"] for case in cases if "angles" in case.beside]
        if not given:
            return even_angles(views, self.span, self.start)
        if len(given[0]) != views:
            raise TaskError(
                f"the sinogram has {views} views and {len(given[0])} angles are given: one angle a "
                "view, in degrees"
            )
        if len(given) < len(cases) or any(not torch.equal(each, given[0]) for each in given[1:]):
            raise TaskError(f"the sinograms of a batch need {views} views of the same angles each")
        return tuple(given[0].double().tolist())

    def _kind(self, angles: Sequence[float]) -> str:
        seen = f"radon {len(angles)} views over {spanned(angles):.0f}"
        return seen if self.source_mm is None else f"{seen}, fan"

    def _beam(self, angles: tuple[float, ...], detectors: int) -> ParallelBeam | FanBeam:
        if self.source_mm is None:
            return ParallelBeam(angles, detectors, self.pitch_mm, self.shift_mm)
        return FanBeam(
            angles, detectors, self.pitch_mm, self.source_mm, self.detector_mm, self.shift_mm
        )

    def _deviation(self, sinogram: Tensor) -> Tensor:
        """The noise of each line integral, shaped as the sinogram."""
        if self.photons is not None:
            arriving = (self.photons * (-sinogram).exp()).clamp_min(FEWEST_PHOTONS)
            return arriving.rsqrt()
        if self.sigma != "estimate":
            return torch.full_like(sinogram, float(self.sigma))
        found = torch.stack([detector_noise(each) for each in sinogram])
        if not bool((found > 0).all()):
            raise TaskError("this sinogram shows no noise; state it with measurement.sigma")
        # laid out in memory: the median of an expanded tensor is undefined in PyTorch 2.13
        return per_image(found, sinogram).expand_as(sinogram).contiguous()

    def _scaled(
        self, cases: Sequence[Case], model: Model, projector: Tomography, sinogram: Tensor
    ) -> tuple[Case, ...]:
        """The cases with the line from attenuation (1/mm) to model units."""
        typical = model.spec.intensity.typical
        ends = self.attenuation
        if ends is None and is_ct(model.spec.modality):
            low, high = (self.water * (1 + hu[0] / 1000) for hu in (typical.low, typical.high))
            ends = (low, high)
        if ends is not None:
            scale = Scale((ends[0],), (ends[1],))
            return tuple(replace(case, scale=scale) for case in cases)
        images = filtered_back_projection(projector, sinogram, "hann").flatten(1).cpu().numpy()
        bright = np.quantile(images, BRIGHT, axis=1)
        return tuple(
            replace(case, scale=scale_of(model, float(top)))
            for case, top in zip(cases, bright, strict=True)
        )


@lru_cache(maxsize=4)
def projector_of(
    beam: ParallelBeam | FanBeam, shape: tuple[int, int], spacing_mm: tuple[float, float]
) -> Tomography:
    """The projector of a geometry; its matrix takes seconds and is kept."""
    return Tomography(beam, shape, spacing_mm, STEPS)


def plane_spacing(cases: Sequence[Case]) -> tuple[float, float]:
    """Pixel height and width of the cases' grids in mm, 1 where there is no geometry.

    Errors: TaskError where they differ.
    """
    # rounded: what a file's affine says in single precision
    found = sorted({(round(c.spacing[-2], 4), round(c.spacing[-1], 4)) for c in cases})
    if len(found) > 1:
        raise TaskError(
            f"the sinograms of a batch are of pixels of one size; found {found[0]} and {found[1]} "
            "mm: use a model that states its spacing"
        )
    return found[0]


def detector_noise(sinogram: Tensor) -> Tensor:
    """The noise's standard deviation by the median second difference along the detectors."""
    bend = sinogram[..., 2:] - 2 * sinogram[..., 1:-1] + sinogram[..., :-2]
    return bend.abs().median() / (6**0.5 * MAD_TO_DEVIATION)


def spanned(angles: Sequence[float]) -> float:
    """Degrees that evenly spread views cover."""
    if len(angles) == 1:
        return 0.0
    ordered = sorted(angles)
    return (ordered[-1] - ordered[0]) * len(ordered) / (len(ordered) - 1)
