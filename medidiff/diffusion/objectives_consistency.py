"""Training and distillation of consistency models.

    f(x at the noisier level)  is pulled to  f(x at the cleaner one), which is held fixed

The two points lie on one line of the flow: by the same noise on the same image (training), or by a
step of a trained denoiser's ODE (distillation).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, TypeAlias

import torch

from medidiff.diffusion.denoiser import Network, predict
from medidiff.diffusion.levels import Denoise, NoiseLevel, ddim_hop, diffuse, scale
from medidiff.diffusion.schedules import EDM, AnySchedule
from medidiff.diffusion.targets import AnyConsistencyTarget, ConsistencyTarget
from medidiff.diffusion.times import AnySpacing, Karras, path
from medidiff.types import Image, Tensor

FlowStep: TypeAlias = Callable[[Image, NoiseLevel, NoiseLevel], Image]
"""(x, now, to) -> x at the cleaner level `to`, by the flow of a trained model."""


@dataclass(frozen=True)
class ConsistencyLoss:
    """The distance of a consistency model's answers at two neighbouring levels.

    Source: Song et al. 2023 (arXiv:2303.01469), sections 4 (distillation) and 5 (training); Song
    & Dhariwal 2024 (arXiv:2310.14189), section 3, for the distance, the weight and the levels.
    """

    target: AnyConsistencyTarget = field(default_factory=ConsistencyTarget)
    """How the network is read."""
    schedule: AnySchedule = field(default_factory=EDM)
    """The levels' schedule."""
    spacing: AnySpacing = field(default_factory=Karras)
    """Where the neighbouring levels lie."""
    distance: Literal["pseudo-huber", "squared"] = "pseudo-huber"
    """pseudo-huber: sqrt(|d|^2 + c^2) - c with c = 0.00054 sqrt(size); squared: mean square."""
    weight: Literal["gap", "edm"] = "gap"
    """gap: 1 / (difference of the noise ratios); edm: 1 / noise_ratio^2 + 1 / data_std^2, the one
    of Geng et al. 2024 (arXiv:2406.14548), as in their code."""
    mean: float = -1.1
    """Mean of ln(noise_ratio) over the levels trained."""
    std: float = 2.0
    """Standard deviation of ln(noise_ratio)."""

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise ValueError(f"a consistency loss needs std > 0, got {self.std}")

    def levels(self, draw: Tensor, steps: int) -> tuple[NoiseLevel, NoiseLevel]:
        """The noisier and the cleaner level of each example, out of `steps` neighbouring ones.

        Shapes: draw is (batch,), float64, in (0, 1); so are the levels.
        Source: Song & Dhariwal 2024 (arXiv:2310.14189).
        Errors: ValueError if steps < 2.
        """
        if steps < 2:
            raise ValueError(f"consistency needs at least 2 levels, got {steps}")
        whole = _whole(self.spacing, self.schedule, steps)
        logs = -whole.half_log_snr
        edges = torch.special.erf((logs - self.mean) / (math.sqrt(2) * self.std))
        share = (edges[:-1] - edges[1:]).cumsum(0)
        index = torch.searchsorted(share / share[-1], draw.double()).clamp_max(steps - 2)
        return _pick(whole, index), _pick(whole, index + 1)

    def easy_levels(self, draw: Tensor, share: float) -> tuple[NoiseLevel, NoiseLevel]:
        """A level of each example and a cleaner one, at any noise ratio.

            ln t ~ N(mean, std^2);   r = t max(0, 1 - share (1 + 8 sigmoid(-t)))

        With share 1 the cleaner level is the clean end and the loss denoises; as the share shrinks
        the two become neighbours. Both are held at the schedule's own noise ratios.
        Shapes: draw is (batch,), float64, in (0, 1); so are the levels.
        Source: Geng et al. 2024 (arXiv:2406.14548), the mapping p(r|t) as in their code.
        Errors: ValueError unless 0 < share <= 1.
        """
        if not 0 < share <= 1:
            raise ValueError(f"the share of a gap lies in (0, 1], got {share}")
        end, start = (self.schedule(torch.tensor(t, dtype=torch.float64)) for t in self._ends())
        low, high = end.noise_ratio, start.noise_ratio.clamp_max(1e8)
        ratio = (self.mean + self.std * torch.special.ndtri(draw.double())).exp()
        ratio = torch.minimum(torch.maximum(ratio, 2 * low), high)
        nearer = ratio * (1 - share * (1 + 8 * torch.sigmoid(-ratio))).clamp_min(0)
        nearer = torch.maximum(nearer, low)
        noisier, cleaner = (self.schedule(self.schedule.time_of(-x.log())) for x in (ratio, nearer))
        return noisier, cleaner

    def _ends(self) -> tuple[float, float]:
        return self.schedule.t_min, self.schedule.t_max

    def __call__(
        self,
        student: Network,
        held: Network,
        clean: Image,
        levels: tuple[NoiseLevel, NoiseLevel],
        eps_noise: Image,
        flow: FlowStep | None = None,
        condition: Tensor | None = None,
        concat: Image | None = None,
    ) -> Tensor:
        """The loss of each example: the distance of the two answers, weighed.

        `held` is the student itself (training) or its moving average; no gradient reaches it.
        `flow` is None for training, the teacher's step (`flow_step`) for distillation.
        Shapes: clean and eps_noise (batch, channel, *space), levels (batch,), result (batch,).
        """
        noisier, cleaner = levels
        x = diffuse(clean, noisier, eps_noise)
        answer = self._read(student, x, noisier, condition, concat)
        with torch.no_grad():
            nearer = diffuse(clean, cleaner, eps_noise) if flow is None else flow(x, *levels)
            aim = self._read(held, nearer, cleaner, condition, concat)
        return self._weight(noisier, cleaner).to(clean) * self._distance(answer - aim)

    def _weight(self, noisier: NoiseLevel, cleaner: NoiseLevel) -> Tensor:
        if self.weight == "gap":
            return 1 / (noisier.noise_ratio - cleaner.noise_ratio)
        return noisier.noise_ratio**-2 + self.target.data_std**-2

    def _read(
        self,
        network: Network,
        x: Image,
        level: NoiseLevel,
        condition: Tensor | None,
        concat: Image | None,
    ) -> Image:
        prediction = predict(network, self.target, x, level, condition, concat).to(x.dtype)
        skip, out = self.target.multipliers(level)
        return scale(skip, x) * x + scale(out, x) * prediction

    def _distance(self, difference: Image) -> Tensor:
        square = difference.square().flatten(1)
        if self.distance == "squared":
            return square.mean(1)
        edge = 0.00054 * math.sqrt(square.shape[1])
        return (square.sum(1) + edge**2).sqrt() - edge


