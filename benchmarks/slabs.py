"""How near do slabs of neighbouring slices come to a volume, and do drawn slices fit together?

    python benchmarks/slabs.py

A Gaussian volume, stationary within its slices and correlated across them (exp(-z^2 / 2 l^2)), of
which the exact denoiser of the whole and of a slab alone is known. Beside slabs blended by squared
sines (ours): slice by slice; slabs by MultiDiffusion's plain average; the usual 2.5-D, the middle
slice of each slab alone. Told: the error to the truth over that of the exact denoiser of the whole;
and of volumes drawn with each, how far the correlation of a slice with the next is from the true.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

import torch
from record import Measured, write_result
from torch import Tensor, nn

from medidiff.diffusion import (
    EDM,
    Estimate,
    Heun,
    Karras,
    KeyedNoise,
    NoiseLevel,
    path,
    start,
    walk,
)
from medidiff.networks import reach
from medidiff.networks.reach import SliceBySlice, slab_window

DEPTH, SIDE, WITHIN, ACROSS = 32, 32, 3.0, 2.0
THICKNESSES = (3, 5, 7)
NOISES = (0.25, 0.5, 1.0, 2.0)
TRUE = math.exp(-0.5 / ACROSS**2)
Window = Callable[[int], Tensor]


def spectrum() -> Tensor:
    """Power within a slice, (SIDE, SIDE): unit variance."""
    k = torch.fft.fftfreq(SIDE, dtype=torch.float64) * 2 * torch.pi
    squared = k[:, None] ** 2 + k[None] ** 2
    power = torch.exp(-squared * WITHIN**2 / 2)
    return power / power.mean()


def across(depth: int) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors of the covariance of neighbouring slices."""
    z = torch.arange(depth, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(torch.exp(-0.5 * ((z[:, None] - z) / ACROSS) ** 2))
    return values.clamp_min(0), vectors


class Exact(nn.Module):
    """E[clean | x] of a slab by itself, its slices being channels; `sigma` is set before a call."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.values, self.vectors = across(depth)
        self.sigma = 1.0

    def forward(self, x: Tensor, *_: Tensor | None) -> Tensor:
        power = self.values[:, None, None] * spectrum()
        modes = torch.fft.fft2(torch.einsum("zm,bzhw->bmhw", self.vectors, x))
        kept = torch.fft.ifft2(modes * power / (power + self.sigma**2)).real
        return torch.einsum("zm,bmhw->bzhw", self.vectors, kept)


def by_slabs(thickness: int, window: Window = slab_window) -> Callable[[Tensor, float], Tensor]:
    """The denoiser of a volume, (batch, 1, DEPTH, SIDE, SIDE), by slabs."""
    network = Exact(thickness)
    module = SliceBySlice(network, (0,), 64, thickness)

    def call(x: Tensor, sigma: float) -> Tensor:
        network.sigma = sigma
        kept, reach.slab_window = reach.slab_window, window  # the peers differ in this alone
        try:
            return module(x, torch.zeros(len(x)))
        finally:
            reach.slab_window = kept

    return call


def whole() -> Callable[[Tensor, float], Tensor]:
    network = Exact(DEPTH)

    def call(x: Tensor, sigma: float) -> Tensor:
        network.sigma = sigma
        return network(x[:, 0])[:, None]

    return call


def middle_alone(thickness: int) -> Tensor:
    """The middle slice of each slab; at the volume's ends, what there is."""
    window = torch.full((thickness,), 1e-9, dtype=torch.float64)
    window[thickness // 2] = 1
    return window


def plain(thickness: int) -> Tensor:
    """The plain average (Bar-Tal et al. 2023, arXiv:2302.08113)."""
    return torch.ones(thickness, dtype=torch.float64)


def volumes(count: int) -> Tensor:
    """Draws of the volume."""
    values, vectors = across(DEPTH)
    noise = KeyedNoise(1, [("volume", index) for index in range(count)])
    white = noise(torch.zeros(count, 1, DEPTH, SIDE, SIDE, dtype=torch.float64), 0)[:, 0]
    modes = torch.fft.ifft2(torch.fft.fft2(white) * spectrum().sqrt()).real
    return torch.einsum("zm,bmhw->bzhw", vectors * values.sqrt(), modes)[:, None]


def errors(call: Callable[[Tensor, float], Tensor], clean: Tensor, sigma: float) -> float:
    noise = KeyedNoise(2, [("volume", index) for index in range(len(clean))])
    return float((call(clean + sigma * noise(clean, 0), sigma) - clean).square().mean().sqrt())


def misfit(call: Callable[[Tensor, float], Tensor], count: int, steps: int) -> float:
    """How far the correlation of a slice with the next one is from the true, in volumes drawn with
    this denoiser."""

    def denoise(x: Tensor, level: NoiseLevel) -> Estimate:
        clean = call(x, float(level.sigma))
        return Estimate(clean, (x - clean) / level.sigma)

    levels = path(Karras(), EDM(), steps)
    noise = KeyedNoise(3, [("drawn", index) for index in range(count)])
    x = start(levels[0], noise, torch.zeros(count, 1, DEPTH, SIDE, SIDE, dtype=torch.float64))
    for _, state in walk(denoise, x, levels, Heun(), noise, EDM()):
        x = state
    first, second = x[:, :, :-1], x[:, :, 1:]
    found = (first * second).mean() / (first.square().mean() * second.square().mean()).sqrt()
    return abs(float(found) - TRUE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--volumes", type=int, default=8)
    parser.add_argument("--steps", type=int, default=32)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    clean, exact, slices = volumes(chosen.volumes), whole(), by_slabs(1)
    drawn = {"slice by slice": misfit(slices, chosen.volumes, chosen.steps)}
    drawn |= {"exact, whole": misfit(exact, chosen.volumes, chosen.steps)}
    rows: list[Measured] = []
    for thickness in THICKNESSES:
        ways = {
            "ours": by_slabs(thickness),
            "MultiDiffusion's average": by_slabs(thickness, plain),
            "middle slice alone": by_slabs(thickness, middle_alone),
            "slice by slice": slices,
        }
        for sigma in NOISES:
            least = errors(exact, clean, sigma)
            found = {name: errors(way, clean, sigma) / least for name, way in ways.items()}
            what = f"{thickness} slices, noise {sigma:g}: error over that of the whole"
            rows.append(Measured(what, found.pop("ours"), "ratio", "lower", found))
        found = {
            name: misfit(way, chosen.volumes, chosen.steps)
            for name, way in ways.items()
            if name != "slice by slice"
        }
        what = f"{thickness} slices, drawn: correlation of a slice with the next less {TRUE:.4f}"
        rows.append(Measured(what, found.pop("ours"), "correlation", "lower", found | drawn))
    for row in rows:
        print(f"{row.what}: {row.ours:.4g}", {n: round(v, 4) for n, v in row.peers.items()})
    facts: dict[str, object] = {
        "volume": {"depth": DEPTH, "side": SIDE, "within": WITHIN, "across": ACROSS},
        "volumes": chosen.volumes,
        "steps": chosen.steps,
    }
    print(write_result("slabs", rows, facts=facts))


if __name__ == "__main__":
    main()
