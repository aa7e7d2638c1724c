"""DICOM files and series to arrays: slices in the order they lie, their geometry checked.

Differs from MONAI's PydicomReader, which sorts by instance number, averages uneven gaps, gives a
single sagittal or coronal slice a singular affine, and multi-frame files the identity.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread

from medidiff.data import decode
from medidiff.data.frames import Frame, Instance, instance_of
from medidiff.data.pixels import pixels, stacked
from medidiff.data.regrid import evened, straightened
from medidiff.data.sources import Source, files_under, is_archive, members_of, read
from medidiff.data.stacking import SHEAR_LIMIT, Located, Part, heights_of, normal_of, parts_of

# pydicom warns by quoting header values, which may be a patient's
warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")
logging.getLogger("pydicom").setLevel(logging.ERROR)

Vector = NDArray[np.float64]
PREAMBLE = 128


@dataclass(frozen=True)
class Stacking:
    """What to do with slices that lie on no straight even grid."""

    tilt: Literal["refuse", "resample"] = "refuse"
    """A tilted gantry: slices shifted within their planes until the grid is at right angles."""
    gaps: Literal["refuse", "resample"] = "refuse"
    """Uneven gaps and missing slices: slices interpolated at the median gap."""


@dataclass(frozen=True)
class Series:
    """An image of (rows, columns) or (slices, rows, columns); `affine` is 4 x 4, RAS+, mm."""

    array: NDArray[Any]
    affine: NDArray[np.float64] | None
    modality: str | None


@dataclass(frozen=True)
class Opened:
    """Files read whole, and the headers found in them."""

    datasets: tuple[Dataset, ...]
    instances: tuple[Instance, ...]


def load(path: Path, stacking: Stacking = Stacking()) -> Series:
    """The image in a DICOM file, or in a folder or archive (of any depth) with one series.

    Units: the rescaled values (HU for CT); MONOCHROME1 is turned so that more is brighter.
    Errors: decode.UnusableError for several series or several volumes in one, uneven gaps and
    tilted gantries unless `stacking` says otherwise, colour.
    """
    opened, part = open_path(path)
    return volume_of(opened, part, stacking)


def open_path(path: Path) -> tuple[Opened, Part]:
    """What is opened of a file, folder or archive with one volume, and that volume's frames.

    Errors: decode.UnusableError for several series or several volumes in one.
    """
    opened = open_all(_contents(path))
    parts = _parts(opened)
    if len(parts) > 1:
        raise decode.UnusableError(_several(parts))
    return opened, parts[0]


def open_all(contents: Sequence[bytes]) -> Opened:
    """DICOM files from their contents."""
    datasets = tuple(dcmread(io.BytesIO(content)) for content in contents)
    return Opened(datasets, tuple(instance_of(data) for data in datasets))


def volume_of(opened: Opened, part: Part, stacking: Stacking = Stacking()) -> Series:
    """One part of what was opened, as an array with its geometry.

    Errors: decode.UnusableError as for `load`.
    """
    if part.gaps.problem and not (
        stacking.gaps == "resample" and part.gaps.kind in ("uneven", "missing")
    ):
        hint = "; resampling can be asked for" if part.gaps.kind in ("uneven", "missing") else ""
        raise decode.UnusableError(part.gaps.problem + hint)
    frames = [member.frame for member in part.members]
    arrays = _arrays(opened, part)
    modality = opened.instances[part.members[0].file].facts.get("Modality") or None
    if len(frames) == 1:
        return Series(arrays[0], slice_affine(frames[0]) if frames[0].placed else None, modality)
    volume, affine = stacked(arrays), stack_affine(frames)
    if part.gaps.kind != "even":
        volume, step = evened(volume, heights_of(frames))
        affine[:3, 0] *= step * (len(frames) - 1) / np.ptp(heights_of(frames))
    if part.gaps.shear > SHEAR_LIMIT:
        if stacking.tilt == "refuse":
            raise decode.UnusableError(
                f"the slices are shifted against each other by {part.gaps.shear:.3f} mm a mm, as "
                "by a gantry tilt; resampling can be asked for"
            )
        volume, affine = straightened(volume, affine)
    return Series(volume, to_ras(affine), modality)


def slice_affine(frame: Frame) -> NDArray[np.float64]:
    """The affine of a single slice (rows, columns, across), RAS+, mm."""
    return to_ras(_matrix(frame, normal_of(frame) * frame.thickness)[:, [1, 2, 0, 3]])


def stack_affine(frames: Sequence[Frame]) -> NDArray[np.float64]:
    """The affine of frames in order (slices, rows, columns), LPS, mm; sheared if they are."""
    start, stop = (np.array(frame.corner) for frame in (frames[0], frames[-1]))
    return _matrix(frames[0], (stop - start) / (len(frames) - 1))


def _matrix(frame: Frame, across: Vector) -> NDArray[np.float64]:
    between_rows, between_columns = frame.spacing or (1.0, 1.0)
    affine = np.eye(4)
    affine[:3, 0] = across
    affine[:3, 1] = np.array(frame.column_direction) * between_rows
    affine[:3, 2] = np.array(frame.row_direction) * between_columns
    affine[:3, 3] = np.array(frame.corner)
    return affine


def to_ras(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """DICOM counts to left, posterior, superior."""
    turned = affine.copy()
    turned[:2] *= -1
    return turned + 0.0  # no negative zeros


def is_dicom_content(content: bytes) -> bool:
    """Whether a file starts as DICOM does."""
    return content[PREAMBLE : PREAMBLE + 4] == b"DICM"


def _contents(path: Path) -> list[bytes]:
    if path.is_dir():
        found = _in_folder(path)
    elif is_archive(path.name):
        found = [content for _, content in members_of(str(path)) if is_dicom_content(content)]
    else:
        return [path.read_bytes()]
    if not found:
        raise decode.UnusableError(
            "the folder holds no DICOM files (files of other formats are named one by one)"
        )
    return found


def _in_folder(folder: Path) -> list[bytes]:
    files = [file for file in files_under(folder) if _starts_as_dicom(Path(file))]
    return read([Source(file) for file in files])


def _starts_as_dicom(file: Path) -> bool:
    with file.open("rb") as stream:
        return is_dicom_content(stream.read(PREAMBLE + 4))


def _parts(opened: Opened) -> list[Part]:
    problems = [one.problem for one in opened.instances if one.problem]
    if problems:
        raise decode.UnusableError(problems[0])
    if len({one.series for one in opened.instances}) > 1:
        raise decode.UnusableError("the folder holds more than one DICOM series; keep one a folder")
    return parts_of(located(opened.instances))


def located(instances: Sequence[Instance]) -> list[Located]:
    """The frames of files, a file that is there twice once."""
    seen: set[str] = set()
    found: list[Located] = []
    for number, one in enumerate(instances):
        if not one.sop or one.sop not in seen:
            seen.add(one.sop)
            found += [Located(number, frame) for frame in one.frames]
    return found


def _several(parts: Sequence[Part]) -> str:
    names = list(dict.fromkeys(name for part in parts for name in part.differs))
    return (
        f"several slices lie at one place or do not belong together: the series holds {len(parts)} "
        f"volumes that differ in {', '.join(names) or 'nothing that is known'}; "
        "`medidiff manifest build` gives each a row of its own"
    )


def _arrays(opened: Opened, part: Part) -> list[NDArray[Any]]:
    files = list(dict.fromkeys(member.file for member in part.members))
    decoded = {file: pixels(opened.datasets[file]) for file in files}
    return [decoded[member.file][member.frame.index] for member in part.members]
