from __future__ import annotations

import pytest
import torch

from medidiff.networks.blocks import (
    Attention,
    Resampling,
    ResidualBlock,
    join,
    largest_divisor,
    make_norm,
    norm_silu,
    resample,
)


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(0.3 * torch.randn(weight.shape, generator=generator, dtype=weight.dtype))
    return module


@pytest.mark.parametrize(
    ("number", "limit", "divisor"), [(64, 32, 32), (48, 32, 24), (7, 4, 1), (8, 64, 8)]
)
def test_the_largest_divisor_is_found(number: int, limit: int, divisor: int):
    assert largest_divisor(number, limit) == divisor
    assert make_norm(number, limit).num_groups == divisor


def test_norm_silu_is_its_formula(random: torch.Generator):
    x = torch.randn(2, 4, 3, 5, generator=random, dtype=torch.float64)
    scale_shift = torch.randn(2, 8, generator=random, dtype=torch.float64)
    norm = randomised(make_norm(4, 2).double())
    assert isinstance(norm, torch.nn.GroupNorm)
    grouped = x.reshape(2, 2, -1)
    mean, variance = grouped.mean(-1, keepdim=True), grouped.var(-1, correction=0, keepdim=True)
    plain = ((grouped - mean) / (variance + norm.eps).sqrt()).reshape(x.shape)
    plain = plain * norm.weight[:, None, None] + norm.bias[:, None, None]
    shifted = plain * (1 + scale_shift[:, :4, None, None]) + scale_shift[:, 4:, None, None]
    torch.testing.assert_close(norm_silu(x, norm), plain * plain.sigmoid())
    torch.testing.assert_close(norm_silu(x, norm, scale_shift), shifted * shifted.sigmoid())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="a CPU's autocast widens no norm")
def test_norms_do_not_widen_the_field_under_autocast():
    x = torch.randn(1, 4, 3, 3, device="cuda", dtype=torch.bfloat16)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        assert norm_silu(x, make_norm(4, 2).cuda()).dtype == torch.bfloat16


@pytest.mark.parametrize("dims", [2, 3])
def test_halving_takes_means_and_doubling_repeats(dims: int):
    x = torch.arange(2.0**dims).reshape(1, 1, *[2] * dims)
    assert resample(x, "down").flatten().tolist() == [x.mean().item()]
    doubled = resample(x, "up")
    assert doubled.shape == (1, 1, *[4] * dims)
    torch.testing.assert_close(resample(doubled, "down"), x)
    assert resample(x, "keep") is x


def test_the_skip_connection_comes_behind():
    assert join(torch.zeros(1, 1, 2), torch.ones(1, 2, 2))[0, :, 0].tolist() == [0, 1, 1]


@pytest.mark.parametrize("resampling", ["keep", "down", "up"])
def test_a_residual_block_has_the_gradient_of_its_formula(resampling: Resampling):
    block = randomised(
        ResidualBlock(2, 3, 2, embedding=3, groups=2, resampling=resampling).double()
    )
    x = torch.randn(2, 2, 2, 4, dtype=torch.float64, requires_grad=True)
    skip = torch.randn(2, 1, 2, 4, dtype=torch.float64, requires_grad=True)
    embedding = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(block, (x, embedding, skip))


def test_attention_has_the_gradient_of_its_formula():
    block = randomised(Attention(4, head_channels=2, groups=2).double())
    x = torch.randn(2, 4, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(block, (x,))


def test_attention_is_its_formula(random: torch.Generator):
    block = randomised(Attention(4, head_channels=2, groups=2).double())
    assert isinstance(block, Attention)
    x = torch.randn(1, 4, 2, 3, generator=random, dtype=torch.float64)
    tokens = torch.nn.functional.group_norm(x, 2, block.norm.weight, block.norm.bias)
    mixed = block.queries_keys_values(tokens.reshape(4, 6).T)
    heads = []
    for start in (0, 2):
        query, key, value = (mixed[:, part + start : part + start + 2] for part in (0, 4, 8))
        heads.append(torch.softmax(query @ key.T / 2**0.5, dim=-1) @ value)
    expected = x + block.output(torch.cat(heads, dim=1)).T.reshape(x.shape)
    torch.testing.assert_close(block(x), expected)


def test_attention_does_not_care_where_the_voxels_are(random: torch.Generator):
    block = randomised(Attention(4, head_channels=4, groups=2))
    x = torch.randn(1, 4, 2, 3, generator=random)
    torch.testing.assert_close(block(x.flip(3)), block(x).flip(3))


def test_a_fresh_block_passes_its_input_on(random: torch.Generator):
    x = torch.randn(1, 4, 4, 4, generator=random)
    residual = ResidualBlock(2, 4, 4, embedding=3, groups=2)
    assert torch.equal(residual(x, torch.randn(1, 3)), x)
    assert torch.equal(Attention(4, head_channels=4, groups=2)(x), x)
