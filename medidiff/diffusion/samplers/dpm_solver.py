"""DPM-Solver++, multistep. Lu et al. 2022 (arXiv:2211.01095)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from medidiff.diffusion.levels import Denoise, NoiseLevel, half_log_snr_gap, scale
from medidiff.diffusion.sampling import Step
from medidiff.types import Image, Tensor


@dataclass(frozen=True, eq=False)
class Memory:
    """The last clean estimate and the gap in half-log-SNR over which it was used."""

    clean: Image
    gap: Tensor


@dataclass(frozen=True)
class DPMSolverPP:
    """An exponential integrator for the clean estimate, which remembers one. One call a hop.

    Source: Lu et al. 2022 (arXiv:2211.01095), algorithm 2 (2M); order 1 is DDIM (section 4.1).
    A hop from pure noise has an infinite gap: it is of first order and so is the one after it.
    """

    kind: Literal["dpm-solver++"] = "dpm-solver++"
    order: Literal[1, 2] = 2
    """1 is DDIM; 2 extrapolates from the estimate before."""

    @property
    def finishes(self) -> bool:
        """The driver takes the last hop."""
        return False

    def step(
        self,
        denoise: Denoise,
        x: Image,
        now: NoiseLevel,
        to: NoiseLevel,
        memory: Memory | None,
        at: Step,
    ) -> tuple[Image, Memory]:
        """(sigma_to / sigma_now) * x + alpha_to * (1 - exp(-h)) * extrapolated clean."""
        clean = denoise(x, now).clean
        gap = half_log_snr_gap(now, to)
        aim = clean
        if memory is not None and self.order == 2:
            aim = clean + scale(gap / memory.gap / 2, x) * (clean - memory.clean)
        x = scale(to.sigma / now.sigma, x) * x + scale(-to.alpha * torch.expm1(-gap), x) * aim
        return x, Memory(clean, gap)
