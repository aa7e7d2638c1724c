"""The fused kernels against their plain twin, on a GPU or, here, in Triton's interpreter."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from contextlib import nullcontext
from itertools import product
from pathlib import Path
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
HERE = INTERPRETED or torch.cuda.is_available()
HALF = torch.float16 if INTERPRETED else torch.bfloat16  # the interpreter multiplies no bfloat16
CASES = range(8 if INTERPRETED else 24)
# The interpreter takes 20 ms for each group of each image. Many of both are seen by the norm alone
# and by the readers; the networks show that each layer is given what is its own, and call each
# variant of a kernel, those that double or halve a grid (adm in 3-D, the autoencoder in 2-D) on two
# images.
IMAGES, GROUPS, MOST_GROUPS = (1, 1, 12) if INTERPRETED else (2, 4, 10**6)
STYLES, KINDS = ("adm", "monai", "adm, recomputing", "ncsn++"), ("scale-shift", "film", "head")
NETWORKS, READERS = list(product((2, 3), STYLES)), list(product((2, 3), KINDS))
if INTERPRETED:
    NETWORKS = [(3, "adm"), (2, "monai"), (2, "adm, recomputing"), (3, "ncsn++")]
    READERS = [(2, "scale-shift"), (3, "film"), (2, "head")]
DEVICE = "cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu"

pytest.importorskip("triton")
where_kernels_run = pytest.mark.skipif(not HERE, reason="needs a GPU or Triton's interpreter")


@pytest.mark.slow
@pytest.mark.skipif(HERE, reason="the cases below run themselves")
def test_the_cases_below_pass_in_the_interpreter() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(Path(__file__))],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


def shape_of(case: int) -> tuple[list[int], list[int], int]:
    """Channels of the one or two parts, the grid, and a group count that divides the channels."""
    rng = random.Random(case)
    dims = rng.choice([2, 3])
    space = [rng.randint(1, 13 - 3 * dims) for _ in range(dims)]
    channels = [rng.choice([1, 3, 8, 17, 32, 130, 512]) for _ in range(rng.choice([1, 2]))]
    total = sum(channels)
    groups = rng.choice(
        [each for each in range(1, min(total, MOST_GROUPS) + 1) if total % each == 0]
    )
    if total // groups * torch.Size(space).numel() == 1:  # one number has no spread to divide by
        groups = 1
    return channels, [max(2, each) for each in space], groups


def plain_norm(
    parts: list[Tensor],
    offsets: list[Tensor],
    weight: Tensor,
    bias: Tensor,
    modulation: Tensor | None,
    groups: int,
    act: bool,
) -> Tensor:
    def spread(vector: Tensor) -> Tensor:
        return vector.reshape(len(vector), -1, *[1] * (parts[0].ndim - 2))

    x = torch.cat([x + spread(offset) for x, offset in zip(parts, offsets, strict=True)], 1)
    y = F.group_norm(x, groups, weight, bias, 1e-5)
    if modulation is not None:
        scale, shift = spread(modulation).chunk(2, 1)
        y = y * (1 + scale) + shift
    return F.silu(y) if act else y


@where_kernels_run
@pytest.mark.parametrize("case", CASES)
def test_the_fused_norm_and_its_gradients_are_the_plain_ones_in_float64(case: int) -> None:
    from medidiff.networks.kernels import norm as fused

    channels, space, groups = shape_of(case)
    batch, total, act = 1 + case % 3, sum(channels), case % 4 != 0
    generator = torch.Generator().manual_seed(case)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(DEVICE)

    last = torch.channels_last if len(space) == 2 else torch.channels_last_3d
    parts = [
        (draw(batch, each, *space) * 2 + 5).contiguous(memory_format=last) for each in channels
    ]
    offsets = [draw(1 if case % 2 else batch, each) for each in channels]
    weight, bias = draw(total), draw(total)
    modulation = draw(batch, 2 * total) if case % 3 else None
    inputs = [each for each in (*parts, *offsets, weight, bias, modulation) if each is not None]
    for each in inputs:
        each.requires_grad_()

    read = [
        fused.Part(x.detach(), offset.detach(), fused.moments_of(x.detach()))
        for x, offset in zip(parts, offsets, strict=True)
    ]
    folded = fused.fold(
        read, weight.detach(), bias.detach(), None if modulation is None else modulation.detach(),
        groups, 1e-5,
    )  # fmt: skip
    second = (parts[1], offsets[1]) if len(parts) == 2 else (None, None)
    ours, *_ = fused.NormAct.apply(
        parts[0], offsets[0], *second, weight, bias, modulation, (groups, act, folded, read)
    )
    theirs = plain_norm(parts, offsets, weight, bias, modulation, groups, act)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12 * float(theirs.abs().max()) + 1e-12)
    toward = draw(*theirs.shape)
    mine = torch.autograd.grad(ours, inputs, toward)
    other = torch.autograd.grad(theirs, inputs, toward)
    for one, two in zip(mine, other, strict=True):
        bound = 1e-10 * (1 + float(two.abs().max()))
        torch.testing.assert_close(one, two, rtol=0, atol=bound)


@where_kernels_run
@pytest.mark.parametrize(("dims", "style"), NETWORKS)
def test_the_fused_network_and_its_gradients_are_the_plain_ones(dims: int, style: str) -> None:
    from medidiff.networks import NetworkShape, UNetOptions, build
    from medidiff.networks.kernels import plain, usable

    monai = {"modulation": "shift", "resampling": "convolution", "middle_attention": "always"}
    ncsn = {"taps": "fir", "progressive_input": "residual"}
    options = UNetOptions(
        channels=(8, 12), attention=(False, style == "adm"), blocks=1, groups=GROUPS,
        checkpoint_levels=(True, True) if style.endswith("recomputing") else (),
        **(monai if style == "monai" else ncsn if style == "ncsn++" else {}),
    )  # fmt: skip
    network = build(options, NetworkShape(dims=dims, in_channels=2, out_channels=2)).double()  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(1)
    for weight in network.parameters():
        weight.data = torch.randn(weight.shape, generator=generator, dtype=torch.float64) * 0.2
    network = network.to(DEVICE)
    space = (7, 10) if dims == 2 else (4, 5, 6)
    images = 2 if style == "adm" else IMAGES
    x = torch.randn(images, 2, *space, generator=generator, dtype=torch.float64).to(DEVICE)
    x.requires_grad_()
    label = torch.tensor([3.0, 700.0], dtype=torch.float64, device=DEVICE)[-images:]
    assert usable(x)
    inputs = [x, *network.parameters()]
    fused = network(x, label)
    toward = torch.randn(fused.shape, generator=generator, dtype=torch.float64).to(DEVICE)
    mine = torch.autograd.grad(fused, inputs, toward)
    with plain():
        slow = network(x, label)
        other = torch.autograd.grad(slow, inputs, toward)
    if not style.endswith("recomputing"):  # without a gradient nothing is computed again
        with torch.no_grad():
            torch.testing.assert_close(network(x, label), slow, rtol=0, atol=1e-11)
    torch.testing.assert_close(fused, slow, rtol=0, atol=1e-11)
    for one, two in zip(mine, other, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-10 * (1 + float(two.abs().max())))


@where_kernels_run
@pytest.mark.parametrize(("dims", "kind"), READERS)
def test_fused_readers_and_heads_and_their_gradients_are_the_plain_ones(
    dims: int, kind: str
) -> None:
    from medidiff.networks import (
        EncoderOptions,
        HeadedNetwork,
        NetworkShape,
        UNetOptions,
        build,
        build_head,
    )
    from medidiff.networks.kernels import plain, usable

    shape = NetworkShape(dims=dims, out_channels=1)  # type: ignore[arg-type]
    few = {
        "channels": (8, 12),
        "attention": (False, True),
        "blocks": 1,
        "groups": 2 if INTERPRETED else 4,
    }
    if kind == "head":
        trunk = build(UNetOptions(**few), shape)  # type: ignore[arg-type]
        network: torch.nn.Module = HeadedNetwork(trunk, build_head(trunk, "complex"))
    else:
        network = build(EncoderOptions(modulation=kind, **few), shape)  # type: ignore[arg-type]
    network = network.double()
    generator = torch.Generator().manual_seed(1)
    for weight in network.parameters():
        weight.data = torch.randn(weight.shape, generator=generator, dtype=torch.float64) * 0.2
    network = network.to(DEVICE)
    images = 2 if kind == "scale-shift" else IMAGES
    space = (7, 10, 6)[:dims]
    x = torch.randn(images, 1, *space, generator=generator, dtype=torch.float64).to(DEVICE)
    label = torch.tensor([3.0, 700.0], dtype=torch.float64, device=DEVICE)[-images:]
    assert usable(x)
    # a classifier's weights are frozen and its image is not; a head's weights learn
    learns = [each for each in network.parameters() if each.requires_grad]
    if kind != "head":
        network.requires_grad_(False)
        learns = [x.requires_grad_()]
    found = []
    for way in (nullcontext(), plain()):
        with way:
            y = network(x, label)
            toward = torch.linspace(-1, 1, y.numel(), dtype=y.dtype, device=y.device).view_as(y)
            found.append([y, *torch.autograd.grad(y, learns, toward)])
    for one, two in zip(*found, strict=True):
        most = 1 + float(two.detach().abs().max())
        torch.testing.assert_close(one, two, rtol=0, atol=1e-10 * most)


@where_kernels_run
@pytest.mark.parametrize("case", range(4))
def test_a_pointwise_layer_of_two_parts_is_added_with_its_moments(case: int) -> None:
    from medidiff.networks.kernels import norm as fused

    channels, space, _ = shape_of(case)
    widths, batch, outputs = (channels * 2)[:2], 1 + case % 2, 8 + 24 * case
    generator = torch.Generator().manual_seed(case)
    last = torch.channels_last if len(space) == 2 else torch.channels_last_3d

    def field(width: int) -> Tensor:
        drawn = torch.randn(batch, width, *space, generator=generator)
        return drawn.to(DEVICE, HALF).contiguous(memory_format=last)

    onto, a, b = field(outputs), field(widths[0]), field(widths[1])
    weight = torch.randn(outputs, sum(widths), generator=generator).to(DEVICE, HALF)
    x = torch.cat([a, b], 1).double().movedim(1, -1)
    expected = onto.double() + (x @ weight.double().t()).movedim(-1, 1)
    moments = fused.add_product(onto, a, b, weight)
    bound = 1e-2 * float(expected.abs().max())
    torch.testing.assert_close(onto.double(), expected, rtol=0, atol=bound)
    again = fused.moments_of(onto)
    torch.testing.assert_close(moments.mean, again.mean, rtol=1e-4, atol=1e-4)
    spread = float(again.square.max())
    torch.testing.assert_close(moments.square, again.square, rtol=1e-4, atol=1e-4 * spread)


@where_kernels_run
@pytest.mark.parametrize(
    ("style", "dims"),
    [("adm", 2), ("monai", 3)]
    + ([] if INTERPRETED else [("monai", 2), ("adm", 3), ("ncsn++", 2), ("ncsn++", 3)]),
)
def test_without_a_gradient_half_precision_gives_the_plain_network(style: str, dims: int) -> None:
    from medidiff.networks import NetworkShape, UNetOptions, build
    from medidiff.networks.kernels import plain

    monai = {"modulation": "shift", "resampling": "convolution", "middle_attention": "always"}
    ncsn = {"taps": "fir", "progressive_input": "residual"}
    options = UNetOptions(
        channels=(16, 24), attention=(False, style == "adm"), blocks=1, groups=GROUPS,
        **(monai if style == "monai" else ncsn if style == "ncsn++" else {}),
    )  # fmt: skip
    network = build(options, NetworkShape(dims=2 if dims == 2 else 3, out_channels=2))
    generator = torch.Generator().manual_seed(1)
    for weight in network.parameters():
        weight.data = (torch.randn(weight.shape, generator=generator) * 0.1).to(HALF)
    network = network.to(DEVICE)
    x = torch.randn(IMAGES, 1, *[12 - 3 * dims] * dims, generator=generator).to(DEVICE, HALF)
    label = torch.tensor([3.0, 700.0], device=DEVICE)[-IMAGES:]
    with torch.no_grad():
        half = network(x, label)
        with plain():
            exact = network.double()(x.double(), label.double())
    assert half.shape == exact.shape
    assert (half.double() - exact).norm() < 1e-2 * exact.norm()


@where_kernels_run
@pytest.mark.parametrize("case", range(6))
def test_thin_layers_are_their_convolutions(case: int) -> None:
    from medidiff.networks.kernels import norm as fused
    from medidiff.networks.kernels import thin

    dims, few, many, batch = (2, 3)[case % 2], 1 + case // 3, (8, 130, 64)[case % 3], 1 + case % 2
    space = (5, 9) if dims == 2 else (3, 6, 4)
    convolution = F.conv2d if dims == 2 else F.conv3d
    last = torch.channels_last if dims == 2 else torch.channels_last_3d
    generator = torch.Generator().manual_seed(case)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(DEVICE, HALF)

    x, weight = draw(batch, few, *space), draw(many, few, *[3] * dims)
    assert thin.is_thin(few, weight)
    wide, moments = thin.widen(x, weight)
    expected = convolution(x.double(), weight.double(), padding=1)
    bound = 1e-2 if DEVICE == "cuda" else 2e-3
    assert wide.is_contiguous(memory_format=last)
    assert (wide.double() - expected).abs().max() < bound * expected.abs().max()
    again = fused.moments_of(wide)
    torch.testing.assert_close(moments.mean, again.mean, rtol=1e-4, atol=1e-4)
    spread = float(again.square.max())
    torch.testing.assert_close(moments.square, again.square, rtol=1e-4, atol=1e-4 * spread)

    back, bias = draw(few, many, *[3] * dims), draw(few)
    known = torch.randn(2, batch, many, generator=generator).to(DEVICE)
    folded = fused.Folded(known[0], known[1], known, known)
    ours = thin.narrow(wide, folded, back, bias)
    gain, add = (each.double().reshape(batch, many, *[1] * dims) for each in known)
    activated = F.silu(gain * wide.double() + add)
    expected = convolution(activated, back.double(), bias.double(), padding=1)
    assert (ours.double() - expected).abs().max() < bound * expected.abs().max()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_replayed_graph_gives_what_the_call_gives() -> None:
    from medidiff.networks import NetworkShape, UNetOptions, build
    from medidiff.networks.graphs import Graphed

    options = UNetOptions(channels=(32, 64), attention=(False, True), blocks=1)
    network = build(options, NetworkShape()).cuda()
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    x, label = torch.randn(2, 1, 24, 24, device="cuda"), torch.tensor([3.0, 700.0], device="cuda")
    graphed = Graphed(network).eval()
    with torch.no_grad():
        graphed(x, label)
        x = x * 2
        torch.testing.assert_close(graphed(x, label), network(x, label))
    graphed.train()
    gradients = []
    for call in (graphed, graphed, network):
        network.zero_grad()
        y = call(x, label)
        y.square().sum().backward()
        gradients.append([weight.grad.clone() for weight in network.parameters()])  # type: ignore[union-attr]
    # a bias before a norm of single channels has no gradient, only the rounding of the others
    rounding = 1e-6 * max(float(two.abs().max()) for two in gradients[2])
    for index in (0, 1):
        for one, two in zip(gradients[index], gradients[2], strict=True):
            own = 1e-3 * float(two.abs().max())
            torch.testing.assert_close(one, two, rtol=1e-3, atol=own + rounding)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_weights_that_were_moved_and_two_calls_before_the_way_back_are_not_replayed_wrongly() -> (
    None
):
    from medidiff.networks import NetworkShape, UNetOptions, build
    from medidiff.networks.graphs import Graphed

    network = build(UNetOptions(channels=(32,), attention=(False,), blocks=1), NetworkShape())
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    network = network.cuda()
    x, label = torch.randn(2, 1, 16, 16, device="cuda"), torch.tensor([3.0, 700.0], device="cuda")
    graphed = Graphed(network).eval()
    with torch.no_grad():
        graphed(x, label)
        network.cpu().cuda()
        for weight in network.parameters():
            weight.mul_(1.5)
        torch.testing.assert_close(graphed(x, label), network(x, label))
    graphed.train()
    gradients = []
    for call in (graphed, network):
        network.zero_grad()
        (call(x, label).square().sum() + call(2 * x, label).sum()).backward()
        gradients.append([weight.grad.clone() for weight in network.parameters()])  # type: ignore[union-attr]
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-3 * float(two.abs().max()))


@where_kernels_run
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [1, 2, 7, 4099])
def test_noise_by_the_kernel_is_that_of_torch_bit_by_bit(count: int, dtype: torch.dtype) -> None:
    from medidiff.diffusion import KeyedNoise
    from medidiff.networks.kernels import plain

    noise = KeyedNoise(7, [("a", 0), ("b", 3), ("", 2**40)])
    like = torch.empty(3, 1, count, 1, dtype=dtype, device=DEVICE)
    ours = noise(like, 4)
    with plain():
        assert torch.equal(ours, noise(like, 4))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_noise_on_a_gpu_is_the_noise_of_a_cpu() -> None:
    from medidiff.diffusion import KeyedNoise

    noise = KeyedNoise(7, [("a", 0), ("b", 3)])
    like = torch.empty(2, 1, 33, 17, dtype=torch.float64)
    torch.testing.assert_close(noise(like.cuda(), 4).cpu(), noise(like, 4), rtol=0, atol=1e-12)


@where_kernels_run
@pytest.mark.parametrize("dims", [2, 3])
def test_an_autoencoder_and_its_gradients_are_those_of_the_plain_way(dims: Literal[2, 3]) -> None:
    from medidiff.networks import AutoencoderOptions, NetworkShape, build
    from medidiff.networks.kernels import plain

    options = AutoencoderOptions(
        channels=(8, 16), blocks=1, latent_channels=2, groups=GROUPS, middle="both"
    )
    network = build(options, NetworkShape(dims, 1, 1))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    network.to(DEVICE)
    x = torch.randn(2 if dims == 2 else IMAGES, 1, *[5] * dims, generator=generator).to(DEVICE)

    def run() -> list[Tensor]:
        network.zero_grad()
        found = network(x)
        (found.image.abs().mean() + found.posterior.divergence().mean()).backward()
        grads = [weight.grad.clone() for weight in network.parameters() if weight.grad is not None]
        return [found.image.detach(), *grads]

    fused = run()
    with plain():
        expected = run()
    assert len(fused) == len(expected) > 40
    for one, other in zip(fused, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4 * float(other.abs().max()) + 1e-7)


class Told(torch.nn.Module):
    """Norms of one and of two fields, between thin layers, told of a number."""

    def __init__(self, dims: int) -> None:
        from medidiff.networks.blocks import make_conv

        super().__init__()
        few: Literal[2, 3] = 2 if dims == 2 else 3
        self.first, self.second = make_conv(few, 1, 6), make_conv(few, 6, 12)
        self.third, self.last = make_conv(few, 18, 6), make_conv(few, 6, 1)
        self.norms = torch.nn.ModuleList(
            torch.nn.GroupNorm(groups, channels) for groups, channels in ((3, 6), (2, 18), (1, 6))
        )

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        from medidiff.networks.fields import convolve, norm_silu_convolve, norm_silu_project

        one, two, three = self.norms
        h = convolve(x, self.first)
        wide = norm_silu_convolve([h], one, self.second).shifted(told[:, :12])  # type: ignore[arg-type]
        y = norm_silu_convolve([wide, h], two, self.third, told)  # type: ignore[arg-type]
        return norm_silu_project(y, three, self.last)  # type: ignore[arg-type]


@where_kernels_run
@pytest.mark.parametrize("dims", [2, 3])
def test_norms_of_all_tiles_and_their_gradients_are_those_of_the_plain_way(dims: int) -> None:
    from medidiff.networks import Tiles
    from medidiff.networks.kernels import plain
    from medidiff.networks.tiling import tiled

    generator = torch.Generator().manual_seed(dims)
    network = Told(dims).to(DEVICE, torch.float64)
    for weight in network.parameters():
        weight.data = 0.5 * torch.randn(weight.shape, generator=generator).to(weight)
    space = (3, 8) if dims == 2 else (2, 3, 8)
    x = 3 + torch.randn(2, 1, *space, generator=generator).to(DEVICE, torch.float64)
    told = torch.randn(2, 36, generator=generator).to(x).requires_grad_()
    x.requires_grad_()

    def run(dtype: torch.dtype) -> Tensor:
        return tiled(
            lambda part: network.to(dtype)(part, told.to(dtype)), x.to(dtype), Tiles(5, 2),
            units=(1, 1),
        )  # fmt: skip

    inputs = [x, told, *network.parameters()]
    found = []
    for way in (nullcontext(), plain()):
        with way:
            y = run(torch.float64)
            found.append([y, *torch.autograd.grad(y.square().sum(), inputs)])
    for one, two in zip(*found, strict=True):
        most = 1 + float(two.detach().abs().max())
        torch.testing.assert_close(one, two, rtol=0, atol=1e-10 * most)
    with torch.no_grad():
        half = run(HALF)
    exact = found[1][0]
    assert (half - exact).norm() < 4 * torch.finfo(HALF).eps * exact.norm()
