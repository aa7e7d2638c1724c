from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import pytest
import torch

from medidiff.networks.blocks import (
    Attention,
    Modulation,
    Resampler,
    ResidualBlock,
    largest_divisor,
    make_norm,
)
from medidiff.networks.fields import Field, Resampling, norm_silu, resample

EPS = 1e-5


def on_tensors(block: torch.nn.Module) -> Callable[..., torch.Tensor]:
    """A block that takes and gives tensors, for the checks of gradients."""

    def call(x: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        embedding, *skip = others if others else (None,)
        given = [] if embedding is None else [embedding]
        return block(Field(x), *given, *map(Field, skip)).settled()

    return call


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
    assert make_norm(number, limit, EPS).num_groups == divisor


def test_norm_silu_is_its_formula(random: torch.Generator):
    x = torch.randn(2, 4, 3, 5, generator=random, dtype=torch.float64)
    scale_shift = torch.randn(2, 8, generator=random, dtype=torch.float64)
    norm = randomised(make_norm(4, 2, EPS).double())
    assert isinstance(norm, torch.nn.GroupNorm)
    grouped = x.reshape(2, 2, -1)
    mean, variance = grouped.mean(-1, keepdim=True), grouped.var(-1, correction=0, keepdim=True)
    plain = ((grouped - mean) / (variance + norm.eps).sqrt()).reshape(x.shape)
    plain = plain * norm.weight[:, None, None] + norm.bias[:, None, None]
    shifted = plain * (1 + scale_shift[:, :4, None, None]) + scale_shift[:, 4:, None, None]
    torch.testing.assert_close(norm_silu([Field(x)], norm), plain * plain.sigmoid())
    torch.testing.assert_close(
        norm_silu([Field(x)], norm, scale_shift), shifted * shifted.sigmoid()
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="a CPU's autocast widens no norm")
def test_norms_do_not_widen_the_field_under_autocast():
    x = torch.randn(1, 4, 3, 3, device="cuda", dtype=torch.bfloat16)
    x = x.contiguous(memory_format=torch.channels_last)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        assert norm_silu([Field(x)], make_norm(4, 2, EPS).cuda()).dtype == torch.bfloat16


@pytest.mark.parametrize("dims", [2, 3])
def test_halving_takes_means_and_doubling_repeats(dims: int):
    x = torch.arange(2.0**dims).reshape(1, 1, *[2] * dims)
    assert resample(x, "down").flatten().tolist() == [x.mean().item()]
    doubled = resample(x, "up")
    assert doubled.shape == (1, 1, *[4] * dims)
    torch.testing.assert_close(resample(doubled, "down"), x)
    assert resample(x, "keep") is x


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halving_a_volume_in_half_precision_is_possible_on_a_cpu(dtype: torch.dtype):
    x = torch.arange(16.0).reshape(1, 2, 2, 2, 2).to(dtype)
    assert resample(x, "down").flatten().tolist() == [3.5, 11.5]


def test_the_skip_connection_comes_behind():
    norm = make_norm(3, 3, EPS)
    parts = [torch.randn(1, 1, 4, 4), torch.randn(1, 2, 4, 4)]
    torch.testing.assert_close(
        norm_silu([Field(part) for part in parts], norm),
        norm_silu([Field(torch.cat(parts, 1))], norm),
    )


@pytest.mark.parametrize("modulation", ["scale-shift", "shift"])
@pytest.mark.parametrize("resampling", ["keep", "down", "up"])
def test_a_residual_block_has_the_gradient_of_its_formula(
    resampling: Resampling, modulation: Modulation
):
    block = ResidualBlock(
        2, 3, 2, embedding=3, groups=2, eps=EPS, modulation=modulation, resampling=resampling
    )
    block = randomised(block.double())
    x = torch.randn(2, 2, 2, 4, dtype=torch.float64, requires_grad=True)
    skip = torch.randn(2, 1, 2, 4, dtype=torch.float64, requires_grad=True)
    embedding = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(on_tensors(block), (x, embedding, skip))


@pytest.mark.parametrize("dims", [2, 3])
def test_a_convolution_halves_or_doubles_the_grid(dims: Literal[2, 3]):
    x = Field(torch.randn(1, 2, *[4] * dims))
    assert Resampler(dims, 2, "down")(x, torch.zeros(1)).data.shape[2:] == torch.Size([2] * dims)
    assert Resampler(dims, 2, "up")(x, torch.zeros(1)).data.shape[2:] == torch.Size([8] * dims)


def test_attention_has_the_gradient_of_its_formula():
    block = randomised(Attention(4, head_channels=2, groups=2, eps=EPS).double())
    x = torch.randn(2, 4, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(on_tensors(block), (x,))


def test_attention_is_its_formula(random: torch.Generator):
    block = randomised(Attention(4, head_channels=2, groups=2, eps=EPS).double())
    assert isinstance(block, Attention)
    x = torch.randn(1, 4, 2, 3, generator=random, dtype=torch.float64)
    tokens = torch.nn.functional.group_norm(x, 2, block.norm.weight, block.norm.bias)
    mixed = block.queries_keys_values(tokens.reshape(4, 6).T)
    heads = []
    for start in (0, 2):
        query, key, value = (mixed[:, part + start : part + start + 2] for part in (0, 4, 8))
        heads.append(torch.softmax(query @ key.T / 2**0.5, dim=-1) @ value)
    expected = x + block.output(torch.cat(heads, dim=1)).T.reshape(x.shape)
    torch.testing.assert_close(on_tensors(block)(x), expected)


def test_attention_does_not_care_where_the_voxels_are(random: torch.Generator):
    block = randomised(Attention(4, head_channels=4, groups=2, eps=EPS))
    x = torch.randn(1, 4, 2, 3, generator=random)
    call = on_tensors(block)
    torch.testing.assert_close(call(x.flip(3)), call(x).flip(3))


def test_a_fresh_block_passes_its_input_on(random: torch.Generator):
    x = torch.randn(1, 4, 4, 4, generator=random)
    residual = ResidualBlock(2, 4, 4, embedding=3, groups=2, eps=EPS, modulation="shift")
    assert torch.equal(on_tensors(residual)(x, torch.randn(1, 3)), x)
    attention = Attention(4, head_channels=4, groups=2, eps=EPS)
    assert torch.equal(on_tensors(attention)(x), x)


@pytest.mark.parametrize("dims", [2, 3])
def test_smoothed_doubling_is_the_transpose_of_smoothed_halving(dims: int):
    fine = torch.randn(1, 3, *[8] * dims, dtype=torch.float64)
    coarse = torch.randn(1, 3, *[4] * dims, dtype=torch.float64)
    down, up = resample(fine, "down", "fir"), resample(coarse, "up", "fir")
    torch.testing.assert_close((down * coarse).sum() * 2**dims, (fine * up).sum())


@pytest.mark.parametrize("how", ["down", "up"])
def test_smoothing_keeps_a_constant_within_the_borders(how: Resampling):
    x = torch.full((1, 1, 12, 12), 3.0, dtype=torch.float64)
    inner = resample(x, how, "fir")[..., 2:-2, 2:-2]
    torch.testing.assert_close(inner, torch.full_like(inner, 3.0))
