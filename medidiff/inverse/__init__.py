"""Posterior sampling: a prior, a measurement and its operator; one paper, one file.

    Denoise -> Denoise    pigdm(denoise, operator, y, noise_std)       changes the estimate
    Sampler -> Sampler    DPS(sampler, operator, y)                    changes the step
    Sampler               DDRM(operator, y, noise_std)                 is its own step

Measurements are in the prior's network units and every norm is an image's own unless an option
names the batch's.
"""

from medidiff.inverse.ddrm import DDRM
from medidiff.inverse.dps import DPS
from medidiff.inverse.pigdm import pigdm

__all__ = ["DDRM", "DPS", "pigdm"]
