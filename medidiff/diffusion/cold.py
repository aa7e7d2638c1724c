"""Cold diffusion: any degradation in place of noise. Bansal et al. 2022 (arXiv:2208.09392).

A degradation takes (clean, level) to a degraded image and is the identity on the clean level; its
strength is the level's t. The network restores: `Estimate.clean` of a degraded image.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import torch

from medidiff.diffusion.denoiser import Network
from medidiff.diffusion.levels import Denoise, NoiseLevel, scale
from medidiff.diffusion.sampling import Step
from medidiff.diffusion.schedules import Flow, Schedule
from medidiff.diffusion.times import AnyTimes, UniformTimes
from medidiff.types import Image, Tensor

Degradation: TypeAlias = Callable[[Image, NoiseLevel], Image]
"""(clean, level) -> the degraded image; the identity where t is 0."""


@dataclass(frozen=True)
class Blur:
    """Gaussian blur of deviation t * `width_voxels`, periodic, in 2-D and 3-D alike.

    Source: Bansal et al. 2022 (arXiv:2208.09392), section 4.1.
    Differs: in Fourier space and of any t, where theirs convolves again and again.
    """

    kind: Literal["blur"] = "blur"
    width_voxels: float = 5.0
    """Deviation of the blur at t = 1."""

    def __post_init__(self) -> None:
        if not self.width_voxels > 0:
            raise ValueError(f"blur needs width_voxels > 0, got {self.width_voxels}")

    def __call__(self, clean: Image, level: NoiseLevel) -> Image:
        space = clean.shape[2:]
        axes = tuple(range(2, clean.ndim))
        exact = torch.float64 if clean.dtype == torch.float64 else torch.float32
        squares = torch.zeros(space, dtype=exact, device=clean.device)
        for axis, size in enumerate(space):
            shape = [-1 if other == axis else 1 for other in range(len(space))]
            waves = torch.fft.fftfreq(size, dtype=exact, device=clean.device)
            squares = squares + waves.reshape(shape) ** 2
        width = scale(level.t * self.width_voxels, clean.to(exact))
        gain = (-2 * (math.pi * width) ** 2 * squares).exp()
        return torch.fft.ifftn(torch.fft.fftn(clean.to(exact), dim=axes) * gain, dim=axes).real.to(
            clean.dtype
        )


@dataclass(frozen=True)
class Cold:
    """Restore and degrade again, a little less each time. One call a hop; no noise is drawn.

    Source: Bansal et al. 2022 (arXiv:2208.09392), the "naive" and the "improved" sampling, whose
    errors of restoration cancel to first order where the degradation is smooth in t.
    """

    degrade: Degradation
    rule: Literal["improved", "naive"] = "improved"
    """improved: x - D(restored, now) + D(restored, to); naive: D(restored, to)."""

    @property
    def finishes(self) -> bool:
        """The last hop is the rule's own too."""
        return True

    def step(
        self, denoise: Denoise, x: Image, now: NoiseLevel, to: NoiseLevel, memory: None, at: Step
    ) -> tuple[Image, None]:
        """The image at the next strength."""
        restored = denoise(x, now).clean
        after = self.degrade(restored, to)
        if self.rule == "naive":
            return after, None
        return x - self.degrade(restored, now) + after, None


@dataclass(frozen=True)
class ColdLoss:
    """The mean absolute error of the restored image.

    Source: Bansal et al. 2022 (arXiv:2208.09392).
    """

    degrade: Degradation
    schedule: Schedule = field(default_factory=Flow)
    times: AnyTimes = field(default_factory=UniformTimes)

    def levels(self, draw: Tensor) -> NoiseLevel:
        """The levels to train, one for each uniform number of `draw`, (batch,) in (0, 1)."""
        return self.times.levels(self.schedule, draw)

    def __call__(
        self,
        network: Network,
        clean: Image,
        levels: NoiseLevel,
        condition: Tensor | None = None,
        concat: Image | None = None,
    ) -> Tensor:
        """The loss of each example, (batch,). Shapes: clean (batch, channel, *space)."""
        label = levels.t.to(device=clean.device, dtype=torch.float32).expand(clean.shape[0])
        restored = network(self.degrade(clean, levels), label, condition, concat)
        return (restored.to(clean.dtype) - clean).abs().flatten(1).mean(1)
