"""Losses whose weight over the noise levels is learned: EDM2's uncertainty.

    loss = weight * error / exp(u) + u,     u = u(level), learned beside the network

For each level u settles at log E[weight * error], so every level pulls with equal force whatever
its size; u is thrown away after training.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from medidiff.diffusion.denoiser import Network
from medidiff.diffusion.levels import NoiseLevel
from medidiff.diffusion.noise import gaussians, uniforms
from medidiff.diffusion.objectives import DenoisingLoss
from medidiff.types import Image, Tensor


class LevelUncertainty(nn.Module):
    """u(level), one linear layer on Fourier features of ln(noise_ratio) / 4; 0 at first.

    Shapes: a level of shape (batch,) -> (batch,), float32.
    Source: Karras et al. 2024 (arXiv:2312.02696), section 2.2.
    """

    frequencies: Tensor
    phases: Tensor

    def __init__(self, features: int = 128, seed: int = 0) -> None:
        super().__init__()
        like = torch.zeros(1)
        scale = gaussians(seed, [("uncertainty frequencies",)], features, like)[0]
        shift = uniforms(seed, [("uncertainty phases",)], features)[0].float()
        self.register_buffer("frequencies", 2 * math.pi * scale)
        self.register_buffer("phases", 2 * math.pi * shift)
        self.weight = nn.Parameter(torch.zeros(features))
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, level: NoiseLevel) -> Tensor:
        label = (-level.half_log_snr.clamp(-20, 20) / 4).to(self.weight)
        waves = (label[:, None] * self.frequencies + self.phases).cos()
        return waves @ self.weight / math.sqrt(len(self.weight) / 2) + self.bias


@dataclass(frozen=True)
class UncertaintyLoss:
    """A denoising loss divided by the exponential of the learned uncertainty, plus it.

    Source: Karras et al. 2024 (arXiv:2312.02696), eq. 21, after Kendall et al. 2018
    (arXiv:1705.07115).
    """

    denoising: DenoisingLoss

    def __call__(
        self,
        network: Network,
        uncertainty: LevelUncertainty,
        clean: Image,
        levels: NoiseLevel,
        eps_noise: Image,
        condition: Tensor | None = None,
        concat: Image | None = None,
    ) -> Tensor:
        """The loss of each example; gradients reach the network and the uncertainty.

        Shapes: clean and eps_noise (batch, channel, *space), levels (batch,), result (batch,).
        """
        error = self.denoising(network, clean, levels, eps_noise, condition, concat)
        u = uncertainty(levels).to(error)
        return error / u.exp() + u
