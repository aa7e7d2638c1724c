"""How far is a result by tiles from that of the whole, and can its seams be seen?

    python benchmarks/seams.py [--images 2] [--steps 10]

Gaussian: the exact denoiser of a stationary Gaussian field (a Wiener filter, which sees as far as
the field is correlated), whole and by tiles: by ours, by MultiDiffusion's plain average and by
MONAI's SlidingWindowInferer (constant, gaussian), with the same tiles' size and overlap.
Network: the shipped prior brain-t1-2d denoises images of its own with noise added, and draws them,
whole and by tiles of 96 x 96. Told: the rms difference to the whole (the window is 2 wide), and how
much steeper the difference is across the tiles' edges than elsewhere (1: no seam).
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from record import Measured, write_result
from torch import Tensor

from medidiff.diffusion import KeyedNoise
from medidiff.networks.reach import windows
from medidiff.networks.tiling import Tiles, Window, tiled

SIDE, TILE, CORRELATION, NOISE = 240, 64, 4.0, 0.5
BORDER = 24
SHARES = (0.125, 0.25, 0.5)
Call = Callable[[Tensor], Tensor]


def wiener(x: Tensor) -> Tensor:
    """E[clean | x] of a field with exp(-|k|^2 l^2 / 2) for a spectrum, unit variance, noise of
    standard deviation NOISE; periodic over whatever it is given, as a network is over its tile."""
    k = [torch.fft.fftfreq(n, dtype=x.dtype) * 2 * torch.pi for n in x.shape[2:]]
    squared = k[0][:, None] ** 2 + k[1][None] ** 2
    power = 2 * torch.pi * CORRELATION**2 * torch.exp(-squared * CORRELATION**2 / 2)
    return torch.fft.ifft2(torch.fft.fft2(x) * power / (power + NOISE**2)).real


def gaussian_field(seed: int) -> Tensor:
    """A draw of that field, with noise."""
    noise = KeyedNoise(seed, [("field", 0)])
    like = torch.zeros(1, 1, SIDE, SIDE, dtype=torch.float64)
    k = torch.fft.fftfreq(SIDE, dtype=like.dtype) * 2 * torch.pi
    squared = k[:, None] ** 2 + k[None] ** 2
    power = 2 * torch.pi * CORRELATION**2 * torch.exp(-squared * CORRELATION**2 / 2)
    clean = torch.fft.ifft2(torch.fft.fft2(noise(like, 0)) * power.sqrt()).real
    return clean + NOISE * noise(like, 1)


def averaged(tiles: Tiles, length: int, unit: int, like: Tensor) -> list[Tensor]:
    """The plain average where tiles overlap (Bar-Tal et al. 2023, arXiv:2302.08113)."""
    total = torch.zeros(length * unit, dtype=torch.float64)
    size = min(tiles.size, length) * unit
    for start in tiles.starts(length):
        total[start * unit : start * unit + size] += 1
    return [(1 / total[s * unit : s * unit + size]).to(like) for s in tiles.starts(length)]


def by_ours(call: Call, tiles: Tiles, window: Window) -> Call:
    return lambda x: tiled(call, x, tiles, units=(1, 1), window=window)


def by_monai(call: Call, tiles: Tiles, mode: str) -> Call:
    from monai.inferers.inferer import SlidingWindowInferer

    share = tiles.overlap / tiles.size
    infer = SlidingWindowInferer((tiles.size,) * 2, sw_batch_size=1, overlap=share, mode=mode)
    return lambda x: infer(x, call)  # pyright: ignore[reportReturnType]


def rms(difference: Tensor) -> float:
    return float(difference.square().mean().sqrt())


def seam(difference: Tensor, tiles: Tiles) -> float:
    """Mean slope of the difference across the edges of tiles over its mean slope elsewhere."""
    across, elsewhere = [], []
    for axis in (2, 3):
        length = difference.shape[axis]
        starts = tiles.starts(length)
        edges = {s - 1 for s in starts if s} | {s + tiles.size - 1 for s in starts[:-1]}
        slope = difference.diff(dim=axis).abs()
        for place in range(length - 1):
            (across if place in edges else elsewhere).append(
                float(slope.select(axis, place).mean())
            )
    return (sum(across) / len(across)) / (sum(elsewhere) / len(elsewhere))


def of_gaussian(seeds: int = 4) -> list[Measured]:
    """The closed form, by overlap."""
    rows: list[Measured] = []
    for share in SHARES:
        tiles = Tiles(TILE, round(TILE * share))
        ways: dict[str, Call] = {
            "ours": by_ours(wiener, tiles, windows),
            "MultiDiffusion's average": by_ours(wiener, tiles, averaged),
            "MONAI sliding window, constant": by_monai(wiener, tiles, "constant"),
            "MONAI sliding window, gaussian": by_monai(wiener, tiles, "gaussian"),
        }
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for seed in range(seeds):
            x = gaussian_field(seed)
            whole = wiener(x)
            for name, way in ways.items():
                apart = way(x) - whole
                inner = apart[..., BORDER:-BORDER, BORDER:-BORDER]  # the whole is periodic, too
                found[name].append((rms(inner), seam(apart, tiles)))
        for index, what in enumerate(("rms to the whole", "slope at tiles' edges")):
            means = {name: sum(v[index] for v in pairs) / seeds for name, pairs in found.items()}
            ours = means.pop("ours")
            rows.append(
                Measured(
                    f"Gaussian, overlap {share:g}: {what}",
                    ours,
                    "ratio" if index else "standard deviations",
                    "lower",
                    means if index == 0 else {n: v for n, v in means.items() if "MONAI" not in n},
                )
            )
    return rows


def of_network(images: int, steps: int) -> list[Measured]:
    """The shipped prior: one call to denoise, and whole walks."""
    import medidiff

    model = medidiff.load("brain-t1-2d", "cpu")
    drawn = model.sample(images, steps=steps, seed=0)
    clean = model.spec.intensity.typical.normalise(drawn.images)
    rows: list[Measured] = []
    for share in SHARES[1:]:
        parts = model.tiled(96, share)
        tiles = parts.reach.tiles
        assert tiles is not None
        for sigma in (0.1, 0.4):
            schedule = model.spec.schedule
            level = schedule(schedule.time_of(-torch.tensor(sigma, dtype=torch.float64).log()))
            noise = KeyedNoise(1, [("", index) for index in range(images)])
            given = clean + sigma * noise(clean, 0)
            x = given * level.alpha.to(given)
            with torch.no_grad():
                whole, cut = (each.denoiser()(x, level).clean for each in (model, parts))
            rows += [
                Measured(
                    f"network, noise {sigma / 2:g}, overlap {share:g}: {what}", value, unit, "lower"
                )
                for what, value, unit in (
                    ("rms to the whole", rms(cut - whole), "model units"),
                    ("error to the truth over the whole's", rms(cut - clean) / rms(whole - clean),
                     "ratio"),
                    ("slope at tiles' edges", seam(cut - whole, tiles), "ratio"),
                )
            ]  # fmt: skip
        made = parts.sample(images, steps=steps, seed=0)
        apart = (made.images - drawn.images) / drawn.images.std()
        rows.append(
            Measured(
                f"network, samples, overlap {share:g}: slope at tiles' edges",
                seam(apart, tiles),
                "ratio",
                "lower",
            )
        )
        picture(torch.cat([drawn.images, made.images]), share)
    return rows


def picture(images: Tensor, share: float) -> None:
    """Samples whole (above) and by tiles."""
    from medidiff.report.pictures import sheet

    place = Path(__file__).parent / "results" / f"seams_{share:g}.png"
    sheet(
        images, place, window=(0.0, 255.0), title=f"whole, then by tiles of 96, overlap {share:g}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10)
    chosen = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    rows = of_gaussian()
    for row in rows:
        print(f"{row.what}: {row.ours:.4g}", {n: round(v, 4) for n, v in row.peers.items()})
    if chosen.images:
        later = of_network(chosen.images, chosen.steps)
        for row in later:
            print(f"{row.what}: {row.ours:.4g} {row.unit}")
        rows += later
    facts: dict[str, object] = {
        "gaussian": {"side": SIDE, "tile": TILE, "correlation": CORRELATION, "noise": NOISE},
        "network": {"model": "brain-t1-2d", "images": chosen.images, "steps": chosen.steps},
    }
    print(write_result("seams", rows, facts=facts))


if __name__ == "__main__":
    main()
