"""Numbers on their way from a CPU to a GPU."""

from __future__ import annotations

import torch
from torch import Tensor


def sent(numbers: Tensor, device: torch.device) -> Tensor:
    """A few numbers on a device; on the way from a CPU to a GPU neither waits for the other."""
    if device.type != "cuda" or numbers.device.type != "cpu":
        return numbers.to(device)
    return numbers.pin_memory().to(device, non_blocking=True)
