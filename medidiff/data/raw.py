"""What scanners measure, as files hold it: k-space in fastMRI's HDF5 layout, as acquisitions of
ISMRMRD or as NumPy arrays, and sinograms as NumPy arrays.

Nothing in a file is executed or unpickled.
"""

from __future__ import annotations

import hashlib
import math
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from medidiff.data.ismrmrd import acquisitions, holds_acquisitions
from medidiff.errors import DataError

SUFFIXES = (".h5", ".hdf5", ".npy", ".npz")
BESIDE = ("mask", "coils", "phase", "angles", "affine", "spacing_mm")
"""What a file may say beside its measurement, by these names."""
BY_CHANCE = 1e-3  # of the samples that were taken, some may be exactly 0


@dataclass(frozen=True, eq=False)
class Raw:
    """One scan's measurements.

    Shapes: k-space (slice, coil, *space), complex, the origin at n // 2; a sinogram
    (slice, 1, views, detectors), real.
    """

    values: NDArray[Any]
    beside: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """What the file says besides: mask, coils, phase, angles, affine."""
    spacing_mm: tuple[float, ...] | None = None
    """Voxel size of the measured grid, the thickness of a slice last."""
    kept: tuple[int, ...] | None = None
    """The grid of the images that the scanner would have shown, where it is smaller."""

    @property
    def content(self) -> str:
        """SHA-256 of the values in single precision, in which they are used."""
        number = np.complex64 if self.values.dtype.kind == "c" else np.float32
        return hashlib.sha256(np.ascontiguousarray(self.values, number).tobytes()).hexdigest()


NOTHING: Mapping[str, NDArray[Any]] = {}
UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


def read_raw(given: object, dims: int, beside: Mapping[str, NDArray[Any]] = NOTHING) -> Raw:
    """Measurements from a file (.h5, .npy, .npz) or an array, for images of `dims` dimensions.

    `beside`: what belongs to them and is not in the file, or is to stand for what is there.

    A single slice and a single coil may be left out of the shape; an array of one axis more than a
    coil's picture is coils, of two more slices and coils. fastMRI's single-coil files have slices
    and no coils.
    Errors: DataError without the file's name in its text.
    """
    if not isinstance(given, str | os.PathLike):
        return Raw(_shaped(_numbers(given), dims, None), beside)
    place = Path(given)
    try:
        if place.suffix.lower() in (".h5", ".hdf5"):
            return _hdf5(place, dims, beside)
        if place.suffix.lower() in (".npy", ".npz"):
            return _numpy(place, dims, beside)
    except UNREADABLE as error:
        raise DataError(
            f"the measurement cannot be read ({_reason(error)})", private=f"{place}: {error}"
        ) from None
    raise DataError(
        f"measurements are read from {', '.join(SUFFIXES)}, not {place.suffix or 'a folder'}",
        private=str(place),
    )


def read_array(name: str, given: object) -> NDArray[Any]:
    """What belongs to a measurement and is called `name`, such as a mask: from a .npy file, from
    the array of that name (or the only one) in a .npz file, or an array.

    Errors: DataError without the file's name in its text, to be read after the array's name.
    """
    if not isinstance(given, str | os.PathLike):
        return to_array(given)
    try:
        loaded = np.load(Path(given), allow_pickle=False)
        return to_array(loaded if isinstance(loaded, np.ndarray) else _of_that_name(loaded, name))
    except UNREADABLE as error:
        raise DataError(
            f"cannot be read ({_reason(error)}); it is a .npy file, or a .npz file with an array "
            f"called {name}",
            private=f"{given}: {error}",
        ) from None


def _of_that_name(file: Any, name: str) -> NDArray[Any]:
    with file:
        return file[file.files[0] if len(file.files) == 1 else name]


def _reason(error: BaseException) -> str:
    """In a user's words, without a file's name."""
    match error:
        case FileNotFoundError():
            return "there is no such file"
        case PermissionError() | IsADirectoryError():
            return str(error.strerror).lower()
        case ValueError() if "pickle" in str(error):
            return "it holds no plain array of numbers, and nothing pickled is opened"
    return f"{type(error).__name__}: it is damaged, cut short or of another kind"


