"""Loss weights: how much the squared error of the prediction counts at a level.

A weight that a paper states for the clean image's error is turned into one for the prediction's by
out(level)^2, since the clean error is `out` times the prediction's; one formula serves all targets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import torch

from medidiff.diffusion.levels import NoiseLevel
from medidiff.diffusion.targets import EDMTarget, Target
from medidiff.types import Tensor


class Weight(Protocol):
    """(target, level) -> weight of the prediction's squared error, float64, shaped as the level."""

    def __call__(self, target: Target, level: NoiseLevel) -> Tensor: ...


@dataclass(frozen=True)
class UniformWeight:
    """1 at every level: DDPM's simple loss for `eps` (Ho et al. 2020, arXiv:2006.11239, eq. 14) and
    EDM's own weight for the `edm` target (Karras et al. 2022, arXiv:2206.00364, table 1)."""

    kind: Literal["uniform"] = "uniform"

    def __call__(self, target: Target, level: NoiseLevel) -> Tensor:
        return torch.ones_like(level.sigma)


@dataclass(frozen=True)
class MinSNR:
    """min(SNR, gamma) on the clean image. Hang et al. 2023 (arXiv:2303.09556)."""

    kind: Literal["min-snr"] = "min-snr"
    gamma: float = 5.0
    """Signal-to-noise ratio above which the weight stops growing."""

    def __post_init__(self) -> None:
        if not self.gamma > 0:
            raise ValueError(f"min-snr needs gamma > 0, got {self.gamma}")

    def __call__(self, target: Target, level: NoiseLevel) -> Tensor:
        _, out = target.multipliers(level)
        return ((level.alpha / level.sigma) ** 2).clamp_max(self.gamma) * out**2


@dataclass(frozen=True)
class SNR:
    """SNR on the clean image, which is 1 on eps, whatever the target.

    Source: Salimans & Ho 2022 (arXiv:2202.00512), section 4 ("SNR weighting").
    """

    kind: Literal["snr"] = "snr"

    def __call__(self, target: Target, level: NoiseLevel) -> Tensor:
        _, out = target.multipliers(level)
        return (level.alpha / level.sigma) ** 2 * out**2


@dataclass(frozen=True)
class P2:
    """1 / (k + SNR)^gamma on eps: less weight where the noise is imperceptible.

    Source: Choi et al. 2022 (arXiv:2204.00227); on eps, where the simple loss is 1.
    """

    kind: Literal["p2"] = "p2"
    k: float = 1.0
    """Keeps the weight of pure noise finite."""
    gamma: float = 1.0
    """How strongly small noise is weighed down; the paper has 0.5 and 1."""

    def __post_init__(self) -> None:
        if not (self.k > 0 and self.gamma >= 0):
            raise ValueError(f"p2 needs k > 0 and gamma >= 0, got {self.k}, {self.gamma}")

    def __call__(self, target: Target, level: NoiseLevel) -> Tensor:
        ratio = (level.alpha / level.sigma) ** 2
        return SNR()(target, level) / (self.k + ratio) ** self.gamma


@dataclass(frozen=True)
class EDMWeight:
    """EDM's weight on the clean image, for targets other than EDM's.

    Source: Karras et al. 2022 (arXiv:2206.00364), table 1, lambda(sigma); sigma is the noise ratio.
    Errors: ValueError if the target is `edm` with another data_std: one number, two places.
    """

    kind: Literal["edm"] = "edm"
    data_std: float = 0.5
    """Standard deviation of the clean images in network units."""

    def __post_init__(self) -> None:
        if not self.data_std > 0:
            raise ValueError(f"the edm weight needs data_std > 0, got {self.data_std}")

    def __call__(self, target: Target, level: NoiseLevel) -> Tensor:
        if isinstance(target, EDMTarget) and target.data_std != self.data_std:
            raise ValueError(
                f"data_std is {target.data_std} in the target and {self.data_std} in the weight; "
                "with the edm target use the 'uniform' weight, which is the same"
            )
        _, out = target.multipliers(level)
        return ((level.alpha / level.sigma) ** 2 + self.data_std**-2) * out**2


AnyWeight: TypeAlias = UniformWeight | MinSNR | SNR | P2 | EDMWeight
