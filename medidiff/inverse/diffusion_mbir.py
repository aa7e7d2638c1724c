"""Volumes by a prior of slices and total variation between them. Chung et al. 2023 (DiffusionMBIR).

arXiv:2211.10655.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from medidiff.diffusion.levels import Denoise, NoiseLevel
from medidiff.diffusion.samplers import PredictorCorrector
from medidiff.diffusion.sampling import Step
from medidiff.inverse.problem import Plan, Problem
from medidiff.physics.iterative import ConjugateGradients
from medidiff.physics.operators import per_image
from medidiff.types import Image, Tensor


@dataclass(frozen=True)
class DiffusionMBIR:
    """Each slice by its prior, all slices together by the measurement and by total variation.

    After each corrector and predictor, one iteration of ADMM from x itself, D being differences
    between neighbours along `axis`:

        x <- conjugate gradients on (A* A + rho D* D) x = A* y + rho D* (z - u)
        z <- shrink(D x + u, weight / rho),    u <- u + D x - z

    z and u (the dual) go from step to step, each a field of its own. The denoiser is one of
    volumes: `of_slices` of a prior of images.
    Source: Chung et al. 2023 (arXiv:2211.10655), section 3.2 and algorithm 1.
    Differs: y is scaled by alpha, for any schedule; the result is denoised and brought to the
    measurement once more; the authors' code lets the dual be the primal's own memory.
    """

    kind: Literal["diffusion-mbir"] = "diffusion-mbir"
    axis: int = 0
    """Of space, across which the prior's slices lie."""
    weight: float = 0.04
    """lambda of the total variation."""
    rho: float = 10.0
    """Of ADMM."""
    solver: ConjugateGradients = field(default_factory=lambda: ConjugateGradients(1e-6, 5))
    """Of the step towards the measurement; few steps leave x near the prior's."""
    steps: PredictorCorrector = field(default_factory=PredictorCorrector)
    """The predictor and the corrector."""

    def __post_init__(self) -> None:
        if not (self.weight >= 0 and self.rho > 0 and self.axis >= 0):
            raise ValueError(
                "diffusion-mbir needs weight >= 0, rho > 0 and axis >= 0, got "
                f"{self.weight}, {self.rho}, {self.axis}"
            )

    def plan(self, problem: Problem, denoise: Denoise, levels: Sequence[NoiseLevel]) -> Plan:
        """Its own steps along the path."""
        return Plan(denoise, DiffusionMBIRSampler(problem, self), levels)


@dataclass(frozen=True, eq=False)
class Split:
    """ADMM's memory: the split variable and its scaled dual."""

    z: Tensor
    u: Tensor


@dataclass(frozen=True, eq=False)
class DiffusionMBIRSampler:
    """The steps of `DiffusionMBIR`."""

    problem: Problem
    options: DiffusionMBIR

    @property
    def finishes(self) -> bool:
        """The result is brought to the measurement, too."""
        return True

    def step(
        self,
        denoise: Denoise,
        x: Image,
        now: NoiseLevel,
        to: NoiseLevel,
        memory: Split | None,
        at: Step,
    ) -> tuple[Image, Split]:
        """Correct, predict, then ADMM."""
        steps = self.options.steps
        x = steps.predict(denoise, steps.correct(denoise, x, now, to, at), now, to, at)
        return self.joined(x, to, memory)

    def joined(self, x: Image, level: NoiseLevel, memory: Split | None) -> tuple[Image, Split]:
        """One iteration of ADMM. Boyd et al. 2011, section 3.1.1 (scaled form).

        Errors: ValueError for an axis that the images do not have.
        """
        axis, rho = 2 + self.options.axis, self.options.rho
        if axis >= x.ndim:
            raise ValueError(
                f"diffusion-mbir's axis is {self.options.axis}, and the images have the axes 0 to "
                f"{x.ndim - 3}"
            )
        if memory is None:
            nothing = torch.zeros_like(differences(x, axis))
            memory = Split(nothing, nothing.clone())
        linear = self.problem.linearised(x)
        operator, y = linear.operator, linear.measurement
        y = per_image(level.alpha, y) * y

        def normal(v: Image) -> Image:
            return operator.normal(v) + rho * differences_adjoint(differences(v, axis), axis)

        right = operator.adjoint(y) + rho * differences_adjoint(memory.z - memory.u, axis)
        x = self.options.solver.solve(normal, right, x)
        steps = differences(x, axis)
        z = torch.nn.functional.softshrink(steps + memory.u, self.options.weight / rho)
        return x, Split(z, memory.u + steps - z)


def differences(x: Image, axis: int) -> Tensor:
    """x[i + 1] - x[i] along an axis, one fewer than x has."""
    return x.diff(dim=axis)


def differences_adjoint(d: Tensor, axis: int) -> Image:
    """The adjoint of `differences`: d[i - 1] - d[i], nothing beyond the ends."""
    nothing = torch.zeros_like(d.narrow(axis, 0, 1))
    return -torch.cat((nothing, d, nothing), dim=axis).diff(dim=axis)
