"""A first call of the kernels, which shows whether they can be compiled and run here."""

from __future__ import annotations

import torch

from medidiff.networks.kernels.norm import moments_of


def run() -> None:
    """Errors: whatever Triton raises where it cannot compile or run."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    field = torch.ones(1, 16, 2, 2, device=device).contiguous(memory_format=torch.channels_last)
    if float(moments_of(field).mean.mean()) != 1.0:
        raise RuntimeError("a compiled kernel gives a wrong sum")
