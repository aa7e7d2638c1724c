"""Unit noise in the shape of a measurement, keyed as the images' is."""

from __future__ import annotations

import torch

from medidiff.diffusion.sampling import Step
from medidiff.types import Tensor


def measurement_noise(at: Step, like: Tensor, draw: int) -> Tensor:
    """A unit Gaussian field like a measurement; circular, of unit parts, if it is complex."""
    if at.source is None:
        raise ValueError("this method draws noise: give a noise source")
    if not like.is_complex():
        return at.source(like, at.index, draw)
    parts = at.source(torch.view_as_real(like).contiguous(), at.index, draw)
    return torch.view_as_complex(parts)
