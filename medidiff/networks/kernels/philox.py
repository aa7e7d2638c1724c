"""Keyed noise in one launch, where a hundred of torch's would do the same."""

from __future__ import annotations

from typing import Any

import torch

from medidiff.diffusion.levels import sent
from medidiff.networks.kernels import usable
from medidiff.types import Tensor

_BLOCK = 512


def unit_numbers(keys: Tensor, count: int, like: Tensor) -> Tensor | None:
    """The numbers of `medidiff.diffusion.noise.gaussians`; None where no kernel runs.

    Shapes: keys (rows, 2), int64 -> (rows, count), float64 if `like` is, else float32.
    """
    blocks = (count + 3) // 4
    if not usable(like) or blocks >= 2**31:
        return None
    import triton
    import triton.language as tl

    from medidiff.networks.kernels import triton_philox

    kernels: Any = triton_philox  # kernel[grid](...) is a call that no type checker knows
    double = like.dtype == torch.float64
    real = torch.float64 if double else torch.float32
    out = torch.empty(len(keys), 4 * blocks, dtype=real, device=like.device)
    kernels.unit_kernel[(triton.cdiv(blocks, _BLOCK), len(keys))](
        sent(keys, like.device), out, blocks, REAL=tl.float64 if double else tl.float32,
        BLOCK=_BLOCK,
    )  # fmt: skip
    return out[:, :count]
