"""Weights of MONAI's `DiffusionModelUNet` in our `UNet`, and back: the same function.

    options, shape = unet_options(arguments)             # `interop_options`: their constructor's
    network = build(options, shape)
    network.load_state_dict(from_monai(their_weights))   # to_monai(network.state_dict()) goes back

Source: MONAI 1.6 (github.com/Project-MONAI/MONAI), networks/nets/diffusion_model_unet.py, for the
names and the order of layers; GenerativeModels 0.2 (github.com/Project-MONAI/GenerativeModels) for
the older names. A network with cross-attention has no counterpart here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch

from medidiff.types import Tensor

_STEMS: tuple[tuple[str, str], ...] = (
    ("time_embed.0.", "embedding.first."),
    ("time_embed.2.", "embedding.second."),
    ("conv_in.conv.", "first."),
    ("out.0.", "last_norm."),
    ("out.2.conv.", "last."),
    ("down_blocks.{i}.resnets.{j}.", "down.{i}.stages.{j}.residual."),
    ("down_blocks.{i}.attentions.{j}.", "down.{i}.stages.{j}.attention."),
    ("down_blocks.{i}.downsampler.op.conv.", "down.{i}.lead.conv."),
    ("middle_block.resnet_1.", "middle.0.residual."),
    ("middle_block.attention.", "middle.0.attention."),
    ("middle_block.resnet_2.", "middle.1.residual."),
    ("up_blocks.{i}.resnets.{j}.", "up.{i}.stages.{j}.residual."),
    ("up_blocks.{i}.attentions.{j}.", "up.{i}.stages.{j}.attention."),
    ("up_blocks.{i}.upsampler.postconv.conv.", "up.{i}.lead.conv."),
)
_LEAVES: tuple[tuple[str, str], ...] = (
    ("norm1.", "first_norm."),
    ("conv1.conv.", "first."),
    ("time_emb_proj.", "modulate."),
    ("norm2.", "second_norm."),
    ("conv2.conv.", "second."),
    ("skip_connection.conv.", "shortcut."),
    ("attn.out_proj.", "output."),
    ("attn.qkv.", "queries_keys_values."),
)
_PARTS = ("to_q", "to_k", "to_v")
_OLDER: tuple[tuple[str, str], ...] = (
    (r"\.(to_[qkv])\.", r".attn.\1."),
    (r"\.upsampler\.conv\.conv\.", r".upsampler.postconv.conv."),
)


def from_monai(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names and layout for the weights of a `DiffusionModelUNet`.

    An attention without a final layer (`include_fc=False`) gets the identity as its final layer.
    GenerativeModels' `proj_attn` is left out: it is stored there and never used (MONAI's own import
    applies it).
    Errors: ValueError for a name that has no counterpart here.
    """
    weights = newer_names(weights)
    ours: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if ".attn.to_k." in name or ".attn.to_v." in name:
            continue
        new = _our_name(name)
        if ".attn.to_q." in name:
            others = [weights[name.replace("to_q", part)] for part in _PARTS]
            new, weight = new.replace("attn.to_q", "queries_keys_values"), torch.cat(others)
        ours[new] = weight
    return with_final_layers(ours)


def with_final_layers(ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our weights, in which an attention without a final layer has got the identity as one."""
    for name in [name for name in ours if name.endswith("queries_keys_values.weight")]:
        stem, width = name.removesuffix("queries_keys_values.weight"), ours[name].shape[1]
        ours.setdefault(f"{stem}output.weight", torch.eye(width).to(ours[name]))
        ours.setdefault(f"{stem}output.bias", torch.zeros(width).to(ours[name]))
    return ours


def to_monai(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """MONAI's names and layout (`include_fc=True`) for the weights of our network.

    Errors: ValueError for a weight that their network does not have.
    """
    theirs: dict[str, Tensor] = {}
    for name, weight in weights.items():
        new = _their_name(name)
        parts = zip(_PARTS, weight.chunk(3), strict=True) if ".attn.qkv." in new else ()
        theirs |= {new.replace("qkv", part): columns for part, columns in parts} or {new: weight}
    return theirs


def newer_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """GenerativeModels' names as MONAI has them since; MONAI's own stay."""
    newer: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if ".proj_attn." in name:
            continue
        if ".attn." not in name:
            for pattern, now in _OLDER:
                name = re.sub(pattern, now, name)
        newer[name] = weight
    return newer


def _their_name(name: str) -> str:
    found = _renamed(name, [(ours, theirs) for theirs, ours in _STEMS])
    if found is None:
        raise ValueError(f"the weight {name} has no counterpart in a DiffusionModelUNet")
    stem, leaf = found
    return stem + _leaf(leaf, [(ours, theirs) for theirs, ours in _LEAVES])


def _our_name(name: str) -> str:
    found = _renamed(name, _STEMS)
    if found is None:
        raise ValueError(
            f"the weight {name} has no counterpart here; is it a DiffusionModelUNet's?"
        )
    stem, leaf = found
    return stem + _leaf(leaf, _LEAVES)


def _renamed(name: str, stems: Iterable[tuple[str, str]]) -> tuple[str, str] | None:
    """The other side's stem of a name, with its numbers, and what is left of the name."""
    for source, target in stems:
        pattern = re.sub(r"\\{(\w)\\}", r"(?P<\1>\\d+)", re.escape(source))
        found = re.match(pattern, name)
        if found:
            return target.format(**found.groupdict()), name[found.end() :]
    return None


def _leaf(leaf: str, leaves: Iterable[tuple[str, str]]) -> str:
    for source, target in leaves:
        if leaf.startswith(source):
            return target + leaf.removeprefix(source)
    return leaf
