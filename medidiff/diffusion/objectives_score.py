"""Score matching losses: NCSN's annealed one and score SDE's continuous one.

    lambda(level) |score_network(x) - score(x | clean)|^2,  score(x | clean) = -eps / sigma      (1)

Vincent 2011, "A connection between score matching and denoising autoencoders" (Neural Comput. 23).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from medidiff.diffusion.denoiser import Network, predict
from medidiff.diffusion.levels import NoiseLevel, diffuse
from medidiff.diffusion.schedules import AnySchedule, Schedule
from medidiff.diffusion.targets import AnyTarget, estimate
from medidiff.diffusion.times import AnyTimes, UniformTimes
from medidiff.types import Image, Tensor


@dataclass(frozen=True)
class SigmaPower:
    """lambda = sigma^power; 2 gives each level the same share of the loss.

    Source: Song & Ermon 2019 (arXiv:1907.05600), section 4.2 (power 2); Song et al. 2021
    (arXiv:2011.13456), with lambda as in appendix C.
    """

    kind: Literal["sigma-power"] = "sigma-power"
    power: float = 2.0
    """The authors' anneal_power."""

    def __call__(self, schedule: Schedule, level: NoiseLevel) -> Tensor:
        return level.sigma**self.power


@dataclass(frozen=True)
class LikelihoodWeight:
    """lambda = g^2, under which the loss bounds the negative log-likelihood.

    Source: Song, Durkan, Murray & Ermon 2021 (arXiv:2101.09258).
    """

    kind: Literal["likelihood"] = "likelihood"

    def __call__(self, schedule: Schedule, level: NoiseLevel) -> Tensor:
        return schedule.diffusion(level.t)


AnyScoreWeight: TypeAlias = SigmaPower | LikelihoodWeight


@dataclass(frozen=True)
class ScoreMatchingLoss:
    """Denoising score matching, weighted on the score.

    Source: Song & Ermon 2019 (arXiv:1907.05600); Song et al. 2021
    (arXiv:2011.13456).
    Differs: any target may be trained by it; its score is read from its estimate of the noise.
    """

    target: AnyTarget
    schedule: AnySchedule
    weight: AnyScoreWeight = field(default_factory=SigmaPower)
    times: AnyTimes = field(default_factory=UniformTimes)
    reduce: Literal["half-sum", "mean"] = "half-sum"
    """Over channels and voxels: half the sum, as NCSN and score SDE's default, or the mean (score
    SDE's reduce_mean)."""

    def levels(self, draw: Tensor) -> NoiseLevel:
        """The levels to train, one for each uniform number of `draw`, (batch,)."""
        return self.times.levels(self.schedule, draw)

    def __call__(
        self,
        network: Network,
        clean: Image,
        levels: NoiseLevel,
        eps_noise: Image,
        condition: Tensor | None = None,
        concat: Image | None = None,
    ) -> Tensor:
        """The loss of each example.

        Shapes: clean and eps_noise (batch, channel, *space), levels (batch,), result (batch,).
        """
        x = diffuse(clean, levels, eps_noise)
        prediction = predict(network, self.target, x, levels, condition, concat)
        eps = estimate(self.target, x, prediction.to(clean.dtype), levels).eps
        square = (eps - eps_noise).square().flatten(1)
        error = square.sum(1) / 2 if self.reduce == "half-sum" else square.mean(1)
        weight = self.weight(self.schedule, levels) / levels.sigma**2
        return weight.to(dtype=clean.dtype, device=clean.device) * error