def flow_step(denoise: Denoise, order: Literal[1, 2] = 2) -> FlowStep:
    """One step of the probability-flow ODE of a trained denoiser: Euler or Heun in noise ratio.

    Source: Song et al. 2023 (arXiv:2303.01469); Karras et al. 2022, algorithm 1.
    """

    def step(x: Image, now: NoiseLevel, to: NoiseLevel) -> Image:
        here = denoise(x, now)
        x = ddim_hop(here, to)
        if order == 1:
            return x
        half = torch.where(now.alpha == 0, 0.0, to.sigma - to.alpha * now.noise_ratio) / 2
        return x + scale(half, x) * (denoise(x, to).eps - here.eps)

    return step


def level_curriculum(step: int, steps: int, first: int = 10, last: int = 1280) -> int:
    """How many levels are trained in step `step` of `steps`: doubled at equal intervals.

    Source: Song & Dhariwal 2024 (arXiv:2310.14189), section 3.4.
    """
    stage = math.floor(steps / (math.log2(math.floor(last / first)) + 1))
    return min(first * 2 ** (step // max(stage, 1)), last) + 1


@lru_cache(maxsize=32)  # a thousand levels take longer to make than a step of training
def _whole(spacing: AnySpacing, schedule: AnySchedule, steps: int) -> NoiseLevel:
    levels = path(spacing, schedule, steps)[:-1]
    return NoiseLevel(
        torch.stack([level.t for level in levels]),
        torch.stack([level.alpha for level in levels]),
        torch.stack([level.sigma for level in levels]),
    )


def _pick(levels: NoiseLevel, index: Tensor) -> NoiseLevel:
    return NoiseLevel(levels.t[index], levels.alpha[index], levels.sigma[index])
