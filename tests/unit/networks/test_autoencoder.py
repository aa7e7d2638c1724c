"""The autoencoder: MONAI's function with MONAI's weights, any grid, and what its parts are."""

from __future__ import annotations

from typing import Literal

import pytest
import torch

from medidiff.networks import AutoencoderOptions, NetworkShape, build
from medidiff.networks.autoencoder import Autoencoder, Posterior
from medidiff.types import Tensor


def theirs_renamed(weights: dict[str, Tensor], layers: int, way: str) -> dict[str, Tensor]:
    """One way of an `AutoencoderKL` under our names: its blocks 0 .. layers + 2 in order."""
    ends = {0: "first", layers + 1: "norm", layers + 2: "last"}
    leaves = {
        "norm1": "first_norm",
        "norm2": "second_norm",
        "conv1.conv": "first",
        "conv2.conv": "second",
        "nin_shortcut.conv": "shortcut",
        "attn.out_proj": "output",
        "postconv.conv": "conv",
        "conv.conv": "conv",
    }
    ours: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if not name.startswith(f"{way}.blocks.") or ".to_k." in name or ".to_v." in name:
            continue
        _, _, number, rest = name.split(".", 3)
        if int(number) in ends:
            ours[f"{way}.{ends[int(number)]}.{rest.removeprefix('conv.')}"] = weight
            continue
        leaf, kind = rest.rsplit(".", 1)
        if leaf == "attn.to_q":
            leaf = "queries_keys_values"
            weight = torch.cat([weights[name.replace("to_q", part)] for part in THREE])
        ours[f"{way}.layers.{int(number) - 1}.{leaves.get(leaf, leaf)}.{kind}"] = weight
    return ours


THREE = ("to_q", "to_k", "to_v")
HEADS = {
    "quant_conv_mu.conv": "mean",
    "quant_conv_log_sigma.conv": "log_variance",
    "post_quant_conv.conv": "from_latent",
}


@pytest.mark.parametrize(
    ("dims", "attention", "middle"),
    [(2, (False, True), "both"), (2, (), "decoder"), (3, (False, False), "none")],
)
def test_monais_weights_give_monais_latents_and_image(
    dims: Literal[2, 3],
    attention: tuple[bool, ...],
    middle: Literal["none", "decoder", "both"],
) -> None:
    from monai.networks.nets import AutoencoderKL

    theirs = AutoencoderKL(
        spatial_dims=dims,
        in_channels=2,
        out_channels=2,
        channels=(8, 16),
        num_res_blocks=2,
        latent_channels=3,
        norm_num_groups=4,
        attention_levels=attention or (False, False),
        with_encoder_nonlocal_attn=middle in ("encoder", "both"),
        with_decoder_nonlocal_attn=middle in ("decoder", "both"),
    ).double()
    random = torch.Generator().manual_seed(dims)
    for weight in theirs.parameters():
        weight.data = 0.2 * torch.randn(weight.shape, generator=random, dtype=torch.float64)
    options = AutoencoderOptions(
        channels=(8, 16), latent_channels=3, attention=attention, middle=middle, groups=4
    )
    ours = build(options, NetworkShape(dims, 2, 2)).double()
    weights = theirs.state_dict()
    renamed = {
        f"{head}.{kind}": weights[f"{name}.{kind}"]
        for name, head in HEADS.items()
        for kind in ("weight", "bias")
    }
    for way in ("encoder", "decoder"):
        renamed |= theirs_renamed(weights, len(getattr(ours, way).layers), way)
    ours.load_state_dict(renamed)
    x = torch.randn(2, 2, *[8] * dims, generator=random, dtype=torch.float64)
    mean, sigma = theirs.encode(x)
    found = ours.encode(x)
    torch.testing.assert_close(found.mean, mean, rtol=0, atol=1e-10)
    torch.testing.assert_close((found.log_variance / 2).exp(), sigma, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(ours.decode(mean), theirs.decode(mean), rtol=0, atol=1e-10)
    eps = torch.randn(mean.shape, generator=random, dtype=torch.float64)
    again = theirs.decode(mean + eps * sigma)
    torch.testing.assert_close(ours(x, eps).image, again, rtol=1e-10, atol=1e-10)


def awake(dims: Literal[2, 3] = 2) -> Autoencoder:
    options = AutoencoderOptions(channels=(8, 12, 16), blocks=1, latent_channels=2, groups=4)
    network = build(options, NetworkShape(dims, 1, 1))
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=random))
    return network


@pytest.mark.parametrize("space", [(16, 12), (13, 9), (5, 4, 7)])
def test_any_grid_is_reconstructed_on_itself(space: tuple[int, ...]) -> None:
    network = awake(2 if len(space) == 2 else 3)
    found = network(torch.randn(2, 1, *space, generator=torch.Generator().manual_seed(0)))
    assert found.image.shape == (2, 1, *space)
    assert found.posterior.mean.shape == (2, 2, *[-(-size // 4) for size in space])
    assert network.options.latent_space(space) == tuple(found.posterior.mean.shape[2:])


def test_latents_of_another_grid_are_refused() -> None:
    with pytest.raises(ValueError, match=r"latents on \(4, 4\) are not those of \(17, 16\)"):
        awake().decode(torch.zeros(1, 2, 4, 4), (17, 16))
    with pytest.raises(ValueError, match=r"the image must be \(batch, 1, \*space\)"):
        awake().encode(torch.zeros(1, 3, 4, 4))


def test_attention_at_full_resolution_is_refused() -> None:
    with pytest.raises(ValueError, match="full resolution"):
        AutoencoderOptions(attention=(True, False, True))


def test_the_divergence_is_that_of_torchs_gaussians() -> None:
    random = torch.Generator().manual_seed(2)
    mean, log_variance = torch.randn(2, 3, 4, 5, 6, generator=random)
    known = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, (log_variance / 2).exp()),
        torch.distributions.Normal(0.0, 1.0),
    )
    found = Posterior(mean, log_variance).divergence()
    torch.testing.assert_close(found, known.flatten(1).mean(1))


def test_every_weight_has_a_gradient() -> None:
    network = awake()
    random = torch.Generator().manual_seed(3)
    found = network(torch.randn(1, 1, 8, 8, generator=random), torch.ones(1, 2, 2, 2))
    (found.image.abs().mean() + found.posterior.divergence().mean()).backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in network.parameters())
