"""Samplers: one paper, one file. Each is a frozen option object with one method, `step`."""

from __future__ import annotations

from typing import TypeAlias

from medidiff.diffusion.samplers.ancestral import DDPM
from medidiff.diffusion.samplers.ddim import DDIM
from medidiff.diffusion.samplers.dpm_solver import DPMSolver
from medidiff.diffusion.samplers.dpm_solver_pp import DPMSolverPP
from medidiff.diffusion.samplers.edm import Heun
from medidiff.diffusion.samplers.langevin import AnnealedLangevin
from medidiff.diffusion.samplers.probability_flow import RK45
from medidiff.diffusion.samplers.sde import PredictorCorrector

AnySampler: TypeAlias = (
    DDPM | DDIM | Heun | DPMSolver | DPMSolverPP | PredictorCorrector | RK45 | AnnealedLangevin
)

__all__ = [
    "DDIM",
    "DDPM",
    "RK45",
    "AnnealedLangevin",
    "AnySampler",
    "DPMSolver",
    "DPMSolverPP",
    "Heun",
    "PredictorCorrector",
]
