"""How noise enters a measurement: log p(y | A x), its gradient, and a quadratic stand-in.

A likelihood sees `predicted` = A x, never x: the chain rule through A is the operator's adjoint.
Its numbers are in the units of the measurement.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch

from medidiff.physics.operators import per_image
from medidiff.types import Tensor

LEAST_COUNT = 0.5
"""Counts below which a logarithm of counts is not trusted."""
TRUSTED = 1.0
"""Line integrals that an estimate may be off what the counts say and still be scored from."""


class Likelihood(Protocol):
    """The law of a measurement around what the operator predicts."""

    def log_density(self, predicted: Tensor, measurement: Tensor) -> Tensor:
        """log p(measurement | predicted) of each image, (batch,), up to a constant of y."""
        ...

    def gradient(self, predicted: Tensor, measurement: Tensor) -> Tensor:
        """Of the log density with respect to `predicted`; for complex numbers, of its real and
        imaginary parts."""
        ...

    def surrogate(self, predicted: Tensor, measurement: Tensor) -> tuple[Tensor, Tensor]:
        """(target, std) of a Gaussian that stands for it near `predicted`.

        Shapes: std is () or (batch,), float64, or has the shape of `predicted`.
        """
        ...


@dataclass(frozen=True, eq=False)
class Gaussian:
    """y = A x + noise_std n. For complex measurements n is circular.

    noise_std is of each real number: of the real and of the imaginary part of a complex one.
    Shapes: a number, or (batch,): each image its own.
    Errors: ValueError for a negative one.
    """

    noise_std: float | Tensor

    def __post_init__(self) -> None:
        if not bool((self.std >= 0).all()) or self.std.ndim > 1:
            raise ValueError(
                f"noise_std needs to be a number >= 0 or one an image, got {self.noise_std}"
            )

    @property
    def std(self) -> Tensor:
        """As float64, () or (batch,)."""
        return torch.as_tensor(self.noise_std, dtype=torch.float64)

    def log_density(self, predicted: Tensor, measurement: Tensor) -> Tensor:
        """-|y - A x|^2 / (2 noise_std^2)."""
        power = (measurement - predicted).abs().square().flatten(1).sum(1)
        return -power / (2 * self.std.to(power) ** 2)

    def gradient(self, predicted: Tensor, measurement: Tensor) -> Tensor:
        """(y - A x) / noise_std^2."""
        return (measurement - predicted) / per_image(self.std, predicted) ** 2

    def surrogate(self, predicted: Tensor, measurement: Tensor) -> tuple[Tensor, Tensor]:
        """Itself."""
        return measurement, self.std


@dataclass(frozen=True, eq=False)
class Rician:
    """y = |a + noise_std (n1 + i n2)|, a = A x + offset: magnitude images.

    offset is a voxel's value without signal, its sign turned: 1 for a range of -1 to 1. The
    measurement is in A x's units but 0 where a is.
    Shapes: noise_std a number or (batch,); offset a number or broadcasts over the measurement.
    Errors: ValueError unless noise_std > 0.
    Source: Gudbjartsson & Patz 1995 (doi:10.1002/mrm.1910340618).
    """

    noise_std: float | Tensor
    offset: float | Tensor = 0.0

    def __post_init__(self) -> None:
        if not bool((self.std > 0).all()) or self.std.ndim > 1:
            raise ValueError(
                f"rician noise_std needs to be a number > 0 or one an image, got {self.noise_std}"
            )

    @property
    def std(self) -> Tensor:
        """As float64, () or (batch,)."""
        return torch.as_tensor(self.noise_std, dtype=torch.float64)

    def log_density(self, predicted: Tensor, measurement: Tensor) -> Tensor:
        """-a^2 / (2 noise_std^2) + log I0(y a / noise_std^2)."""
        a, power = predicted + self.offset, per_image(self.std, predicted) ** 2
        z = measurement * a / power
        log_bessel = torch.special.i0e(z).log() + z.abs()
        return (log_bessel - a**2 / (2 * power)).flatten(1).sum(1)

    def gradient(self, predicted: Tensor, measurement: Tensor) -> Tensor:
        """(y I1 / I0 (y a / noise_std^2) - a) / noise_std^2."""
        target, std = self.surrogate(predicted, measurement)
        return (target - predicted) / per_image(std, predicted) ** 2

    def surrogate(self, predicted: Tensor, measurement: Tensor) -> tuple[Tensor, Tensor]:
        """Around the magnitude in phase with a, y I1 / I0: nowhere above the log density.

        Source: expectation and maximisation over the phase, Dempster, Laird & Rubin 1977.
        """
        a = predicted + self.offset
        z = measurement * a / per_image(self.std, predicted) ** 2
        in_phase = torch.special.i1e(z) / torch.special.i0e(z)
        return measurement * in_phase - self.offset, self.std


@dataclass(frozen=True, eq=False)
class PoissonTransmission:
    """Counts y ~ Poisson(photons exp(-p) + scatter), p = scale A x + offset: CT.

    scale and offset turn network units into line integrals; offset is that of an image of zeros.
    Shapes: photons is a number or (batch,); scatter and scale are numbers; offset is a number or
    broadcasts over the measurement.
    Errors: ValueError unless photons > 0, scatter >= 0 and scale > 0.
    Source: Whiting et al. 2006 (doi:10.1118/1.2230762) for the law.
    """

    photons: float | Tensor
    scatter: float = 0.0
    scale: float = 1.0
    offset: float | Tensor = 0.0

    def __post_init__(self) -> None:
        if not (_positive(self.photons) and self.scatter >= 0 and self.scale > 0):
            raise ValueError(
                "poisson transmission needs photons > 0, scatter >= 0 and scale > 0, got "
                f"{self.photons}, {self.scatter}, {self.scale}"
            )

    def log_density(self, predicted: Tensor, measurement: Tensor) -> Tensor:
        """y log rate - rate."""
        rate = self._through(predicted) + self.scatter
        return (measurement * rate.log() - rate).flatten(1).sum(1)

    def gradient(self, predicted: Tensor, measurement: Tensor) -> Tensor:
        """scale photons exp(-p) (1 - y / rate)."""
        through = self._through(predicted)
        return self.scale * through * (1 - measurement / (through + self.scatter))

    def surrogate(self, predicted: Tensor, measurement: Tensor) -> tuple[Tensor, Tensor]:
        """Fisher's scoring: around p + (rate - y) / rate with the variance 1 / rate, which without
        scatter has no bias, as the logarithm of few counts has.

        p is held within TRUSTED of what the counts alone say: from far away the step would be
        without bound. Counts below LEAST_COUNT count there as that many.
        Source: Sauer & Bouman 1993 (doi:10.1109/78.193196) for the quadratic about the counts' own
        integrals; McCullagh & Nelder 1989, "Generalized linear models", section 2.5, for scoring.
        """
        alone = (measurement - self.scatter).clamp_min(LEAST_COUNT)
        integrals = (per_image(self.photons, alone) / alone).log()
        p = self.scale * predicted + self.offset
        p = torch.minimum(torch.maximum(p, integrals - TRUSTED), integrals + TRUSTED)
        through = per_image(self.photons, p) * (-p).exp()
        rate = through + self.scatter
        target = p + (rate - measurement) / through
        return (target - self.offset) / self.scale, rate.sqrt() / through / self.scale

    def _through(self, predicted: Tensor) -> Tensor:
        integrals = self.scale * predicted + self.offset
        return per_image(self.photons, predicted) * (-integrals).exp()


@dataclass(frozen=True, eq=False)
class PoissonEmission:
    """Counts y ~ Poisson(scale A x + background): PET and SPECT.

    Shapes: scale is a number or (batch,); background is a number or broadcasts over the
    measurement; it takes up the network units' zero as well (scale times A of an image of zero
    activity, its sign turned).
    Errors: ValueError unless scale > 0.
    Source: Shepp & Vardi 1982 (doi:10.1109/TMI.1982.4307558).
    Differs: below LEAST_COUNT the logarithm goes on as its parabola, so that an estimate whose
    rates are negative is pushed back.
    """

    scale: float | Tensor = 1.0
    background: float | Tensor = 0.0

    def __post_init__(self) -> None:
        if not _positive(self.scale):
            raise ValueError(f"poisson emission needs scale > 0, got {self.scale}")

    def log_density(self, predicted: Tensor, measurement: Tensor) -> Tensor:
        """y log rate - rate."""
        rate = self._rate(predicted)
        below = (rate - LEAST_COUNT).clamp_max(0) / LEAST_COUNT
        log_rate = rate.clamp_min(LEAST_COUNT).log() + below - below**2 / 2
        return (measurement * log_rate - rate).flatten(1).sum(1)

    def gradient(self, predicted: Tensor, measurement: Tensor) -> Tensor:
        """scale (y / rate - 1)."""
        rate = self._rate(predicted)
        below = (rate - LEAST_COUNT).clamp_max(0) / LEAST_COUNT
        inverse = 1 / rate.clamp_min(LEAST_COUNT) - below / LEAST_COUNT
        return per_image(self.scale, rate) * (measurement * inverse - 1)

    def surrogate(self, predicted: Tensor, measurement: Tensor) -> tuple[Tensor, Tensor]:
        """The counts as they are, with the variance of their rate (Fisher's scoring)."""
        rate = self._rate(predicted).clamp_min(LEAST_COUNT)
        scale = per_image(self.scale, rate)
        return (measurement - self.background) / scale, rate.sqrt() / scale

    def _rate(self, predicted: Tensor) -> Tensor:
        return per_image(self.scale, predicted) * predicted + self.background


def _positive(value: float | Tensor) -> bool:
    return bool((torch.as_tensor(value) > 0).all())


AnyLikelihood: TypeAlias = Gaussian | Rician | PoissonTransmission | PoissonEmission
