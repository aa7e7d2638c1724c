"""What do the codecs lose, what do their tiles change, and what does a 256^3 sample cost?

    python benchmarks/latent_codecs.py --lgg lgg/manifest.csv \
        --hippocampus hippocampus/manifest.csv --work WORK --out OUT

For each set: an autoencoder is trained for a given time (configs/lgg-autoencoder.yaml, for the
hippocampus with a small network), then its and the wavelet's reconstructions of the test subjects
are measured, and its tiles against the whole. Then a 256^3 volume is drawn from an untrained prior
of latents, tiled decode included: time and memory do not depend on the weights.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from record import ROOT, Measured, earlier_result, write_result
from torch import Tensor

from medidiff import api
from medidiff.config import load_config
from medidiff.data.datasets import CaseSet
from medidiff.data.intensity import FittedIntensity
from medidiff.data.manifest import read_manifest
from medidiff.data.options import Space
from medidiff.evaluation.distortion import psnr
from medidiff.evaluation.regions import head_region
from medidiff.model import Model
from medidiff.networks import (
    Autoencoder,
    AutoencoderOptions,
    FittedAutoencoder,
    LatentCodec,
    NetworkShape,
    Tiles,
    UNetOptions,
    WaveletCodec,
    build,
)
from medidiff.networks.codec import Standard, fit_wavelet
from medidiff.report.pictures import sheet
from medidiff.spec import ModelSpec

GIB = 2**30
TILES = Tiles(36, 8)  # of the large sample
WINDOW = 2.0  # width of the intensity window in model units


@dataclass(frozen=True)
class Scans:
    """A set and how its autoencoder is trained."""

    name: str
    seconds: float
    tiles: Tiles
    config: str
    changes: tuple[str, ...] = ()


LGG = Scans("lgg_flair", 110, Tiles(16, 4), "lgg-autoencoder.yaml")
HIPPOCAMPUS = Scans(
    "hippocampus",
    35,
    Tiles(12, 4),
    "hippocampus-3d.yaml",
    (
        "network={kind: autoencoder, channels: [32, 64], latent_channels: 4}",
        "diffusion={objective: {kind: autoencoder, adversary: {start: 500}}}",
        "train.batch=8",
        "train.sample_every=0",
        "train.validate_every=250",
        "train.validation_images=16",
        "train.ema={kind: exponential, decay: 0.995}",
    ),
)
TRIAL = ("train.steps=40", "train.log_every=10", "train.validate_every=40", "train.sample_every=0")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lgg", type=Path)
    parser.add_argument("--hippocampus", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--large", type=int, default=256)
    parser.add_argument("--seconds", type=float, help="of training, instead of each set's own")
    parser.add_argument("--change", action="append", default=[])
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    earlier = earlier_result("latent_codecs", args.out)  # of the sets not measured now
    rows, data = large_sample(args.large), {**earlier.get("facts", {}).get("data", {})}
    facts: dict[str, object] = {"data": data}

    def write() -> Path:
        return write_result("latent_codecs", rows, facts=facts, folder=args.out, earlier=earlier)

    write()
    for scans, manifest in ((LGG, args.lgg), (HIPPOCAMPUS, args.hippocampus)):
        if manifest is None:
            continue
        seconds = args.seconds or scans.seconds
        run, told = trained(scans, manifest, args.work, seconds, args.change)
        found, more = measured(scans, api.load(run), manifest, args.out)
        rows += found
        data[scans.name] = {**told, **more}
        print(write())


def trained(
    scans: Scans, manifest: Path, work: Path, seconds: float, changes: Sequence[str]
) -> tuple[Path, dict[str, object]]:
    """A run of about so many seconds: a short one first tells how long a step takes."""
    given = [f"data.manifest={manifest.resolve()}", *scans.changes, *changes]

    def train(name: str, *more: str) -> tuple[Path, float]:
        began = time.perf_counter()
        run = work / f"{scans.name}-{name}"
        api.train(ROOT / "configs" / scans.config, changes=[*given, f"output={run}", *more])
        return run, time.perf_counter() - began

    trial, took = train("trial", *TRIAL)
    a_step = seconds_of_a_step(trial)
    beside = max(0.0, took - 40 * a_step)  # reading scans, preparing kernels, validating
    steps = max(60, int((seconds - beside) / a_step))
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    run, took = train("run", f"train.steps={steps}")
    print(f"{scans.name}: {steps} steps in {took:.0f} s")
    peak = torch.cuda.max_memory_allocated() / GIB if torch.cuda.is_available() else None
    return run, {
        "steps": steps,
        "seconds_of_a_step": a_step,
        "seconds": took,
        "training_peak_gib": peak,
    }


def seconds_of_a_step(run: Path) -> float:
    """By the images a second of a run's last report."""
    events = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
    rates = [event.get("metrics", {}).get("images_per_second") for event in events]
    return load_config(run / "config.yaml").config.train.batch / [r for r in rates if r][-1]


