"""What is kept of scans can be seen and cleared, and reading them for long takes no more memory."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import cast

import pytest
import torch
from typer.testing import CliRunner

import medidiff
from medidiff.cli import app
from medidiff.data.datasets import CacheKind, CaseSet
from medidiff.data.intensity import fit
from medidiff.data.manifest import read_manifest
from medidiff.data.options import Percentile, Space
from medidiff.data.phantoms import write_population
from medidiff.errors import ConfigError
from medidiff.jobs.prepare import training_set
from medidiff.training.batches import training_batches


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDIDIFF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MEDIDIFF_CACHE", str(tmp_path / "scratch"))


def test_caches_are_shown_and_cleared(tmp_path: Path) -> None:
    manifest = read_manifest(write_population(tmp_path / "scans", 3, 1, 1, size=16))
    cases = CaseSet(manifest.rows, ["image"], Space(2, (16, 16)), cache="disk")
    before = cases[0].images.clone()
    images, *_ = medidiff.caches()
    assert (images.name, images.entries) == ("images", 5)
    assert images.place == tmp_path / "scratch" / "images"
    assert images.size == sum(f.stat().st_size for f in images.place.rglob("*.safetensors"))
    shown = CliRunner().invoke(app, ["cache", "show"])
    assert f"5 files, {images.size / 1e6:.1f} MB in {images.place}" in shown.output
    entry = next(images.place.rglob("*.safetensors"))
    long_ago = time.time() - 40 * 86400
    os.utime(entry, (long_ago, long_ago))
    assert medidiff.clear_cache("images", unused_days=30)[0] == 1
    assert "4 files removed" in CliRunner().invoke(app, ["cache", "clear", "images"]).output
    assert medidiff.caches()[0].entries == 0
    assert torch.equal(cases[0].images, before)  # a set that is in use makes it again


def test_only_images_have_an_age() -> None:
    files = medidiff.caches()[1]
    files.place.parent.mkdir(parents=True)
    files.place.write_bytes(b"known")
    long_ago = time.time() - 40 * 86400
    os.utime(files.place, (long_ago, long_ago))
    with pytest.raises(ConfigError, match="only images"):
        medidiff.clear_cache("files", unused_days=30)
    assert files.place.exists()
    assert medidiff.clear_cache("files")[0] == 1


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["disk", "none"])
def test_memory_stays_flat_over_fifty_epochs(tmp_path: Path, cache: CacheKind) -> None:
    """8 images of 1 MiB an epoch: one image kept each epoch would be 40 MiB.

    In a process of its own, whose allocator gives what is freed back: each image has a mapping.
    """
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**18), "MALLOC_ARENA_MAX": "1"}
    command = [sys.executable, __file__, str(tmp_path), cache]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    after_10, after_50 = map(int, done.stdout.split())
    assert after_50 - after_10 < 8 * 2**20


def sizes_of_training(folder: Path, cache: CacheKind) -> list[int]:
    """What is held at the end of 10 epochs and of 50, where no batch is read ahead."""
    manifest = read_manifest(write_population(folder / "scans", 8, 1, 1, size=64, dims=3))
    rows, space = manifest.split("train"), Space(3, (64, 64, 64))
    cases = CaseSet(rows, ["image"], space, cache=cache, workers=2)
    data = training_set(manifest, cases, fit(Percentile(), (case.images for case in cases)), ())
    sizes = []
    for steps in (10 * len(rows) // 4, 50 * len(rows) // 4):
        for step, _ in training_batches(data, 4, 0, 0, steps, torch.device("cpu")):
            if step == steps - 1:
                sizes.append(held(folder))
    return sizes


def held(folder: Path) -> int:
    """Bytes of memory of this process's own, and of the folder's files that it maps.

    The pages of its libraries come and go with what else the machine does.
    """
    gc.collect()
    status = Path("/proc/self/status").read_text()
    own = int(status.split("RssAnon:")[1].split()[0]) * 1024
    maps = [
        line.split()[0]
        for line in Path("/proc/self/maps").read_text().splitlines()
        if str(folder) in line
    ]
    return own + sum(
        int(last, 16) - int(first, 16) for first, last in (part.split("-") for part in maps)
    )


if __name__ == "__main__":
    print(*sizes_of_training(Path(sys.argv[1]), cast(CacheKind, sys.argv[2])))
