"""Arguments of MONAI's `DiffusionModelUNet` as our options, and back; its labels and signs.

Source: MONAI 1.6 (github.com/Project-MONAI/MONAI), networks/nets/diffusion_model_unet.py, for the
arguments and their defaults; GenerativeModels 0.2 for the older `num_channels`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from medidiff.networks.embeddings import LONGEST_PERIOD
from medidiff.networks.shape import NetworkShape
from medidiff.networks.unet import UNetOptions
from medidiff.types import Tensor

_KNOWN = {
    "spatial_dims", "in_channels", "out_channels", "channels", "num_channels", "num_res_blocks",
    "attention_levels", "norm_num_groups", "norm_eps", "num_head_channels", "num_class_embeds",
    "use_flash_attention", "include_fc", "use_combined_linear", "upcast_attention",
    "with_conditioning", "resblock_updown", "cross_attention_dim", "transformer_num_layers",
    "dropout_cattn",
}  # fmt: skip
FIRST_LAYER = "embedding.first.weight"
LAST_LAYER = ("last.weight", "last.bias")


def unet_options(arguments: Mapping[str, Any]) -> tuple[UNetOptions, NetworkShape]:
    """Our options for the arguments of a `DiffusionModelUNet`'s constructor.

    Errors: ValueError for an argument whose effect has no counterpart here.
    """
    unknown = sorted(set(arguments) - _KNOWN)
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: not an argument of a DiffusionModelUNet")
    needed = [
        name for name in ("spatial_dims", "in_channels", "out_channels") if name not in arguments
    ]
    if needed:
        raise ValueError(f"{', '.join(needed)}: an argument that a DiffusionModelUNet needs")
    for name in ("with_conditioning", "resblock_updown"):
        if arguments.get(name):
            raise ValueError(f"{name}=True has no counterpart here")
    channels = tuple(arguments.get("channels") or arguments.get("num_channels") or (32, 64, 64, 64))
    classes = arguments.get("num_class_embeds")
    if classes is not None:
        raise ValueError(
            f"num_class_embeds={classes}: their classes are indices without an "
            '"unknown"; import the network without them or train the classes here'
        )
    attention = tuple(arguments.get("attention_levels", (False, False, True, True)))
    heads = arguments.get("num_head_channels", 8)
    options = UNetOptions(
        channels=channels,
        blocks=_one_number(arguments.get("num_res_blocks", 2), "num_res_blocks"),
        attention=attention,
        middle_attention="always",
        modulation="shift",
        resampling="convolution",
        head_channels=_one_number(_used(heads, attention), "num_head_channels"),
        groups=arguments.get("norm_num_groups", 32),
        norm_eps=arguments.get("norm_eps", 1e-6),
        waves=channels[0] // 2,
    )
    shape = NetworkShape(
        dims=arguments["spatial_dims"],
        in_channels=arguments["in_channels"],
        out_channels=arguments["out_channels"],
    )
    return options, shape


def monai_arguments(options: UNetOptions, shape: NetworkShape) -> dict[str, Any]:
    """The arguments with which a `DiffusionModelUNet` is our network.

    Errors: ValueError naming every option by which ours is another architecture than theirs.
    """
    differing = _differing(options, shape)
    if differing:
        raise ValueError(
            "this network is not of MONAI's architecture, which has " + ", ".join(differing)
        )
    return {
        "spatial_dims": shape.dims,
        "in_channels": shape.in_channels,
        "out_channels": shape.out_channels,
        "channels": list(options.channels),
        "attention_levels": list(options.attention),
        "num_res_blocks": options.blocks,
        "num_head_channels": options.head_channels,
        "norm_num_groups": options.groups,
        "norm_eps": options.norm_eps,
        "include_fc": True,
        "use_flash_attention": True,
    }


def _differing(options: UNetOptions, shape: NetworkShape) -> list[str]:
    """What MONAI's network has where ours has something else, as a configuration writes it."""
    theirs = {
        "modulation": "shift",
        "resampling": "convolution",
        "progressive_input": "none",
        "waves": options.channels[0] // 2,
    }
    differing = [
        f"network.{name}: {value} (not {getattr(options, name)})"
        for name, value in theirs.items()
        if getattr(options, name) != value
    ]
    if not options.attention[-1] and options.middle_attention != "always":
        differing.append("network.middle_attention: always (not as-last-level)")
    if any(channels % options.groups for channels in options.channels):
        differing.append(f"network.groups that divide all channels (not {options.groups})")
    attending = [*_attending(options.channels, options.attention), options.channels[-1]]
    if any(channels % options.head_channels for channels in attending):
        differing.append(
            f"network.head_channels that divide the channels (not {options.head_channels})"
        )
    if shape.conditions:
        differing.append(f"no conditions (not {', '.join(each.name for each in shape.conditions)})")
    if shape.concat_channels:
        differing.append(f"no image beside (not {shape.concat_channels} channels)")
    return differing


def relabelled(weights: Mapping[str, Tensor], shift: float) -> dict[str, Tensor]:
    """The weights with which our network does at a label what it did at `label - shift`.

    The first layer sees the label's cosines and sines, which a shift turns by fixed angles: so its
    weights are turned instead, exactly.
    """
    first = weights[FIRST_LAYER]
    cosines, sines = first.double().chunk(2, dim=1)
    waves = cosines.shape[1]
    exponents = torch.arange(waves, dtype=torch.float64) / waves
    angle = shift * torch.exp(-math.log(LONGEST_PERIOD) * exponents)
    turned = (
        cosines * angle.cos() - sines * angle.sin(),
        cosines * angle.sin() + sines * angle.cos(),
    )
    return {**weights, FIRST_LAYER: torch.cat(turned, dim=1).to(first.dtype)}


def negated(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the network that predicts the opposite."""
    return {**weights, **{name: -weights[name] for name in LAST_LAYER}}


def _attending(channels: Sequence[int], attention: Sequence[bool]) -> list[int]:
    return [count for count, attends in zip(channels, attention, strict=True) if attends]


def _used(heads: int | Sequence[int], attention: Sequence[bool]) -> int | tuple[int, ...]:
    """The heads' channels of the levels that attend and of the middle; no others are used."""
    if isinstance(heads, int):
        return heads
    return (*(count for count, attends in zip(heads, attention, strict=True) if attends), heads[-1])


def _one_number(value: int | tuple[int, ...] | list[int], name: str) -> int:
    numbers = {value} if isinstance(value, int) else set(value)
    if len(numbers) != 1:
        raise ValueError(f"{name}={value}: one number for all levels is what there is here")
    return numbers.pop()