def measured(
    scans: Scans, model: Model, manifest: Path, out: Path
) -> tuple[list[Measured], dict[str, object]]:
    """Reconstructions of the test subjects by wavelet and autoencoder, and the seams of tiles."""
    assert isinstance(model.network, Autoencoder)
    rows = read_manifest(manifest).split("test")
    cases = list(CaseSet(rows, model.spec.images, model.spec.space, model.spec.intensity))
    images = [case.images[None].to(model.device) for case in cases]
    wavelet = fit_wavelet(WaveletCodec(), iter(images), 1, 3)
    count = model.network.options.latent_channels
    fitted = FittedAutoencoder(
        model.network.options,
        model.network.shape,
        Standard((0.0,) * count, (1.0,) * count),
        model.digest,
        scans.tiles,
    )
    codec = LatentCodec(fitted, model.network)
    space = model.spec.space.size
    exact = max(float((wavelet.decode(wavelet.encode(x), space) - x).abs().max()) for x in images)
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "whole": lambda x: codec.decode(codec.encode(x, whole=True), space, whole=True),
        "by tiles": lambda x: codec.decode(codec.encode(x), space),
    }
    found: list[Measured] = [
        Measured(f"{scans.name}: wavelet, largest error (window 2)", exact, "", "lower")
    ]
    facts: dict[str, object] = {"test_images": len(cases)}
    made: list[Tensor] = []
    with torch.no_grad():
        for name, way in ways.items():
            again = [way(x) for x in images]
            made = again if name == "whole" else made
            in_head = by_subject(
                [c.subject for c in cases],
                [psnr_of(y, x, head_region(x)) for x, y in zip(images, again, strict=True)],
            )
            everywhere = [psnr_of(y, x, None) for x, y in zip(images, again, strict=True)]
            facts[f"psnr_head_by_subject, {name}"] = in_head
            found += [
                Measured(
                    f"{scans.name}: autoencoder {name}, PSNR in the head, mean over subjects",
                    statistics.mean(in_head),
                    "dB",
                    "higher",
                ),
                Measured(
                    f"{scans.name}: autoencoder {name}, PSNR of the whole grid",
                    statistics.mean(everywhere),
                    "dB",
                    "higher",
                ),
            ]
    seams = [codec.seams(x) for x in images[:8]]
    for name in ("latents_rms", "latents_largest", "image_rms", "image_largest"):
        worst = max(getattr(each, name) for each in seams)
        found.append(Measured(f"{scans.name}: seams, {name}, worst of 8", worst, "", "lower"))
    exactly = model.network.float()
    slow = LatentCodec(fitted, exactly, fused=False)
    with torch.no_grad():
        plainly = slow.decode(slow.encode(images[0], whole=True), space, whole=True)
        facts["psnr_of_bf16_against_fp32_reconstruction"] = psnr_of(made[0], plainly, None)
    facts["tiles"] = {"size": scans.tiles.size, "overlap": scans.tiles.overlap}
    facts["voxels_a_latent"] = model.network.options.reduction**3
    sheet(
        torch.cat([torch.cat([x, y]) for x, y in zip(images[:3], made[:3], strict=True)]).cpu(),
        out / f"latent_codecs_{scans.name}.png",
        window=(-1, 1),
        affine=model.spec.space.known_affine(),
        title=f"{scans.name}: test scans and their reconstructions",
    )
    return found, facts


