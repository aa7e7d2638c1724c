"""Decoupled annealing posterior sampling. Zhang et al. 2024 (arXiv:2407.01521)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from medidiff.diffusion.levels import Denoise, NoiseLevel, ddim_hop, diffuse
from medidiff.diffusion.sampling import Step
from medidiff.inverse.draws import measurement_noise
from medidiff.inverse.likelihoods import Gaussian
from medidiff.inverse.problem import Plan, Problem
from medidiff.physics.operators import per_image
from medidiff.types import Image, Tensor
from medidiff.warned import warn

RENOISE, AROUND, MEASURED, INNER = 0, 1, 2, 3
"""Draws of a hop: its new noise, those of the closed form, and the first of the Langevin steps."""
COARSE, FINE = 2.5, 2.0
"""Falls of the noise ratio from which on a warning is given, and that it advises."""
SEEN = 0.02
"""Noise ratios below it leave less than 1 % of the intensity window."""


@dataclass(frozen=True)
class DAPS:
    """At each level a clean image is drawn given the estimate and the measurement, then noised.

        clean ~ N(estimate, width^2) p(y | clean),    x_to = alpha_to clean + sigma_to z

    Errors of early steps are forgotten, for no noise is kept. Nothing goes through the network's
    gradient. With Gaussian noise the draw is exact, one proximal step of perturbed data (Papandreou
    & Yuille 2010); with any other likelihood it is a Langevin chain from the estimate.
    It wants many steps: a draw is white by `width` in all that was not measured, and the next level
    adds only its own noise. Where the noise ratio falls to 1 / q of itself, the network is told of
    1 / sqrt(1 + q^2) of what it sees and leaves the rest, though the image fits the measurement. On
    a head phantom (k-space, R = 4, q = 10, 3.6, 2.1 and 1.4) 12, 7.7, 3.4 and 1.7 % of the window
    were left at 10, 15, 25 and 50 steps; DiffPIR's 10 steps left 1.9 %.
    Source: Zhang et al. 2024 (arXiv:2407.01521), algorithm 1.
    """

    kind: Literal["daps"] = "daps"
    estimate_hops: int = 1
    """Network calls to the estimate: 1 is the posterior mean, more follow the flow to a sharp
    image (5 in the paper)."""
    width: Literal["unit-prior", "noise-ratio"] = "unit-prior"
    """Standard deviation around the estimate: r / sqrt(1 + r^2), as PiGDM's, or the noise ratio r
    itself, the paper's."""
    langevin_steps: int = 30
    """Of the chain, where the noise is not Gaussian."""
    langevin_step: float = 0.3
    """Length of a step of the chain, over the largest curvature of its density."""

    def __post_init__(self) -> None:
        if self.estimate_hops < 1 or self.langevin_steps < 1 or not 0 < self.langevin_step < 1:
            raise ValueError(
                "daps needs estimate_hops >= 1, langevin_steps >= 1 and 0 < langevin_step < 1, got "
                f"{self.estimate_hops}, {self.langevin_steps}, {self.langevin_step}"
            )

    def plan(self, problem: Problem, denoise: Denoise, levels: Sequence[NoiseLevel]) -> Plan:
        """Its own steps along the path; warns where they are so long that noise is left."""
        fall = longest_fall(levels)
        if fall > COARSE:
            enough = math.ceil(len(levels) * math.log(fall) / math.log(FINE))
            warn(
                f"daps: the noise ratio falls {fall:.1f}-fold in a step, so that what was not "
                f"measured keeps noise; take about {enough} steps, or DiffPIR where there are few",
                stacklevel=2,
            )
        return Plan(denoise, DAPSSampler(problem, self), levels)


def longest_fall(levels: Sequence[NoiseLevel]) -> float:
    """The largest quotient of the noise ratios of neighbouring levels, where the noise is seen."""
    ratios = [float(level.noise_ratio.max()) for level in levels if not level.is_clean]
    pairs = itertools.pairwise(ratios)
    falls = [now / to for now, to in pairs if math.isfinite(now) and now > SEEN]
    return max(falls, default=1.0)


@dataclass(frozen=True, eq=False)
class DAPSSampler:
    """The steps of `DAPS`."""

    problem: Problem
    options: DAPS

    @property
    def finishes(self) -> bool:
        """The last image, too, is a draw given the measurement."""
        return True

    def step(
        self, denoise: Denoise, x: Image, now: NoiseLevel, to: NoiseLevel, memory: None, at: Step
    ) -> tuple[Image, None]:
        """Estimate, draw, noise."""
        estimate = _estimate(denoise, x, now, self.options.estimate_hops, at)
        r = now.noise_ratio.cpu()
        width = r if self.options.width == "noise-ratio" else (1 / (1 + 1 / r**2)).sqrt()
        # from pure noise the paper's width is infinite: the measurement alone, and what it
        # does not see stays at the estimate
        width = width.clamp_max(1e4)
        exact = isinstance(self.problem.likelihood, Gaussian)
        draw = self._exact if exact else self._chain
        return diffuse(draw(estimate, width, at), to, at.noise(RENOISE)), None

    def _exact(self, estimate: Image, width: Tensor, at: Step) -> Image:
        """argmin |y + sigma_y n - A x|^2 + (sigma_y / width)^2 |x - estimate - width m|^2."""
        linear = self.problem.linearised(estimate)
        y, std = linear.measurement, linear.noise_std
        around = estimate + per_image(width, estimate) * at.noise(AROUND)
        y = y + per_image(std, y) * measurement_noise(at, y, MEASURED)
        return linear.operator.prox(around, y, ((std / width) ** 2).clamp_min(1e-8))

    def _chain(self, estimate: Image, width: Tensor, at: Step) -> Image:
        operator, likelihood, y = (
            self.problem.operator,
            self.problem.likelihood,
            self.problem.measurement,
        )
        curvature = 1 / width**2 + _steepest(self.problem, estimate)
        size = per_image(self.options.langevin_step / curvature, estimate)
        pull, x = per_image(1 / width**2, estimate), estimate
        for index in range(self.options.langevin_steps):
            slope = operator.adjoint(likelihood.gradient(operator.forward(x), y))
            slope = slope - pull * (x - estimate)
            x = x + size * slope + (2 * size).sqrt() * at.noise(INNER + index)
        return x


def _estimate(denoise: Denoise, x: Image, now: NoiseLevel, hops: int, at: Step) -> Image:
    """The clean image at the end of the flow from x, by `hops` Euler steps of the noise ratio."""
    for left in range(hops, 1, -1):
        here = denoise(x, now)
        ratio = torch.where(now.alpha == 0, here.clean.new_tensor(10.0).double(), now.noise_ratio)
        now = at.level(noise_ratio=ratio * ((left - 1) / left) ** 2)
        x = ddim_hop(here, now)
    return denoise(x, now).clean


def _steepest(problem: Problem, estimate: Image) -> Tensor:
    """The largest curvature of -log p(y | clean) near the estimate, an image."""
    _, std = problem.likelihood.surrogate(problem.operator.forward(estimate), problem.measurement)
    least = std.flatten(1).min(1).values if std.ndim > 1 else std
    return (problem.operator.norms(estimate) / least.double().cpu()) ** 2
