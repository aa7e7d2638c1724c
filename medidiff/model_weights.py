"""A network's weights as a file of a model folder, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from medidiff.errors import ModelError
from medidiff.networks import Acceleration, has_bf16


def save_weights(network: nn.Module, file: Path, dtype: Literal["float32", "bfloat16"]) -> None:
    """Write the weights in `dtype`."""
    weights = {
        name: value.detach().cpu().to(getattr(torch, dtype)).contiguous()
        for name, value in network.state_dict().items()
    }
    save_file(weights, file)


def load_weights(
    network: nn.Module, file: Path, device: torch.device, acceleration: Acceleration
) -> None:
    """Give a network the weights of a file in a model folder, and bring it to where it runs.

    Errors: ModelError if they do not fit.
    """
    try:
        network.load_state_dict(load_file(file))
    except (RuntimeError, SafetensorError, FileNotFoundError) as error:
        raise ModelError(
            f"{file.parent.name}: the weights do not fit the network that model.json describes "
            f"({str(error).splitlines()[0]})"
        ) from None
    network.eval().requires_grad_(False)
    network.to(device)
    if acceleration == "auto" and has_bf16(device):
        network.to(torch.bfloat16)
