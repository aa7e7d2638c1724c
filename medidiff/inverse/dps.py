"""Diffusion posterior sampling. Chung et al. 2023 (arXiv:2209.14687)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from medidiff.diffusion.levels import Denoise, Estimate, NoiseLevel, scale
from medidiff.diffusion.samplers import DDPM, AnySampler
from medidiff.diffusion.sampling import Sampler, Step
from medidiff.inverse.gradients import pulled
from medidiff.inverse.problem import Plan, Problem
from medidiff.types import Image, Tensor


@dataclass(frozen=True)
class DPS:
    """The steps of `sampler`, each pushed down the distance to the measurement.

        x_to <- x_to - step_size * grad |y - A clean(x_now)|

    The gradient is taken through the network at x_now, so a step costs one call and its backward
    pass, and the rest of what the sampler itself asks. The result carries no gradient.
    The method is biased: its spread is not the posterior's (the laws' test says by how much), and
    a step size that fits one operator does not fit another.
    Source: Chung et al. 2023 (arXiv:2209.14687), algorithm 1; their code takes the norm and not its
    square, which `distance` names.
    Differs: the norm is each image's own; the authors' code takes it over the whole batch
    (`norms`), which makes an image depend on the others drawn with it.
    """

    kind: Literal["dps"] = "dps"
    step_size: float = 1.0
    """zeta; the paper's experiments have 0.3 to 1 with the norm."""
    distance: Literal["norm", "squared-norm", "likelihood"] = "norm"
    """What is descended: the norm of the residual, its square, or minus the log likelihood of
    whatever noise it is."""
    norms: Literal["sample", "batch"] = "sample"
    """Whose residual the norm is of."""
    gradient: Literal["network", "none"] = "network"
    """network: through the denoiser; none: as if a white image were denoised, for the memory and
    the cost of plain sampling."""
    sampler: AnySampler = field(default_factory=DDPM)
    """Whose steps are pushed."""

    def __post_init__(self) -> None:
        if not self.step_size >= 0:
            raise ValueError(f"dps needs step_size >= 0, got {self.step_size}")

    def plan(self, problem: Problem, denoise: Denoise, levels: Sequence[NoiseLevel]) -> Plan:
        """Pushed steps along the path."""
        return Plan(denoise, DPSSampler(self.sampler, problem, self), levels)


@dataclass(frozen=True, eq=False)
class DPSSampler:
    """`sampler` with each of its steps pushed as `DPS` says."""

    sampler: Sampler
    problem: Problem
    options: DPS = field(default_factory=DPS)

    @property
    def finishes(self) -> bool:
        """The hop onto the clean level is pushed too."""
        return True

    def step(
        self, denoise: Denoise, x: Image, now: NoiseLevel, to: NoiseLevel, memory: Any, at: Step
    ) -> tuple[Image, Any]:
        """The sampler's step, then the push."""
        here, push = self.push(denoise, x, now)
        if to.is_clean and not self.sampler.finishes:
            moved = here.clean
        else:
            asked = _known(denoise, x, now, here)
            moved, memory = self.sampler.step(asked, x, now, to, memory, at)
        return moved - self.options.step_size * push, memory

    def push(self, denoise: Denoise, x: Image, now: NoiseLevel) -> tuple[Estimate, Image]:
        """The estimate at x and the gradient of the distance with respect to x."""
        if self.options.gradient == "network":
            return pulled(denoise, x, now, self._slope)
        here = denoise(x, now)
        share = now.alpha / (now.alpha**2 + now.sigma**2)
        return here, scale(share, x) * self._slope(here.clean)

    def distances(self, clean: Image) -> Tensor:
        """Of each image, (batch,), or of the whole batch, (1,)."""
        problem, predicted = self.problem, self.problem.operator.forward(clean)
        if self.options.distance == "likelihood":
            return -problem.likelihood.log_density(predicted, problem.measurement)
        residual = (problem.measurement - predicted).flatten(1)
        if self.options.norms == "batch":
            residual = residual.reshape(1, -1)
        size = torch.linalg.vector_norm(residual, dim=1)
        return size if self.options.distance == "norm" else size**2

    def _slope(self, clean: Image) -> Image:
        with torch.enable_grad():
            leaf = clean.detach().requires_grad_()
            far = self.distances(leaf)
            return torch.autograd.grad(far.sum(), leaf)[0]


def _known(denoise: Denoise, x: Image, now: NoiseLevel, here: Estimate) -> Denoise:
    """`denoise` that need not be asked again for what is known of `x` at `now`."""

    def ask(other: Image, level: NoiseLevel) -> Estimate:
        return here if other is x and level is now else denoise(other, level)

    return ask
