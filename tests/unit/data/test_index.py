"""Trees of folders and archives are indexed once, and the index is nobody else's business."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medidiff.data import index as module
from medidiff.data.contents import file_digest
from medidiff.data.decode import decode
from medidiff.data.dicom import Stacking
from medidiff.data.header_cache import HeaderCache
from medidiff.data.index import index_tree
from medidiff.data.series_list import write_series_list
from medidiff.data.sources import ArchiveError, Source, members_of, read
from medidiff.errors import DataError

Write = Callable[..., None]
WriteSeries = Callable[..., np.ndarray]


@pytest.fixture
def tree(tmp_path: Path, write_series: WriteSeries) -> Path:
    """One series in a folder, one in a zip in a tar, and what is no DICOM."""
    root = tmp_path / "export"
    deep = root / "a" / "b" / "c"
    deep.mkdir(parents=True)
    write_series(deep / "one", [0, 5, 10])
    write_series(tmp_path / "two", [0, 4, 8, 12], SeriesInstanceUID="1.2.3")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted((tmp_path / "two").iterdir()):
            archive.write(file, f"DICOM/{file.name}")
    with tarfile.open(root / "more.tar.gz", "w:gz") as archive:
        info = tarfile.TarInfo("inner.zip")
        info.size = len(packed.getvalue())
        archive.addfile(info, io.BytesIO(packed.getvalue()))
    (root / "notes.txt").write_text("hello")
    return root


def test_series_are_found_at_any_depth(tree: Path) -> None:
    told: list[tuple[int, int]] = []
    found = index_tree(tree, progress=lambda done, total: told.append((done, total)))
    assert [len(series.files) for series in found.series] == [4, 3]
    assert found.series[0].files[0][0].members == ("inner.zip", "DICOM/0.dcm")
    assert [Path(path).name for path in found.others] == ["notes.txt"]
    assert told == [(done, 5) for done in range(1, 6)]


def test_headers_are_read_again_only_where_files_changed(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = HeaderCache(tmp_path / "cache" / "c.sqlite")
    first = index_tree(tree, cache=cache)
    count = 0
    real = module._entries

    def counted(path: str) -> list:
        nonlocal count
        count += 1
        return real(path)

    monkeypatch.setattr(module, "_entries", counted)
    assert index_tree(tree, cache=cache) == first
    assert count == 0
    changed = Path(first.series[1].files[0][0].path)
    os.utime(changed, ns=(1, 1))
    assert len(index_tree(tree, cache=cache).series) == 2
    assert count == 1
    cache.path.write_bytes(b"no database" * 100)  # a damaged cache is as good as none
    assert index_tree(tree, cache=cache).series == first.series


def test_the_cache_is_for_its_owner_alone(tree: Path, own_home: Path) -> None:
    index_tree(tree)
    (file,) = (own_home / "cache").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_a_series_list_is_read_like_its_files(tree: Path, tmp_path: Path) -> None:
    series = index_tree(tree).series[0]
    frames = [(m.file, m.frame.index) for m in series.parts[0].members]
    sources = [source for source, _ in series.files]
    path = write_series_list(tmp_path / "x.series.json", sources, frames, Stacking())
    listed, plain = decode(path), decode(tmp_path / "two")
    assert np.array_equal(listed.array, plain.array)
    assert listed.affine is not None
    assert plain.affine is not None
    assert np.array_equal(listed.affine, plain.affine)
    before = file_digest(path)
    moved = tmp_path / "deeper" / "y.series.json"
    moved.parent.mkdir()
    write_series_list(moved, sources, frames, Stacking())
    assert file_digest(moved) == before
    (tree / "more.tar.gz").write_bytes(b"")
    with pytest.raises(DataError):
        decode(path)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"format": 1, "files": [], "frames": [[0, 0]], "tilt": "refuse", "gaps": 1}'],
)
def test_a_damaged_series_list_is_told_as_such(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.series.json").write_text(text)
    with pytest.raises(DataError, match="series list is damaged"):
        decode(tmp_path / "x.series.json")


def test_an_archive_is_decoded_like_its_folder(tmp_path: Path, write_series: WriteSeries) -> None:
    write_series(tmp_path / "s", [0, 5, 10])
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        for file in (tmp_path / "s").iterdir():
            archive.write(file, file.name)
    assert np.array_equal(decode(tmp_path / "s.zip").array, decode(tmp_path / "s").array)


def zipped(name: str, content: bytes, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", method) as archive:
        archive.writestr(name, content)
    return held.getvalue()


def test_archives_that_would_swamp_the_machine_are_refused(tmp_path: Path) -> None:
    nested = b"end"
    for _ in range(5):
        nested = zipped("inner.zip", nested)
    (tmp_path / "deep.zip").write_bytes(nested)
    with pytest.raises(ArchiveError, match="deep"):
        list(members_of(str(tmp_path / "deep.zip")))
    bomb = zipped("a.zip", zipped("zeros", b"\0" * 2**24) * 1)
    (tmp_path / "bomb.zip").write_bytes(bomb)
    assert len(list(members_of(str(tmp_path / "bomb.zip")))) == 1  # 16 MB are no bomb
    (tmp_path / "cut.zip").write_bytes(bomb[: len(bomb) // 2])
    with pytest.raises(ArchiveError, match="damaged"):
        list(members_of(str(tmp_path / "cut.zip")))


def test_a_damaged_archive_and_header_are_told_without_stopping_the_index(
    tree: Path, write_slice: Write
) -> None:
    (tree / "bad.zip").write_bytes(b"PK\x03\x04 and nothing more")
    write_slice(tree / "axes.dcm", np.ones((4, 6)), (0, 0, 0), axes=(1, 0, 0, 1, 0, 0))
    found = index_tree(tree)
    assert len(found.series) == 2
    said = sorted(unread.text for unread in found.unread)
    assert len(said) == 2
    assert "archive is damaged" in said[0]
    assert "no unit vectors" in said[1]


def test_a_member_that_is_gone_is_named_to_its_owner_only(tree: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read([Source(str(tree / "more.tar.gz"), ("inner.zip", "DICOM/9.dcm"))])


def test_a_folder_that_cannot_be_read_is_told(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.scandir

    def scandir(path: str) -> object:
        if Path(path).name == "c":
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found = index_tree(tree)
    assert [unread.text for unread in found.unread] == [
        "a folder cannot be read (Permission denied)"
    ]
    assert len(found.series) == 1
    with pytest.raises(DataError):
        decode(tree / "a")


def test_a_link_to_nothing_is_told_without_stopping_the_index(tree: Path) -> None:
    whole = index_tree(tree)
    (tree / "broken.dcm").symlink_to(tree / "nowhere.dcm")
    found = index_tree(tree)
    assert found.series == whole.series
    told = {one.source.name: one.text for one in found.unread}
    assert told["broken.dcm"] == "the file cannot be read (No such file or directory)"
    assert not any("broken" in path for path in found.others)
