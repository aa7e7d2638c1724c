"""Sampling under a known part: inpainting and colour (any linear) constraints of any sampler.

Source: Song et al. 2021 (arXiv:2011.13456), appendix I.2 (imputation) and I.3 (colourisation).
A class is imposed by its gradient, `semantic.guided`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

from medidiff.diffusion.levels import Denoise, NoiseLevel, diffuse
from medidiff.diffusion.samplers.sde import PredictorCorrector
from medidiff.diffusion.sampling import Sampler, Step
from medidiff.types import Image, Tensor

KNOWN_DRAW = 1_000_000
"""The first draw of a hop that noises what is known, far above a sampler's own draws."""


@dataclass(frozen=True, eq=False)
class Known:
    """What is known of the clean image: its components `basis` x where `mask` is 1.

    Shapes: clean as x; mask broadcasts to x and lies in [0, 1]; basis (channel, channel),
    orthogonal, or None for the channels themselves.
    Errors: ValueError if the basis is not orthogonal: the noise of its components would be
    correlated.
    """

    clean: Image
    mask: Tensor
    basis: Tensor | None = None

    def __post_init__(self) -> None:
        if self.basis is None:
            return
        unit = torch.eye(self.basis.shape[0], dtype=self.basis.dtype, device=self.basis.device)
        if not torch.allclose(self.basis @ self.basis.T, unit, atol=1e-4):
            raise ValueError("the basis of a constraint must be orthogonal, rows are components")

    def components(self, x: Image) -> Image:
        """x in the basis: row i of it is component i."""
        return x if self.basis is None else _mix(self.basis, x)

    def pasted(self, x: Image, level: NoiseLevel, noise: Image | None) -> Image:
        """x with its known components replaced by alpha * known + sigma * noise (None: by 0)."""
        known = self.components(self.clean)
        eps = torch.zeros_like(known) if noise is None else noise
        mixed = self.components(x) * (1 - self.mask) + diffuse(known, level, eps) * self.mask
        return mixed if self.basis is None else _mix(torch.linalg.inv(self.basis), mixed)


@dataclass(frozen=True)
class Constrained:
    """`sampler` with what is known put back, freshly noised, after each of its moves.

    A predictor-corrector's two parts are two moves. On the clean level what is known is put back as
    it is. Equal to the sampler itself where the mask is 0.
    """

    sampler: Sampler
    known: Known
    level: Literal["to", "now"] = "to"
    """At which level after the predictor: the one that it has reached, or the hop's first, as in
    the authors' code (and then also before the clean level)."""

    @property
    def finishes(self) -> bool:
        """What is known is put back after the last hop, too."""
        return True

    def step(
        self, denoise: Denoise, x: Image, now: NoiseLevel, to: NoiseLevel, memory: Any, at: Step
    ) -> tuple[Image, Any]:
        """Move and put back; draws KNOWN_DRAW (corrector) and KNOWN_DRAW + 1 are the noises."""
        if isinstance(self.sampler, PredictorCorrector):
            x = self.sampler.correct(denoise, x, now, to, at)
            x = self.known.pasted(x, now, at.noise(KNOWN_DRAW))
            x = self.sampler.predict(denoise, x, now, to, at)
        elif to.is_clean and not self.sampler.finishes:
            x = denoise(x, now).clean
        else:
            x, memory = self.sampler.step(denoise, x, now, to, memory, at)
        level = now if self.level == "now" else to
        noise = None if level.is_clean else at.noise(KNOWN_DRAW + 1)
        return self.known.pasted(x, level, noise), memory


def inpainted(sampler: Sampler, clean: Image, mask: Tensor) -> Constrained:
    """`sampler` that keeps `clean` where `mask` is 1. Song et al. 2021, appendix I.2."""
    return Constrained(sampler, Known(clean, mask))


def coloured(sampler: Sampler, grey: Image, basis: Tensor) -> Constrained:
    """`sampler` that keeps the first component of `grey` in `basis`. Song et al., appendix I.3.

    Shapes: grey as x, each of its channels the grey image; basis (channel, channel), orthogonal,
    its first row the grey direction.
    """
    mask = torch.zeros_like(grey)
    mask[:, 0] = 1
    return Constrained(sampler, Known(grey, mask, basis))


def _mix(matrix: Tensor, x: Image) -> Image:
    return torch.einsum("ij,bj...->bi...", matrix.to(x), x)
