"""How far our networks are from MONAI's own, given the same weights and the same images.

Nothing is compared where MONAI's networks cannot be built (they need the package einops).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from medidiff.jobs.bundles.schedulers import Meaning
from medidiff.networks import Autoencoder, NetworkShape, UNet
from medidiff.networks.interop import newer_names
from medidiff.networks.interop_autoencoder import newer_autoencoder_names

_LEFT_OUT = ("num_channels", "use_checkpointing", "use_checkpoint", "use_flash_attention")
"""Arguments that an older network has, or that change only how it is computed."""


@torch.no_grad()
def network_difference(
    arguments: Mapping[str, Any], weights: Mapping[str, Tensor], network: UNet, found: Meaning
) -> float | None:
    """The largest difference of our network's output to MONAI's own, both as they are used."""
    theirs = _theirs("DiffusionModelUNet", arguments, newer_names(weights))
    if theirs is None:
        return None
    x = _images(network.shape, 2, max(8, 2 * network.multiple))
    label = torch.tensor([10, 700])
    ours, expected = network.eval()(x, (label + found.label).float()), theirs(x, label)
    return _largest(ours, -expected if found.negated else expected)


@torch.no_grad()
def autoencoder_difference(
    arguments: Mapping[str, Any], weights: Mapping[str, Tensor], network: Autoencoder
) -> float | None:
    """The largest difference of latents and images to those of MONAI's own autoencoder."""
    theirs = _theirs("AutoencoderKL", arguments, newer_autoencoder_names(weights))
    if theirs is None:
        return None
    x = _images(network.shape, 1, max(16, 2 * network.options.reduction))
    mean, _ = theirs.encode(x)
    latents = _largest(network.eval().encode(x).mean, mean)
    return max(latents, _largest(network.decode(mean), theirs.decode(mean)))


def _theirs(
    kind: Literal["DiffusionModelUNet", "AutoencoderKL"],
    arguments: Mapping[str, Any],
    weights: Mapping[str, Tensor],
) -> Any:
    """MONAI's network with these weights, or None where it cannot be built."""
    if any(importlib.util.find_spec(name) is None for name in ("monai", "einops")):
        return None
    from monai.networks import nets

    known = {name: value for name, value in arguments.items() if name not in _LEFT_OUT}
    if "num_channels" in arguments:
        known["channels"] = arguments["num_channels"]
    # what stands in the file counts: GenerativeModels' networks have no such layer
    known["include_fc"] = any(".out_proj." in name for name in weights)
    network = getattr(nets, kind)(**known).eval()
    network.load_state_dict(weights)
    return network


def _images(shape: NetworkShape, batch: int, side: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, shape.in_channels, *(side,) * shape.dims, generator=generator)


def _largest(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max())
