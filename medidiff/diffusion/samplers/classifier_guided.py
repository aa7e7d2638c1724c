"""Classifier guidance of ancestral sampling. Dhariwal & Nichol 2021 (arXiv:2105.05233)."""

from __future__ import annotations

from dataclasses import dataclass, field

from medidiff.diffusion.guidance import Gradient
from medidiff.diffusion.levels import Denoise, NoiseLevel
from medidiff.diffusion.samplers.ancestral import DDPM, drawn
from medidiff.diffusion.sampling import Step
from medidiff.diffusion.variance import Transition, small_variance
from medidiff.types import Image, Tensor


@dataclass(frozen=True)
class ClassifierGuided:
    """DDPM with its mean moved by variance * scale * grad log p(condition | x).

    Source: Dhariwal & Nichol 2021 (arXiv:2105.05233), section 4.
    Differs: the gradient is taken at x and not at the mean, as in the authors' code. The last hop
    adds no noise but is moved too, by the model's last variance (0 for "small"); a learned range
    has there the beta-tilde of the hop before as its lower end.
    """

    gradient: Gradient
    guidance_scale: float = 1.0
    """0 is none."""
    sampler: DDPM = field(default_factory=DDPM)
    """The sampler that is guided."""

    @property
    def finishes(self) -> bool:
        """The last hop is moved, so it is not a plain denoise."""
        return True

    def step(
        self,
        denoise: Denoise,
        x: Image,
        now: NoiseLevel,
        to: NoiseLevel,
        memory: Tensor | None,
        at: Step,
    ) -> tuple[Image, Tensor]:
        """The moved mean plus noise; the memory is beta-tilde of the hop before."""
        here = denoise(x, now)
        if to.is_clean and memory is None:
            return here.clean, small_variance(now, to)
        last = None if self.sampler.variance == "small" else memory
        plain = self.sampler.transition(x, here, now, to, last)
        push = self.guidance_scale * self.gradient(x, now)
        moved = Transition(plain.mean + plain.variance * push, plain.variance)
        x = moved.mean if to.is_clean else drawn(moved, self.sampler.last_noise, at)
        return x, small_variance(now, to)
