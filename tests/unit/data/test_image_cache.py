"""Prepared images are kept by content, shared between processes, and nobody else's business."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from medidiff.data import placing
from medidiff.data.contents import file_digest, state_of
from medidiff.data.datasets import CacheKind, Case, CaseSet
from medidiff.data.decode import decode
from medidiff.data.image_cache import Grid, ImageCache, cache_folder, entry_key
from medidiff.data.images import load_image
from medidiff.data.manifest import Manifest, read_manifest
from medidiff.data.options import Space
from medidiff.data.phantoms import FIELD_OF_VIEW_MM, write_population
from medidiff.data.privacy import SiteKey
from medidiff.errors import DataError, OutputError

SPACING = FIELD_OF_VIEW_MM / 32
SPACE = Space(2, (24, 32), (SPACING, SPACING), "PL")
GUARD_S = 300
"""Longer than anything takes on a busy machine: what hangs is ended."""


@pytest.fixture
def population(tmp_path: Path) -> Manifest:
    return read_manifest(write_population(tmp_path / "scans", 3, 1, 1, size=32))


@pytest.fixture
def long_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if nothing had been changed within the last two seconds."""
    monkeypatch.setattr("medidiff.data.contents.UNSETTLED_NS", 0)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were decoded."""
    seen: list[Path] = []

    def read(path: Path) -> object:
        seen.append(path)
        return load_image(path)

    monkeypatch.setattr(placing, "load_image", read)
    return seen


def on_disk(
    population: Manifest,
    key: SiteKey,
    space: Space = SPACE,
    margin: tuple[int, ...] | None = None,
    cache: CacheKind = "disk",
) -> CaseSet:
    return CaseSet(
        population.rows, ["image"], space, label="label", cache=cache, key=key, margin=margin
    )


def same(one: Case, other: Case) -> bool:
    return (
        torch.equal(one.images, other.images)
        and torch.equal(one.around, other.around)
        and one.field == other.field
        and one.cropped == other.cropped
        and one.images.dtype == other.images.dtype
        and torch.equal(one.label, other.label)  # pyright: ignore[reportArgumentType]
        and np.array_equal(one.affine, other.affine)
        and np.array_equal(one.original.affine, other.original.affine)
        and replace(one.original, affine=None) == replace(other.original, affine=None)  # pyright: ignore
        and (one.subject, one.row, one.conditions) == (other.subject, other.row, other.conditions)
    )


def test_a_case_from_the_cache_is_the_case_from_its_files(
    population: Manifest, key: SiteKey
) -> None:
    for margin in (None, (3, 0)):  # another margin is another entry
        fresh = on_disk(population, key, margin=margin, cache="none")
        for _ in range(2):
            assert all(map(same, on_disk(population, key, margin=margin), fresh))
    assert fresh[0].around.shape == (1, 30, 32)
    assert fresh[0].cropped.of > 0  # 32 rows on 24


def test_a_second_set_decodes_nothing_and_another_grid_everything(
    population: Manifest, key: SiteKey, reads: list[Path], long_ago: None
) -> None:
    on_disk(population, key)
    files = [file for row in population.rows for file in (row.images["image"], row.labels["label"])]
    assert sorted(reads) == sorted(files)
    reads.clear()
    again = on_disk(population, key)
    again.at([0, 3])
    assert reads == []
    on_disk(population, key, Space(2, (32, 32), (SPACING, SPACING), "PL"))
    assert len(reads) == len(files)


def test_a_file_under_another_name_is_known_and_one_that_changed_is_not(
    population: Manifest, key: SiteKey, reads: list[Path], long_ago: None
) -> None:
    on_disk(population, key)
    first, other = (row.images["image"] for row in population.rows[:2])
    kept = os.stat(first)
    reads.clear()
    first.write_bytes(other.read_bytes())
    os.utime(first, ns=(kept.st_atime_ns, kept.st_mtime_ns))  # as a copy that keeps dates does
    cases = on_disk(population, key)
    assert set(reads) == {first, population.rows[0].labels["label"]}
    assert torch.equal(cases[0].images, cases[1].images)


def test_a_file_that_changes_while_a_run_uses_it_is_an_error_and_not_another_image(
    population: Manifest, key: SiteKey, long_ago: None
) -> None:
    cases = on_disk(population, key)
    row = population.rows[0]
    row.images["image"].write_bytes(population.rows[1].images["image"].read_bytes())
    assert same(cases[0], cases[0])  # what was prepared is used
    for file in cache_folder().rglob("*.safetensors"):
        file.unlink()
    with pytest.raises(DataError, match=f"row {row.number}: a file was changed") as caught:
        cases[0]
    assert str(row.images["image"]) not in str(caught.value)
    assert str(row.images["image"]) in str(caught.value.private)
    assert cases[1].row == population.rows[1].number  # made again


def test_files_are_their_owner_s_alone_and_named_after_digests(
    population: Manifest, key: SiteKey
) -> None:
    on_disk(population, key)
    everything = [cache_folder(), *cache_folder().rglob("*")]
    assert len([file for file in everything if file.suffix == ".safetensors"]) == 5
    for path in everything:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)
    names = {file.name.split(".")[0] for file in everything if file.is_file()}
    assert all(len(name) in (3, 64) and set(name) <= set("0123456789abcdef") for name in names)
    held = b"".join(file.read_bytes() for file in everything if file.is_file())
    for row in population.rows:
        assert row.subject.encode() not in held
        assert row.images["image"].name.encode() not in held
    cache_folder().chmod(0o750)
    with pytest.raises(OutputError, match="chmod 700"):
        ImageCache()


def test_a_damaged_entry_is_made_again(population: Manifest, key: SiteKey) -> None:
    before = [case.images.clone() for case in on_disk(population, key)]
    for index, file in enumerate(cache_folder().rglob("*.safetensors")):
        file.write_bytes(b"" if index % 2 else file.read_bytes()[:200])
    again = on_disk(population, key)
    assert all(map(torch.equal, before, (case.images for case in again)))


def test_a_row_that_cannot_be_used_is_named_with_all_others(
    population: Manifest, key: SiteKey
) -> None:
    broken = [population.rows[index].images["image"] for index in (1, 3)]
    broken[0].write_bytes(b"nothing")
    broken[1].unlink()
    with pytest.raises(DataError, match="2 rows cannot be used") as caught:
        on_disk(population, key)
    for index, file in zip((1, 3), broken, strict=True):
        assert f"row {population.rows[index].number}" in str(caught.value)
        assert file.name not in str(caught.value)
        assert str(file) in str(caught.value.private)


def test_an_error_that_nobody_foresaw_names_the_row(
    population: Manifest, key: SiteKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    def place(*_: object, **__: object) -> None:
        raise MemoryError("no room for scan-of-somebody.nii.gz")

    monkeypatch.setattr(placing, "to_space", place)
    with pytest.raises(DataError, match=r"row \d+: .*MemoryError") as caught:
        CaseSet(population.rows, ["image"], SPACE, cache="none", key=key)[0]
    assert "somebody" not in str(caught.value)


def test_a_missing_channel_is_no_entry_of_the_others(population: Manifest, key: SiteKey) -> None:
    on_disk(population, key)
    with pytest.raises(DataError, match="no image in column 't2'"):
        CaseSet(population.rows[:1], ["image", "t2"], SPACE, cache="disk", key=key)


WORKER = f"""
import signal, sys, time
signal.alarm({GUARD_S})
from pathlib import Path
from medidiff.data import placing
from medidiff.data.datasets import CaseSet
from medidiff.data.images import load_image
from medidiff.data.manifest import read_manifest
from medidiff.data.options import Space

