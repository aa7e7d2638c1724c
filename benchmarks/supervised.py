"""How good are supervised networks of the same size, trained for the same minutes?

An unrolled network (MoDL) for one-coil MRI with a smooth random phase, and a U-Net for magnitude
noise, each trained for one degradation on the training slices of a folder with a manifest (columns
image and split) and judged on its test slices beside what zero-filling or the noisy image gives,
and, for MRI, on masks that it never saw. Brain slices are magnitudes: all of this is simulated.

    python benchmarks/supervised.py --data FOLDER --task mri --minutes 20 --out benchmarks/results
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image as PILImage
from record import Measured, write_result
from rich.progress import Progress
from safetensors.torch import save_file
from torch import Tensor, nn

from medidiff.evaluation.distortion import psnr
from medidiff.evaluation.regions import head_region
from medidiff.networks import NetworkShape, UNetOptions, build
from medidiff.networks.unrolled import UnrolledReconstruction
from medidiff.physics import FourierSampling, Sampling

CROP = (208, 176)
NOISE = 0.01  # of each part of k-space
RATES = {"R=4": Sampling("gaussian", 4, 0.08), "R=8": Sampling("gaussian", 8, 0.04)}
UNSEEN = {
    "R=4, equispaced": Sampling("equispaced", 4, 0.08),
    "R=6": Sampling("gaussian", 6, 0.06),
}
SIGMAS = (0.05, 0.1, 0.2)

Estimate = tuple[Tensor, Tensor]  # (what the given data show by themselves, what the network says)


@dataclass(frozen=True)
class Options:
    """What a training is: the network's levels, the batch and the learning rate."""

    channels: tuple[int, ...]
    batch: int
    rate: float
    minutes: float


def slices(folder: Path, split: str, limit: int) -> Tensor:
    """The middle of each slice of a split, in [0, 1]."""
    with (folder / "manifest.csv").open() as lines:
        names = [row["image"] for row in csv.DictReader(lines) if row["split"] == split][:limit]
    pictures = [np.asarray(PILImage.open(folder / name)) / 255 for name in names]
    cut = [
        slice((n - size) // 2, (n - size) // 2 + size)
        for n, size in zip(pictures[0].shape, CROP, strict=True)
    ]
    return torch.from_numpy(np.stack([each[tuple(cut)] for each in pictures]))[:, None].float()


def smooth_phase(count: int, generator: torch.Generator) -> Tensor:
    """A random phase of low order, (count, 1, *CROP)."""
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in CROP), indexing="ij")
    waves = (torch.ones_like(x), x, y, x * y, x**2 - y**2, (2 * x + y).sin(), (2 * y - x).cos())
    weights = 0.8 * torch.randn(count, len(waves), generator=generator)
    return torch.einsum("nk,khw->nhw", weights, torch.stack(waves))[:, None]


def sampled(clean: Tensor, sampling: Sampling, seed: int) -> tuple[FourierSampling, Tensor, Tensor]:
    """Another mask, phase and noise for each image: the operator, the k-space, the true image."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.stack([sampling.mask(CROP, seed + index) for index in range(len(clean))])
    operator = FourierSampling(masks[:, None].to(clean.device))
    image = torch.polar(clean, smooth_phase(len(clean), generator).to(clean.device))
    noise = torch.randn((*clean.shape, 2), generator=generator).to(clean.device)
    kspace = operator.forward(image) + NOISE * operator.measured(torch.view_as_complex(noise))
    return operator, kspace, image


def batches(clean: Tensor, options: Options) -> Iterator[tuple[Tensor, int]]:
    """Random training slices, some mirrored, with a seed of their own, until the time is over."""
    generator, seed, end = torch.Generator().manual_seed(0), 0, time.time() + 60 * options.minutes
    with Progress() as progress:
        bar = progress.add_task("training", total=60 * options.minutes)
        while time.time() < end or seed == 0:
            index = torch.randint(len(clean), (options.batch,), generator=generator)
            chosen = clean[index.to(clean.device)]
            seed += 1
            yield (chosen.flip(-1) if seed % 2 else chosen), seed * 1000
            progress.update(bar, completed=60 * options.minutes - (end - time.time()))


def fitted(
    network: nn.Module, loss: Callable[[Tensor, int], Tensor], clean: Tensor, options: Options
) -> int:
    """The network trained in place, by Adam with a rate that falls to 0; the number of steps."""
    optimiser = torch.optim.Adam(network.parameters(), lr=options.rate)
    begun, steps = time.time(), 0
    for chosen, seed in batches(clean, options):
        share = min(1.0, (time.time() - begun) / (60 * options.minutes))
        optimiser.param_groups[0]["lr"] = options.rate * (1 - share)
        optimiser.zero_grad(set_to_none=True)
        loss(chosen, seed).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        steps += 1
    return steps


def unet(options: Options, channels: Literal[1, 2]) -> nn.Module:
    """A U-Net of the prior's kind."""
    last = [False] * (len(options.channels) - 1)
    chosen = UNetOptions(channels=options.channels, attention=(*last, True))
    return build(chosen, NetworkShape(in_channels=channels, out_channels=channels), seed=0)


