"""What scanners measure, as files hold it: k-space in fastMRI's HDF5 layout or as NumPy arrays, and
sinograms as NumPy arrays.

Nothing in a file is executed or unpickled.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from medidiff.errors import DataError

SUFFIXES = (".h5", ".hdf5", ".npy", ".npz")


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
        """SHA-256 of the values."""
        return hashlib.sha256(np.ascontiguousarray(self.values).tobytes()).hexdigest()


def read_raw(given: object, dims: int) -> Raw:
    """Measurements from a file (.h5, .npy, .npz) or an array, for images of `dims` dimensions.

    A single slice and a single coil may be left out of the shape; an array of one axis more than a
    coil's picture is coils, of two more slices and coils. fastMRI's single-coil files have slices
    and no coils.
    Errors: DataError without the file's name in its text.
    """
    if not isinstance(given, str | os.PathLike):
        return Raw(_shaped(to_array(given), dims, None))
    place = Path(given)
    try:
        if place.suffix in (".h5", ".hdf5"):
            return _hdf5(place, dims)
        if place.suffix in (".npy", ".npz"):
            return _numpy(place, dims)
    except (OSError, ValueError, KeyError, EOFError, ElementTree.ParseError) as error:
        raise DataError(
            f"the measurement cannot be read ({type(error).__name__})", private=f"{place}: {error}"
        ) from None
    raise DataError(
        f"measurements are read from {', '.join(SUFFIXES)}, not {place.suffix or 'a folder'}",
        private=str(place),
    )


def read_array(given: object) -> NDArray[Any]:
    """What belongs to a measurement, such as a mask, from a .npy file or an array.

    Errors: DataError without the file's name in its text.
    """
    if not isinstance(given, str | os.PathLike):
        return to_array(given)
    try:
        return np.load(Path(given), allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"an array beside the measurement cannot be read ({type(error).__name__}); it is a "
            ".npy file",
            private=f"{given}: {error}",
        ) from None


def to_array(given: Any) -> NDArray[Any]:
    """An array of an array or a tensor on any device."""
    if hasattr(given, "detach"):
        given = given.detach().cpu()
    found = np.asarray(given)
    if found.dtype.kind not in "fciub" or found.ndim == 0:
        raise DataError(f"expected an array of numbers, found {found.dtype} of {found.shape}")
    return found


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


def _numpy(place: Path, dims: int) -> Raw:
    loaded = np.load(place, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return Raw(_shaped(loaded, dims, None))
    with loaded as file:
        names = {name: file[name] for name in file.files}
    values = names.pop("kspace", names.pop("sinogram", None))
    if values is None:
        raise DataError(
            f"the file holds {', '.join(sorted(names)) or 'nothing'}; a measurement is called "
            "kspace or sinogram",
            private=str(place),
        )
    spacing = names.pop("spacing_mm", None)
    given = None if spacing is None else tuple(float(mm) for mm in np.ravel(spacing))
    return Raw(_shaped(values, dims, None), names, given)


def _hdf5(place: Path, dims: int) -> Raw:
    """fastMRI's layout: kspace (slice[, coil], *space), mask along the last axis, a header.

    Voxels of `spacing_mm` count where there is no header."""
    import h5py

    with h5py.File(place, "r") as file:
        kspace = file.get("kspace")
        if not isinstance(kspace, h5py.Dataset):
            raise DataError("the file holds no data set named kspace", private=str(place))
        values = np.asarray(kspace)
        known = ("mask", "coils", "spacing_mm")
        beside = {name: np.asarray(file[name]) for name in known if name in file}
        header = np.asarray(file.get("ismrmrd_header")).item() if "ismrmrd_header" in file else None
    values = _shaped(values, dims, single_coil=True)
    spacing = beside.pop("spacing_mm", None)
    if header is None or dims == 3:
        stated = None if spacing is None else tuple(float(mm) for mm in np.ravel(spacing))
        return Raw(values, beside, stated)
    return without_oversampling(values, beside, header_of(header))


@dataclass(frozen=True)
class Header:
    """What an ISMRMRD header says of the grid."""

    encoded: tuple[int, int]
    encoded_mm: tuple[float, float, float]
    shown: tuple[int, int]


def header_of(text: bytes | str) -> Header:
    """The encoded matrix, its field of view and the matrix of the images. x is read out."""
    root = ElementTree.fromstring(text)
    space = root.tag.partition("}")[0] + "}" if root.tag.startswith("{") else ""

    def numbers(of: str, what: str) -> list[float]:
        found = root.find(f"{space}encoding/{space}{of}/{space}{what}")
        if found is None:
            raise KeyError(f"{of}/{what}")
        return [float(found.findtext(f"{space}{axis}") or 0) for axis in "xyz"]

    encoded, shown = numbers("encodedSpace", "matrixSize"), numbers("reconSpace", "matrixSize")
    x, y, z = numbers("encodedSpace", "fieldOfView_mm")
    return Header((int(encoded[0]), int(encoded[1])), (x, y, z), (int(shown[0]), int(shown[1])))


def without_oversampling(
    values: NDArray[Any], beside: Mapping[str, NDArray[Any]], header: Header
) -> Raw:
    """The read-out axis (the first of space), which is sampled fully, cut to what is shown.

    Its k-space is brought to as many samples as the images have, which takes away what lies
    outside of them and changes nothing inside.
    """
    read, lines = values.shape[-2:]
    shown = min(header.shown[0], read)
    axis = values.ndim - 2
    images = _transformed(values, axis, np.fft.ifft)
    start = read // 2 - shown // 2
    cut = np.take(images, range(start, start + shown), axis=axis)
    beside = {
        name: np.take(each, range(start, start + shown), axis=-2) if name == "coils" else each
        for name, each in beside.items()
    }
    x_mm, y_mm, z_mm = header.encoded_mm
    spacing = (x_mm / read, y_mm / lines, z_mm)
    return Raw(
        _transformed(cut, axis, np.fft.fft).astype(values.dtype),
        beside,
        spacing,
        (shown, min(header.shown[1], lines)),
    )


def _transformed(values: NDArray[Any], axis: int, transform: Any) -> NDArray[Any]:
    moved = np.fft.ifftshift(values, axes=axis)
    return np.fft.fftshift(transform(moved, axis=axis, norm="ortho"), axes=axis)
