"""MONAI's autoencoder in ours: the same latents and images with the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from medidiff.networks import build
from medidiff.networks.interop_autoencoder import (
    autoencoder_from_monai,
    autoencoder_options,
    autoencoder_to_monai,
    monai_autoencoder_arguments,
)

pytest.importorskip("einops")
ARGUMENTS: dict[str, Any] = {
    "spatial_dims": 2,
    "in_channels": 1,
    "out_channels": 1,
    "channels": (8, 16, 16),
    "num_res_blocks": (2, 2, 2),
    "latent_channels": 3,
    "attention_levels": (False, False, True),
    "norm_num_groups": 4,
    "with_encoder_nonlocal_attn": False,
    "with_decoder_nonlocal_attn": True,
}


def theirs_of(arguments: dict[str, Any]) -> nn.Module:
    from monai.networks.nets import AutoencoderKL

    network = AutoencoderKL(**arguments).double().eval()
    random = torch.Generator().manual_seed(0)
    for weight in network.parameters():
        weight.data = 0.2 * torch.randn(weight.shape, generator=random, dtype=torch.float64)
    return network


def assert_same(ours: nn.Module, theirs: nn.Module) -> None:
    random = torch.Generator().manual_seed(1)
    dims = ours.shape.dims
    x = torch.randn(2, 1, *[16] * dims, generator=random, dtype=torch.float64)
    mean, sigma = theirs.encode(x)
    found = ours.encode(x)
    torch.testing.assert_close(found.mean, mean, rtol=0, atol=1e-10)
    torch.testing.assert_close((found.log_variance / 2).exp(), sigma, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(ours.decode(mean), theirs.decode(mean), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"spatial_dims": 3, "attention_levels": (False,) * 3, "with_decoder_nonlocal_attn": False},
        {"include_fc": False, "with_encoder_nonlocal_attn": True},
    ],
)
def test_monais_weights_give_monais_latents_and_images(changed: dict[str, Any]) -> None:
    arguments = ARGUMENTS | changed
    theirs = theirs_of(arguments)
    ours = build(*autoencoder_options(arguments)).double()
    ours.load_state_dict(autoencoder_from_monai(theirs.state_dict()))
    assert_same(ours, theirs)


def test_ours_goes_to_monai_and_back() -> None:
    options, shape = autoencoder_options(ARGUMENTS)
    ours = build(options, shape, seed=3).double()
    theirs = theirs_of(monai_autoencoder_arguments(options, shape))
    theirs.load_state_dict(autoencoder_to_monai(ours.state_dict()))
    assert_same(ours, theirs)
    assert autoencoder_options(monai_autoencoder_arguments(options, shape)) == (options, shape)
    back = autoencoder_from_monai(theirs.state_dict())
    assert all(torch.equal(weight, back[name]) for name, weight in ours.state_dict().items())


def test_generative_models_names_are_known_and_its_dead_projection_is_not_applied() -> None:
    theirs = theirs_of(ARGUMENTS | {"include_fc": False})
    old = {
        name.replace(".attn.to_", ".to_").replace("postconv", "conv"): weight
        for name, weight in theirs.state_dict().items()
    }
    stems = {name.split(".to_q")[0] for name in old if ".to_q." in name}
    assert len(stems) == 5  # two in each last level, one in the middle of the decoder
    for stem in stems:
        old[f"{stem}.proj_attn.weight"] = torch.randn(16, 16, dtype=torch.float64)
        old[f"{stem}.proj_attn.bias"] = torch.randn(16, dtype=torch.float64)
    arguments = {**ARGUMENTS, "num_channels": ARGUMENTS["channels"], "use_checkpointing": True}
    del arguments["channels"]
    ours = build(*autoencoder_options(arguments)).double()
    ours.load_state_dict(autoencoder_from_monai(old))
    assert_same(ours, theirs)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"use_convtranspose": True}, "use_convtranspose"),
        ({"num_res_blocks": (1, 2, 2)}, "one number"),
        ({"num_splits": 2}, "num_splits: not an argument"),
        ({"out_channels": 2}, "channels it takes"),
        ({"attention_levels": (True, False, False)}, "full resolution"),
    ],
)
def test_what_has_no_counterpart_is_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        autoencoder_options(ARGUMENTS | changed)


def test_a_foreign_weight_is_named() -> None:
    with pytest.raises(ValueError, match=r"down\.0\.weight has no counterpart"):
        autoencoder_from_monai({"down.0.weight": torch.zeros(1)})
