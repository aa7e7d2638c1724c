"""Posterior sampling: a prior, a measurement and its operator; one paper, one file.

    sample_posterior(denoise, operator, measurement, likelihood, method, like, noise, levels=...)

A method is a frozen option object that makes a plan of a problem, over the core's samplers:

    Denoise -> Denoise    PiGDM, MomentMatching                 changes the estimate
    Sampler -> Sampler    DPS, RePaint, Projection              changes the step
    Sampler               DDRM, DDNM, DiffPIR, DAPS, REDDiff, CSGMLangevin   is its own step

Where something of the operator is not known, `Alternating` fits it anew at each level. Priors of
slices work on volumes by `of_slices`, `two_planes` and DiffusionMBIR; complex images go through
`complex_channels`, and by `of_parts` through a prior of magnitudes.

Measurements are in the prior's network units and every norm is an image's own unless an option
names the batch's.
"""

from __future__ import annotations

from typing import TypeAlias

from medidiff.inverse.alternating import Alternating, Refit, Refitted
from medidiff.inverse.daps import DAPS
from medidiff.inverse.ddnm import DDNM
from medidiff.inverse.ddrm import DDRM, DDRMSampler, ddrm_sampler
from medidiff.inverse.diffpir import DiffPIR
from medidiff.inverse.diffusion_mbir import DiffusionMBIR
from medidiff.inverse.dps import DPS, DPSSampler
from medidiff.inverse.langevin import CSGMLangevin
from medidiff.inverse.likelihoods import (
    AnyLikelihood,
    Gaussian,
    Likelihood,
    PoissonEmission,
    PoissonTransmission,
    Rician,
)
from medidiff.inverse.moment_matching import MomentMatching, moment_matched
from medidiff.inverse.operators import complex_channels
from medidiff.inverse.pigdm import PiGDM, pigdm
from medidiff.inverse.problem import Plan, Posterior, Problem
from medidiff.inverse.projection import Projection
from medidiff.inverse.red_diff import REDDiff
from medidiff.inverse.repaint import RePaint
from medidiff.inverse.solve import Drawn, sample_posterior
from medidiff.inverse.volumes import of_parts, of_slices, two_planes

AnyPosterior: TypeAlias = (
    DPS
    | PiGDM
    | MomentMatching
    | DAPS
    | DDNM
    | DDRM
    | DiffPIR
    | REDDiff
    | Projection
    | CSGMLangevin
    | RePaint
    | DiffusionMBIR
)

__all__ = [
    "DAPS",
    "DDNM",
    "DDRM",
    "DPS",
    "Alternating",
    "AnyLikelihood",
    "AnyPosterior",
    "CSGMLangevin",
    "DDRMSampler",
    "DPSSampler",
    "DiffPIR",
    "DiffusionMBIR",
    "Drawn",
    "Gaussian",
    "Likelihood",
    "MomentMatching",
    "PiGDM",
    "Plan",
    "PoissonEmission",
    "PoissonTransmission",
    "Posterior",
    "Problem",
    "Projection",
    "REDDiff",
    "RePaint",
    "Refit",
    "Refitted",
    "Rician",
    "complex_channels",
    "ddrm_sampler",
    "moment_matched",
    "of_parts",
    "of_slices",
    "pigdm",
    "sample_posterior",
    "two_planes",
]
