"""Weights of MONAI's `DiffusionModelUNet` in our `UNet`, and back: the same function.

    options, shape = unet_options(monai's arguments)    weights = from_monai(their weights)

Source: MONAI 1.6 (github.com/Project-MONAI/MONAI), networks/nets/diffusion_model_unet.py, for the
names and the order of layers. A network with cross-attention has no counterpart here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from medidiff.types import Tensor

_RENAMES: tuple[tuple[str, str], ...] = (
    (r"time_embed\.0\.", "embedding.first."),
    (r"time_embed\.2\.", "embedding.second."),
    (r"conv_in\.conv\.", "first."),
    (r"out\.0\.", "last_norm."),
    (r"out\.2\.conv\.", "last."),
    (r"(down|up)_blocks\.(\d+)\.resnets\.(\d+)\.", r"\1.\2.stages.\3.residual."),
    (r"(down|up)_blocks\.(\d+)\.attentions\.(\d+)\.", r"\1.\2.stages.\3.attention."),
    (r"down_blocks\.(\d+)\.downsampler\.op\.conv\.", r"down.\1.lead.conv."),
    (r"up_blocks\.(\d+)\.upsampler\.postconv\.conv\.", r"up.\1.lead.conv."),
    (r"middle_block\.resnet_1\.", "middle.0.residual."),
    (r"middle_block\.attention\.", "middle.0.attention."),
    (r"middle_block\.resnet_2\.", "middle.1.residual."),
)
_INSIDE: tuple[tuple[str, str], ...] = (
    (".residual.norm1.", ".residual.first_norm."),
    (".residual.conv1.conv.", ".residual.first."),
    (".residual.time_emb_proj.", ".residual.modulate."),
    (".residual.norm2.", ".residual.second_norm."),
    (".residual.conv2.conv.", ".residual.second."),
    (".residual.skip_connection.conv.", ".residual.shortcut."),
    (".attention.attn.out_proj.", ".attention.output."),
)
_PARTS = ("to_q", "to_k", "to_v")


def from_monai(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names and layout for the weights of a `DiffusionModelUNet`.

    An attention without a final layer (`include_fc=False`) gets the identity as its final layer.
    Errors: ValueError for a name that has no counterpart here.
    """
    ours: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if ".attn.to_k." in name or ".attn.to_v." in name:
            continue
        new = _our_name(name)
        if ".attn.to_q." in name:
            others = [weights[name.replace("to_q", part)] for part in _PARTS]
            new, weight = new.replace("attn.to_q", "queries_keys_values"), torch.cat(others)
        ours[new] = weight
    for name in [name for name in ours if name.endswith("queries_keys_values.weight")]:
        stem = name.removesuffix("queries_keys_values.weight")
        width = ours[name].shape[1]
        ours.setdefault(f"{stem}output.weight", torch.eye(width).to(ours[name]))
        ours.setdefault(f"{stem}output.bias", torch.zeros(width).to(ours[name]))
    return ours


def _our_name(name: str) -> str:
    for pattern, ours in _RENAMES:
        renamed, count = re.subn(f"^{pattern}", ours, name)
        if count:
            for theirs, inside in _INSIDE:
                renamed = renamed.replace(theirs, inside)
            return renamed
    raise ValueError(f"the weight {name} has no counterpart here; is it a DiffusionModelUNet's?")
