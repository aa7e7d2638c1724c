"""MONAI's network in ours: the same function, the same gradients, with the same weights."""

from __future__ import annotations

import pytest
import torch

from medidiff.networks import build
from medidiff.networks.interop import from_monai, to_monai
from medidiff.networks.interop_options import unet_options

pytest.importorskip("einops")

ARGUMENTS = {
    "spatial_dims": 2,
    "in_channels": 2,
    "out_channels": 1,
    "channels": (16, 32),
    "attention_levels": (False, True),
    "num_res_blocks": 2,
    "num_head_channels": 8,
    "norm_num_groups": 8,
}


@pytest.mark.parametrize("final_layer", [True, False])
@pytest.mark.parametrize(("dims", "attention"), [(2, (False, True)), (3, (False, False))])
def test_monais_weights_give_monais_output_and_gradients(
    dims: int, attention: tuple[bool, ...], final_layer: bool
) -> None:
    from monai.networks.nets import DiffusionModelUNet

    arguments = {**ARGUMENTS, "spatial_dims": dims, "attention_levels": attention}
    theirs = DiffusionModelUNet(**arguments, include_fc=final_layer).double()
    generator = torch.Generator().manual_seed(dims)
    for weight in theirs.parameters():
        weight.data = torch.randn(weight.shape, generator=generator, dtype=torch.float64) * 0.1
    ours = build(*unet_options(arguments)).double()
    ours.load_state_dict(from_monai(theirs.state_dict()))
    x = torch.randn(2, 2, *[8] * dims, generator=generator, dtype=torch.float64)
    # at time 0 both embed the same: theirs is rounded to float32 elsewhere
    label = torch.zeros(2, dtype=torch.float64)
    mine, other = ours(x, label), theirs(x, label)
    torch.testing.assert_close(mine, other, rtol=0, atol=1e-10)
    toward = torch.randn(mine.shape, generator=generator, dtype=torch.float64)
    for network, y in ((ours, mine), (theirs, other)):
        (y * toward).sum().backward()
        assert network is not None
    expected = from_monai(
        {name: weight.grad for name, weight in theirs.named_parameters() if weight.grad is not None}
    )
    checked = 0
    for name, weight in ours.named_parameters():
        if name in expected and (final_layer or "attention.output" not in name):
            bound = 1e-5 * float(expected[name].abs().max()) + 1e-12
            torch.testing.assert_close(weight.grad, expected[name], rtol=0, atol=bound)
            checked += 1
    assert checked > 40


def test_a_foreign_weight_is_named() -> None:
    with pytest.raises(ValueError, match=r"encoder\.layers\.0\.weight has no counterpart"):
        from_monai({"encoder.layers.0.weight": torch.zeros(1)})


def test_weights_go_to_monai_and_back() -> None:
    from monai.networks.nets import DiffusionModelUNet

    theirs = DiffusionModelUNet(**ARGUMENTS)
    ours = build(*unet_options(ARGUMENTS), seed=3)
    theirs.load_state_dict(to_monai(ours.state_dict()))
    for name, weight in from_monai(theirs.state_dict()).items():
        assert torch.equal(weight, ours.state_dict()[name])


def test_generative_models_dead_projection_is_not_applied() -> None:
    """The older package stores `proj_attn` and never uses it; its names lack `attn`."""
    from monai.networks.nets import DiffusionModelUNet

    theirs = DiffusionModelUNet(**ARGUMENTS, include_fc=False)
    for weight in theirs.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    older: dict[str, torch.Tensor] = {}
    for name, weight in theirs.state_dict().items():
        name = name.replace(".attn.to_", ".to_").replace(".postconv.conv.", ".conv.conv.")
        older[name] = weight
        if ".to_q." in name:
            older[name.replace("to_q", "proj_attn")] = torch.randn_like(weight)
    ours = build(*unet_options(ARGUMENTS | {"num_channels": (16, 32)}))
    ours.load_state_dict(from_monai(older))
    x, label = torch.randn(1, 2, 8, 8), torch.tensor([30.0])
    torch.testing.assert_close(ours(x, label), theirs(x, label), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"with_conditioning": True}, "with_conditioning=True"),
        ({"num_res_blocks": (1, 2)}, "one number for all levels"),
        ({"colour": 1}, "colour: not an argument"),
        ({"num_class_embeds": 3}, "num_class_embeds=3"),
    ],
)
def test_what_has_no_counterpart_is_said(changed: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        unet_options(ARGUMENTS | changed)
