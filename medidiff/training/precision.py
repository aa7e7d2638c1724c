"""Which number format the forward pass runs in."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Literal

import torch

from medidiff.errors import TrainingError
from medidiff.networks import has_bf16


@dataclass(frozen=True)
class Precision:
    """A dtype for the forward pass; weights, gradients and the optimiser stay in float32."""

    dtype: torch.dtype
    device: torch.device

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        # a recorded pass must cast the weights itself each time: they change between replays
        return torch.autocast(self.device.type, dtype=self.dtype, cache_enabled=False)

    def scaler(self) -> torch.amp.GradScaler:
        """Scales the loss for fp16, does nothing otherwise."""
        return torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)


def choose_device(name: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """Errors: TrainingError if a GPU is asked for and there is none."""
    if name == "cuda" and not torch.cuda.is_available():
        raise TrainingError("train.device is cuda, and PyTorch sees no GPU here; use auto or cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def choose_precision(
    name: Literal["auto", "bf16", "fp16", "fp32"], device: torch.device
) -> Precision:
    """bf16 where the GPU computes in it natively, fp16 with a scaler on older ones, fp32 on a
    CPU."""
    if name == "auto":
        name = "bf16" if has_bf16(device) else "fp16"
        name = name if device.type == "cuda" else "fp32"
    dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    return Precision(dtypes[name], device)
