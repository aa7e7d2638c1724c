"""Diffusion posterior sampling. Chung et al. 2023 (arXiv:2209.14687)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

from medidiff.diffusion.levels import Denoise, Estimate, NoiseLevel
from medidiff.diffusion.sampling import Sampler, Step
from medidiff.physics.operators import LinearOperator
from medidiff.types import Image, Tensor


@dataclass(frozen=True, eq=False)
class DPS:
    """`sampler` with each of its steps pushed down the distance to the measurement.

        x_to <- x_to - step_size * grad |y - A clean(x_now)|

    The gradient is taken through the network at x_now, so a step costs one call and its backward
    pass, and the rest of what the sampler itself asks. The result carries no gradient.
    The method is biased: its spread is not the posterior's (the laws' test says by how much), and
    a step size that fits one operator does not fit another.
    Source: Chung et al. 2023 (arXiv:2209.14687), algorithm 1; their code takes the norm and not its
    square, which `distance` names.
    Differs: the norm is each image's own; the authors' code takes it over the whole batch
    (`norms`), which makes an image depend on the others drawn with it.
    """

    sampler: Sampler
    operator: LinearOperator
    measurement: Tensor
    step_size: float = 1.0
    """zeta; the paper's experiments have 0.3 to 1 with the norm."""
    distance: Literal["norm", "squared-norm"] = "norm"
    """What is descended: the norm of the residual, or its square (the Gaussian log likelihood up to
    a factor)."""
    norms: Literal["sample", "batch"] = "sample"
    """Whose residual the norm is of."""

    def __post_init__(self) -> None:
        if not self.step_size >= 0:
            raise ValueError(f"DPS needs step_size >= 0, got {self.step_size}")

    @property
    def finishes(self) -> bool:
        """The hop onto the clean level is pushed too."""
        return True

    def step(
        self, denoise: Denoise, x: Image, now: NoiseLevel, to: NoiseLevel, memory: Any, at: Step
    ) -> tuple[Image, Any]:
        """The sampler's step, then the push."""
        here, push = self.push(denoise, x, now)
        if to.is_clean and not self.sampler.finishes:
            moved = here.clean
        else:
            asked = _known(denoise, x, now, here)
            moved, memory = self.sampler.step(asked, x, now, to, memory, at)
        return moved - self.step_size * push, memory

    def push(self, denoise: Denoise, x: Image, now: NoiseLevel) -> tuple[Estimate, Image]:
        """The estimate at x and the gradient of the distance with respect to x."""
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            here = denoise(leaf, now)
            far = self.distances(here.clean)
            (gradient,) = torch.autograd.grad(far.sum(), leaf)
        spread = None if here.spread is None else here.spread.detach()
        return Estimate(here.clean.detach(), here.eps.detach(), spread), gradient

    def distances(self, clean: Image) -> Tensor:
        """Of each image, (batch,), or of the whole batch, (1,)."""
        residual = (self.measurement - self.operator.forward(clean)).flatten(1)
        if self.norms == "batch":
            residual = residual.reshape(1, -1)
        size = torch.linalg.vector_norm(residual, dim=1)
        return size if self.distance == "norm" else size**2


def _known(denoise: Denoise, x: Image, now: NoiseLevel, here: Estimate) -> Denoise:
    """`denoise` that need not be asked again for what is known of `x` at `now`."""

    def ask(other: Image, level: NoiseLevel) -> Estimate:
        return here if other is x and level is now else denoise(other, level)

    return ask
