"""How fast are warm epochs, beside MONAI's PersistentDataset and CacheDataset, and is an H100 kept
busy?

    python benchmarks/epochs.py [--volumes 40] [--slices 320] [--repeats 7]

Phantoms are written as packed NIfTI; each side loads, turns, crops and scales them, keeps what that
gives, and then serves batches in a shuffled order without a network behind it. On disk ours keeps
the images before their intensities are scaled and scales them in every epoch; MONAI's keep the
scaled ones, as ours does in memory. MONAI's DataLoader runs in this process and with two workers;
the faster is told. All take turns, the order turns round, medians are told. The appetite is the
training step of results/unet_speed.json (an H100).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from record import ROOT, Measured, write_result

Epoch = Callable[[], int]
"""Serves every image once; gives how many there were."""


@dataclass(frozen=True)
class Kind:
    """One kind of data."""

    name: str
    dims: Literal[2, 3]
    size: int
    batch: int
    unit: str


LEAST_SECONDS = 0.5
KEPT: tuple[tuple[str, Literal["persistent", "memory"]], ...] = (
    ("PersistentDataset", "persistent"),
    ("CacheDataset", "memory"),
)
KINDS = (Kind("2d256", 2, 256, 16, "slices/s"), Kind("3d96", 3, 96, 2, "volumes/s"))


def ours(kind: Kind, manifest: Path, cache: Literal["disk", "memory"]) -> Epoch:
    """Our epochs, from the configuration's data.cache."""
    from medidiff.data.datasets import CaseSet
    from medidiff.data.manifest import read_manifest
    from medidiff.data.options import Space, Window
    from medidiff.data.transforms import fit
    from medidiff.jobs.prepare import training_set
    from medidiff.training.batches import training_batches

    table = read_manifest(manifest)
    rows = table.split("train")
    space = Space(kind.dims, (kind.size,) * kind.dims)
    cases = CaseSet(rows, ["image"], space, cache=cache, workers=2)
    data = training_set(table, cases, fit(Window(low=0.0, high=1000.0), [cases[0].images]), ())
    steps = len(rows) // kind.batch

    def epoch() -> int:
        batches = training_batches(data, kind.batch, 0, 0, steps, torch.device("cpu"))
        return sum(len(batch.clean) for _, batch in batches)

    return epoch


