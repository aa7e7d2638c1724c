"""p(clean | x_1), the last factor of the bound, for images other than grey levels of [-1, 1].

`bound.Decoder` is DDPM's own, for grey levels that fill [-1, 1].
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from medidiff.diffusion.bound import Decoder
from medidiff.diffusion.variance import Transition
from medidiff.types import Image, Tensor


@dataclass(frozen=True)
class GaussianDecoder:
    """The Gaussian's own density: for continuous images, whose bound is one on a density.

    Source: Kingma et al. 2021 (arXiv:2107.00630), for continuous data.
    """

    kind: Literal["gaussian"] = "gaussian"

    def nll(self, clean: Image, p: Transition) -> Image:
        """-log density of each value, in nats."""
        rest = (clean - p.mean) ** 2 / p.variance
        return (rest + p.variance.log() + math.log(2 * math.pi)) / 2


@dataclass(frozen=True, eq=False)
class GreyDecoder:
    """A Gaussian's mass in the bin of each whole intensity 0 .. levels - 1, wherever these lie.

    Shapes: darkest and step broadcast over (batch, channel, *space): the network value of intensity
    0 and the distance between neighbours.
    Source: Ho et al. 2020 (arXiv:2006.11239), section 3.3; intensities are stretched to [-1, 1].
    """

    darkest: Tensor
    step: Tensor
    levels: int

    def nll(self, clean: Image, p: Transition) -> Image:
        """-log of the mass in each value's bin, in nats."""
        gain = 2 / (self.step * (self.levels - 1))
        mean, value = ((x - self.darkest) * gain - 1 for x in (p.mean, clean))
        stretched = Transition(mean, p.variance * gain**2)
        return Decoder(grey_levels=self.levels).nll(value, stretched)
