"""Objectives: what is minimised.

    levels = loss.levels(draw)                                            # one level an example
    per_example = loss(network, clean, levels, eps_noise, condition, concat)   # (batch,)

The loss is returned for each example, so that a loop over several processes can divide the sum by
the global count and not by a mean of means.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch

from medidiff.diffusion.bound import Decoder, bound_term
from medidiff.diffusion.denoiser import Network, heads, predict
from medidiff.diffusion.levels import CLEAN, Estimate, NoiseLevel, diffuse
from medidiff.diffusion.schedules import AnySchedule, Discrete
from medidiff.diffusion.targets import AnyConsistencyTarget, AnyTarget, estimate, prediction_of
from medidiff.diffusion.times import AnyTimes, UniformSteps, UniformTimes
from medidiff.diffusion.variance import StepVariance, ddpm_transition, small_variance
from medidiff.diffusion.weights import AnyWeight, UniformWeight
from medidiff.types import Image, Tensor


@dataclass(frozen=True)
class DenoisingLoss:
    """The weighted squared error of the network's prediction.

    Source: Ho et al. 2020 (arXiv:2006.11239), eq. 14 for `eps`; Karras et al. 2022
    (arXiv:2206.00364), section 5, for any other target.
    """

    target: AnyTarget | AnyConsistencyTarget
    """A consistency model's is read like any other, away from its boundary."""
    schedule: AnySchedule
    times: AnyTimes = field(default_factory=UniformTimes)
    weight: AnyWeight = field(default_factory=UniformWeight)

    def levels(self, draw: Tensor) -> NoiseLevel:
        """The levels to train, one for each uniform number of `draw`.

        Shapes: draw is (batch,), float64, in (0, 1).
        """
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
        """The loss of each example: weight * mean squared error over channels and voxels.

        Shapes: clean and eps_noise (batch, channel, *space), levels (batch,), result (batch,).
        The error is taken in the dtype of `clean`, whatever the network computes in.
        """
        weight = self.weight(self.target, levels).to(dtype=clean.dtype, device=clean.device)
        return weight * self.loss_at(network, clean, levels, eps_noise, condition, concat)

    def loss_at(
        self,
        network: Network,
        clean: Image,
        level: NoiseLevel,
        eps_noise: Image,
        condition: Tensor | None = None,
        concat: Image | None = None,
    ) -> Tensor:
        """The unweighted error of each example at a level: validation loss over the noise.

        Shapes: as in a call, with a level of shape () or (batch,).
        """
        x = diffuse(clean, level, eps_noise)
        prediction = predict(network, self.target, x, level, condition, concat)
        aim = prediction_of(self.target, clean, eps_noise, level)
        return (prediction.to(clean.dtype) - aim).square().flatten(1).mean(1)


@dataclass(frozen=True, eq=False)
class Hop:
    """The hop of a discrete process that is trained for each image, and what belongs to it.

    Shapes: levels (batch,); last () is beta-tilde of the process's first two steps, which stands
    for the variance of the step onto the clean image.
    """

    now: NoiseLevel
    to: NoiseLevel
    last: Tensor
    steps: int


@dataclass(frozen=True)
class VariationalLoss:
    """The bound's term of one hop, in bits a value: trains mean and variance together.

    Source: Ho et al. 2020 (arXiv:2006.11239), eq. 5; Nichol & Dhariwal 2021 (arXiv:2102.09672),
    L_vlb; guided-diffusion's KL (`whole` False) and RESCALED_KL (`whole` True).
    """

    target: AnyTarget
    schedule: AnySchedule
    variance: StepVariance = "learned-range"
    """With "learned" and "learned-range" the network has 2 C channels, the second half its spread;
    a learned range is read as it is, not squashed."""
    whole: bool = False
    """Whether the hop stands for all: times the number of steps, an estimate of the bound."""
    times: UniformSteps = field(default_factory=UniformSteps)
    decoder: Decoder = field(default_factory=lambda: Decoder(cdf="tanh"))

    def levels(self, draw: Tensor) -> NoiseLevel:
        """The levels to train, one for each uniform number of `draw`, (batch,) in (0, 1)."""
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
        """The loss of each example, (batch,). Shapes as in `DenoisingLoss`."""
        hop = hop_from(self.schedule, self.times, levels)
        return self.over(network, clean, hop, eps_noise, condition, concat)

    def over(
        self,
        network: Network,
        clean: Image,
        hop: Hop,
        eps_noise: Image,
        condition: Tensor | None = None,
        concat: Image | None = None,
    ) -> Tensor:
        """The same over any hop, such as one of a respaced process."""
        x = diffuse(clean, hop.now, eps_noise)
        output = predict(network, self.target, x, hop.now, condition, concat).to(clean.dtype)
        here = two_heads(self.target, x, output, hop.now, self.variance)
        bits = hop_bits(clean, x, here, hop, self.variance, self.decoder)
        return hop.steps * bits if self.whole else bits