manifest, go, stop = map(Path, sys.argv[1:4])
log, *logs = map(Path, sys.argv[4:])

def read(path):
    with log.open("a") as file:
        file.write(path.name + "\\n")
    while stop.exists() or not all(other.read_text() for other in logs):
        time.sleep(0.01)
    return load_image(path)

placing.load_image = read
space = Space(2, (24, 32), ({SPACING}, {SPACING}), "PL")
from medidiff.data.transforms import to_space  # its imports are not to be waited for
import monai.transforms.croppad.array, monai.transforms.spatial.array
log.touch()
while not go.exists():
    time.sleep(0.01)
cases = CaseSet(read_manifest(manifest).rows, ["image"], space, cache="disk", workers=1)
print(float(sum(case.images.double().sum() for case in cases)))
"""


def started(tmp_path: Path, population: Manifest, *stops: str) -> list:
    """Two processes that begin together, with the logs of what they read.

    Each has its first image half read until the other has begun one, and, where the file that it
    is given as a stop exists, as long as that does.
    """
    logs, go = [tmp_path / f"log{index}" for index in range(2)], tmp_path / "go"
    running = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, population.path, go, tmp_path / stop, *order],
            stdout=subprocess.PIPE,
            text=True,
        )
        for stop, order in zip(stops, (logs, logs[::-1]), strict=True)
    ]
    wait_for(lambda: all(log.exists() for log in logs))
    go.touch()
    return [*zip(running, logs, strict=True)]


def wait_for(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + GUARD_S
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.01)


@pytest.mark.slow
def test_processes_that_start_together_share_the_work(tmp_path: Path, population: Manifest) -> None:
    both = started(tmp_path, population, "none", "none")
    told = [process.communicate(timeout=GUARD_S)[0] for process, _ in both]
    read = [log.read_text().split() for _, log in both]
    assert told[0] == told[1] != ""
    assert all(len(names) > 0 for names in read)
    assert sorted(read[0] + read[1]) == sorted(row.images["image"].name for row in population.rows)


@pytest.mark.slow
def test_a_killed_writer_leaves_nothing_that_others_stumble_over(
    tmp_path: Path, population: Manifest
) -> None:
    (tmp_path / "stop").touch()
    (killed, log), (other, _) = started(tmp_path, population, "stop", "none")
    wait_for(lambda: bool(log.read_text()))
    killed.send_signal(signal.SIGKILL)  # holds a lock, has an image half read
    assert other.communicate(timeout=GUARD_S)[0].strip()
    assert len([*cache_folder().rglob("*.safetensors")]) == 5


@pytest.mark.slow
def test_mapped_entries_cost_one_copy_for_all(tmp_path: Path) -> None:
    cache, size = ImageCache(), 64 * 2**20
    shape = (256, 256, 256)
    original = placing.Original(shape, np.eye(4), True, None, (0.0,))
    case = placing.Placed(torch.ones(1, *shape), shape, None, np.eye(4), original, ())
    cache.put(key := entry_key(Grid(SPACE), ["0"], None), case)
    before = private_bytes()
    placed = cache.get(key)
    assert placed is not None
    assert float(placed.images.sum()) == 256**3
    assert private_bytes() - before < size / 8  # read, but not held


def private_bytes() -> int:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty"))


def test_the_content_of_a_detached_header_is_that_of_its_data(
    tmp_path: Path, long_ago: None
) -> None:
    import SimpleITK as sitk  # noqa: N813

    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        values = np.full((4, 5, 6), len(name) + ord(name[0]), np.int16)
        sitk.WriteImage(sitk.GetImageFromArray(values), str(tmp_path / name / "scan.mhd"))
    first, second = (tmp_path / name / "scan.mhd" for name in ("one", "two"))
    assert first.read_bytes() == second.read_bytes()
    assert file_digest(first) != file_digest(second)
    before = state_of(first)
    assert before
    next(first.parent.glob("*raw")).touch()
    assert state_of(first) != before
    assert decode(first).array.max() != decode(second).array.max()