def monai(
    kind: Kind, manifest: Path, cache: Literal["persistent", "memory"], workers: int, folder: Path
) -> Epoch:
    """MONAI's epochs, as its tutorials write them."""
    from monai.data import CacheDataset, DataLoader, PersistentDataset
    from monai.transforms import (
        Compose,
        EnsureTyped,
        LoadImaged,
        ResizeWithPadOrCropd,
        ScaleIntensityRanged,
    )

    from medidiff.data.manifest import read_manifest

    files = [{"image": str(row.images["image"])} for row in read_manifest(manifest).split("train")]
    steps = Compose(
        [
            LoadImaged(["image"], ensure_channel_first=True, image_only=True),
            ResizeWithPadOrCropd(["image"], (kind.size,) * kind.dims),
            ScaleIntensityRanged(["image"], 0.0, 1000.0, -1.0, 1.0),
            EnsureTyped(["image"], track_meta=False),
        ]
    )
    if cache == "persistent":
        data = PersistentDataset(files, steps, cache_dir=folder)
    else:
        data = CacheDataset(files, steps, progress=False)
    loader = DataLoader(
        data,
        batch_size=kind.batch,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    return lambda: sum(len(batch["image"]) for batch in loader)


def timed(epoch: Epoch) -> float:
    """Images a second, over as many epochs as take half a second: one may take but milliseconds."""
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < LEAST_SECONDS:
        count += epoch()
    return count / (time.perf_counter() - began)


def seconds(make: Callable[[], Epoch]) -> float:
    """From nothing but files to the end of the first epoch."""
    began = time.perf_counter()
    make()()
    return time.perf_counter() - began


def appetite(kind: Kind) -> float:
    """Images a second that the training step of an H100 takes."""
    rows = json.loads((ROOT / "benchmarks" / "results" / "unet_speed.json").read_text())["rows"]
    step = next(row["ours"] for row in rows if row["what"] == f"{kind.name} train step")
    return kind.batch / (step / 1e3)


def measure(kind: Kind, manifest: Path, place: Path, repeats: int) -> list[Measured]:
    """The first epoch from nothing, the first of a second start, and warm epochs."""
    disk = lambda: ours(kind, manifest, "disk")  # noqa: E731
    kept = lambda: monai(kind, manifest, "persistent", 0, place / kind.name)  # noqa: E731
    rows = [
        Measured(
            f"{kind.name}: first epoch from packed files",
            seconds(disk),
            "s",
            "lower",
            {"MONAI PersistentDataset": seconds(kept)},
        ),
        Measured(
            f"{kind.name}: first epoch of a second start",
            seconds(disk),
            "s",
            "lower",
            {"MONAI PersistentDataset": seconds(kept)},
        ),
    ]
    epochs: dict[str, Epoch] = {
        "disk": disk(),
        "memory": ours(kind, manifest, "memory"),
        **{
            f"{name}, {workers} workers": monai(kind, manifest, cache, workers, place / kind.name)
            for name, cache in KEPT
            for workers in (0, 2)
        },
    }
    rates = taking_turns(epochs, repeats)
    for what, mine, theirs in (
        ("kept on disk", "disk", "PersistentDataset"),
        ("kept in memory", "memory", "CacheDataset"),
    ):
        best = max(rates[f"{theirs}, {workers} workers"] for workers in (0, 2))
        rows.append(
            Measured(
                f"{kind.name}: warm epochs, {what}",
                rates[mine],
                kind.unit,
                "higher",
                {f"MONAI {theirs}": best},
                goal=appetite(kind),
            )
        )
    return rows


def taking_turns(epochs: dict[str, Epoch], repeats: int) -> dict[str, float]:
    """Median rates."""
    found: dict[str, list[float]] = {name: [] for name in epochs}
    for epoch in epochs.values():
        epoch()  # workers are started, pages are read
    for turn in range(repeats):
        names = list(epochs)
        for name in names if turn % 2 == 0 else reversed(names):
            found[name].append(timed(epochs[name]))
    return {name: statistics.median(rates) for name, rates in found.items()}


def written(kind: Kind, count: int, folder: Path) -> Path:
    """A population of phantoms; repeated files would be kept once."""
    from medidiff.data.phantoms import write_population

    return write_population(folder / kind.name, count, 0, 0, dims=kind.dims, size=kind.size)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--volumes", type=int, default=40)
    parser.add_argument("--slices", type=int, default=320)
    parser.add_argument("--repeats", type=int, default=7)
    chosen = parser.parse_args(arguments)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    rows: list[Measured] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ |= {"MEDIDIFF_HOME": str(folder / "home")}
        import monai.data
        import monai.transforms  # noqa: F401  (imports are not part of anyone's epoch)

        import medidiff.jobs.prepare  # noqa: F401

        for kind in KINDS:
            count = chosen.slices if kind.dims == 2 else chosen.volumes
            rows += measure(kind, written(kind, count, folder), folder / "monai", chosen.repeats)
    for row in rows:
        print(f"{row.what}: {row.ours:.4g} {row.unit}, {row.peers}, goal {row.goal}")
    facts: dict[str, object] = {
        "repeats": chosen.repeats,
        "images": {"2d256": chosen.slices, "3d96": chosen.volumes},
        "load": [round(each, 1) for each in os.getloadavg()],
        "goal": "the appetite of the training step on an H100 (unet_speed.json)",
    }
    print(write_result("epochs", rows, facts=facts))


if __name__ == "__main__":
    main()
