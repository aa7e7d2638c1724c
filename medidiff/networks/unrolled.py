"""A reconstruction trained end to end: one denoiser and the measurement, in turns."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from medidiff.networks.unet import UNet
from medidiff.physics.iterative import real_inner
from medidiff.physics.operators import LinearOperator
from medidiff.types import Image, Tensor


class UnrolledReconstruction(nn.Module):
    """Turns of denoising and of drawing the image to the measurement, with shared weights.

    Shapes: complex images of one channel; the denoiser has two in and out, for the real and the
    imaginary part, and predicts what is to be added. Gives (batch, 1, *space), complex; zeros of a
    measurement of zeros. It may be given another number of turns at any time (`turns`).
    Source: Aggarwal et al. 2019 ("MoDL", arXiv:1712.02862).
    Differs: the denoiser is this project's U-Net; the coupling is learnt through its logarithm.
    Errors: ValueError for a denoiser of other channels.
    """

    def __init__(self, denoiser: UNet, turns: int = 5, coupling: float = 0.05) -> None:
        super().__init__()
        if denoiser.shape.in_channels != 2 or denoiser.shape.out_channels != 2:
            raise ValueError("an unrolled reconstruction's denoiser takes and gives two channels")
        self.denoiser = denoiser
        self.turns = turns
        self.log_coupling = nn.Parameter(torch.tensor(coupling).log())

    def forward(self, operator: LinearOperator, y: Tensor) -> Image:
        """The image of a measurement, in the measurement's units."""
        x = operator.adjoint(y)
        bright = x.abs().flatten(1).amax(1)
        unit = torch.where(bright > 0, bright, 1.0).reshape(-1, *(1,) * (x.ndim - 1))
        x, y = x / unit, y / unit.reshape(-1, *(1,) * (y.ndim - 1))
        for _ in range(self.turns):
            z = x + self._corrections(x)
            x = prox(operator, z, y, self.log_coupling.exp())
        return x * unit

    def _corrections(self, x: Image) -> Image:
        parts = torch.cat((x.real, x.imag), dim=1)
        added = self.denoiser(parts, torch.zeros(len(x), device=x.device))
        return torch.complex(added[:, :1], added[:, 1:])


def prox(operator: LinearOperator, z: Image, y: Tensor, rho: Tensor) -> Image:
    """operator.prox with gradients for z and rho, by one more solution, not through its steps."""
    return _Prox.apply(z, y, rho, operator)


class _Prox(torch.autograd.Function):
    """x = M (A* y + rho z), M = (A* A + rho)^-1: dx = rho M dz + M (z - x) drho."""

    @staticmethod
    def forward(ctx: Any, z: Image, y: Tensor, rho: Tensor, operator: LinearOperator) -> Image:
        x = operator.prox(z, y, rho)
        ctx.save_for_backward(z, y, x, rho)
        ctx.operator = operator
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, Tensor, None]:
        z, y, x, rho = ctx.saved_tensors
        pulled = ctx.operator.prox(gradients[0], torch.zeros_like(y), rho)
        along = real_inner(pulled, z - x).sum() / rho
        return pulled, None, along, None
