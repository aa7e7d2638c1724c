"""Posterior sampling: a prior, a measurement and its operator; one paper, one file.

    sample_posterior(denoise, operator, measurement, likelihood, method, like, noise, levels=...)

A method is a frozen option object that makes a plan of a problem, over the core's samplers:

    Denoise -> Denoise    PiGDM    changes the estimate
    Sampler -> Sampler    DPS      changes the step
    Sampler               DDRM, DiffPIR    is its own step

Measurements are in the prior's network units and every norm is an image's own unless an option
names the batch's.
"""

from __future__ import annotations

from typing import TypeAlias

from medidiff.inverse.ddrm import DDRM, DDRMSampler, ddrm_sampler
from medidiff.inverse.diffpir import DiffPIR
from medidiff.inverse.dps import DPS, DPSSampler
from medidiff.inverse.likelihoods import AnyLikelihood, Gaussian, Likelihood
from medidiff.inverse.pigdm import PiGDM, pigdm
from medidiff.inverse.problem import Plan, Posterior, Problem
from medidiff.inverse.solve import Drawn, sample_posterior

AnyPosterior: TypeAlias = DPS | PiGDM | DDRM | DiffPIR

__all__ = [
    "DDRM",
    "DPS",
    "AnyLikelihood",
    "AnyPosterior",
    "DDRMSampler",
    "DPSSampler",
    "DiffPIR",
    "Drawn",
    "Gaussian",
    "Likelihood",
    "PiGDM",
    "Plan",
    "Posterior",
    "Problem",
    "ddrm_sampler",
    "pigdm",
    "sample_posterior",
]
