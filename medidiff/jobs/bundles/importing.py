"""A MONAI bundle as a model of ours: the same network, the same meaning of what it predicts."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from medidiff.errors import ModelError
from medidiff.jobs.bundles.comparing import network_difference
from medidiff.jobs.bundles.configs import Bundle, Definition
from medidiff.jobs.bundles.describing import Stated, spec_of
from medidiff.jobs.bundles.latents import latents_of, scale_factor_of
from medidiff.jobs.bundles.schedulers import Meaning, meaning
from medidiff.jobs.bundles.weights import Weights, read_weights, weights_file
from medidiff.model import Model
from medidiff.networks import (
    Acceleration,
    NetworkShape,
    UNet,
    UNetOptions,
    build,
    has_bf16,
)
from medidiff.networks.interop import from_monai
from medidiff.networks.interop_options import negated, relabelled, unet_options
from medidiff.spec import ModelSpec

_WEIGHTS = ("model.pt", "diffusion_model.pt", "diffusion_model.pth", "model.safetensors")


@dataclass(frozen=True, eq=False)
class Imported:
    """A model out of a bundle."""

    model: Model
    differences: Mapping[str, float]
    """The largest difference to the output of MONAI's own network and autoencoder; empty where
    MONAI's cannot be built."""
    notes: tuple[str, ...]
    """What was assumed, in sentences."""


def import_bundle(
    bundle: Bundle, stated: Stated, device: str | torch.device, acceleration: Acceleration = "auto"
) -> Imported:
    """The model that a bundle holds.

    Errors: ModelError for what has no counterpart here, and one that names all that the bundle does
    not say.
    """
    network_def, scheduler_def = _needed(bundle)
    arguments = {name: bundle.argument(network_def, name) for name in network_def.arguments}
    try:
        network_options, shape = unet_options(arguments)
    except ValueError as error:
        raise ModelError(f"{bundle.folder.name}: {network_def.id}: {error}") from None
    found = meaning(bundle, scheduler_def)
    file = weights_file(bundle.folder, stated.weights, _WEIGHTS, "--weights")
    weights = read_weights(file)
    network = _network(network_options, shape, weights, found, file)
    autoencoder = bundle.part("autoencoder")
    scale = scale_factor_of(bundle, weights)
    _check_latents(bundle)
    spec = spec_of(bundle, stated, network_options, shape, found, autoencoder, scale)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    differences = {"network": network_difference(arguments, weights.tensors, network, found)}
    inner = None
    if autoencoder is not None:
        named = stated.autoencoder_weights
        latents = latents_of(bundle, autoencoder, named, scale or 1.0, digest)
        spec, inner = dataclasses.replace(spec, codec=latents.codec), latents.network.to(device)
        differences["autoencoder"] = latents.difference
    network.eval().requires_grad_(False).to(device)
    if acceleration == "auto" and has_bf16(torch.device(device)):  # as a model folder's
        for each in (network, inner):
            if each is not None:
                each.to(torch.bfloat16)
    return Imported(
        Model(spec, network, digest=digest, acceleration=acceleration, autoencoder=inner),
        {part: value for part, value in differences.items() if value is not None},
        _notes(bundle, spec, scale),
    )


def _check_latents(bundle: Bundle) -> None:
    """Errors: ModelError for a prior of latents whose autoencoder is not there or not known."""
    own = ((bundle.own or {}).get("codec") or {}).get("kind")
    scaled = bundle.number("scale_factor") not in (None, 1.0)
    if (own == "autoencoder" or scaled) and bundle.part("autoencoder") is None:
        raise ModelError(
            f"{bundle.folder.name} is of a prior of latents, and defines no AutoencoderKL of MONAI "
            "or GenerativeModels: other autoencoders, and those of a bundle's own scripts, are not "
            "imported"
        )


def _needed(bundle: Bundle) -> tuple[Definition, Definition]:
    network, scheduler = bundle.part("network"), bundle.part("scheduler")
    if network is None:
        raise ModelError(
            f"{bundle.folder.name} defines no DiffusionModelUNet of MONAI or GenerativeModels: "
            "other networks, and those of a bundle's own scripts, are not imported"
        )
    if scheduler is None:
        raise ModelError(
            f"{bundle.folder.name} defines no DDPM, DDIM, PNDM or RFlow scheduler of MONAI or "
            "GenerativeModels, which would say what the network predicts. State it, e.g. --change "
            "noise_scheduler._target_=monai.networks.schedulers.DDIMScheduler --change "
            "noise_scheduler.schedule=scaled_linear_beta"
        )
    return network, scheduler


def _network(
    network_options: UNetOptions, shape: NetworkShape, weights: Weights, found: Meaning, file: Path
) -> UNet:
    network = build(network_options, shape)
    try:
        ours = relabelled(from_monai(weights.tensors), found.label)
        network.load_state_dict(negated(ours) if found.negated else ours)
    except (ValueError, KeyError, RuntimeError) as error:
        raise ModelError(
            f"{file.name}: the weights do not fit the network that the bundle defines "
            f"({' '.join(str(error).split())[:300]})"
        ) from None
    return network


def _notes(bundle: Bundle, spec: ModelSpec, scale: float | None) -> tuple[str, ...]:
    low, high = spec.intensity.range
    return (
        f"schedule {spec.schedule.kind}, the network predicts {spec.target.kind}",
        f"the network's images lie between {low:g} and {high:g}, which are the intensities "
        f"{_at(spec, low):g} and {_at(spec, high):g}",
        *(
            [f"latents are multiplied by {scale:g}, and never clipped"]
            if bundle.part("autoencoder")
            else []
        ),
        *(
            ["GenerativeModels' layer proj_attn, which it never uses, was left out"]
            if bundle.part("network") and _is_generative(bundle)
            else []
        ),
    )


def _at(spec: ModelSpec, value: float) -> float:
    """The intensity of the first channel that is `value` in model units."""
    return spec.intensity.low[0] + (value + 1) / 2 * (
        spec.intensity.high[0] - spec.intensity.low[0]
    )


def _is_generative(bundle: Bundle) -> bool:
    network = bundle.part("network")
    return network is not None and "num_channels" in network.arguments
