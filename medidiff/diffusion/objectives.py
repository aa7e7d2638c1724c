"""Objectives: what is minimised.

    levels = loss.levels(draw)                                            # one level an example
    per_example = loss(network, clean, levels, eps_noise, condition, concat)   # (batch,)

The loss is returned for each example, so that a loop over several processes can divide the sum by
the global count and not by a mean of means.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from medidiff.diffusion.denoiser import Network, predict
from medidiff.diffusion.levels import NoiseLevel, diffuse
from medidiff.diffusion.schedules import AnySchedule
from medidiff.diffusion.targets import AnyTarget, prediction_of
from medidiff.diffusion.times import AnyTimes, UniformTimes
from medidiff.diffusion.weights import AnyWeight, UniformWeight
from medidiff.types import Image, Tensor


@dataclass(frozen=True)
class DenoisingLoss:
    """The weighted squared error of the network's prediction.

    Source: Ho et al. 2020 (arXiv:2006.11239), eq. 14 for `eps`; Karras et al. 2022
    (arXiv:2206.00364), eq. 8 for any other target.
    """

    target: AnyTarget
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
