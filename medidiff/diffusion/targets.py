"""Prediction targets: what the network is asked for, as two multipliers.

    clean = skip(level) * x + out(level) * prediction                                    (1)
    prediction = (1 - skip * alpha) / out * clean - skip * sigma / out * eps             (2)

(2) is (1) solved for the prediction with x = alpha * clean + sigma * eps, so what is learned and
how it is read cannot disagree. Beside them stand the scale of the network's input and its noise
label. Karras et al. 2022 (arXiv:2206.00364), eq. 7 and table 1, where the multipliers are c_skip
and c_out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import torch

from medidiff.diffusion.levels import Estimate, NoiseLevel, scale
from medidiff.types import Image, Tensor


class Target(Protocol):
    """What a network predicts, how its input is scaled and how it is told the noise.

    Shapes: every method maps a level of shape () or (batch,) to float64 tensors of that shape.
    """

    def multipliers(self, level: NoiseLevel) -> tuple[Tensor, Tensor]: ...

    def input_scale(self, level: NoiseLevel) -> Tensor: ...

    def noise_label(self, level: NoiseLevel) -> Tensor: ...


@dataclass(frozen=True)
class Clean:
    """The clean image itself. Salimans & Ho 2022 (arXiv:2202.00512), section 4."""

    kind: Literal["clean"] = "clean"

    def multipliers(self, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        """Skip 0, out 1."""
        return torch.zeros_like(level.alpha), torch.ones_like(level.alpha)

    def input_scale(self, level: NoiseLevel) -> Tensor:
        """1 / sqrt(alpha^2 + sigma^2)."""
        return _unit_variance(level)

    def noise_label(self, level: NoiseLevel) -> Tensor:
        """1000 t."""
        return 1000 * level.t


@dataclass(frozen=True)
class Eps:
    """The noise. Ho, Jain & Abbeel 2020 (arXiv:2006.11239), eq. 14.

    Errors: ValueError where alpha is 0: there the noise says nothing about the clean image.
    """

    kind: Literal["eps"] = "eps"

    def multipliers(self, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        """clean = (x - sigma * eps) / alpha."""
        _check_signal(level, self.kind)
        return 1 / level.alpha, -level.sigma / level.alpha

    def input_scale(self, level: NoiseLevel) -> Tensor:
        """1 / sqrt(alpha^2 + sigma^2)."""
        return _unit_variance(level)

    def noise_label(self, level: NoiseLevel) -> Tensor:
        """1000 t."""
        return 1000 * level.t


@dataclass(frozen=True)
class V:
    """v = alpha * eps - sigma * clean. Salimans & Ho 2022 (arXiv:2202.00512), appendix D.

    Differs: divided by alpha^2 + sigma^2, so that it also holds off the variance-preserving levels.
    """

    kind: Literal["v"] = "v"

    def multipliers(self, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        """clean = (alpha * x - sigma * v) / (alpha^2 + sigma^2)."""
        power = level.alpha**2 + level.sigma**2
        return level.alpha / power, -level.sigma / power

    def input_scale(self, level: NoiseLevel) -> Tensor:
        """1 / sqrt(alpha^2 + sigma^2)."""
        return _unit_variance(level)

    def noise_label(self, level: NoiseLevel) -> Tensor:
        """1000 t."""
        return 1000 * level.t


@dataclass(frozen=True)
class Score:
    """The gradient of log p(x), -eps / sigma. Song et al. 2021 (arXiv:2011.13456).

    Errors: ValueError where alpha is 0: there the score says nothing about the clean image.
    """

    kind: Literal["score"] = "score"

    def multipliers(self, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        """clean = (x + sigma^2 * score) / alpha, Tweedie's formula."""
        _check_signal(level, self.kind)
        return 1 / level.alpha, level.sigma**2 / level.alpha

    def input_scale(self, level: NoiseLevel) -> Tensor:
        """1 / sqrt(alpha^2 + sigma^2)."""
        return _unit_variance(level)

    def noise_label(self, level: NoiseLevel) -> Tensor:
        """1000 t."""
        return 1000 * level.t