def mri(train: Tensor, test: Tensor, options: Options) -> tuple[nn.Module, list[Measured], int]:
    """The unrolled network, trained on both rates together."""
    network = UnrolledReconstruction(unet(options, 2)).to(train.device)  # type: ignore[arg-type]
    rates = list(RATES.values())

    def loss(clean: Tensor, seed: int) -> Tensor:
        operator, kspace, image = sampled(clean, rates[seed // 1000 // 2 % len(rates)], seed)
        return (network(operator, kspace) - image).abs().square().mean()

    steps, rows = fitted(network, loss, train, options), []
    for name, sampling in {**RATES, **UNSEEN}.items():

        def restored(clean: Tensor, sampling: Sampling = sampling) -> Estimate:
            operator, kspace, _ = sampled(clean, sampling, 10**9)
            return operator.adjoint(kspace).abs(), network(operator, kspace).abs()

        rows += judged(f"MRI, one coil, {name}", "zero-filled", restored, test)
    return network, rows, steps


def magnitudes(clean: Tensor, sigma: Tensor, seed: int) -> Tensor:
    """|clean + complex noise|."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn((2, *clean.shape), generator=generator).to(clean)
    return torch.hypot(clean + sigma * noise[0], sigma * noise[1])


def denoise(train: Tensor, test: Tensor, options: Options) -> tuple[nn.Module, list[Measured], int]:
    """The U-Net that is told the noise level, trained on levels from .02 to .3."""
    network = unet(options, 1).to(train.device)

    def restored(noisy: Tensor, sigma: Tensor) -> Tensor:
        return noisy + network(noisy, sigma.flatten().log() / 4)

    def loss(clean: Tensor, seed: int) -> Tensor:
        draw = torch.rand(len(clean), 1, 1, 1, generator=torch.Generator().manual_seed(seed + 1))
        sigma = (0.02 * 15**draw).to(clean)
        return ((restored(magnitudes(clean, sigma, seed), sigma) - clean) / sigma).square().mean()

    steps, rows = fitted(network, loss, train, options), []
    for level in SIGMAS:

        def at_level(clean: Tensor, level: float = level) -> Estimate:
            sigma = torch.full((len(clean), 1, 1, 1), level).to(clean)
            noisy = magnitudes(clean, sigma, 10**9)
            return noisy, restored(noisy, sigma)

        rows += judged(f"magnitude noise of {level}", "noisy", at_level, test)
    return network, rows, steps


def judged(
    what: str, given: str, restored: Callable[[Tensor], Estimate], test: Tensor
) -> list[Measured]:
    """Mean PSNR in-head and of the whole image, a few test slices at a time."""
    with torch.no_grad():
        parts = [restored(some) for some in test.split(8)]
    simple, ours = (torch.cat(each).cpu() for each in zip(*parts, strict=True))
    clean = test.cpu()
    rows = []
    for place, region in (("in-head", head_region(clean)), ("whole image", None)):
        values = [
            float(psnr(each, clean, data_range=1.0, region=region).mean())
            for each in (ours, simple)
        ]
        rows.append(
            Measured(f"PSNR {place}, {what}", values[0], "dB", "higher", {given: values[1]})
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--task", choices=("mri", "denoise"), required=True)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--channels", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=3e-4)
    parser.add_argument("--limit", type=int, default=10**6, help="slices of a split, at most")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--weights", type=Path, help="where the trained network is kept")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    options = Options(tuple(args.channels), args.batch, args.rate, args.minutes)
    train, test = (slices(args.data, split, args.limit).to(device) for split in ("train", "test"))
    network, rows, steps = (mri if args.task == "mri" else denoise)(train, test, options)
    for row in rows:
        print(f"{row.what}: {row.ours:.2f} {row.unit} {row.peers}")
    if args.weights:
        save_file(
            {name: each.contiguous() for name, each in network.state_dict().items()}, args.weights
        )
    if args.out:
        facts = {
            "parameters": sum(each.numel() for each in network.parameters()),
            "steps": steps,
            "minutes": args.minutes,
            "train": len(train),
            "test": len(test),
        }
        write_result(f"supervised_{args.task}", rows, facts=facts, folder=args.out)


if __name__ == "__main__":
    main()
