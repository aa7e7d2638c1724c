"""A place for results is judged before any work is done."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from medidiff.errors import OutputError
from medidiff.outputs import check_new_folder


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
