"""RePaint. Lugmayr et al. 2022 (arXiv:2201.09865)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from medidiff.diffusion.levels import Denoise, NoiseLevel, diffuse
from medidiff.diffusion.samplers import DDPM, AnySampler
from medidiff.diffusion.sampling import Sampler, Step
from medidiff.inverse.jumps import check_jumps, with_jumps
from medidiff.inverse.problem import Plan, Problem
from medidiff.physics.operators import SpectralOperator
from medidiff.types import Image

KNOWN_DRAW = 1000
"""The draw of the known part's noise, apart from the sampler's own."""


@dataclass(frozen=True)
class RePaint:
    """After each of the sampler's steps what is known is put in place, noised to the level.

    The path goes back by `jump_length` hops again and again, which lets the rest fit itself to what
    is known. The measurement is taken for free of noise: the result reproduces it.
    Source: Lugmayr et al. 2022 (arXiv:2201.09865), algorithm 1.
    Differs: for any operator with a known decomposition, a mask's known pixels being the
    coefficients that it sees; with no jump it is the pasting of Song et al. 2021.
    """

    kind: Literal["repaint"] = "repaint"
    jump_length: int = 10
    """Hops that are gone back (the paper's j)."""
    repeats: int = 10
    """How often each stretch is walked (the paper's r); 1 is no jump."""
    sampler: AnySampler = field(default_factory=DDPM)
    """Whose steps draw what is not known."""

    def __post_init__(self) -> None:
        check_jumps(self.kind, self.jump_length, self.repeats)

    def plan(self, problem: Problem, denoise: Denoise, levels: Sequence[NoiseLevel]) -> Plan:
        """Pasted steps along a path with jumps.

        Errors: ValueError for an operator without a known decomposition.
        """
        if not isinstance(problem.operator, SpectralOperator):
            raise ValueError(
                "repaint needs an operator whose singular value decomposition is known, got "
                f"{type(problem.operator).__name__}: use projection or diffpir"
            )
        pasted = RePaintSampler(self.sampler, problem, problem.operator)
        return Plan(denoise, pasted, with_jumps(levels, self.jump_length, self.repeats))


@dataclass(frozen=True, eq=False)
class RePaintSampler:
    """`sampler` with the known part pasted after each step."""

    sampler: Sampler
    problem: Problem
    operator: SpectralOperator

    @property
    def finishes(self) -> bool:
        """The known part is pasted into the result, too."""
        return True

    def step(
        self, denoise: Denoise, x: Image, now: NoiseLevel, to: NoiseLevel, memory: Any, at: Step
    ) -> tuple[Image, Any]:
        """The sampler's step (at the end, the estimate), then the paste."""
        if to.is_clean and not self.sampler.finishes:
            x = denoise(x, now).clean
        else:
            x, memory = self.sampler.step(denoise, x, now, to, memory, at)
        linear = self.problem.linearised(x)
        known = diffuse(linear.operator.pseudo_inverse(linear.measurement), to, self._noise(at))
        return x + self._seen(known - x), memory

    def _noise(self, at: Step) -> Image:
        return at.noise(KNOWN_DRAW)

    def _seen(self, image: Image) -> Image:
        spectrum = self.operator.spectrum(image)
        s = self.operator.singular_values.to(spectrum.device)
        return self.operator.image(torch.where(s > 0, spectrum, 0.0))
