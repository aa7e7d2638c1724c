"""Heads that learn the variance of a network whose weights stay as they are.

Source: Bao et al. 2022 (arXiv:2206.07309) and its code: the pretrained network is frozen and only a
new head on its last field learns E[eps^2 | x] (SN) or E[(eps - eps-hat)^2 | x] (NPR).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import nn

from medidiff.networks.blocks import ResidualBlock, make_conv, make_norm, zeroed
from medidiff.networks.fields import Field, norm_silu_project
from medidiff.networks.unet import EMBEDDING_FACTOR, UNet
from medidiff.types import Image, Tensor

HeadForm: TypeAlias = Literal["simple", "complex"]
"""A norm, SiLU and a convolution; or a residual block before them, told of the noise level."""


@dataclass(frozen=True)
class SpreadHead:
    """A head of a model: what it learned, and how it is built."""

    source: Literal["sn", "npr"] = "npr"
    """sn: E[eps^2 | x]; npr: E[(eps - eps-hat)^2 | x]."""
    form: HeadForm = "simple"
    """simple: norm, SiLU, convolution; complex: a residual block before them."""


class Head(nn.Module):
    """A spread from the last field of a U-Net; nothing at first.

    Shapes: a field (batch, C, *space) and the embedding (batch, width) -> (batch, channels,
    *space).
    """

    def __init__(self, trunk: UNet, form: HeadForm) -> None:
        super().__init__()
        options, dims = trunk.options, trunk.shape.dims
        channels = options.channels[0]
        self.block = None
        if form == "complex":
            self.block = ResidualBlock(
                dims,
                channels,
                channels,
                embedding=EMBEDDING_FACTOR * channels,
                groups=options.groups,
                eps=options.norm_eps,
                modulation=options.modulation,
            )
        self.norm = make_norm(channels, options.groups, options.norm_eps)
        self.last = zeroed(make_conv(dims, channels, trunk.shape.in_channels))

    def forward(self, field: Field, embedding: Tensor) -> Tensor:
        if self.block is not None:
            field = self.block(field, embedding)
        return norm_silu_project(field, self.norm, self.last)


def build_head(trunk: UNet, form: HeadForm, seed: int = 0) -> Head:
    """A head with fresh weights, the same for the same seed; no global generator moves."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return Head(trunk, form)


class HeadedNetwork(nn.Module):
    """A frozen U-Net with a head: a network of two heads, prediction and spread.

    Shapes: as the U-Net's, with 2 C channels: its prediction, then the head's spread. A trunk that
    has a spread of its own is not asked for it.
    """

    def __init__(self, trunk: UNet, head: Head) -> None:
        super().__init__()
        self.trunk = trunk.requires_grad_(False)
        self.head = head

    def train(self, mode: bool = True) -> HeadedNetwork:
        """Only the head trains: the trunk's dropout stays off."""
        super().train(mode)
        self.trunk.eval()
        return self

    def forward(
        self,
        x: Image,
        label: Tensor,
        condition: Tensor | None = None,
        concat: Image | None = None,
    ) -> Image:
        with torch.no_grad():
            field, embedding = self.trunk.decoded(x, label, condition, concat)
            # before the head, which may change the field in place
            prediction = self.trunk.predicted(field, x)[:, : self.trunk.shape.in_channels]
        spread = self.trunk.cropped(self.head(field, embedding), x.shape[2:]).to(x.dtype)
        return torch.cat([prediction, spread], dim=1)
