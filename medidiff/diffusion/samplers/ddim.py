"""DDIM. Song, Meng & Ermon 2021 (arXiv:2010.02502)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch

from medidiff.diffusion.levels import Denoise, Estimate, NoiseLevel, scale
from medidiff.diffusion.samplers.ancestral import check_last_noise, drawn
from medidiff.diffusion.sampling import Step
from medidiff.diffusion.variance import OptimalVariance, Transition, optimal_transition, renewed
from medidiff.types import Image, Tensor


@dataclass(frozen=True)
class DDIM:
    """The clean estimate, noised again to the next level with partly the same noise.

    Source: Song et al. 2021 (arXiv:2010.02502), eqs. 12 and 16.
    eta 0 is deterministic (Euler in the noise ratio), eta 1 is DDPM with the small variance.
    """

    kind: Literal["ddim"] = "ddim"
    eta: float = 0.0
    """Share of fresh noise, 0 to 1."""
    variance: OptimalVariance | None = None
    """Analytic-DPM's optimal variance, with which eta 0 draws noise too (Bao et al. 2022,
    arXiv:2201.06503, section 3)."""
    last_noise: float | None = None
    """As in `DDPM`."""

    def __post_init__(self) -> None:
        check_last_noise(self.kind, self.last_noise)
        if not 0 <= self.eta <= 1:
            raise ValueError(f"ddim needs 0 <= eta <= 1, got {self.eta}")

    @property
    def finishes(self) -> bool:
        """The driver takes the last hop."""
        return False

    def transition(self, x: Image, here: Estimate, now: NoiseLevel, to: NoiseLevel) -> Transition:
        """The Gaussian that `step` draws from."""
        fresh = self._fresh(now, to)
        kept = to.sigma * (1 - fresh).sqrt()
        mean = scale(to.alpha, x) * here.clean + scale(kept, x) * here.eps
        return optimal_transition(mean, here, now, to, fresh, self.variance)

    def step(
        self, denoise: Denoise, x: Image, now: NoiseLevel, to: NoiseLevel, memory: None, at: Step
    ) -> tuple[Image, None]:
        """alpha * clean + sqrt(sigma^2 - fresh^2) * eps + fresh * noise."""
        transition = self.transition(x, denoise(x, now), now, to)
        if self.eta == 0 and self.variance is None:
            return transition.mean, None
        return drawn(transition, self.last_noise, at), None

    def _fresh(self, now: NoiseLevel, to: NoiseLevel) -> Tensor:
        # not 0 * renewed, which on the way up to pure noise is 0 * inf
        return self.eta**2 * renewed(now, to) if self.eta > 0 else torch.zeros_like(to.sigma)


def encode(denoise: Denoise, clean: Image, path: Sequence[NoiseLevel]) -> Image:
    """The noise that deterministic DDIM would make this image from, by the same hops upwards.

    Shapes: clean is (batch, channel, *space); levels broadcast over it and rise in noise ratio.
    From a clean level, where a model says nothing about noise, the first hop asks it at the hop's
    end. Sampling the result along the path turned round gives the image back to first order.
    Source: Song et al. 2021 (arXiv:2010.02502), section 4.3.
    Errors: ValueError if the path has fewer than two levels or its noise ratio falls.
    """
    if len(path) < 2:
        raise ValueError(f"encoding needs at least two levels, got {len(path)}")
    x = clean
    for now, to in pairwise(path):
        if bool((to.noise_ratio < now.noise_ratio).any()):
            raise ValueError("encoding needs levels whose noise ratio rises")
        here = denoise(x, to) if now.is_clean else denoise(x, now)
        start = x if now.is_clean else here.clean
        x = scale(to.alpha, x) * start + scale(to.sigma, x) * here.eps
    return x


def interpolate(first: Image, second: Image, weight: float) -> Image:
    """A noise image between two by spherical interpolation, each pair along its own arc.

    Shapes: both (batch, channel, *space). weight 0 is `first`, 1 is `second`.
    Source: Song et al. 2021 (arXiv:2010.02502), after Shoemake 1985.
    """
    one, two = first.flatten(1), second.flatten(1)
    cosine = (one * two).sum(1) / (one.norm(dim=1) * two.norm(dim=1))
    angle = cosine.clamp(-1, 1).acos()
    flat = angle.sin() < 1e-6
    safe = torch.where(flat, 1.0, angle.sin())
    of_first = torch.where(flat, 1 - weight, ((1 - weight) * angle).sin() / safe)
    of_second = torch.where(flat, weight, (weight * angle).sin() / safe)
    shape = (-1,) + (1,) * (first.ndim - 1)
    return of_first.reshape(shape) * first + of_second.reshape(shape) * second
