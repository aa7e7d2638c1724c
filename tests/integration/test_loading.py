"""What is kept of scans can be seen and cleared, and reading them for long takes no more memory."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from pathlib import Path

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
from medidiff.data.rows import Manifest
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


@pytest.fixture(scope="module")
def sizes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[int]]:
    """What a process of its own holds after 10 epochs and after 50, of each cache.

    Its allocator gives each image a mapping, so that what is freed goes back to the system.
    """
    folder = tmp_path_factory.mktemp("epochs")
    own = {"MEDIDIFF_HOME": str(folder / "home"), "MEDIDIFF_CACHE": str(folder / "scratch")}
    allocator = {"MALLOC_MMAP_THRESHOLD_": str(2**18), "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(
        [sys.executable, __file__, str(folder)],
        env={**os.environ, **own, **allocator},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["disk", "none"])
def test_memory_stays_flat_over_fifty_epochs(sizes: dict[str, list[int]], cache: CacheKind) -> None:
    """Images of 1 MiB: one image kept each epoch would be 40 MiB."""
    after_10, after_50 = sizes[cache]
    assert after_50 - after_10 < 8 * 2**20


def sizes_of_training(manifest: Manifest, cache: CacheKind, folder: Path) -> list[int]:
    """What is held at the end of 10 epochs and of 50, where no batch is read ahead."""
    rows, space = manifest.split("train"), Space(3, (64, 64, 64))
    cases = CaseSet(rows, ["image"], space, cache=cache, workers=2)
    data = training_set(manifest, cases, fit(Percentile(), (case.images for case in cases)), ())
    sizes, epoch = [], len(rows) // 4
    for steps in (10 * epoch, 50 * epoch):
        for step, _ in training_batches(data, 4, 0, 0, steps, torch.device("cpu")):
            if step == steps - 1:
                sizes.append(held(folder))
    return sizes


def held(folder: Path) -> int:
    """Bytes of memory of this process's own, and of the folder's files that it maps.

    The pages of its libraries come and go with what else the machine does.
    """
    gc.collect()
    own = int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]) * 1024
    maps = [line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text().splitlines()]
    mapped = [parts[0].split("-") for parts in maps if parts[-1].startswith(str(folder))]
    return own + sum(int(end, 16) - int(start, 16) for start, end in mapped)


def main(folder: Path) -> None:
    manifest = read_manifest(write_population(folder / "scans", 8, 1, 1, size=64, dims=3))
    caches: tuple[CacheKind, ...] = ("disk", "none")
    print(json.dumps({cache: sizes_of_training(manifest, cache, folder) for cache in caches}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
