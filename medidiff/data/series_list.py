"""Series lists: small JSON files that say which frames of which DICOM files make one volume.

A series on disk is rarely one folder with nothing else in it: it lies in archives, holds two
echoes, or shares its folder. A list (`*.series.json`) is what a manifest's cell then names. It
holds paths, so it stays at the site like the manifest, and no pixels.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from medidiff.data import decode
from medidiff.data.dicom import Opened, Series, Stacking, open_all, volume_of
from medidiff.data.frames import Frame
from medidiff.data.sources import Source, read
from medidiff.data.stacking import Located, Part, gaps_of

SUFFIX = ".series.json"
FORMAT = 1


def write_series_list(
    path: Path, sources: list[Source], frames: list[tuple[int, int]], stacking: Stacking
) -> Path:
    """Writes a list. `frames`: (number of the source, index of the frame) in the order they lie."""
    files = [[os.path.relpath(source.path, path.parent), *source.members] for source in sources]
    tree = {
        "format": FORMAT,
        "files": files,
        "frames": frames,
        "tilt": stacking.tilt,
        "gaps": stacking.gaps,
    }
    path.write_text(json.dumps(tree) + "\n", encoding="utf-8")
    return path


def load_series_list(path: Path) -> Series:
    """The volume that a list names, its geometry read from the files' own headers.

    Errors: decode.UnusableError for a list that makes no sense or files that are gone.
    """
    opened, part, stacking = open_series_list(path)
    return volume_of(opened, part, stacking)


def open_series_list(path: Path) -> tuple[Opened, Part, Stacking]:
    """What is opened of the files that a list names, the frames that it names, and what to do with
    a tilt or gaps.

    Errors: as `load_series_list`.
    """
    sources, tree = _parsed(path)
    opened = open_all(read(sources))
    frames: list[Located] = []
    for file, index in tree["frames"]:
        here = opened.instances[file].frames
        if opened.instances[file].problem:
            raise decode.UnusableError(opened.instances[file].problem)
        frames.append(Located(file, _at(here, index)))
    part = Part(tuple(frames), gaps_of([member.frame for member in frames]))
    return opened, part, Stacking(tree["tilt"], tree["gaps"])


def list_digest(path: Path) -> str:
    """SHA-256 over the contents that a list names, wherever they lie."""
    sources, tree = _parsed(path)
    contents = [hashlib.sha256(content).hexdigest() for content in read(sources)]
    said = json.dumps([contents, tree["frames"], tree["tilt"], tree["gaps"]])
    return hashlib.sha256(said.encode()).hexdigest()


def files_of(path: Path) -> list[Path]:
    """The files on disk that a list names.

    Errors: decode.UnusableError for a list that makes no sense.
    """
    return sorted({Path(source.path) for source in _parsed(path)[0]})


def _at(frames: tuple[Frame, ...], index: int) -> Frame:
    if not 0 <= index < len(frames):
        raise decode.UnusableError("the series list names a frame that its file does not have")
    return frames[index]


def _parsed(path: Path) -> tuple[list[Source], dict[str, Any]]:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        known = {"format", "files", "frames", "tilt", "gaps"}
        if set(tree) != known or tree["format"] != FORMAT or not tree["frames"]:
            raise ValueError("other keys")
        if tree["tilt"] not in ("refuse", "resample") or tree["gaps"] not in ("refuse", "resample"):
            raise ValueError("other choices")
        sources = [Source(str(path.parent / way[0]), tuple(way[1:])) for way in tree["files"]]
        tree["frames"] = [(int(file), int(index)) for file, index in tree["frames"]]
        if not all(0 <= file < len(sources) for file, _ in tree["frames"]):
            raise ValueError("no such file")
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        raise decode.UnusableError("the series list is damaged or not what its name says") from None
    return sources, tree
