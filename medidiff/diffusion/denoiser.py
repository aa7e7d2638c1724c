"""From a network to a `Denoise`, and wrappers that change what it says.

Order of the wrappers: guidance, then `clipped` (the range belongs to the model), then `counted`
around each network, so that guidance by two networks counts both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import torch
from torch import nn

from medidiff.diffusion.levels import Denoise, Estimate, NoiseLevel, eps_of, scale
from medidiff.diffusion.targets import Target, estimate
from medidiff.sending import sent
from medidiff.types import Image, Tensor

Network: TypeAlias = Callable[[Image, Tensor, Tensor | None, Image | None], Image]
"""(scaled x, label (batch,), condition (batch, K) or None, concat or None) -> prediction."""


@dataclass(frozen=True, eq=False)
class Denoiser:
    """The expected clean image given a noisy one, by a network and its target.

    Shapes: x is (batch, channel, *space), condition (batch, K), concat (batch, k, *space).
    The network gets x and concat in the dtype of its weights and the label in float32; the estimate
    is in the dtype of x.
    Source: Karras et al. 2022 (arXiv:2206.00364), eq. 7.
    """

    network: Network
    target: Target
    condition: Tensor | None = None
    concat: Image | None = None
    spread: bool = False
    """Whether the network has a second head: its output is (batch, 2 channel, *space) and the
    second half is `Estimate.spread`."""

    def __call__(self, x: Image, level: NoiseLevel) -> Estimate:
        output = predict(self.network, self.target, x, level, self.condition, self.concat)
        if not self.spread:
            return estimate(self.target, x, output.to(x.dtype), level)
        prediction, spread = heads(output.to(x.dtype))
        plain = estimate(self.target, x, prediction, level)
        return Estimate(plain.clean, plain.eps, spread)


def predict(
    network: Network,
    target: Target,
    x: Image,
    level: NoiseLevel,
    condition: Tensor | None,
    concat: Image | None,
) -> Image:
    """The network's raw prediction at x: the one place where a network is called."""
    dtype = _weight_dtype(network, x.dtype)
    label = sent(target.noise_label(level).to(torch.float32), x.device)
    return network(
        (scale(target.input_scale(level), x) * x).to(dtype),
        label.expand(x.shape[0]),
        condition,
        None if concat is None else concat.to(dtype),
    )


def heads(output: Image) -> tuple[Image, Image]:
    """A two-headed network's prediction and spread.

    Shapes: (batch, 2 channel, *space) -> two of (batch, channel, *space).
    Errors: ValueError if the channels are odd.
    """
    if output.shape[1] % 2:
        raise ValueError(f"a network with a spread has 2 C channels, this has {output.shape[1]}")
    prediction, spread = output.chunk(2, dim=1)
    return prediction, spread


def clipped(
    denoise: Denoise, low: float, high: float, eps: Literal["rederive", "keep"] = "rederive"
) -> Denoise:
    """`denoise` with its clean estimate held within [low, high].

    eps "rederive" recomputes the noise from the clipped image (guided-diffusion), "keep" leaves it
    (Analytic-DPM, diffusers); DDIM and Heun differ by it, DDPM and DPM-Solver++ do not.
    """
    if not low < high:
        raise ValueError(f"clipping needs low < high, got {low}, {high}")

    def clip(x: Image, level: NoiseLevel) -> Estimate:
        raw = denoise(x, level)
        clean = raw.clean.clamp(low, high)
        return Estimate(
            clean, eps_of(x, clean, level) if eps == "rederive" else raw.eps, raw.spread
        )

    return clip


def thresholded(
    denoise: Denoise,
    quantile: float = 0.995,
    ceiling: float | None = None,
    eps: Literal["rederive", "keep"] = "rederive",
) -> Denoise:
    """`denoise` with its clean estimate clipped at a quantile of itself and scaled to [-1, 1].

    The bound is max(1, quantile of |clean|), of each image alone, and at most `ceiling`.
    Source: Saharia et al. 2022 (arXiv:2205.11487), section 2.3 ("dynamic thresholding").
    """
    if not 0 < quantile <= 1 or (ceiling is not None and ceiling < 1):
        raise ValueError(
            f"thresholding needs 0 < quantile <= 1 and ceiling >= 1, got {quantile}, {ceiling}"
        )

    def threshold(x: Image, level: NoiseLevel) -> Estimate:
        raw = denoise(x, level)
        sizes = raw.clean.abs().flatten(1)
        exact = sizes if sizes.dtype == torch.float64 else sizes.float()
        bound = _quantile(exact, quantile).clamp(min=1.0, max=ceiling).to(sizes.dtype)
        bound = bound.reshape(-1, *(1,) * (x.ndim - 1))
        clean = raw.clean.clamp(-bound, bound) / bound
        return Estimate(
            clean, eps_of(x, clean, level) if eps == "rederive" else raw.eps, raw.spread
        )

    return threshold


def _quantile(rows: Tensor, quantile: float) -> Tensor:
    """The linear quantile of each row; torch.quantile refuses rows of more than 2^24 numbers."""
    place = quantile * (rows.shape[1] - 1)
    low = min(int(place), rows.shape[1] - 1)
    high = min(low + 1, rows.shape[1] - 1)
    ordered = rows.sort(dim=1).values
    return torch.lerp(ordered[:, low], ordered[:, high], place - low)


@dataclass(eq=False)
class Counter:
    """A `Denoise` that counts how often it is called: network calls per image (NFE)."""

    denoise: Denoise
    calls: int = field(default=0, init=False)

    def __call__(self, x: Image, level: NoiseLevel) -> Estimate:
        self.calls += 1
        return self.denoise(x, level)


def counted(denoise: Denoise) -> Counter:
    """`denoise` with `.calls`, the number of its calls so far."""
    return Counter(denoise)


def _weight_dtype(network: Network, otherwise: torch.dtype) -> torch.dtype:
    weight = next(network.parameters(), None) if isinstance(network, nn.Module) else None
    return otherwise if weight is None else weight.dtype
