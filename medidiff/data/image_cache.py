"""Prepared images kept on disk, mapped into memory, and shared by all processes of a machine.

An entry is named by a digest of the content of its files and of what was done to them, so that
neither names nor dates decide whether it is used. It holds a patient's image: the folder and its
files are their owner's alone, and no file is named after anything but a digest.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np

from medidiff.data.cropping import Cropped
from medidiff.data.images import Original
from medidiff.data.modality import is_ct
from medidiff.data.options import Space
from medidiff.data.placing import Placed
from medidiff.data.privacy import home
from medidiff.errors import OutputError

FORMAT = 2  # raise it when what is stored changes
FOLDER_VARIABLE = "MEDIDIFF_CACHE"
LOCKS = 256
ABANDONED_S = 3600.0
"""A half-written file of this age has no writer any more."""


def cache_folder() -> Path:
    """MEDIDIFF_CACHE (a node's local disk), else beside this user's other caches."""
    stated = os.environ.get(FOLDER_VARIABLE)
    return (Path(stated) if stated else home() / "cache") / "images"


@dataclass(frozen=True)
class Grid:
    """What is done to an image before it is kept."""

    space: Space
    margin: Sequence[int] | None = None
    """Voxels of the scan that are kept around the grid, at most."""
    stacked: bool = False
    """Whether the grid is that of slices, all of which are kept of a volume."""


def entry_key(
    grid: Grid, images: Sequence[str | None], label: str | None, modality: str | None = None
) -> str:
    """The name of an entry: a SHA-256 of the contents (digests) and of the grid.

    The versions of what decodes and resamples enter, for another one may give other values. So does
    whether the `modality` that is stated is CT, which what is foreground depends on.
    """
    said = [FORMAT, _made_by(), asdict(grid), list(images), label, is_ct(modality)]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


class ImageCache:
    """Entries by their names. Any number of processes and threads read and write it at once.

    Errors: OutputError where the folder can be read by others or an entry cannot be written.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or cache_folder()
        _make_private(self.folder)
        _make_private(self.folder / "locks")
        self._remove_abandoned()

    def path(self, key: str) -> Path:
        """Where an entry lies."""
        return self.folder / key[:2] / f"{key}.safetensors"

    def has(self, key: str) -> bool:
        """Whether an entry is there; it then counts as used today."""
        try:
            os.utime(self.path(key))
        except OSError:
            return False
        return True

    def get(self, key: str) -> Placed | None:
        """An entry, its voxels mapped from the file; None where it is not there or damaged."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path(key), framework="pt") as file:
                wide = file.get_tensor("images")
                label = file.get_tensor("label") if "label" in file.keys() else None  # noqa: SIM118
                said = json.loads(file.metadata()["placed"])
        except (OSError, SafetensorError, KeyError, ValueError, TypeError):
            return None
        original = said["original"]
        original = Original(
            tuple(original["shape"]),
            np.array(original["affine"], np.float64),
            original["known"],
            original["modality"],
            tuple(original["background"]),
            original["sized"],
        )
        affine, size = np.array(said["affine"], np.float64), tuple(said["size"])
        field = tuple((first, last) for first, last in said["field"])
        filled, lost = tuple(said["filled"]), Cropped(**said["cropped"])
        return Placed(wide, size, label, affine, original, field, filled, lost)

    def put(self, key: str, placed: Placed) -> None:
        """Keeps an entry: written aside, then moved into place whole."""
        from safetensors.torch import save

        original = asdict(placed.original) | {"affine": placed.original.affine.tolist()}
        grid = {"affine": placed.affine.tolist(), "size": placed.size, "field": placed.field}
        grid |= {"filled": placed.filled, "cropped": asdict(placed.cropped)}
        said = json.dumps({**grid, "original": original})
        tensors = {"images": placed.wide.contiguous()}
        if placed.label is not None:
            tensors["label"] = placed.label.contiguous()
        path = self.path(key)
        aside = path.with_name(f"{key}.{secrets.token_hex(4)}.part")
        try:
            path.parent.mkdir(exist_ok=True, mode=0o700)
            descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(save(tensors, metadata={"placed": said}))
                file.flush()
                os.fsync(file.fileno())  # else a power cut leaves a whole file of zeros
            aside.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                aside.unlink()
            raise OutputError(
                f"a prepared image cannot be kept in {self.folder} ({error.strerror}); name a "
                f"larger place in {FOLDER_VARIABLE}, or set data.cache to memory or none"
            ) from error

    @contextlib.contextmanager
    def lock(self, name: str, *, wait: bool) -> Iterator[bool]:
        """Holds the lock of an entry that is to be made; gives whether it does.

        The system frees it when its holder ends, however that comes about.
        """
        place = self.folder / "locks" / f"{_number(name, LOCKS):03d}"
        descriptor = os.open(place, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            yield True
        finally:
            os.close(descriptor)

    def _remove_abandoned(self) -> None:
        before = time.time() - ABANDONED_S
        for file in self.folder.glob("*/*.part"):
            with contextlib.suppress(OSError):
                if file.stat().st_mtime < before:
                    file.unlink()


@cache
def _made_by() -> dict[str, str]:
    return {name: version(name) for name in ("medidiff", "monai", "torch")}


def _number(name: str, count: int) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") % count


def _make_private(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        seen = folder.stat()
    except OSError as error:
        raise OutputError(
            f"the folder for prepared images, {folder}, cannot be made ({error.strerror})"
        ) from error
    if seen.st_uid != os.getuid() or stat.S_IMODE(seen.st_mode) & 0o077:
        raise OutputError(
            f"{folder} is to hold patients' images and is open to others; run: chmod 700 {folder}, "
            f"or name a folder of your own in {FOLDER_VARIABLE}"
        )
