"""A place for results is judged before any work is done."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydicom import Dataset

from medidiff import cli
from medidiff.errors import OutputError
from medidiff.model_folder import write_json
from medidiff.outputs import all_or_none, check_new_folder
from medidiff.samples import Samples


def test_a_new_or_empty_folder_passes(tmp_path: Path) -> None:
    check_new_folder(tmp_path)
    check_new_folder(tmp_path / "a" / "b")


def test_a_file_a_full_folder_and_a_place_below_a_file_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for place, said in (
        (file, "is a file, and results go into a folder; name another folder"),
        (tmp_path, "already holds files"),
        (file / "below", "is a file, so nothing can be written below it"),
    ):
        with pytest.raises(OutputError, match=said):
            check_new_folder(place)


def test_a_folder_that_may_not_be_written_to_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda place, mode: False)
    with pytest.raises(OutputError, match="may not be written to"):
        check_new_folder(tmp_path / "new")


def test_new_files_are_all_written_or_none(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a", "b", "c")]

    @all_or_none(files)
    def write() -> None:
        files[0].touch()
        files[1].touch()
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        write()
    assert not any(tmp_path.iterdir())
    with all_or_none(files):
        files[0].touch()
    assert files[0].exists()


def test_of_a_sample_of_two_channels_no_half_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Dataset.save_as

    def full(data: Dataset, file: Path, **options: Any) -> None:
        if "sample-0001/image-2" in str(file):
            raise OSError(errno.ENOSPC, "No space left on device")
        whole(data, file, **options)

    monkeypatch.setattr(Dataset, "save_as", full)
    drawn = Samples(torch.rand(2, 2, 4, 5), np.eye(4), 1, {"kind": "SYNTHETIC"})
    with pytest.raises(OSError, match="No space"):
        drawn.save_dicom(tmp_path / "out", "MR")
    assert [each.name for each in (tmp_path / "out").iterdir()] == ["sample-0000"]


@pytest.mark.parametrize("behind", [False, True])
def test_a_full_disc_is_no_defect_and_says_what_to_do(
    behind: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full() -> None:
        try:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "DOE^JANE.nii.gz")
        except OSError as error:
            if behind:
                raise RuntimeError("unexpected pos 64 vs 0") from error
            raise

    monkeypatch.setattr(cli, "app", full)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    told = capsys.readouterr().err
    assert ended.value.code == 2
    assert told.startswith("medidiff: nothing more can be written (No space left on device)")
    assert "DOE" not in told
    assert told.count("\n") == 1


def test_json_that_cannot_be_written_whole_leaves_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, text: str, encoding: str) -> int:
        self.write_bytes(text[:1].encode())
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        write_json(tmp_path / "scan.json", {"seed": 0})
    assert not [*tmp_path.iterdir()]