@dataclass(frozen=True)
class FlowVelocity:
    """The straight line's direction, eps - clean. Liu et al. 2023 (arXiv:2209.03003).

    Differs: the sign, since t = 1 is noise here; on other schedules than `Flow` it stays
    eps - clean, which is then a target like any other and not the velocity of the path.
    """

    kind: Literal["flow-velocity"] = "flow-velocity"
    input: Literal["unit-variance", "as-it-is"] = "unit-variance"
    """What the network is given: x brought to unit variance, or x itself, as networks trained by
    other packages expect."""

    def multipliers(self, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        """clean = (x - sigma * velocity) / (alpha + sigma); on `Flow` the divisor is 1."""
        total = level.alpha + level.sigma
        return 1 / total, -level.sigma / total

    def input_scale(self, level: NoiseLevel) -> Tensor:
        """1 / sqrt(alpha^2 + sigma^2), or 1."""
        if self.input == "as-it-is":
            return torch.ones_like(level.alpha)
        return _unit_variance(level)

    def noise_label(self, level: NoiseLevel) -> Tensor:
        """1000 t."""
        return 1000 * level.t


@dataclass(frozen=True)
class EDMTarget:
    """EDM's preconditioned network. Karras et al. 2022 (arXiv:2206.00364), table 1.

    Differs: written for any alpha by x / alpha and noise ratio sigma / alpha, which is the paper's
    own table at alpha = 1 and finite at alpha = 0. The label ln(noise_ratio) / 4 is held within
    [-5, 5], far outside of any trained range, so that it is finite at both ends.
    """

    kind: Literal["edm"] = "edm"
    data_std: float = 0.5
    """Standard deviation of the clean images in network units (the paper's sigma_data)."""

    def __post_init__(self) -> None:
        if not self.data_std > 0:
            raise ValueError(f"the edm target needs data_std > 0, got {self.data_std}")

    def multipliers(self, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        """c_skip / alpha and c_out."""
        power = self._power(level)
        return self.data_std**2 * level.alpha / power, self.data_std * level.sigma / power.sqrt()

    def input_scale(self, level: NoiseLevel) -> Tensor:
        """c_in / alpha."""
        return self._power(level).rsqrt()

    def noise_label(self, level: NoiseLevel) -> Tensor:
        """c_noise = ln(noise_ratio) / 4."""
        return -level.half_log_snr.clamp(-20, 20) / 4

    def _power(self, level: NoiseLevel) -> Tensor:
        return level.sigma**2 + (self.data_std * level.alpha) ** 2


@dataclass(frozen=True)
class ConsistencyTarget:
    """A consistency model: the end of the flow, the identity at the noise ratio `floor`.

    Source: Song et al. 2023 (arXiv:2303.01469), appendix C.
    Range: noise ratios of `floor` and above.
    Differs: written for any alpha by x / alpha and noise ratio, like `EDMTarget`.
    """

    kind: Literal["consistency"] = "consistency"
    data_std: float = 0.5
    """Standard deviation of the clean images in network units (the paper's sigma_data)."""
    floor: float = 0.002
    """The noise ratio at which the model gives x back (the paper's epsilon)."""

    def __post_init__(self) -> None:
        if not self.data_std > 0 or not self.floor >= 0:
            raise ValueError(
                "the consistency target needs data_std > 0 and floor >= 0, got "
                f"{self.data_std}, {self.floor}"
            )

    def multipliers(self, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        """c_skip / alpha and c_out."""
        above = level.sigma - self.floor * level.alpha
        scaled = self.data_std * level.alpha
        skip = self.data_std * scaled / (above**2 + scaled**2)
        return skip, self.data_std * above * self.input_scale(level)

    def input_scale(self, level: NoiseLevel) -> Tensor:
        """c_in / alpha."""
        return (level.sigma**2 + (self.data_std * level.alpha) ** 2).rsqrt()

    def noise_label(self, level: NoiseLevel) -> Tensor:
        """c_noise = ln(noise_ratio) / 4."""
        return -level.half_log_snr.clamp(-20, 20) / 4


@dataclass(frozen=True)
class LatentConsistencyTarget:
    """A noise-predicting network read as a consistency function, the identity at the first step.

    Source: Luo et al. 2023 (arXiv:2310.04378), section 4.1; their code's scaling of the
    time by 10, counted in steps of 1000 from 0.
    Errors: ValueError where alpha is 0, as for `Eps`.
    """

    kind: Literal["latent-consistency"] = "latent-consistency"
    data_std: float = 0.5
    """Standard deviation that the boundary takes for the images'."""
    time_scale: float = 10.0
    """How fast the boundary is left: the time in steps is multiplied by it."""

    def __post_init__(self) -> None:
        if not self.data_std > 0 or not self.time_scale > 0:
            raise ValueError(
                "the latent-consistency target needs data_std > 0 and time_scale > 0, got "
                f"{self.data_std}, {self.time_scale}"
            )

    def multipliers(self, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        """c_skip + c_out / alpha and -c_out sigma / alpha."""
        _check_signal(level, self.kind)
        skip, out = self.boundary(level)
        return skip + out / level.alpha, -out * level.sigma / level.alpha

    def boundary(self, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        """c_skip and c_out of the clean estimate: 1 and 0 at t = 1 / 1000."""
        time = self.time_scale * (1000 * level.t - 1).clamp_min(0)
        power = time**2 + self.data_std**2
        return self.data_std**2 / power, time / power.sqrt()

    def input_scale(self, level: NoiseLevel) -> Tensor:
        """1 / sqrt(alpha^2 + sigma^2)."""
        return _unit_variance(level)

    def noise_label(self, level: NoiseLevel) -> Tensor:
        """1000 t."""
        return 1000 * level.t


AnyTarget: TypeAlias = Clean | Eps | V | Score | FlowVelocity | EDMTarget

AnyConsistencyTarget: TypeAlias = ConsistencyTarget | LatentConsistencyTarget
"""How a consistency model is read. Apart from `AnyTarget`, whose prediction the image and its noise
determine: at the boundary, where x itself is the answer, any prediction will do."""


def prediction_of(target: Target, clean: Image, eps: Image, level: NoiseLevel) -> Image:
    """What `target` asks of the network for this image and noise: equation (2) above.

    Shapes: clean and eps are (batch, channel, *space); the level is () or (batch,).
    Where sigma is 0 it is the limit sigma -> 0 (for `Score` that limit is infinite).
    """
    # 1e-30 stands for 0: (2) divides by out, which vanishes with sigma; their ratio does not.
    level = NoiseLevel(level.t, level.alpha, level.sigma.clamp_min(1e-30))
    skip, out = target.multipliers(level)
    of_clean, of_eps = (1 - skip * level.alpha) / out, -skip * level.sigma / out
    return scale(of_clean, clean) * clean + scale(of_eps, eps) * eps


def estimate(target: Target, x: Image, prediction: Image, level: NoiseLevel) -> Estimate:
    """The clean image and the noise that a prediction at `x` stands for: equation (1) above.

    Shapes: x and prediction are (batch, channel, *space); the level is () or (batch,).
    eps is (x - alpha * clean) / sigma, coefficients combined in float64; 0 where sigma is 0.
    """
    skip, out = target.multipliers(level)
    clean = scale(skip, x) * x + scale(out, x) * prediction
    inverse = torch.where(level.sigma == 0, 0.0, 1 / level.sigma)
    of_x, of_prediction = (1 - level.alpha * skip) * inverse, -level.alpha * out * inverse
    return Estimate(clean, scale(of_x, x) * x + scale(of_prediction, x) * prediction)


def _unit_variance(level: NoiseLevel) -> Tensor:
    return (level.alpha**2 + level.sigma**2).rsqrt()


def _check_signal(level: NoiseLevel, kind: str) -> None:
    if bool((level.alpha == 0).any()):
        raise ValueError(
            f"target {kind!r} cannot be read where alpha = 0 (pure noise): it does not determine "
            "the clean image there. Train with 'v', 'clean', 'flow-velocity' or 'edm', "
            "or start the path at an earlier time."
        )
