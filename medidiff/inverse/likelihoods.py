"""How noise enters a measurement: log p(y | A x), its gradient, and a quadratic stand-in.

A likelihood sees `predicted` = A x, never x: the chain rule through A is the operator's adjoint.
Its numbers are in the units of the measurement.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch

from medidiff.types import Tensor


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
        """(target, std) of the Gaussian that has this gradient at `predicted`.

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
        return (measurement - predicted) / image_wise(self.std, predicted) ** 2

    def surrogate(self, predicted: Tensor, measurement: Tensor) -> tuple[Tensor, Tensor]:
        """Itself."""
        return measurement, self.std


AnyLikelihood: TypeAlias = Gaussian


def image_wise(value: Tensor, like: Tensor) -> Tensor:
    """One number an image, real, in the precision of `like` and in a shape that broadcasts."""
    real = value.to(like.device, like.dtype.to_real())
    return real.reshape(-1, *(1,) * (like.ndim - 1)) if real.ndim == 1 else real
