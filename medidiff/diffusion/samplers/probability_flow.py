"""The probability flow, integrated adaptively. Song et al. 2021 (arXiv:2011.13456), section 4.3."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from medidiff.diffusion.dormand_prince import ErrorControl, integrate
from medidiff.diffusion.levels import Denoise, NoiseLevel, chosen, ddim_hop, scale
from medidiff.diffusion.sampling import Step
from medidiff.diffusion.schedules import Schedule
from medidiff.types import Image, Tensor

_OFF_PURE_NOISE = 1e-6


def velocity(denoise: Denoise, x: Image, level: NoiseLevel, schedule: Schedule) -> Image:
    """dx / dt of the probability flow, f x - g^2 score / 2.

    Source: Song et al. 2021 (arXiv:2011.13456), eq. 13.
    """
    half = schedule.diffusion(level.t) / (2 * level.sigma)
    return scale(schedule.drift(level.t), x) * x + scale(half, x) * denoise(x, level).eps


@dataclass(frozen=True)
class RK45:
    """The probability flow by Dormand and Prince's pair of order 5(4), its steps chosen by error.

    Source: Song et al. 2021 (arXiv:2011.13456), eq. 13 and appendix D.4, who call scipy's RK45.
    Differs: the error is controlled for each image by itself unless `over` says "batch"; the hop
    from pure noise (alpha = 0), where eq. 13 is inf - inf, begins with a millionth of DDIM.
    The levels of a path only say where to stop on the way: [first, last, CLEAN] is enough.
    """

    kind: Literal["rk45"] = "rk45"
    relative: float = 1e-5
    """Allowed error of a step relative to the image."""
    absolute: float = 1e-5
    """Allowed error of a step where the image is near 0."""
    over: Literal["sample", "batch"] = "sample"
    """Whose error decides: each image's, or the batch's as in the authors' code."""

    def __post_init__(self) -> None:
        _ = self.control

    @property
    def control(self) -> ErrorControl:
        """The three options as the integrator has them."""
        return ErrorControl(self.relative, self.absolute, self.over)

    @property
    def finishes(self) -> bool:
        """The driver takes the last hop."""
        return False

    def step(
        self, denoise: Denoise, x: Image, now: NoiseLevel, to: NoiseLevel, memory: None, at: Step
    ) -> tuple[Image, None]:
        """Integrate from now.t down to to.t."""
        if at.schedule is None:
            raise ValueError("rk45 integrates in time: give sample() or walk() the schedule")
        if bool((now.alpha == 0).any()):
            x, now = _leave_pure_noise(denoise, x, now, to, at.schedule)
        return flow(denoise, x, now.t, to.t, at.schedule, self.control), None


def flow(
    denoise: Denoise, x: Image, now: Tensor, to: Tensor, schedule: Schedule, control: ErrorControl
) -> Image:
    """x carried along the probability flow from time `now` to time `to`, in either direction.

    Shapes: x (batch, channel, *space); the times are () or (batch,).
    """
    now, to = (time.to(x.device).expand(x.shape[0]) for time in (now, to))
    sign = torch.where(to < now, -1.0, 1.0).double()

    def slope(elapsed: Tensor, y: Tensor) -> Tensor:
        level = schedule((now + sign * elapsed).cpu())
        moved = velocity(denoise, y.reshape(x.shape), level, schedule)
        return scale(sign, y) * moved.flatten(1)

    return integrate(slope, x.flatten(1), (to - now).abs(), control).reshape(x.shape)


def _leave_pure_noise(
    denoise: Denoise, x: Image, now: NoiseLevel, to: NoiseLevel, schedule: Schedule
) -> tuple[Image, NoiseLevel]:
    """x and its level after a sliver of DDIM where alpha is 0."""
    silent = now.alpha == 0
    next_ = schedule(torch.where(silent, now.t + _OFF_PURE_NOISE * (to.t - now.t), now.t))
    return chosen(silent, ddim_hop(denoise(x, now), next_), x), next_