def psnr_of(estimate: Tensor, clean: Tensor, region: Tensor | None) -> float:
    return float(psnr(estimate, clean, data_range=WINDOW, region=region)[0])


def by_subject(subjects: Sequence[str], values: Sequence[float]) -> list[float]:
    """The mean of each subject, without its name."""
    return [
        statistics.mean(v for s, v in zip(subjects, values, strict=True) if s == subject)
        for subject in dict.fromkeys(subjects)
    ]


def large_sample(size: int) -> list[Measured]:
    """Time and memory of a sample of size^3 from latents with its decoding, and of the codec."""
    model = untrained(size)
    cuda = model.device.type == "cuda"
    assert isinstance(model.codec, LatentCodec)
    z = torch.randn(1, 4, *[size // 4] * 3, device=model.device)
    x = torch.randn(1, 1, *[size] * 3, device=model.device)
    codec, space = model.codec, model.spec.space.size
    tiles = Tiles(TILES.size, TILES.overlap, "tile")
    apart = LatentCodec(replace(codec.fitted, tiles=tiles), codec.network)
    works: dict[str, Callable[[], object]] = {
        "sample, 20 steps and decoding by tiles": lambda: model.sample(1, steps=20, seed=0),
        "decoding by tiles": lambda: codec.decode(z, space),
        "decoding by tiles, each with its own statistics": lambda: apart.decode(z, space),
        "decoding whole": lambda: codec.decode(z, space, whole=True),
        "encoding by tiles": lambda: codec.encode(x),
        "encoding whole": lambda: codec.encode(x, whole=True),
    }
    rows: list[Measured] = []
    for name, work in works.items():
        with torch.no_grad():
            work()  # warm
            if cuda:
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            times = [timed(work, cuda) for _ in range(3)]
        goals = (5.0, 12.0) if name.startswith("sample") and size == 256 else (None, None)
        what = f"{size}^3 {name}"
        rows.append(Measured(what, statistics.median(times), "s", "lower", goal=goals[0]))
        if cuda:
            peak = torch.cuda.max_memory_allocated() / GIB
            rows.append(Measured(f"{what}, peak memory", peak, "GiB", "lower", goal=goals[1]))
        print(rows[-1], flush=True)
    return rows


def timed(work: Callable[[], object], cuda: bool) -> float:
    began = time.perf_counter()
    work()
    if cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - began


def untrained(size: int) -> Model:
    """A prior of 4 latents for 4^3 voxels, all its weights random, as `Model.load` readies it."""
    options = AutoencoderOptions(channels=(32, 64, 128), latent_channels=4)
    network = UNetOptions(channels=(64, 128, 256), attention=(False, False, True))
    images, latents = NetworkShape(3), NetworkShape(3, 4, 4)
    standard = Standard((0.0,) * 4, (1.0,) * 4)
    codec = FittedAutoencoder(options, images, standard, "untrained", TILES)
    spec = ModelSpec(
        "untrained",
        "MR",
        ("image",),
        Space(3, (size,) * 3),
        FittedIntensity((0.0,), (1.0,), "train", None, (-1.0, 1.0)),
        network,
        latents,
        codec=codec,
    )
    spec = replace(spec, sampling=replace(spec.sampling, clip="none"))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    prior, autoencoder = build(network, latents), build(options, images)
    for each in (prior, autoencoder):
        each.eval().requires_grad_(False)
        for weight in each.parameters():  # a zero layer would be no work
            weight.add_(0.02 * torch.randn(weight.shape))
        each.to(device=device, dtype=dtype)
    return Model(spec, prior, autoencoder=autoencoder)


if __name__ == "__main__":
    main()
