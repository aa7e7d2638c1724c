"""What is true of every codec, of the wavelet, of tiles, and of patches with coordinates."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medidiff.data.intensity import FittedIntensity
from medidiff.data.options import Space
from medidiff.diffusion import Clean
from medidiff.errors import TaskError
from medidiff.model import Model
from medidiff.networks import (
    AutoencoderOptions,
    Codec,
    FittedAutoencoder,
    FittedWavelet,
    IdentityCodec,
    LatentCodec,
    NetworkShape,
    Tiles,
    UNetOptions,
    WaveletCodec,
    build,
    codec_of,
    coordinates,
    patches,
)
from medidiff.networks.codec import Standard, fit_wavelet, measured
from medidiff.networks.fields import Field, norm_silu
from medidiff.networks.tiling import tiled
from medidiff.networks.wavelet import haar, inverse_haar
from medidiff.spec import ModelSpec
from medidiff.tasks.base import Problem
from medidiff.tasks.denoise import Denoising
from medidiff.tasks.matched import matched, mean_at
from medidiff.types import Tensor

DTYPE = torch.float64
SPACES = ((16, 12), (13, 9), (8, 12, 4), (5, 7, 6))


def field(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DTYPE)


def latent_codec(dims: Literal[2, 3], tiles: Tiles | None = None, levels: int = 3) -> LatentCodec:
    options = AutoencoderOptions(
        channels=(4,) * (levels - 1) + (8,), blocks=1, latent_channels=2, groups=1
    )
    shape = NetworkShape(dims, 1, 1)
    network = build(options, shape).double()
    with torch.no_grad():
        for index, weight in enumerate(network.parameters()):
            weight.add_(0.1 * field(*weight.shape, seed=index))
    standard = Standard((0.3, -0.2), (1.5, 0.7))
    return LatentCodec(FittedAutoencoder(options, shape, standard, "none", tiles), network)


def codecs(dims: Literal[2, 3]) -> list[Codec]:
    images = [field(2, 1, *[8] * dims, seed=seed) for seed in range(3)]
    wavelets = [
        fit_wavelet(WaveletCodec(scale=scale), images, 1, dims) for scale in ("band", "one", "wdm")
    ]
    return [IdentityCodec(), *wavelets, latent_codec(dims)]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_a_codec_says_what_it_gives(space: tuple[int, ...]) -> None:
    x, dims = field(2, 1, *space), 2 if len(space) == 2 else 3
    for codec in codecs(dims):
        z = codec.encode(x)
        assert z.shape == (2, codec.channels(1, dims), *codec.space(space))
        assert codec.decode(z, space).shape == x.shape
        assert torch.equal(codec.encode(x[1:]), z[1:]) or torch.allclose(codec.encode(x[1:]), z[1:])


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_all_but_the_autoencoder_are_exact(space: tuple[int, ...]) -> None:
    x = field(2, 1, *space)
    for codec in codecs(2 if len(space) == 2 else 3)[:-1]:
        torch.testing.assert_close(codec.decode(codec.encode(x), space), x, rtol=0, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=2, max_size=3), st.integers(1, 3), st.integers(0, 99))
def test_the_wavelet_is_orthonormal(halves: list[int], channels: int, seed: int) -> None:
    """Inner products stay, so the inverse is the transpose."""
    shape = (1, channels, *(2 * half for half in halves))
    x, y = field(*shape, seed=seed), field(*shape, seed=seed + 1)
    torch.testing.assert_close((haar(x) * haar(y)).sum(), (x * y).sum())
    torch.testing.assert_close(inverse_haar(haar(x)), x, rtol=0, atol=1e-12)
    torch.testing.assert_close((haar(x) * y.reshape(haar(x).shape)).sum(),
                               (x * inverse_haar(y.reshape(haar(x).shape))).sum())  # fmt: skip


def test_the_bands_are_low_and_high_along_the_axes_that_they_say() -> None:
    x = torch.tensor([[1.0, 2.0], [5.0, 10.0]], dtype=DTYPE)[None, None]
    low, high_first, high_second, high = haar(x).flatten().tolist()
    assert low == pytest.approx((1 + 2 + 5 + 10) / 2)
    assert high_first == pytest.approx((1 + 2 - 5 - 10) / 2)
    assert high_second == pytest.approx((1 - 2 + 5 - 10) / 2)
    assert high == pytest.approx((1 - 2 - 5 + 10) / 2)


def test_the_scale_of_the_wavelet_is_what_the_option_says() -> None:
    images = [3 + field(4, 2, 8, 8, seed=seed) * (1 + seed) for seed in range(3)]
    raw = torch.cat([haar(x) for x in images])
    flat = raw.transpose(0, 1).flatten(1)
    band = fit_wavelet(WaveletCodec(), images, 2, 2)
    torch.testing.assert_close(
        torch.tensor(band.standard.scale).double(), flat.std(1, correction=0)
    )
    torch.testing.assert_close(torch.tensor(band.standard.shift).double(), flat.mean(1))
    one = fit_wavelet(WaveletCodec(scale="one"), images, 2, 2)
    assert len(set(one.standard.scale)) == 1
    encoded = torch.cat([one.encode(x) for x in images])
    assert float(encoded.transpose(0, 1).flatten(1).var(1, correction=0).mean()) == pytest.approx(1)
    wdm = fit_wavelet(WaveletCodec(scale="wdm"), images, 2, 2)
    assert wdm.standard == Standard((0.0,) * 8, (3.0, 3.0, *[1.0] * 6))


@pytest.mark.parametrize("space", [(8, 6), (4, 6, 8)], ids=str)
def test_white_noise_is_in_model_space_what_a_codec_says(space: tuple[int, ...]) -> None:
    """Where it says so: white there too, of that standard deviation."""
    dims: Literal[2, 3] = 2 if len(space) == 2 else 3
    size = torch.Size(space).numel()
    basis = torch.eye(size, dtype=DTYPE).view(size, 1, *space)
    stays = []
    for codec in codecs(dims):
        scale = codec.noise_scale(space)
        stays.append(scale is not None)
        if scale is None or isinstance(codec, LatentCodec):
            continue
        linear = (codec.encode(basis) - codec.encode(0 * basis)).flatten(1)
        covariance = linear.T @ linear
        torch.testing.assert_close(covariance, scale**2 * torch.eye(size, dtype=DTYPE))
    assert stays == [True, False, True, False, False]
    odd = tuple(size + 1 for size in space)
    assert codecs(dims)[2].noise_scale(odd) is None


def test_a_measured_scale_is_of_all_batches_together() -> None:
    batches = [field(3, 2, 5, 4, seed=1) * 4 + 2, field(5, 2, 3, 4, seed=2)]
    found = measured(batches)
    flat = torch.cat([batch.transpose(0, 1).flatten(1) for batch in batches], dim=1)
    torch.testing.assert_close(torch.tensor(found.shift).double(), flat.mean(1))
    torch.testing.assert_close(torch.tensor(found.scale).double(), flat.std(1, correction=0))
    z = field(2, 2, 3, 3)
    torch.testing.assert_close(found.undone(found.applied(z)), z)
    with pytest.raises(ValueError, match="same everywhere"):
        measured([torch.ones(2, 1, 4, 4)])


class Half(torch.nn.Module):
    """A network that says: half of what is seen."""

    def __init__(self) -> None:
        super().__init__()
        self.share = torch.nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor, *_: Tensor | None) -> Tensor:
        return x * self.share


def model_behind(codec: IdentityCodec | FittedWavelet) -> Model:
    fitted = FittedIntensity((0.0,), (1.0,), "train", None, (-1.0, 1.0))
    spec = ModelSpec(
        "half", "MR", ("image",), Space(2, (8, 8)), fitted, UNetOptions(),
        NetworkShape(2, codec.channels(1, 2), codec.channels(1, 2)), codec=codec, target=Clean(),
    )  # fmt: skip
    model = Model(spec, Half())
    model.spec.sampling.__dict__["clip"] = "none"
    return model


def test_denoising_behind_an_orthonormal_wavelet_is_denoising() -> None:
    """A network that treats all voxels alike does the same in either space, whatever the shift."""
    x = field(2, 1, 8, 8).float()
    problem = Problem(x, (), (0.1, 0.3))
    plain = mean_at(x, problem.levels, model_behind(IdentityCodec()))
    waved = model_behind(FittedWavelet(Standard((0.0,) * 4, (1.0,) * 4)))
    torch.testing.assert_close(mean_at(x, problem.levels, waved), plain)
    scaled = model_behind(FittedWavelet(Standard((0.0,) * 4, (2.0,) * 4)))
    levels = matched(problem.levels, scaled)
    torch.testing.assert_close(levels.noise_ratio, torch.tensor([0.1, 0.3], dtype=DTYPE))


def test_denoising_where_noise_is_not_white_is_refused() -> None:
    model = model_behind(FittedWavelet(Standard((0.0,) * 4, (3.0, 1.0, 1.0, 1.0))))
    with pytest.raises(TaskError, match="does not leave white noise white"):
        Denoising().prepare([], model)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 11), st.integers(1, 4))
def test_the_weights_of_tiles_add_up_to_one(
    length: int, size: int, overlap: int, unit: int
) -> None:
    tiles = Tiles(size, min(overlap, size - 1))
    total = torch.zeros(length * unit, dtype=DTYPE)
    starts = tiles.starts(length)
    for start, weight in zip(starts, tiles.weights(length, unit, total), strict=True):
        assert float(weight.min()) > 0
        total[start * unit : start * unit + len(weight)] += weight
    torch.testing.assert_close(total, torch.ones_like(total))
    assert starts[0] == 0
    assert starts[-1] + min(size, length) == length


@pytest.mark.parametrize("space", [(22, 17), (9, 10, 7)], ids=str)
def test_tiles_of_a_pointwise_function_have_no_seam(space: tuple[int, ...]) -> None:
    x = field(2, 3, *space)
    seen: list[int] = []

    def call(part: Tensor) -> Tensor:
        seen.append(max(part.shape[2:]))
        return torch.sin(part)

    torch.testing.assert_close(tiled(call, x, Tiles(5, 2), units=(1, 1)), torch.sin(x))
    assert max(seen) == 5


@pytest.mark.parametrize("dims", [2, 3])
def test_tiles_differ_from_the_whole_by_what_seams_says_and_less_with_overlap(
    dims: Literal[2, 3],
) -> None:
    x = field(1, 1, *[48 if dims == 2 else 24] * dims)
    found = {}
    for overlap in (1, 4):
        codec = latent_codec(dims, Tiles(6 if dims == 2 else 5, overlap), levels=3)
        found[overlap] = codec.seams(x)
        z, space = codec.encode(x, whole=True), x.shape[2:]
        difference = codec.decode(z, space) - codec.decode(z, space, whole=True)
        assert found[overlap].image_largest == pytest.approx(float(difference.abs().max()))
        assert 0 < found[overlap].image_rms < found[overlap].image_largest
    assert found[4].image_rms < found[1].image_rms
    enough = latent_codec(dims, Tiles(64, 8))
    assert enough.seams(x).image_largest == 0


@pytest.mark.parametrize("space", [(22, 17), (9, 10, 7)], ids=str)
@pytest.mark.parametrize("overlap", [0, 2, 3])
def test_norms_that_see_all_tiles_are_those_of_the_whole_image(
    space: tuple[int, ...], overlap: int
) -> None:
    """Of a network that looks at one voxel at a time: tiles have no border to it."""
    norms = [
        torch.nn.GroupNorm(groups, 4, dtype=DTYPE).requires_grad_(False) for groups in (2, 1, 4)
    ]
    for number, norm in enumerate(norms):
        norm.weight.data = 1 + 0.3 * field(4) * (number + 1)
        norm.bias.data = 0.3 * field(4)

    def call(part: Tensor) -> Tensor:
        for norm in norms:
            part = norm_silu([Field(part + part.roll(1, 1).square())], norm)
        return part

    x = field(2, 4, *space) + torch.linspace(0, 3, space[-1], dtype=DTYPE)
    whole = call(x)
    ours = tiled(call, x, Tiles(5, overlap), units=(1, 1))
    torch.testing.assert_close(ours, whole, rtol=1e-10, atol=1e-10)
    apart = tiled(call, x, Tiles(5, overlap, "tile"), units=(1, 1))
    assert float((apart - whole).abs().max()) > 0.1
    torch.testing.assert_close(call(x), whole)  # nothing is left of the tiles' statistics


@pytest.mark.parametrize("dims", [2, 3])
def test_norms_that_see_all_tiles_lessen_the_seams(dims: Literal[2, 3]) -> None:
    size = 96 if dims == 2 else 32
    x = field(1, 1, *[size] * dims) * torch.linspace(0, 2, size, dtype=DTYPE)
    tiles = Tiles(16, 10) if dims == 2 else Tiles(10, 4)
    ours = latent_codec(dims, tiles, levels=2).seams(x)
    apart = latent_codec(dims, replace(tiles, statistics="tile"), levels=2).seams(x)
    assert ours.image_rms < 0.5 * apart.image_rms
    assert ours.latents_rms < 0.5 * apart.latents_rms


def test_tiles_of_a_gradient() -> None:
    """The gradient of a tiled decode is finite and reaches every latent."""
    codec = latent_codec(2, Tiles(6, 4), levels=2)
    z = codec.encode(field(1, 1, 24, 24), whole=True).requires_grad_()
    codec.decode(z, (24, 24)).square().sum().backward()
    assert z.grad is not None
    assert torch.isfinite(z.grad).all()
    assert float(z.grad.abs().min()) > 0


def test_an_autoencoder_without_its_network_is_refused() -> None:
    with pytest.raises(ValueError, match="needs its network"):
        codec_of(latent_codec(2).fitted)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 7), min_size=2, max_size=3), st.integers(0, 9))
def test_a_patch_and_its_coordinates_are_of_the_same_place(sizes: list[int], seed: int) -> None:
    """An image that is its own coordinates is cut into a patch that is."""
    space = [9, 8, 7][: len(sizes)]
    x = coordinates(space, field(1)).expand(3, -1, *space)
    draws = torch.rand(3, len(space), generator=torch.Generator().manual_seed(seed))
    cut, where = patches(x, sizes, draws)
    assert torch.equal(cut, where)
    assert cut.shape == (3, len(space), *map(min, zip(sizes, space, strict=True)))


def test_patches_reach_both_ends() -> None:
    x = coordinates([10, 10], field(1))[None]
    for draw, low, high in ((0.0, -1.0, -7 / 9 + 2 / 9), (0.999, 5 / 9, 1.0)):
        cut, _ = patches(x, (3, 3), torch.full((1, 2), draw))
        assert float(cut.min()) == pytest.approx(low)
        assert float(cut.max()) == pytest.approx(high)
