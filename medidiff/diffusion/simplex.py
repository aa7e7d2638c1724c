"""Simplex noise: fields that are correlated in space, for AnoDDPM. Wyatt et al. 2022 (CVPRW).

A field is a sum of octaves, each twice as fine and `persistence` times as strong as the one before:

    field(x) = sum_o p^o n(2^o x / period) / norm
    n(x) = sum_v (1/2 - |x - v|^2)_+^4 g_v . (x - v)

over the vertices v of the simplex lattice, with a random unit gradient g_v at each. Every gradient
and the offset of the lattice are hashed from the key of the draw, so that over draws the field has
mean 0 and variance 1 at every voxel (not within one image, whose largest octave is one slow wave).

What it breaks. The field is not Gaussian and its covariance C is not 1. An exact denoiser's eps is
then -sigma C score and not -sigma score: nothing that reads a score (Langevin correctors, reverse
SDEs, likelihood, classifier guidance, Tweedie's formula) is right with it, and a hop may add
such noise only where the prior is such noise too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch

from medidiff.diffusion.noise import key_words, philox, uniforms
from medidiff.types import Image, Tensor


@dataclass(frozen=True)
class SimplexNoise:
    """Simplex noise for a batch whose entries are (subject, sample) pairs; 2-D and 3-D.

    A field is a function of (seed, subject, sample, step, draw) and the voxel, as in `KeyedNoise`.
    Source: Perlin 2001, "Noise hardware"; Gustavson 2005, "Simplex noise demystified"; the octaves
    and their defaults of Wyatt et al. 2022, "AnoDDPM", section 3.2.
    Differs: gradients hashed by Philox and not from a table of 256; the kernel's radius is
    sqrt(1/2) in 3-D too, where a wider one jumps; every channel has its own field.
    """

    seed: int
    members: tuple[tuple[str, int], ...]
    octaves: int = 6
    """How many scales are added."""
    persistence: float = 0.8
    """How strong an octave is beside the coarser one."""
    period_voxels: float = 64.0
    """Voxels of the coarsest octave's unit."""

    def __post_init__(self) -> None:
        if self.octaves < 1 or not self.persistence > 0 or not self.period_voxels > 0:
            raise ValueError(
                "simplex noise needs octaves >= 1, persistence > 0 and period_voxels > 0, got "
                f"{self.octaves}, {self.persistence}, {self.period_voxels}"
            )

    def __call__(self, like: Image, step: int, draw: int = 0) -> Image:
        if like.shape[0] != len(self.members):
            raise ValueError(f"noise for {len(self.members)} images, asked for {like.shape[0]}")
        if like.ndim not in (4, 5):
            raise ValueError(f"simplex noise is 2-D or 3-D, asked for {like.ndim - 2}-D")
        fields = [
            torch.stack([self._field(like, (*member, step, draw, c)) for c in range(like.shape[1])])
            for member in self.members
        ]
        return torch.stack(fields).to(like.dtype)

    def take(self, indices: Sequence[int]) -> SimplexNoise:
        """The noise of some members of the batch."""
        members = tuple(self.members[index] for index in indices)
        return SimplexNoise(self.seed, members, self.octaves, self.persistence, self.period_voxels)

    def _field(self, like: Image, key: tuple[str | int, ...]) -> Tensor:
        """One channel of one image, (*space), float64."""
        space = like.shape[2:]
        axes = [torch.arange(size, dtype=torch.float64, device=like.device) for size in space]
        voxels = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1) / self.period_voxels
        total = torch.zeros(space, dtype=torch.float64, device=like.device)
        power = 0.0
        for octave in range(self.octaves):
            own = (*key, octave)
            offset = uniforms(self.seed, [("simplex offset", *own)], len(space))[0] * 1024
            words = key_words("simplex", self.seed, [own])[0]
            strength = self.persistence**octave
            places = voxels * 2**octave + offset.to(like.device)
            total = total + strength * simplex(places, words)
            power += strength**2
        return total / math.sqrt(power * simplex_variance(len(space)))


def simplex(places: Tensor, words: Tensor) -> Tensor:
    """n(x), one octave of simplex noise. Shapes: places (*space, n), words (2,) -> (*space).

    Source: Gustavson 2005: skewed to a grid of cubes, whose simplex holds the point by the order of
    its coordinates.
    """
    count = places.shape[-1]
    skew = (math.sqrt(count + 1) - 1) / count
    unskew = (1 - 1 / math.sqrt(count + 1)) / count
    skewed = places + skew * places.sum(-1, keepdim=True)
    cell = skewed.floor()
    rank = (skewed - cell).argsort(-1, descending=True).argsort(-1)
    total = torch.zeros(places.shape[:-1], dtype=places.dtype, device=places.device)
    for corner in range(count + 1):
        vertex = cell + (rank < corner)
        offset = places - (vertex - unskew * vertex.sum(-1, keepdim=True))
        reach = (0.5 - offset.square().sum(-1)).clamp_min(0) ** 4
        total = total + reach * (offset * gradients(vertex.long(), words)).sum(-1)
    return total


def gradients(vertices: Tensor, words: Tensor) -> Tensor:
    """A random unit vector for each vertex, by hashing it. Shapes: (*space, n) -> (*space, n)."""
    lanes = [*(vertices & 0xFFFFFFFF).unbind(-1)]
    lanes += [torch.zeros_like(lanes[0])] * (4 - len(lanes))
    first, second, *_ = philox(lanes, (words[0], words[1]))
    angle = (first.double() + 0.5) * (2 * math.pi / 2**32)
    if vertices.shape[-1] == 2:
        return torch.stack((angle.cos(), angle.sin()), -1)
    height = (second.double() + 0.5) * 2.0**-31 - 1
    radius = (1 - height**2).sqrt()
    return torch.stack((radius * angle.cos(), radius * angle.sin(), height), -1)


@cache
def simplex_variance(count: int) -> float:
    """Variance of one octave in `count` dimensions, at a random place.

    The lattice has sqrt(n + 1) vertices a unit of volume, each of which adds |d|^2 / n times the
    kernel's square: an integral over the ball of radius sqrt(1/2), by a Beta function.
    """
    radius = 0.5
    sphere = 2 * math.pi ** (count / 2) / math.gamma(count / 2)
    a, b = count / 2 + 1, 9
    beta = math.gamma(a) * math.gamma(b) / math.gamma(a + b)
    inside = radius ** (a + b - 1) * beta / 2
    return math.sqrt(count + 1) * sphere / count * inside
