"""Weight files of foreign models: tensors only, out of the wrappers they come in."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from medidiff.errors import ModelError

_INSIDE = (
    "unet_state_dict", "autoencoder_state_dict", "state_dict", "model_state_dict", "model",
    "network",
)  # fmt: skip


@dataclass(frozen=True)
class Weights:
    """Weights by their names, and what else the file says."""

    tensors: dict[str, Tensor]
    scale_factor: float | None = None
    """What the latents were multiplied by in training, where the file keeps it (MAISI's does)."""


def weights_file(folder: Path, stated: str | None, usual: Sequence[str], option: str) -> Path:
    """The file of weights in a bundle's models/: as stated, or of a usual name.

    Errors: ModelError if it is not there.
    """
    models = folder / "models"
    for name in [stated] if stated is not None else usual:
        if (models / name).is_file():
            return models / name
    held = sorted(file.name for file in models.glob("*")) if models.is_dir() else []
    raise ModelError(
        f"{folder.name}/models has no {stated or usual[0]} (it holds "
        f"{', '.join(held) or 'nothing'}): name the file of the weights ({option})"
    )


def read_weights(file: Path) -> Weights:
    """The weights in a file, out of a training's wrapper (`unet_state_dict`, `model`, `module.`).

    Errors: ModelError for a file that is none of weights, or holds code.
    """
    content = _load(file)
    scale = content.get("scale_factor")
    for name in _INSIDE:
        if isinstance(content.get(name), Mapping):
            content = content[name]
            break
    tensors = {
        str(name).removeprefix("module."): value
        for name, value in content.items()
        if isinstance(value, Tensor)
    }
    if not tensors:
        raise ModelError(
            f"{file.name} holds no weights (found {', '.join(map(str, content))[:200]})"
        )
    return Weights(tensors, None if scale is None else float(scale))


def _load(file: Path) -> Mapping[str, Any]:
    if file.suffix == ".safetensors":
        return load_file(file)
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise ModelError(
            f"{file.name} is not a file of weights alone, and nothing else is unpickled "
            f"({str(error).splitlines()[0][:200]}). Save its state dict with torch.save and name "
            "that file"
        ) from None
    if not isinstance(content, Mapping):
        raise ModelError(
            f"{file.name} holds a {type(content).__name__}, not weights by their names"
        )
    return content