def to_array(given: Any) -> NDArray[Any]:
    """An array of an array or a tensor on any device."""
    if hasattr(given, "detach"):
        given = given.detach().cpu()
    found = np.asarray(given)
    if found.dtype.kind not in "fciub" or found.ndim == 0:
        raise DataError(f"is no array of numbers: found {found.dtype} of {found.shape}")
    return found


def _numbers(given: Any, name: str = "measurement") -> NDArray[Any]:
    try:
        return to_array(given)
    except DataError as error:
        raise DataError(f"the {name} {error}") from None


def _shaped(values: NDArray[Any], dims: int, single_coil: bool | None) -> NDArray[Any]:
    """(slice, coil, *space) of what may lack slices or coils."""
    missing = dims + 2 - values.ndim
    if missing == 0:
        return values
    if missing == 1:
        return values[:, None] if single_coil else values[None]
    if missing == 2:
        return values[None, None]
    raise DataError(
        f"a measurement for {dims}-D images has {dims} axes, and before them coils, or slices and "
        f"coils; found the shape {values.shape}"
    )


def _numpy(place: Path, dims: int, beside: Mapping[str, NDArray[Any]]) -> Raw:
    loaded = np.load(place, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return Raw(_shaped(_numbers(loaded), dims, None), beside)
    with loaded as file:
        names = {name: file[name] for name in file.files}
    values = names.pop("kspace", names.pop("sinogram", None))
    if values is None:
        raise DataError(
            f"the file holds {', '.join(sorted(names)) or 'nothing'}; a measurement is called "
            "kspace or sinogram",
            private=str(place),
        )
    known = {name: _numbers(each, name) for name, each in names.items() if name in BESIDE}
    return Raw(_shaped(_numbers(values), dims, None), _together(known, beside))


def _hdf5(place: Path, dims: int, beside: Mapping[str, NDArray[Any]]) -> Raw:
    """fastMRI's layout: kspace (slice[, coil], *space), mask along the last axis, a header; or
    acquisitions of ISMRMRD.

    Voxels of `spacing_mm` count where there is no header."""
    import h5py

    with h5py.File(place, "r") as file:
        kspace = file.get("kspace")
        if kspace is None and holds_acquisitions(file):
            return _acquired(file, dims, beside)
        if not isinstance(kspace, h5py.Dataset):
            raise DataError(without_kspace(file), private=str(place))
        values = _numbers(_complex(np.asarray(kspace)))
        known = {name: _numbers(np.asarray(file[name]), name) for name in BESIDE if name in file}
        header = np.asarray(file.get("ismrmrd_header")).item() if "ismrmrd_header" in file else None
    values = _shaped(values, dims, single_coil=True)
    if header is None or dims == 3:
        return Raw(values, _together(known, beside))
    known.pop("spacing_mm", None)
    return without_oversampling(values, _together(known, beside), header_of(header))


def _acquired(file: Mapping[str, Any], dims: int, beside: Mapping[str, NDArray[Any]]) -> Raw:
    """Raw ISMRMRD acquisitions, brought to the layout that fastMRI made of such."""
    if dims != 2:
        raise DataError(
            "ISMRMRD acquisitions are read for models of 2-D images; give 3-D k-space as an array "
            "(slice, coil, *grid)"
        )
    values, header = acquisitions(file)
    return without_oversampling(values, beside, header_of(header))


def without_kspace(file: Mapping[str, Any]) -> str:
    """What an HDF5 file holds in the place of k-space, and what would be read."""
    kind = "ISMRMRD acquisitions" if "dataset" in file else "no data set named kspace"
    return (
        f"the file holds {kind}; k-space is read as fastMRI keeps it: kspace (slice, "
        "coil, rows, columns)"
    )


def _complex(given: NDArray[Any]) -> NDArray[Any]:
    """Complex numbers, also of pairs that have names (real, imag), as MATLAB writes them."""
    names = given.dtype.names
    if names != ("real", "imag"):
        return given
    return given["real"] + 1j * given["imag"]


def _together(
    known: Mapping[str, NDArray[Any]], beside: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """What a file says, but where the caller says otherwise; of the grid one of them says all."""
    grid = {"affine", "spacing_mm"}
    dropped = grid if grid & set(beside) else set()
    return {**{name: each for name, each in known.items() if name not in dropped}, **beside}


@dataclass(frozen=True)
class Header:
    """What an ISMRMRD header says of the grid."""

    encoded: tuple[int, int]
    encoded_mm: tuple[float, float, float]
    shown: tuple[int, int]


def header_of(text: bytes | str) -> Header:
    """The encoded matrix, its field of view and the matrix of the images. x is read out.

    Errors: DataError for a header that does not say them.
    """
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, LookupError):
        raise DataError("the file's ismrmrd_header is no XML") from None
    space = root.tag.partition("}")[0] + "}" if root.tag.startswith("{") else ""

    def numbers(of: str, what: str) -> list[float]:
        found = root.find(f"{space}encoding/{space}{of}/{space}{what}")
        said = [] if found is None else [found.findtext(f"{space}{axis}") or "" for axis in "xyz"]
        try:
            sides = [float(side) for side in said]
        except ValueError:
            sides = []
        if not all(0 < side < math.inf for side in sides or [0.0]):
            raise DataError(
                f"the file's ismrmrd_header does not say the {of}'s {what}: x, y and z above 0"
            )
        return sides

    encoded, shown = numbers("encodedSpace", "matrixSize"), numbers("reconSpace", "matrixSize")
    x, y, z = numbers("encodedSpace", "fieldOfView_mm")
    return Header((int(encoded[0]), int(encoded[1])), (x, y, z), (int(shown[0]), int(shown[1])))


def without_oversampling(
    values: NDArray[Any], beside: Mapping[str, NDArray[Any]], header: Header
) -> Raw:
    """The read-out axis (the first of space), where it is sampled fully, cut to what is shown.

    Its k-space is brought to as many samples as the images have, which takes away what lies
    outside of them and changes nothing inside; maps beside it that are as long are cut. A read-out
    of which part is missing (a partial echo, a mask that varies along it) stays as it is.
    """
    read, lines = values.shape[-2:]
    shown = min(header.shown[0], read)
    x_mm, y_mm, z_mm = header.encoded_mm
    spacing = (x_mm / read, y_mm / lines, z_mm)
    kept = (shown, min(header.shown[1], lines))
    if not _read_fully(values, beside.get("mask")):
        return Raw(values, _with_seen(values, beside), spacing, kept)
    axis = values.ndim - 2
    images = _transformed(values, axis, np.fft.ifft)
    start = read // 2 - shown // 2
    window = range(start, start + shown)
    cut = np.take(images, window, axis=axis)
    mine = {
        name: np.take(each, window, axis=-2) if _as_long(name, each, read) else each
        for name, each in beside.items()
    }
    return Raw(_transformed(cut, axis, np.fft.fft).astype(values.dtype), mine, spacing, kept)


def _with_seen(
    values: NDArray[Any], beside: Mapping[str, NDArray[Any]]
) -> Mapping[str, NDArray[Any]]:
    """A mask of lines says nothing of places along them: what is 0 in all coils was not taken."""
    mask = beside.get("mask")
    if mask is None or mask.ndim > 1 or len(mask) != values.shape[-1]:
        return beside
    return {**beside, "mask": (values != 0).any(axis=(0, 1)) & (mask != 0)}


def _as_long(name: str, each: NDArray[Any], read: int) -> bool:
    return name in ("coils", "phase", "mask") and each.ndim > 1 and each.shape[-2] == read


def _read_fully(values: NDArray[Any], mask: NDArray[Any] | None) -> bool:
    """Whether each line that was sampled was sampled all along; k-space (slice, coil, read, line).

    A few samples may be 0 by chance."""
    if mask is not None and mask.ndim > 1 and (mask != mask[..., :1, :]).any():
        return False
    seen = (values != 0).any(axis=(0, 1))
    taken = seen[:, seen.any(axis=0)]
    return bool(taken.mean() > 1 - BY_CHANCE) if taken.size else True


def _transformed(values: NDArray[Any], axis: int, transform: Any) -> NDArray[Any]:
    moved = np.fft.ifftshift(values, axes=axis)
    return np.fft.fftshift(transform(moved, axis=axis, norm="ortho"), axes=axis)
