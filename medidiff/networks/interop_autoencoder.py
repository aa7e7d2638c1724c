"""Weights of MONAI's `AutoencoderKL` in our `Autoencoder`, and back: the same function.

    options, shape = autoencoder_options(arguments)      # those of their constructor
    network = build(options, shape)
    network.load_state_dict(autoencoder_from_monai(their_weights))

Source: MONAI 1.6 (github.com/Project-MONAI/MONAI), networks/nets/autoencoderkl.py, for the names
and the order of layers; GenerativeModels 0.2 (github.com/Project-MONAI/GenerativeModels) for the
older names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from medidiff.networks.autoencoder import AutoencoderOptions
from medidiff.networks.interop import with_final_layers
from medidiff.networks.shape import NetworkShape
from medidiff.types import Tensor

_KNOWN = {
    "spatial_dims", "in_channels", "out_channels", "channels", "num_channels", "num_res_blocks",
    "attention_levels", "latent_channels", "norm_num_groups", "norm_eps",
    "with_encoder_nonlocal_attn", "with_decoder_nonlocal_attn", "use_checkpoint",
    "use_checkpointing", "use_convtranspose", "include_fc", "use_combined_linear",
    "use_flash_attention",
}  # fmt: skip
_HEADS = {
    "quant_conv_mu.conv.": "mean.",
    "quant_conv_log_sigma.conv.": "log_variance.",
    "post_quant_conv.conv.": "from_latent.",
}
_LEAVES = {
    "norm1.": "first_norm.",
    "norm2.": "second_norm.",
    "conv1.conv.": "first.",
    "conv2.conv.": "second.",
    "nin_shortcut.conv.": "shortcut.",
    "attn.out_proj.": "output.",
    "attn.qkv.": "queries_keys_values.",
    "postconv.conv.": "conv.",
    "conv.conv.": "conv.",  # GenerativeModels' way up as well
}
_PARTS = ("to_q", "to_k", "to_v")
_MIDDLE = {
    (False, False): "none", (True, False): "encoder", (False, True): "decoder", (True, True): "both"
}  # fmt: skip


def autoencoder_options(arguments: Mapping[str, Any]) -> tuple[AutoencoderOptions, NetworkShape]:
    """Our options for the arguments of an `AutoencoderKL`'s constructor.

    Errors: ValueError for an argument whose effect has no counterpart here.
    """
    unknown = sorted(set(arguments) - _KNOWN)
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: not an argument of an AutoencoderKL")
    if "spatial_dims" not in arguments:
        raise ValueError("spatial_dims: an argument that an AutoencoderKL needs")
    if arguments.get("use_convtranspose"):
        raise ValueError("use_convtranspose=True has no counterpart here")
    channels = tuple(arguments.get("channels") or arguments.get("num_channels") or (32, 64, 64, 64))
    blocks = arguments.get("num_res_blocks", (2, 2, 2, 2))
    counts = {blocks} if isinstance(blocks, int) else set(blocks)
    if len(counts) != 1:
        raise ValueError(
            f"num_res_blocks={blocks}: one number for all levels is what there is here"
        )
    attention = tuple(arguments.get("attention_levels", (False, False, True, True)))
    middle = tuple(
        arguments.get(f"with_{way}_nonlocal_attn", True) for way in ("encoder", "decoder")
    )
    options = AutoencoderOptions(
        channels=channels,
        blocks=counts.pop(),
        latent_channels=arguments.get("latent_channels", 3),
        attention=attention if any(attention) else (),
        middle=_MIDDLE[middle],  # type: ignore[index, arg-type]
        groups=arguments.get("norm_num_groups", 32),
        norm_eps=arguments.get("norm_eps", 1e-6),
    )
    image = arguments.get("in_channels", 1)
    if arguments.get("out_channels", 1) != image:
        raise ValueError("an autoencoder here gives the channels it takes")
    return options, NetworkShape(arguments["spatial_dims"], image, image)


def monai_autoencoder_arguments(options: AutoencoderOptions, shape: NetworkShape) -> dict[str, Any]:
    """The arguments with which an `AutoencoderKL` is our autoencoder.

    Errors: ValueError if its groups do not divide all channels, as theirs must.
    """
    if any(channels % options.groups for channels in options.channels):
        raise ValueError(
            f"the groups of MONAI's autoencoder divide all its channels: {options.groups} do not "
            f"divide {', '.join(map(str, options.channels))} (network.groups of the autoencoder)"
        )
    return {
        "spatial_dims": shape.dims,
        "in_channels": shape.in_channels,
        "out_channels": shape.out_channels,
        "channels": list(options.channels),
        "num_res_blocks": [options.blocks] * len(options.channels),
        "latent_channels": options.latent_channels,
        "attention_levels": list(options.attention or [False] * len(options.channels)),
        "norm_num_groups": options.groups,
        "norm_eps": options.norm_eps,
        "with_encoder_nonlocal_attn": options.middle in ("encoder", "both"),
        "with_decoder_nonlocal_attn": options.middle in ("decoder", "both"),
        "include_fc": True,
    }


def autoencoder_from_monai(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names and layout for the weights of an `AutoencoderKL`.

    As in the U-Net, an attention without a final layer gets the identity, and GenerativeModels'
    `proj_attn`, which it never uses, is left out.
    Errors: ValueError for a name that has no counterpart here.
    """
    weights = newer_autoencoder_names(weights)
    ours: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if ".attn.to_k." in name or ".attn.to_v." in name:
            continue
        if ".attn.to_q." in name:
            others = [weights[name.replace("to_q", part)] for part in _PARTS]
            name, weight = name.replace("to_q", "qkv"), torch.cat(others)
        ours[_our_name(name, weights)] = weight
    return with_final_layers(ours)


