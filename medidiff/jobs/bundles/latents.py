"""The autoencoder of a latent bundle as a codec of ours, its scale factor included.

Source: Rombach et al. 2022 (arXiv:2112.10752), appendix, for the scale factor: the diffusion works
on latents times it, and they are divided by it before they are decoded.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medidiff.errors import ModelError
from medidiff.jobs.bundles.comparing import autoencoder_difference
from medidiff.jobs.bundles.configs import Bundle, Definition
from medidiff.jobs.bundles.weights import Weights, read_weights, weights_file
from medidiff.networks import (
    Autoencoder,
    FittedAutoencoder,
    build,
)
from medidiff.networks.codec import Standard
from medidiff.networks.interop_autoencoder import (
    autoencoder_from_monai,
    autoencoder_options,
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
        autoencoder_difference(arguments, weights.tensors, network),
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
