"""Samplers: one paper, one file. Each is a frozen option object with one method, `step`."""

from __future__ import annotations

from typing import TypeAlias

from medidiff.diffusion.samplers.ancestral import DDPM
from medidiff.diffusion.samplers.ddim import DDIM
from medidiff.diffusion.samplers.dpm_solver import DPMSolver
from medidiff.diffusion.samplers.dpm_solver_pp import DPMSolverPP
from medidiff.diffusion.samplers.edm import Heun

AnySampler: TypeAlias = DDPM | DDIM | Heun | DPMSolver | DPMSolverPP

__all__ = ["DDIM", "DDPM", "AnySampler", "DPMSolver", "DPMSolverPP", "Heun"]
