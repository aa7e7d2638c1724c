"""Samplers: one paper, one file. Each is a frozen option object with one method, `step`."""

from __future__ import annotations

from typing import TypeAlias

from medidiff.diffusion.samplers.ancestral import DDPM
from medidiff.diffusion.samplers.consistency import TCD, Consistency
from medidiff.diffusion.samplers.ddim import DDIM
from medidiff.diffusion.samplers.deis import DEIS, RhoRK
from medidiff.diffusion.samplers.dpm_solver import DPMSolver
from medidiff.diffusion.samplers.dpm_solver_pp import DPMSolverPP
from medidiff.diffusion.samplers.edm import DPM2, Heun
from medidiff.diffusion.samplers.k_diffusion import DPMSolverPPAncestral, DPMSolverPPSDE
from medidiff.diffusion.samplers.langevin import AnnealedLangevin
from medidiff.diffusion.samplers.lms import LMS
from medidiff.diffusion.samplers.multistep import PNDM
from medidiff.diffusion.samplers.probability_flow import RK45
from medidiff.diffusion.samplers.sa_solver import SASolver
from medidiff.diffusion.samplers.sde import PredictorCorrector
from medidiff.diffusion.samplers.unipc import UniPC

AnySampler: TypeAlias = (
    DDPM
    | DDIM
    | Heun
    | DPM2
    | LMS
    | DPMSolver
    | DPMSolverPP
    | DPMSolverPPAncestral
    | DPMSolverPPSDE
    | UniPC
    | SASolver
    | DEIS
    | RhoRK
    | PNDM
    | PredictorCorrector
    | RK45
    | AnnealedLangevin
    | Consistency
    | TCD
)

__all__ = [
    "DDIM",
    "DDPM",
    "DEIS",
    "DPM2",
    "LMS",
    "PNDM",
    "RK45",
    "TCD",
    "AnnealedLangevin",
    "AnySampler",
    "Consistency",
    "DPMSolver",
    "DPMSolverPP",
    "DPMSolverPPAncestral",
    "DPMSolverPPSDE",
    "Heun",
    "PredictorCorrector",
    "RhoRK",
    "SASolver",
    "UniPC",
]