def autoencoder_to_monai(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """MONAI's names and layout (`include_fc=True`) for the weights of our autoencoder."""
    theirs: dict[str, Tensor] = {}
    for name, weight in weights.items():
        new = _their_name(name, weights)
        if ".attn.qkv." in new:
            for part, columns in zip(_PARTS, weight.chunk(3), strict=True):
                theirs[new.replace("qkv", part)] = columns
        else:
            theirs[new] = weight
    return theirs


def with_standard(
    weights: Mapping[str, Tensor], shift: Sequence[float], scale: Sequence[float]
) -> dict[str, Tensor]:
    """The weights of our autoencoder whose latents are (z - shift) / scale of what they were.

    Its two heads and the layer that takes latents in are pointwise, so they take it in exactly.
    """
    move, stretch = (torch.tensor(each, dtype=torch.float64) for each in (shift, scale))
    changed = {
        "mean.weight": weights["mean.weight"].double() / _rows(stretch, weights),
        "mean.bias": (weights["mean.bias"].double() - move) / stretch,
        "log_variance.bias": weights["log_variance.bias"].double() - 2 * stretch.log(),
        "from_latent.weight": weights["from_latent.weight"].double()
        * _rows(stretch, weights).transpose(0, 1),
        "from_latent.bias": weights["from_latent.bias"].double()
        + weights["from_latent.weight"].double().flatten(1) @ move,
    }
    return {name: changed.get(name, weight).to(weight.dtype) for name, weight in weights.items()}


def _rows(values: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
    """One number for each output channel of a pointwise layer."""
    return values.reshape(-1, *[1] * (weights["mean.weight"].ndim - 1))


def newer_autoencoder_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """GenerativeModels' names as MONAI has them since; MONAI's own stay."""
    newer: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if ".proj_attn." in name:
            continue
        if ".attn." not in name:
            name = re.sub(r"\.(to_[qkv])\.", r".attn.\1.", name)
        newer[re.sub(r"^(decoder\.blocks\.\d+)\.conv\.conv\.", r"\1.postconv.conv.", name)] = weight
    return newer


def _our_name(name: str, weights: Mapping[str, Tensor]) -> str:
    for theirs, ours in _HEADS.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    found = re.match(r"(encoder|decoder)\.blocks\.(\d+)\.(.+)", name)
    if found is None:
        raise ValueError(f"the weight {name} has no counterpart here; is it an AutoencoderKL's?")
    way, number, leaf = found[1], int(found[2]), found[3]
    ends = {0: "first", _last(weights, way) - 1: "norm", _last(weights, way): "last"}
    if number in ends:
        return f"{way}.{ends[number]}.{leaf.removeprefix('conv.')}"
    for theirs, ours in _LEAVES.items():
        if leaf.startswith(theirs):
            return f"{way}.layers.{number - 1}.{ours}{leaf.removeprefix(theirs)}"
    return f"{way}.layers.{number - 1}.{leaf}"


def _last(weights: Mapping[str, Tensor], way: str) -> int:
    """The number of a way's last block, its convolution to the latents or to the image."""
    return max(int(name.split(".")[2]) for name in weights if name.startswith(f"{way}.blocks."))


def _their_name(name: str, weights: Mapping[str, Tensor]) -> str:
    for theirs, ours in _HEADS.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    way, part, rest = name.split(".", 2)
    layers = 1 + max(
        int(each.split(".")[2]) for each in weights if each.startswith(f"{way}.layers.")
    )
    if part in ("first", "last"):
        return f"{way}.blocks.{0 if part == 'first' else layers + 2}.conv.{rest}"
    if part == "norm":
        return f"{way}.blocks.{layers + 1}.{rest}"
    number, leaf = rest.split(".", 1)
    stem = f"{way}.blocks.{int(number) + 1}."
    if leaf.startswith("conv."):
        outer = "conv.conv." if way == "encoder" else "postconv.conv."
        return stem + outer + leaf.removeprefix("conv.")
    for theirs, ours in _LEAVES.items():
        if leaf.startswith(ours):
            return stem + theirs + leaf.removeprefix(ours)
    return stem + leaf