@dataclass(frozen=True)
class HybridLoss:
    """The simple loss for the mean plus a little of the bound for the variance alone.

    Source: Nichol & Dhariwal 2021 (arXiv:2102.09672): L_simple + .001 L_vlb, the mean
    detached in L_vlb, which is in bits a value.
    """

    target: AnyTarget
    schedule: AnySchedule
    variance: Literal["learned", "learned-range"] = "learned-range"
    """What the network's second half of 2 C channels says."""
    bound_share: float | None = 0.001
    """The paper's lambda on the bound of all steps; none takes the hop's own term as it is
    (guided-diffusion's MSE, where this is its RESCALED_MSE)."""
    times: UniformSteps = field(default_factory=UniformSteps)
    decoder: Decoder = field(default_factory=lambda: Decoder(cdf="tanh"))

    def __post_init__(self) -> None:
        if self.bound_share is not None and not self.bound_share > 0:
            raise ValueError(f"the hybrid loss needs bound_share > 0, got {self.bound_share}")

    def levels(self, draw: Tensor) -> NoiseLevel:
        """The levels to train, one for each uniform number of `draw`, (batch,) in (0, 1)."""
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
        """The loss of each example, (batch,). Shapes as in `DenoisingLoss`."""
        hop = hop_from(self.schedule, self.times, levels)
        simple, bits = self.parts(network, clean, hop, eps_noise, condition, concat)
        return simple + bits

    def parts(
        self,
        network: Network,
        clean: Image,
        hop: Hop,
        eps_noise: Image,
        condition: Tensor | None = None,
        concat: Image | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The squared error and the weighted bound of each example, over any hop."""
        x = diffuse(clean, hop.now, eps_noise)
        output = predict(network, self.target, x, hop.now, condition, concat).to(clean.dtype)
        prediction, spread = heads(output)
        aim = prediction_of(self.target, clean, eps_noise, hop.now)
        simple = (prediction - aim).square().flatten(1).mean(1)
        fixed = estimate(self.target, x, prediction.detach(), hop.now)
        here = Estimate(fixed.clean, fixed.eps, spread)
        bits = hop_bits(clean, x, here, hop, self.variance, self.decoder)
        return simple, bits if self.bound_share is None else self.bound_share * hop.steps * bits


@dataclass(frozen=True)
class SpreadLoss:
    """Trains a second head on the squared noise (SN) or the squared residual (NPR).

    The prediction is detached: only what makes the second half of the 2 C channels learns, so the
    trunk may be frozen or shared.
    Source: Bao et al. 2022 (arXiv:2206.07309), section 3 ("sn") and section 4 ("npr").
    Differs: the mean over channels and voxels, not their sum.
    """

    target: AnyTarget
    schedule: AnySchedule
    source: Literal["sn", "npr"] = "sn"
    """sn: E[eps^2 | x], best with an exact mean; npr: E[(eps - eps-hat)^2 | x], right for any."""
    times: AnyTimes = field(default_factory=UniformTimes)

    def levels(self, draw: Tensor) -> NoiseLevel:
        """The levels to train, one for each uniform number of `draw`, (batch,) in (0, 1)."""
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
        """The loss of each example, (batch,). Shapes as in `DenoisingLoss`."""
        x = diffuse(clean, levels, eps_noise)
        output = predict(network, self.target, x, levels, condition, concat).to(clean.dtype)
        prediction, spread = heads(output)
        aim = eps_noise
        if self.source == "npr":
            aim = eps_noise - estimate(self.target, x, prediction.detach(), levels).eps
        return (spread - aim.square()).square().flatten(1).mean(1)


def hop_from(schedule: AnySchedule, times: UniformSteps, levels: NoiseLevel) -> Hop:
    """The hop that begins at these levels of a process of N equal steps in t."""
    steps = schedule.steps if isinstance(schedule, Discrete) else times.steps
    ends = levels.t < 1.5 / steps
    below = schedule((levels.t - 1 / steps).clamp_min(0))
    to = NoiseLevel(
        *(
            torch.where(ends, clean, noisy)
            for clean, noisy in (
                (CLEAN.t, below.t),
                (CLEAN.alpha, below.alpha),
                (CLEAN.sigma, below.sigma),
            )
        )
    )
    second, first = (schedule(torch.tensor(n / steps, dtype=torch.float64)) for n in (2, 1))
    return Hop(levels, to, small_variance(second, first), steps)


def two_heads(
    target: AnyTarget, x: Image, output: Image, level: NoiseLevel, variance: StepVariance
) -> Estimate:
    """The estimate of a network that has a spread where the variance is learned."""
    if variance in ("small", "large"):
        return estimate(target, x, output, level)
    prediction, spread = heads(output)
    plain = estimate(target, x, prediction, level)
    return Estimate(plain.clean, plain.eps, spread)


def hop_bits(
    clean: Image, x: Image, here: Estimate, hop: Hop, variance: StepVariance, decoder: Decoder
) -> Tensor:
    """The bound's term of a hop in bits a value, (batch,)."""
    p = ddpm_transition(x, here, hop.now, hop.to, variance, hop.last)
    term = bound_term(clean, x, hop.now, hop.to, p, decoder)
    return term.flatten(1).mean(1) / math.log(2)
