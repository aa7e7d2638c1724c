"""Samplers: one paper, one file. Each is a frozen option object with one method, `step`."""

from __future__ import annotations

from typing import TypeAlias

from medidiff.diffusion.samplers.ancestral import DDPM
from medidiff.diffusion.samplers.ddim import DDIM
from medidiff.diffusion.samplers.deis import DEIS, RhoRK
from medidiff.diffusion.samplers.dpm_solver import DPMSolver
from medidiff.diffusion.samplers.dpm_solver_pp import DPMSolverPP
from medidiff.diffusion.samplers.edm import Heun
from medidiff.diffusion.samplers.multistep import PNDM
from medidiff.diffusion.samplers.unipc import UniPC

AnySampler: TypeAlias = DDPM | DDIM | Heun | DPMSolver | DPMSolverPP | UniPC | DEIS | RhoRK | PNDM

__all__ = [
    "DDIM",
    "DDPM",
    "DEIS",
    "PNDM",
    "AnySampler",
    "DPMSolver",
    "DPMSolverPP",
    "Heun",
    "RhoRK",
    "UniPC",
]
