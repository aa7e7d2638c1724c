"""Keyed noise in one launch, where a hundred of torch's would do the same."""

from __future__ import annotations

import torch

from medidiff.networks.kernels import usable
from medidiff.networks.kernels.launches import Kernels, cdiv, sum_type
from medidiff.sending import sent
from medidiff.types import Tensor

kernels = Kernels("triton_philox")

_BLOCK = 512


def unit_numbers(keys: Tensor, count: int, like: Tensor) -> Tensor | None:
    """The numbers of `medidiff.diffusion.noise.gaussians`; None where no kernel runs.

    Shapes: keys (rows, 2), int64 -> (rows, count), float64 if `like` is, else float32.
    """
    blocks = (count + 3) // 4
    if not usable(like) or blocks >= 2**31:
        return None
    double = like.dtype == torch.float64
    real = torch.float64 if double else torch.float32
    out = torch.empty(len(keys), 4 * blocks, dtype=real, device=like.device)
    kernels.unit_kernel[(cdiv(blocks, _BLOCK), len(keys))](
        sent(keys, like.device), out, blocks, REAL=sum_type("float64" if double else "float32"),
        BLOCK=_BLOCK,
    )  # fmt: skip
    return out[:, :count]
