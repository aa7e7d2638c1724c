"""Our samplers with their spacings, as functions of the same noise and the same oracle."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch

from medidiff.diffusion import (
    DDIM,
    DDPM,
    DEIS,
    DPM2,
    LMS,
    PNDM,
    AnnealedLangevin,
    AnySampler,
    AnySpacing,
    Denoise,
    Discrete,
    DPMSolver,
    DPMSolverPP,
    DPMSolverPPAncestral,
    DPMSolverPPSDE,
    Heun,
    Karras,
    LeadingSteps,
    LinspaceSteps,
    PolynomialTime,
    PredictorCorrector,
    RhoRK,
    SASolver,
    Schedule,
    SingleStepLogSNR,
    UniformLogSNR,
    UniformTime,
    UniPC,
    path,
    sample,
)
from medidiff.types import Image

SPACINGS: dict[str, AnySpacing] = {
    "uniform": UniformTime(),
    "linspace": LinspaceSteps(),
    "leading": LeadingSteps(),
    "quadratic": PolynomialTime(power=2.0),
    "log-snr": UniformLogSNR(),
    "karras": Karras(),
}


@dataclass(frozen=True)
class Drawn:
    """Unit noise for each hop and draw, of the whole batch."""

    seed: int = 0

    def __call__(self, like: Image, step: int, draw: int = 0) -> Image:
        generator = torch.Generator().manual_seed(self.seed * 10**9 + (step + 1) * 10**4 + draw)
        return torch.randn(like.shape, dtype=like.dtype, generator=generator)


@dataclass(frozen=True)
class Own:
    """A sampler on a spacing; n steps cost `each` * n + `extra` calls."""

    sampler: AnySampler
    spacing: str
    variant: str = ""
    each: int = 1
    extra: int = 0
    fixed: AnySpacing | None = None
    """A spacing that belongs to the sampler, instead of the one that is named."""

    @property
    def name(self) -> str:
        return " ".join(
            part for part in (type(self.sampler).__name__, self.variant, self.spacing) if part
        )

    def steps_within(self, calls: int) -> int | None:
        """The most steps that need no more calls; None where there are none."""
        most = (calls - self.extra) // self.each
        return next((steps for steps in range(most, 0, -1) if self.calls(steps) <= calls), None)

    def calls(self, steps: int) -> float:
        """How often `steps` steps call the network; infinite where the sampler refuses them."""
        if not isinstance(self.sampler, AnnealedLangevin):
            return self.each * steps + self.extra
        try:
            levels = path(self.fixed or SPACINGS[self.spacing], Discrete(), steps)
            return sum(chain.steps for chain in self.sampler.chains(levels)) + self.extra
        except ValueError:  # more Langevin steps at a level than anyone waits for
            return math.inf

    def run(self, oracle: Denoise, schedule: Schedule, noise: Image, steps: int) -> Image:
        """The images that `steps` hops make from a unit noise."""
        levels = path(self.fixed or SPACINGS[self.spacing], schedule, steps)
        x = levels[0].sigma * noise
        return sample(oracle, x, levels, self.sampler, Drawn(), schedule)


def own() -> list[Own]:
    """Every sampler that takes a path as it is given and a plain denoiser.

    RK45 and the adaptive DPM-Solver choose their own counts; the consistency samplers need a
    consistency model; AnnealedLangevin needs thousands of calls: it takes 20 a level here, of the
    authors' size and of half of it, for which 20 are too few, as it warns, and those once more with
    as many besides as their hops need.
    """
    langevin = AnnealedLangevin(steps=20)
    shorter = AnnealedLangevin(step_size=1e-5, sigma_last=0.01, steps=20)
    settled = replace(shorter, settled=0.05)
    # the last hop of a path is a plain denoise, of one call
    made: list[tuple[Any, str, int, int]] = [
        (DDPM(), "", 1, 0),
        (DDPM(variance="large"), "large", 1, 0),
        (DDIM(), "", 1, 0),
        (DDIM(eta=1.0), "eta 1", 1, 0),
        (Heun(), "", 2, -1),
        (Heun(order=1), "Euler", 1, 0),
        (DPM2(), "", 2, -1),
        (DPM2(eta=1.0), "ancestral", 2, -1),
        (LMS(), "", 1, 0),
        (DPMSolverPP(), "2M", 1, 0),
        (DPMSolverPP(rule="taylor"), "2M taylor", 1, 0),
        (DPMSolverPP(order=3), "3M", 1, 0),
        (DPMSolverPP(order=3, lower_order_below=0), "3M full order", 1, 0),
        (DPMSolverPP(eta=1.0), "2M SDE", 1, 0),
        (DPMSolverPPAncestral(), "", 2, -1),
        (DPMSolverPPSDE(), "", 2, -1),
        (UniPC(order=2), "2", 1, 0),
        (UniPC(order=3), "3", 1, 0),
        (UniPC(order=3, weights="bh1"), "3 bh1", 1, 0),
        (DEIS(), "tAB3", 1, 0),
        (DEIS(order=2), "tAB2", 1, 0),
        (DEIS(variable="log-rho"), "log-rho 3", 1, 0),
        (RhoRK(), "heun", 2, -1),
        (RhoRK(method="kutta"), "kutta", 3, -2),
        (PNDM(), "F", 1, 9),
        (PNDM(start="heun"), "PLMS", 1, 1),
        (PNDM(start="grow"), "iPNDM", 1, 0),
        (PredictorCorrector(corrector="none"), "no corrector", 1, 0),
        (PredictorCorrector(), "langevin", 2, 0),
        (SASolver(), "", 1, 0),
        (SASolver(tau=0.0), "tau 0", 1, 0),
        (SASolver(weights="second-order-half"), "half", 1, 0),
        (SASolver(predictor_order=3, corrector_order=4), "3 and 4", 1, 0),
        (langevin, "20 a level", 20, 1),
        (shorter, "20 half steps a level", 20, 1),
        (settled, "half steps, settled", 20, 1),
    ]
    runs = [
        Own(sampler, spacing, variant, each, extra)
        for sampler, variant, each, extra in made
        for spacing in SPACINGS
    ]
    for order in (2, 3):
        stages = SingleStepLogSNR(order=order)
        for basis, name in (("eps", f"{order}S"), ("clean", f"++{order}S")):
            solver = DPMSolver(order=order, basis=basis)  # type: ignore[arg-type]
            runs.append(Own(solver, "stages in log-snr", name, fixed=stages))
    return runs
