"""Places for results, checked before any work is done: nothing is overwritten, and nothing is lost
for want of a folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from medidiff.errors import OutputError


def check_new_folder(
    place: Path, advice: str = "name another folder", holds: str = "files"
) -> None:
    """Errors: OutputError unless a folder of results can be made at `place`: nothing is there, or
    an empty folder, and it may be written to."""
    if place.exists() and not place.is_dir():
        raise OutputError(f"{place} is a file, and results go into a folder; {advice}")
    if place.is_dir() and any(place.iterdir()):
        raise OutputError(f"{place} already holds {holds}; {advice}")
    check_writable(place)


@contextmanager
def all_or_none(files: Iterable[Path]) -> Iterator[None]:
    """New files that are written within: if one of them cannot be, none is left."""
    try:
        yield
    except BaseException:
        for file in files:
            file.unlink(missing_ok=True)
        raise


@contextmanager
def folder_or_none(folder: Path) -> Iterator[None]:
    """A new folder that is written within: if that fails, nothing of it is left."""
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def check_file(file: Path) -> None:
    """Errors: OutputError unless a file can be written: its folder is there and may be written
    to."""
    if file.is_dir() or not file.absolute().parent.is_dir():
        raise OutputError(
            f"{file} cannot be written: "
            + ("it is a folder" if file.is_dir() else f"there is no folder {file.parent}")
        )
    check_writable(file)


def check_writable(place: Path) -> None:
    """Errors: OutputError unless a file or folder can be made at `place`."""
    there = next(each for each in (place, *place.absolute().parents) if each.exists())
    if not there.is_dir():
        raise OutputError(f"{place}: {there} is a file, so nothing can be written below it")
    if not os.access(there, os.W_OK | os.X_OK):
        raise OutputError(
            f"{place}: the folder {there} may not be written to; name a place that may, or change "
            "its permissions"
        )
