"""Regularised least squares for any linear operator: min |A x - y|^2 / 2 + weight * R(x).

R is what its proximal map says it is: the total variation, or the size of wavelet coefficients.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from medidiff.evaluation.wavelets import shrunk
from medidiff.physics import ConjugateGradients, LinearOperator, SpectralOperator
from medidiff.physics.iterative import real_inner
from medidiff.physics.operators import per_image
from medidiff.types import Image, Tensor

DUAL_STEPS = 5  # of the inner iteration, which goes on from where it was an outer step before

INEXACT = ConjugateGradients(tolerance=1e-4, steps=6)


class Proximal(Protocol):
    """argmin over x of |x - z|^2 / 2 + weight * R(x), with what it remembers between calls."""

    def __call__(self, z: Image, weight: Tensor, step: int, memory: Any) -> tuple[Image, Any]: ...


def admm(
    operator: LinearOperator,
    y: Tensor,
    weight: Tensor,
    proximal: Proximal,
    *,
    start: Image,
    coupling: float,
    steps: int,
) -> Image:
    """The minimiser, by turns of the measurement and of R, which are drawn together.

    Shapes: weight (batch,); start (batch, channel, *space). Small measurements' null spaces are
    crossed faster than by gradient steps: where R alone speaks, each turn moves by weight / rho.
    Units: rho is `coupling` times the operator's squared norm; it changes the way, not the goal.
    Source: Boyd et al. 2011 (doi:10.1561/2200000016), section 3.1.1, scaled form.
    """
    rho = coupling * operator.norm() ** 2
    smooth, off, memory = start, torch.zeros_like(start), None
    right = operator.adjoint(y)
    for step in range(steps):
        fitted = _fitted(operator, y, right, smooth - off, rho)
        smooth, memory = proximal(fitted + off, weight / rho, step, memory)
        off = off + fitted - smooth
    return smooth


def fista(
    operator: LinearOperator,
    y: Tensor,
    weight: Tensor,
    proximal: Proximal,
    *,
    start: Image,
    steps: int,
) -> Image:
    """The minimiser by gradient steps with momentum, which begins anew where it would turn back.

    Unlike `admm` it keeps nothing that belongs to one proximal map, which may thus change from step
    to step, as that of wavelets on shifted grids does.
    Shapes: weight (batch,); start (batch, channel, *space). Each image has its own momentum.
    Source: Beck and Teboulle 2009 (doi:10.1137/080716542), FISTA with constant step; O'Donoghue and
    Candes 2015 (doi:10.1007/s10208-013-9150-3), the gradient restart.
    """
    length = 1 / operator.norm() ** 2
    x, ahead, memory = start, start, None
    right = operator.adjoint(y)
    momentum = torch.ones(len(x), dtype=x.real.dtype, device=x.device)
    for step in range(steps):
        downhill = ahead - length * (operator.normal(ahead) - right)
        following, memory = proximal(downhill, weight * length, step, memory)
        turned = real_inner(ahead - following, following - x) > 0
        grown = (1 + (1 + 4 * momentum**2).sqrt()) / 2
        share = torch.where(turned, 0.0, (momentum - 1) / grown)
        momentum = torch.where(turned, 1.0, grown)
        x, ahead = following, following + per_image(share, x) * (following - x)
    return x


def _fitted(operator: LinearOperator, y: Tensor, right: Image, z: Image, rho: float) -> Image:
    """The measurement's turn; without a closed form some steps, from which the next goes on."""
    if isinstance(operator, SpectralOperator):
        return operator.prox(z, y, rho)
    return INEXACT.solve(lambda x: operator.normal(x) + rho * x, right + rho * z, z)


@dataclass(frozen=True)
class TotalVariation:
    """The isotropic total variation, of complex images too; with a lower bound if there is one.

    Source: Beck and Teboulle 2009 (doi:10.1109/TIP.2009.2028250), algorithm FGP with a constraint.
    """

    lowest: float = -math.inf

    def __call__(self, z: Image, weight: Tensor, step: int, memory: Any) -> tuple[Image, Any]:
        """A few more steps of the dual problem, from where the last call left it."""
        scale = per_image(weight, z)
        axes = z.ndim - 2
        dual = torch.zeros((axes, *z.shape), dtype=z.dtype, device=z.device)
        dual = dual if memory is None else memory
        ahead, momentum = dual, 1.0
        for _ in range(DUAL_STEPS):
            inner = self._bounded(z - scale * divergence(ahead))
            following = _within_unit(ahead + gradient(inner) / (4 * axes * scale))
            grown = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
            ahead = following + (momentum - 1) / grown * (following - dual)
            dual, momentum = following, grown
        return self._bounded(z - scale * divergence(dual)), dual

    def _bounded(self, x: Image) -> Image:
        return x if x.is_complex() else x.clamp_min(self.lowest)


@dataclass(frozen=True)
class WaveletSparsity:
    """The l1 norm of Daubechies's wavelet coefficients, on a grid shifted at random in each step.

    Shifts take the place of an undecimated transform (Coifman and Donoho 1995, cycle spinning;
    Figueiredo and Nowak 2003, doi:10.1109/TIP.2003.814255, at random).
    """

    seed: int = 0

    def __call__(self, z: Image, weight: Tensor, step: int, memory: Any) -> tuple[Image, Any]:
        """The coefficients made smaller by the weight, those below it 0."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        axes = tuple(range(2, z.ndim))
        shift = [int(torch.randint(16, (1,), generator=generator)) for _ in axes]
        moved = shrunk(z.roll(shift, axes), per_image(weight, z))
        return moved.roll([-each for each in shift], axes), None


def gradient(x: Image) -> Tensor:
    """Forward differences along each axis of space, 0 at the last voxel: (axes, *x.shape)."""
    parts = []
    for axis in range(2, x.ndim):
        step = x.diff(dim=axis)
        parts.append(torch.cat((step, torch.zeros_like(x.narrow(axis, 0, 1))), dim=axis))
    return torch.stack(parts)


def divergence(dual: Tensor) -> Image:
    """The adjoint of `gradient` (that is, less the divergence)."""
    total = torch.zeros_like(dual[0])
    for axis, part in enumerate(dual, start=2):
        inner = part.narrow(axis, 0, part.shape[axis] - 1)
        edge = torch.zeros_like(part.narrow(axis, 0, 1))
        total += torch.cat((edge, inner), dim=axis) - torch.cat((inner, edge), dim=axis)
    return total


def _within_unit(dual: Tensor) -> Tensor:
    """Each voxel's vector of all axes, no longer than 1."""
    size = (dual.conj() * dual).real.sum(0).sqrt()
    return dual / size.clamp_min(1.0)
