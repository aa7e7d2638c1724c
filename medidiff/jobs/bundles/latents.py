"""The autoencoder of a latent bundle as a codec of ours, its scale factor included.

Source: Rombach et al. 2022 (arXiv:2112.10752), appendix, for the scale factor: the diffusion works
on latents times it, and they are divided by it before they are decoded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medidiff.errors import ModelError
from medidiff.jobs.bundles.configs import Bundle, Definition
from medidiff.jobs.bundles.weights import Weights, read_weights, weights_file
from medidiff.networks import (
    Autoencoder,
    FittedAutoencoder,
    NetworkShape,
    build,
)
from medidiff.networks.codec import Standard
from medidiff.networks.interop_autoencoder import (
    autoencoder_from_monai,
    autoencoder_options,
    newer_autoencoder_names,
)

_WEIGHTS = ("model_autoencoder.pt", "autoencoder.pt", "autoencoder.pth", "autoencoder.safetensors")


@dataclass(frozen=True, eq=False)
class Latents:
    """The codec of a bundle, its network, and how far that is from MONAI's own."""

    codec: FittedAutoencoder
    network: Autoencoder
    difference: float | None


def latents_of(
    bundle: Bundle, definition: Definition, file: str | None, scale_factor: float, source: str
) -> Latents:
    """The codec that a bundle's autoencoder is. Errors: ModelError for one that cannot be ours."""
    arguments = {name: bundle.argument(definition, name) for name in definition.arguments}
    try:
        options, shape = autoencoder_options(arguments)
    except ValueError as error:
        raise ModelError(f"{bundle.folder.name}: {definition.id}: {error}") from None
    place = weights_file(bundle.folder, file, _WEIGHTS, "--autoencoder-weights")
    weights = read_weights(place)
    network = build(options, shape)
    _fill(network, weights, place)
    count = options.latent_channels
    standard = Standard((0.0,) * count, (1 / scale_factor,) * count)
    return Latents(
        FittedAutoencoder(options, shape, standard, source),
        network.eval().requires_grad_(False),
        difference_to_monai(arguments, weights.tensors, network, shape),
    )


def scale_factor_of(bundle: Bundle, network: Weights) -> float | None:
    """What the latents are multiplied by: as the weights' file says, or the configurations."""
    if network.scale_factor is not None:
        return network.scale_factor
    return bundle.number("scale_factor")


def _fill(network: Autoencoder, weights: Weights, file: Path) -> None:
    try:
        network.load_state_dict(autoencoder_from_monai(weights.tensors))
    except (ValueError, KeyError, RuntimeError) as error:
        raise ModelError(
            f"{file.name}: the weights do not fit the autoencoder that the bundle defines "
            f"({' '.join(str(error).split())[:300]})"
        ) from None


@torch.no_grad()
def difference_to_monai(
    arguments: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    network: Autoencoder,
    shape: NetworkShape,
) -> float | None:
    """The largest difference of latents and images to those of MONAI's own autoencoder.

    None where MONAI's network cannot be built (it needs the package einops).
    """
    try:
        import einops  # noqa: F401  # type: ignore[import-not-found]
        from monai.networks.nets import AutoencoderKL
    except ImportError:
        return None
    theirs_weights = newer_autoencoder_names(weights)
    left_out = ("num_channels", "use_checkpointing", "use_checkpoint", "use_flash_attention")
    known = {name: value for name, value in arguments.items() if name not in left_out}
    if "num_channels" in arguments:
        known["channels"] = arguments["num_channels"]
    known["include_fc"] = any(".out_proj." in name for name in theirs_weights)
    theirs = AutoencoderKL(**known).eval()
    theirs.load_state_dict(theirs_weights)
    side = max(16, network.options.reduction * 2)
    x = torch.randn(
        1, shape.in_channels, *(side,) * shape.dims, generator=torch.Generator().manual_seed(0)
    )
    mean, _ = theirs.encode(x)
    latents = float((network.eval().encode(x).mean - mean).abs().max())
    return max(latents, float((network.decode(mean) - theirs.decode(mean)).abs().max()))
