"""Operators without a known decomposition: prox and inverse by conjugate gradients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch

from medidiff.physics.operators import per_image
from medidiff.types import Image, Tensor

LANCZOS_STEPS = 60
SMALLEST = 1e-30  # of a vector's length: what is shorter stays as short
ASKED_EVERY = 4  # steps of a GPU, which is waited for: of the 14 to 23 steps that a reconstruction
# takes it makes 2 % more, whose launches are about those of the questions that it spares


@dataclass(frozen=True)
class ConjugateGradients:
    """When the iteration ends for an image: at a relative residual, or after so many steps."""

    tolerance: float = 1e-6
    steps: int = 100

    def __post_init__(self) -> None:
        if not (self.tolerance >= 0 and self.steps >= 0):
            raise ValueError(
                "conjugate gradients need tolerance >= 0 and steps >= 0, got "
                f"{self.tolerance}, {self.steps}"
            )

    def solve(
        self,
        normal: Callable[[Image], Image],
        right: Image,
        start: Image,
        least: Tensor | None = None,
    ) -> Image:
        """The x with normal(x) = right, from `start`; from 0 the smallest one of least squares.

        Each image has its own step lengths and stops by itself, so that a batch gives what its
        members give. `normal` is symmetric and not negative for the real inner product, which for
        complex images is that of their real and imaginary parts. An image whose curvature along a
        direction is not above `least`, (batch,), stops there: `normal` is then not what it should
        be, and steps would be without bound (Steihaug 1983, doi:10.1137/0720042).
        On a GPU a few steps may follow the last one that moves an image; they change none.
        Shapes: (batch, channel, *space).
        Source: Hestenes and Stiefel 1952 (doi:10.6028/jres.049.044).
        """
        every = 1 if start.device.type == "cpu" else ASKED_EVERY
        return self._solved(lambda x: (normal(x),), right, start, least, None, every)[0]

    def solve_beside(
        self,
        normal: Callable[[Image], tuple[Image, Tensor]],
        right: Image,
        start: Image,
        least: Tensor | None = None,
        precondition: Callable[[Image], Image] | None = None,
    ) -> tuple[Image, Tensor]:
        """`solve` for a `normal` that gives another linear function of its argument beside: x, and
        that of x, for which nothing is computed again. No step is made in vain, for `normal` may be
        a network's.

        `precondition` is symmetric, positive, and near the inverse of `normal`.
        Source: Concus, Golub & O'Leary 1976 for the preconditioned iteration.
        """
        x, beside = self._solved(normal, right, start, least, precondition, 1)
        return x, beside

    def _solved(
        self,
        normal: Callable[[Image], tuple[Image, *tuple[Tensor, ...]]],
        right: Image,
        start: Image,
        least: Tensor | None,
        precondition: Callable[[Image], Image] | None,
        every: int,
    ) -> tuple[Image, *tuple[Tensor, ...]]:
        """x and what lies beside; asked `every` so many steps is whether all images are done, and
        nothing else here waits for the device. A GPU's vectors cost less than their launches, so
        that none is made twice."""
        applied, *beside = normal(start)
        x, residual = start, right - applied
        left, zero = _power(residual), start.new_zeros(()).real
        direction, power = _led(residual, left, precondition)
        limit = self.tolerance**2 * _power(right)
        active = left > limit
        for step in range(self.steps):
            if step % every == 0 and not bool(active.any()):
                break
            applied, *turned = normal(direction)
            curvature = real_inner(direction, applied)
            if least is not None:
                active = active & (curvature > least.to(curvature) * _power(direction))
            length = torch.where(active & (curvature > 0), power / curvature, zero)
            along = per_image(length, x)
            x = x + along * direction
            beside = [b + _along(length, t) for b, t in zip(beside, turned, strict=True)]
            residual = residual - along * applied
            left, before = _power(residual), power
            towards, power = _led(residual, left, precondition)
            # what is active and not preconditioned has a residual, so that before > 0
            known = active if precondition is None else active & (before > 0)
            again = torch.where(known, power / before, zero)
            direction = towards + per_image(again, x) * direction
            active = active & (left > limit)
        return x, *beside


class IterativeOperator(ABC):
    """A linear operator known by `forward` and `adjoint` alone, with what follows from the two.

    Real images with complex measurements are a real-linear problem: `adjoint` is then the real part
    of the complex one, and every inner product here is the real one.
    """

    solver: ConjugateGradients
    """When the conjugate gradients of `prox` and `pseudo_inverse` end."""

    @property
    @abstractmethod
    def template(self) -> Image:
        """Images (1 or batch, channel, *space) of the domain: their size, precision and device."""

    @abstractmethod
    def forward(self, x: Image) -> Tensor:
        """A x."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Image:
        """A* y."""

    def normal(self, x: Image) -> Image:
        """A* A x."""
        return self.adjoint(self.forward(x))

    def prox(self, z: Image, y: Tensor, rho: float | Tensor) -> Image:
        """(A* A + rho)^-1 (A* y + rho z), begun at z."""
        weight = per_image(rho, z)
        return self.solver.solve(
            lambda x: self.normal(x) + weight * x, self.adjoint(y) + weight * z, z
        )

    def pseudo_inverse(self, y: Tensor, ridge: float | Tensor = 0.0) -> Image:
        """(A* A + ridge)^-1 A* y; without a ridge the iteration tends to the smallest solution.

        An ill-conditioned operator is not inverted to the end by the solver's steps: what its small
        singular values hold is then left out, which spares the noise in them.
        """
        right = self.adjoint(y)
        weight = per_image(ridge, right)
        return self.solver.solve(
            lambda x: self.normal(x) + weight * x, right, torch.zeros_like(right)
        )

    def norm(self) -> float:
        """The largest singular value, of all images' operators, by Lanczos's method."""
        return float(self._norms.max())

    def norms(self, like: Image) -> Tensor:
        """The largest singular value of each image's own part, (batch,); () if they share one."""
        return self._norms if len(self._norms) > 1 else self._norms[0]

    @cached_property
    def _norms(self) -> Tensor:
        """From the tridiagonal matrix of A* A in the space of a random start.

        Source: Lanczos 1950 (doi:10.6028/jres.045.026). Without reorthogonalisation the largest
        eigenvalue is found again and again, which does no harm here.
        """
        like = self.template
        generator = torch.Generator().manual_seed(0)
        # one start for all, so that each image has the norm that it has alone
        x = torch.randn(like[:1].shape, generator=generator, dtype=like.dtype).to(like.device)
        x = x.expand_as(like)
        before, x = torch.zeros_like(x), x / per_image(_power(x).sqrt(), x)
        link = x.real.new_zeros(len(x))
        diagonal, links = [], []
        for _ in range(LANCZOS_STEPS):
            following = self.normal(x) - per_image(link, x) * before
            diagonal.append(real_inner(x, following))
            following = following - per_image(diagonal[-1], x) * x
            link = _power(following).sqrt()
            links.append(link)
            before, x = x, following / per_image(link.clamp_min(SMALLEST), x)
        matrix = torch.stack(diagonal, -1).diag_embed()
        beside = torch.stack(links[:-1], -1).diag_embed(1)
        return torch.linalg.eigvalsh(matrix + beside + beside.mT).amax(-1).sqrt().double().cpu()


def real_inner(one: Tensor, other: Tensor) -> Tensor:
    """Re <one, other> of each image, (batch,)."""
    return (one.conj() * other).real.flatten(1).sum(1)


def _power(x: Tensor) -> Tensor:
    return real_inner(x, x)


def _along(length: Tensor, x: Tensor) -> Tensor:
    """length, one an image in any shape, times x."""
    return x if x.ndim == 0 else length.reshape(-1, *(1,) * (x.ndim - 1)) * x


def _led(
    residual: Tensor, left: Tensor, precondition: Callable[[Image], Image] | None
) -> tuple[Tensor, Tensor]:
    """Where a residual of the power `left` leads, and its inner product with that."""
    if precondition is None:
        return residual, left
    towards = precondition(residual)
    return towards, real_inner(residual, towards)
