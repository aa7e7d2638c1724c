"""MONAI's network in ours: the same function, the same gradients, with the same weights."""

from __future__ import annotations

import pytest
import torch

from medidiff.networks import NetworkShape, UNetOptions, build
from medidiff.networks.interop import from_monai

pytest.importorskip("einops")


@pytest.mark.parametrize("final_layer", [True, False])
@pytest.mark.parametrize(("dims", "attention"), [(2, (False, True)), (3, (False, False))])
def test_monais_weights_give_monais_output_and_gradients(
    dims: int, attention: tuple[bool, ...], final_layer: bool
) -> None:
    from monai.networks.nets import DiffusionModelUNet

    theirs = DiffusionModelUNet(
        spatial_dims=dims,
        in_channels=2,
        out_channels=1,
        channels=(16, 32),
        attention_levels=attention,
        num_res_blocks=2,
        num_head_channels=8,
        norm_num_groups=8,
        include_fc=final_layer,
    ).double()
    generator = torch.Generator().manual_seed(dims)
    for weight in theirs.parameters():
        weight.data = torch.randn(weight.shape, generator=generator, dtype=torch.float64) * 0.1
    options = UNetOptions(
        channels=(16, 32), attention=attention, blocks=2, head_channels=8, groups=8, norm_eps=1e-6,
        waves=8, modulation="shift", resampling="convolution", middle_attention="always",
    )  # fmt: skip
    ours = build(options, NetworkShape(dims=dims, in_channels=2)).double()  # type: ignore[arg-type]
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
