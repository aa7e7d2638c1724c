"""Cartesian MRI as the head `reconstruct` takes it: k-space, mask, coils and phase of each case,
and what of them has to be estimated, from the measured samples alone.

The prior knows magnitudes. An image is a magnitude times a phase, which is estimated from the fully
sampled middle of k-space, so that the unknowns are real; brightness, too, is taken from there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from medidiff.data.datasets import Case
from medidiff.diffusion.sampling import Step
from medidiff.errors import TaskError
from medidiff.inverse import Refit, Refitted
from medidiff.model import Model
from medidiff.physics import (
    CartesianMRI,
    ConjugateGradients,
    LinearOperator,
)
from medidiff.physics.coils import ESPIRiT, image_of_centre
from medidiff.physics.operators import check_mask, per_image
from medidiff.physics.window import Placed, centred_on
from medidiff.tasks.base import Measurement, Problem, Signal
from medidiff.tasks.given import is_stated, lines, scale_of, stacked
from medidiff.tasks.kspace import brightness, kind_of, noise_level, quantile, sampled_middle
from medidiff.tasks.phase import SmoothPhase, begun
from medidiff.tasks.restoration import WINDOW
from medidiff.tasks.rough_phase import FINE, refuted

BRIGHTEST = 0.999  # the same at full resolution, where the low one is known to blur what is bright
STEPS = ConjugateGradients(tolerance=1e-6, steps=15)  # of one proximal step, begun at the estimate
EXACT = ConjugateGradients(tolerance=1e-6, steps=50)
ROUNDS = 4  # steps of a phase's fit to images that are there


@dataclass(frozen=True)
class Cartesian:
    """k-space on a grid, of one coil or several."""

    kind: Literal["cartesian"] = "cartesian"
    sigma: float | Literal["estimate"] = "estimate"
    """Standard deviation of the noise in the real, and in the imaginary, part of a sample, in the
    units of the k-space; estimated from its outermost samples."""
    coils: Literal["espirit", "one"] = "espirit"
    """Where no coil maps are given: estimated from the middle of k-space (several coils), or each
    coil is taken to see the image evenly."""
    fine: float | Literal["estimate"] = "estimate"
    """Standard deviation of what of the phase is no smooth field, in radians at each voxel: fat
    beside water, air, flow. Estimated: 0 unless the samples refute that the phase is smooth."""

    def __post_init__(self) -> None:
        if self.sigma != "estimate" and not 0 < float(self.sigma) < math.inf:
            raise ValueError("sigma must be a finite number above 0, or be estimate")
        if self.fine != "estimate" and not 0 <= float(self.fine) < math.inf:
            raise ValueError("fine must be 0 or more radians, or be estimate")

    def problem(self, cases: Sequence[Case], model: Model) -> Problem:
        """The cases' k-space as one measurement in model units.

        Errors: TaskError for k-space without a fully sampled middle, or without samples.
        """
        size = model.spec.space.size
        kspace, mask = stacked(cases, "kspace", model), stacked(cases, "mask", model)
        check_mask(mask)
        mask = mask.to(kspace.real.dtype)
        kspace = kspace * mask
        # masks are many slices' alike, and what is told of one takes a while
        masks, which = mask[:, 0].cpu().unique(dim=0, return_inverse=True)
        found = [(sampled_middle(each), kind_of(each, kspace.shape[1])) for each in masks]
        boxes, kinds = zip(*(found[index] for index in which.tolist()), strict=True)
        coils = self._coils(cases, kspace, boxes, model)
        sigma = torch.tensor([*map(self._level, cases, kspace, mask)], dtype=torch.float64)
        known = is_stated(cases, "phase")
        ramp, phase = _phases(cases, kspace, boxes, coils, model)
        smooth = torch.zeros_like(sigma)
        made = _Made(kspace, mask, coils, sigma, tuple(cases), size, ramp, smooth, kinds)
        bright = brightness(kspace, boxes, coils)
        if not known:
            made, top = self._roughened(made, phase)
            bright = torch.maximum(bright, top)
        scaled = tuple(
            replace(case, scale=scale_of(model, float(top)))
            for case, top in zip(cases, bright, strict=True)
        )
        made = replace(made, cases=scaled)
        blank = torch.zeros((len(cases), 1, *size), device=kspace.device)
        levels = tuple((lines(scaled)[0] * sigma / WINDOW).tolist())
        return Problem(blank, scaled, levels, measurement=made.with_phase(phase, known))

    def _level(self, case: Case, kspace: Tensor, mask: Tensor) -> float:
        if "sigma" in case.beside:
            return float(case.beside["sigma"])
        if self.sigma != "estimate":
            return float(self.sigma)
        return noise_level(kspace, mask)

    def _roughened(self, made: _Made, phase: Tensor) -> tuple[_Made, Tensor]:
        """With phases that may be rough, and how bright those cases are at full resolution, 0 for
        the others, (batch,): fat, which is out of phase, is as thin as it is bright."""
        if self.fine == 0:
            return made, torch.zeros(len(made.cases))
        found, magnitude = refuted(
            lambda members: made.taken(members).fit, made.seen, made.coils, phase
        )
        stated = None if self.fine == "estimate" else torch.full_like(made.fine, float(self.fine))
        fine = FINE * found.to(made.fine) if stated is None else stated
        top = torch.stack([quantile(each.abs().flatten(), BRIGHTEST) for each in magnitude])
        return replace(made, fine=fine), torch.where(fine > 0, top, 0.0)

    def _coils(
        self, cases: Sequence[Case], kspace: Tensor, boxes: Sequence[tuple[int, ...]], model: Model
    ) -> Tensor | None:
        """(batch, coil, *grid), their squares summing to 1 where there is signal; None for one."""
        if is_stated(cases, "coils"):
            given = stacked(cases, "coils", model).to(kspace.dtype)
            if given.shape != kspace.shape:
                raise TaskError(
                    f"the coil maps have the shape {tuple(given.shape[1:])}, the k-space "
                    f"{tuple(kspace.shape[1:])}: one map a coil, on the grid of the k-space"
                )
            size = given.abs().square().sum(1, keepdim=True).sqrt()
            return torch.where(size > 0, given / size.clamp_min(1e-12), even(given))
        if kspace.shape[1] == 1:
            return None
        if self.coils == "one":
            return even(kspace)
        method = ESPIRiT(crop=0.0)  # where no signal is, that is to be seen, too
        if any(min(box) < method.kernel for box in boxes):
            raise TaskError(
                f"coil maps are estimated from {method.kernel} fully sampled lines in the middle "
                f"of k-space; found {min(min(box) for box in boxes)}. Give the maps (coils=...)"
            )
        found = []
        for y, box in zip(kspace, boxes, strict=True):  # a calibration region each
            width = min(min(box), method.calibration)
            try:
                found.append(replace(method, calibration=width).maps(y[None]))
            except ValueError as error:
                raise TaskError(str(error)) from None
        return torch.cat(found)


@dataclass(frozen=True, eq=False)
class _Made:
    """All of a batch's measurement but its phase."""

    kspace: Tensor
    mask: Tensor
    coils: Tensor | None
    sigma: Tensor
    cases: tuple[Case, ...]
    size: tuple[int, ...]
    ramp: Tensor
    """What of each phase is no smooth field to be fitted."""
    fine: Tensor
    """How far each phase may be off a smooth one at a voxel, (batch,)."""
    kinds: tuple[str, ...]
    """Of the measurements, but for what is said of their phase."""

    @property
    def grid(self) -> tuple[int, ...]:
        return tuple(self.kspace.shape[2:])

    def with_phase(self, phase: Tensor, known: bool) -> Measurement:
        """In model units; a phase that is not known can be fitted."""
        everyone = range(len(self.cases))

        def operator(members: Sequence[int]) -> LinearOperator:
            return self.taken(members).operator(phase[[*members]])

        return Measurement(
            operator,
            self.values(self.operator(phase)),
            self.line[0] * self.sigma,
            2 * self.mask.flatten(1).sum(1).cpu().double() * self.kspace.shape[1],
            tuple(self._kind(known, index) for index in everyone),
            Signal(lambda members: self.taken(members).complex_images, self.kspace, self.sigma),
            None
            if known
            else lambda images, width: self.with_phase(self.refined(images, width, phase), False),
            refit=None if known else lambda members: self.taken(members).refit(phase[[*members]]),
            refit_bytes=0 if known else self.fit.bytes_held,
            brightness="estimated",
        )

    def _kind(self, known: bool, member: int) -> str:
        """Of an image's measurement, with what is said of its phase."""
        kind = self.kinds[member]
        if known:
            return f"{kind}, phase given"
        return f"{kind}, phase not smooth" if self.fine[member] > 0 else kind

    def taken(self, members: Sequence[int]) -> _Made:
        """That of some members, each named once or several times."""
        chosen = [*members]
        if chosen == [*range(len(self.cases))]:
            return self
        return replace(
            self,
            kspace=self.kspace[chosen],
            mask=self.mask[chosen],
            coils=None if self.coils is None else self.coils[chosen],
            sigma=self.sigma[chosen],
            cases=tuple(self.cases[index] for index in chosen),
            ramp=self.ramp[chosen],
            fine=self.fine[chosen],
            kinds=tuple(self.kinds[index] for index in chosen),
        )

    def operator(self, phase: Tensor) -> LinearOperator:
        """On real images of the model's grid."""
        found = CartesianMRI(self.seen, self.coils, phase, STEPS)
        if self.grid == self.size:
            return found
        like = torch.zeros((1, 1, *self.size), device=self.kspace.device)
        return Placed(found, self.size, self.grid, like)

    def values(self, operator: LinearOperator) -> Tensor:
        """The k-space in model units, whose line `operator` takes along."""
        kspace = per_image(self.line[0], self.kspace) * self.kspace
        return kspace + operator.forward(self._offsets)

    def refined(self, images: Tensor, width: float, phase: Tensor) -> Tensor:
        """The phases that fit all samples, given images in model units that may be wrong."""
        return self._fitted(images, torch.tensor(width), phase, ROUNDS)

    def refit(self, begin: Tensor) -> Refit:
        """The operator with phases fitted to an estimate, a step a time, from `begin` on."""

        def refit(clean: Tensor, width: Tensor, memory: Any, at: Step | None) -> Refitted:
            after = self._fitted(clean, width, begin if memory is None else memory, 1, at)
            operator = self.operator(after)
            return Refitted(operator, self.values(operator), after)

        return refit

    def _fitted(
        self, images: Tensor, width: Tensor, phase: Tensor, rounds: int, at: Step | None = None
    ) -> Tensor:
        low, high = (per_image(ends, images) for ends in self._ends)
        signal = (images + 1) * ((high - low) / 2) + low  # as `Scale.inverse` has it
        wide = width.cpu() / self.line[0]
        return self.fit.fitted(centred_on(signal, self.grid), wide, phase, rounds, at)

    @cached_property
    def fit(self) -> SmoothPhase:
        """What the samples say of the phases."""
        return SmoothPhase(self.complex_images, self.kspace, self.ramp, self.sigma, self.fine)

    @cached_property
    def complex_images(self) -> LinearOperator:
        """On complex images of the measured grid."""
        return CartesianMRI(self.seen, self.coils, None, EXACT)

    @cached_property
    def line(self) -> tuple[Tensor, Tensor]:
        """(gain, offset) as `lines` has them."""
        return lines(self.cases)

    @cached_property
    def _ends(self) -> tuple[Tensor, Tensor]:
        """The signals that -1 and 1 stand for, (batch,)."""
        found = [(case.scale.low[0], case.scale.high[0]) for case in self.cases]
        low, high = torch.tensor(found, dtype=torch.float64).unbind(1)
        return low, high

    @cached_property
    def seen(self) -> Tensor:
        """The mask as true and false, which an operator need not look at first: that would make a
        GPU wait at every step."""
        return self.mask > 0

    @cached_property
    def _offsets(self) -> Tensor:
        """Images of the line's offset."""
        ones = torch.ones((len(self.cases), 1, *self.size), device=self.kspace.device)
        return per_image(self.line[1], ones) * ones


def even(like: Tensor) -> Tensor:
    """Coils that all see alike, of the shape of their k-space."""
    return torch.full_like(like, like.shape[1] ** -0.5)


def _phases(
    cases: Sequence[Case],
    kspace: Tensor,
    boxes: Sequence[tuple[int, ...]],
    coils: Tensor | None,
    model: Model,
) -> tuple[Tensor, Tensor]:
    """Of each case its phase's ramp and the whole phase, (batch, 1, *grid): the given one, or a
    smooth one from the middle of k-space."""
    if is_stated(cases, "phase"):
        given = stacked(cases, "phase", model).to(kspace.real.dtype)
        return given, given
    found = []
    for index, box in enumerate(boxes):
        maps = None if coils is None else coils[index, None]
        found.append(begun(image_of_centre(kspace[index, None], box, maps)))
    ramps, phases = zip(*found, strict=True)
    return torch.cat(ramps), torch.cat(phases)
