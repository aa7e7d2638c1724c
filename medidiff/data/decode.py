"""Files to arrays with their geometry: the one door that both checking and loading go through.

NIfTI by nibabel, PNG and JPEG by Pillow, NRRD and MetaImage by SimpleITK, DICOM by pydicom, k-space
by h5py. Imports neither torch nor MONAI, so that a manifest is checked without waiting for them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.data.file_names import KSPACE, PICTURES
from medidiff.data.sources import ARCHIVES
from medidiff.errors import DataError

Affine = NDArray[np.float64]
SHEAR_LIMIT = 0.02  # cosine between two axes; registered scans have rounding errors of about 1e-3


@dataclass(frozen=True)
class Scan:
    """An image as its file holds it.

    Shapes: `array` is (channel, *space) with two or three space axes; `affine` is 4 x 4 for both.
    Units: `affine` maps voxel indices to RAS+ mm; None where the file has no geometry (pictures).
    """

    array: NDArray[Any]
    affine: Affine | None
    modality: str | None = None
    spacing_mm: tuple[float, ...] | None = None
    """Voxel size along each axis, of files that state it without saying how the body lies."""

    @property
    def dims(self) -> int:
        """2 for a slice or picture, 3 for a volume."""
        return self.array.ndim - 1


class UnusableError(Exception):
    """A sound file whose content cannot be used; the text holds no names."""


def decode(path: str | Path) -> Scan:
    """The scan in a file, or in a folder that holds the slices of one DICOM series.

    A volume that is one voxel deep along some axis comes back as a slice, with that axis last in
    the affine. A fourth axis becomes channels, and `scan.nii.gz[2]` is the third of them alone.
    Pictures have (rows, columns) and no affine. DICOM may lie in archives, and a series list
    (`*.series.json`) names the frames of one volume. Fully sampled k-space (fastMRI's HDF5) gives
    the root-sum-of-squares image, and `file.h5[2]` its third slice.
    Errors: DataError without the file's name in its text (it is in `.private`).
    """
    path = Path(path)
    with told_without_names(path):
        whole, channel = selected(path)
        reader = _reader(whole)
        if channel is None:
            return _checked(reader(whole))
        if reader is _nifti:
            return _checked(_nifti(whole, channel))
        if reader is _kspace:
            return _checked(_kspace(whole, channel))
        return _checked(only(reader(whole), channel))


def is_dicom(path: Path) -> bool:
    """Whether `decode` reads a path as DICOM: files, folders, archives, series lists; not what is
    no image at all, such as k-space."""
    try:
        return _reader(path) in (_dicom, _series_list)
    except (OSError, UnusableError):
        return False


@contextmanager
def told_without_names(path: Path) -> Iterator[None]:
    """Whatever goes wrong with a file becomes a DataError that names it in `.private` only."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError("there is no such file", private=str(error)) from None
    except (UnusableError, DataError) as error:
        raise DataError(str(error), private=f"{path}: {error}") from None
    except (
        Exception
    ) as error:  # decoders raise anything on damaged files; their texts name the file
        kind = type(error).__name__
        raise DataError(
            f"the file is truncated, damaged or not what its name says ({kind})",
            private=f"{path}: {error!r}",
        ) from None


def selected(path: Path) -> tuple[Path, int | None]:
    """The file that a cell names, and the channel of it, counted from 0, if one is named."""
    found = re.fullmatch(r"(.+)\[(\d+)\]", path.name)
    if found is None or path.exists():
        return path, None
    return path.with_name(found[1]), int(found[2])


def check_channel(channel: int, count: int) -> None:
    """Errors: UnusableError if a file of `count` images has no such one."""
    if channel >= count:
        raise UnusableError(f"there is no image {channel}: the file holds {count}")


def not_one(count: int) -> str:
    """What is told of a file of several images where one is wanted."""
    return (
        f"the file holds {count} images (channels or times); name one of them, counted from 0: "
        "FILE[0], FILE[1], ..."
    )


def only(scan: Scan, channel: int) -> Scan:
    """One channel of a scan."""
    check_channel(channel, len(scan.array))
    return replace(scan, array=scan.array[channel : channel + 1])


def _reader(path: Path) -> Callable[[Path], Scan]:
    if not path.exists():
        raise FileNotFoundError(path)
    name = path.name.lower()
    if path.is_dir() or name.endswith((".dcm", ".ima", *ARCHIVES)):
        return _dicom
    if name.endswith(".series.json"):
        return _series_list
    for suffixes, reader in READERS.items():
        if name.endswith(suffixes):
            return reader
    if _is_dicom(path):  # DICOM files often have no suffix, or a number for one
        return _dicom
    raise UnusableError(
        "the format is not known: NIfTI (.nii, .nii.gz), DICOM, PNG, JPEG, BMP, TIFF, "
        "NRRD (.nrrd), MetaImage (.mha, .mhd) and fully sampled k-space (.h5) are read"
    )


def _is_dicom(path: Path) -> bool:
    from pydicom.misc import is_dicom

    return is_dicom(path)


def _dicom(path: Path) -> Scan:
    from medidiff.data import dicom

    series = dicom.load(path)
    return Scan(series.array[None], series.affine, series.modality)


def _series_list(path: Path) -> Scan:
    from medidiff.data.series_list import load_series_list

    series = load_series_list(path)
    return Scan(series.array[None], series.affine, series.modality)


def _nifti(path: Path, channel: int | None = None) -> Scan:
    from medidiff.data.nifti import load_nifti

    return load_nifti(path, channel)


def _kspace(path: Path, index: int | None = None) -> Scan:
    from medidiff.data.kspace_images import load_kspace

    return load_kspace(path, index)


def _picture(path: Path) -> Scan:
    from PIL import Image

    with Image.open(path) as picture:
        pages = getattr(picture, "n_frames", 1)
        if picture.format == "TIFF" and pages > 1:
            raise UnusableError(f"the file holds {pages} pictures; one is expected")
        picture.load()
        if picture.mode in ("P", "PA", "RGBA", "LA", "CMYK", "YCbCr"):
            picture = picture.convert("L" if picture.mode == "LA" else "RGB")
        array = np.asarray(picture)
    if array.ndim == 3:
        if not (array == array[..., :1]).all():
            raise UnusableError("the picture is in colour; grey values are expected")
        array = array[..., 0]
    return Scan(array[None], None)


def _itk(path: Path) -> Scan:
    from medidiff.data.itk_images import load_itk

    return load_itk(path)


READERS: dict[tuple[str, ...], Callable[[Path], Scan]] = {
    (".nii", ".nii.gz", ".hdr", ".img", ".hdr.gz", ".img.gz"): _nifti,
    PICTURES: _picture,
    (".nrrd", ".nhdr", ".mha", ".mhd"): _itk,
    KSPACE: _kspace,
}


def _checked(scan: Scan) -> Scan:
    array, affine, spacing = scan.array, scan.affine, scan.spacing_mm
    if array.size == 0:
        raise UnusableError("the image has no voxels")
    if np.iscomplexobj(array):
        raise UnusableError("the image is complex; store real and imaginary parts as two images")
    if array.dtype.kind not in "biuf":
        raise UnusableError(f"the voxels are of type {array.dtype}; numbers are expected")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        count = int((~np.isfinite(array)).sum())
        raise UnusableError(f"{count} voxels are not finite numbers (nan or infinite)")
    if affine is not None:
        _check_affine(affine)
    thin = [axis for axis in range(1, array.ndim) if array.shape[axis] == 1]
    if array.ndim == 4 and thin:  # a slice kept as a volume
        last = thin[-1]
        array = array.squeeze(last)
        if affine is not None:
            order = [axis for axis in range(3) if axis != last - 1] + [last - 1, 3]
            affine = affine[:, order]
        if spacing is not None:
            spacing = tuple(mm for axis, mm in enumerate(spacing, start=1) if axis != last)
    return Scan(array, affine, scan.modality, spacing)


def _check_affine(affine: Affine) -> None:
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or lengths.min() < 1e-6:
        raise UnusableError("the affine is not finite or has an axis of no length")
    axes = affine[:3, :3] / lengths
    shear = np.abs(axes.T @ axes - np.eye(3)).max()
    if shear > SHEAR_LIMIT:
        raise UnusableError(
            f"the axes are not at right angles (cosine {shear:.3f}), as after a gantry tilt; "
            "resample the scan to a straight grid first"
        )
