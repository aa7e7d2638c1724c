"""Images with their geometry: files to MetaTensors, arrays to NIfTI and PNG.

Coordinates are RAS+ in mm everywhere in this package; formats that count otherwise are converted
here. MONAI is imported when an image is loaded, not before: it takes seconds.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from medidiff.data.decode import decode
from medidiff.errors import DataError

if TYPE_CHECKING:
    from monai.data.meta_tensor import MetaTensor

    Volume = MetaTensor
else:
    Volume = Tensor

ORIGINAL = "original"  # the key in MetaTensor.meta that holds the `Original`


@dataclass(frozen=True)
class Original:
    """The grid of an image as it came, which results are put back on.

    Units: `affine` is 4 x 4, RAS+, mm. Without stored geometry (`known` False) it only says the
    axes: identity, or the pixel size that a `Space` declares.
    """

    shape: tuple[int, ...]
    affine: NDArray[np.float64]
    known: bool
    """Whether the file states where its voxels lie."""
    modality: str | None
    background: tuple[float, ...]
    """The smallest value of each channel: what lies where nothing was imaged."""
    sized: bool = False
    """Whether the file states the size of its voxels, where it does not say how they lie."""

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """Voxel size along each of the image's axes."""
        lengths = np.linalg.norm(self.affine[:3, :3], axis=0)
        return tuple(float(step) for step in lengths[: len(self.shape)])


def load_image(path: str | os.PathLike[str]) -> Volume:
    """The image in a file (NIfTI, DICOM, PNG, JPEG, NRRD, MetaImage, k-space) or a DICOM folder.

    Shapes: (channel, *space), float32; the affine is 4 x 4 for slices too. Pictures are (rows,
    columns).
    Range: the values of the file, rescaled as it says (HU for CT).
    Errors: DataError without the file's name in its text.
    """
    scan = decode(Path(path))
    voxels = torch.from_numpy(np.ascontiguousarray(scan.array, np.float32))
    return _located(voxels, scan.affine, scan.modality, scan.spacing_mm)


def make_image(array: Tensor, affine: ArrayLike | None = None) -> Volume:
    """An image from an array (channel, *space) and its affine (4 x 4, RAS+, mm; None if
    unknown)."""
    matrix = None if affine is None else np.asarray(affine, np.float64)
    return _located(array.detach().to(torch.float32), matrix, None)


def original_of(image: Volume) -> Original:
    """The grid that an image came on, however it was transformed since."""
    found: Any = image.meta[ORIGINAL]
    return found


def _located(
    voxels: Tensor,
    affine: NDArray[np.float64] | None,
    modality: str | None,
    spacing_mm: tuple[float, ...] | None = None,
) -> Volume:
    from monai.data.meta_tensor import MetaTensor

    background = tuple(float(channel.min()) for channel in voxels)
    known = affine is not None
    sized = not known and spacing_mm is not None
    matrix = (
        affine if affine is not None else np.diag([*(spacing_mm or ()), 1.0, 1.0, 1.0, 1.0][:4])
    )
    original = Original(tuple(voxels.shape[1:]), matrix, known, modality, background, sized)
    return MetaTensor(voxels, affine=torch.from_numpy(matrix.copy()), meta={ORIGINAL: original})


def save_image(
    path: str | os.PathLike[str],
    array: ArrayLike | Tensor,
    affine: ArrayLike,
    *,
    description: str = "",
    window: tuple[float, float] | None = None,
) -> Path:
    """Writes an array (channel, *space) as NIfTI with its geometry, or one 2-D channel as PNG.

    NIfTI: s-form and q-form both say `affine` (RAS+, mm); several channels go to the fourth axis;
    integers stay integers, all else is float32. `description` stands in the header (80 characters).
    PNG: 8 bits; `window` (low, high) becomes 0 to 255 and what lies outside is clipped; without it
    the values must be whole numbers from 0 to 255.
    Errors: DataError for another suffix, wrong shapes, values that a PNG cannot hold.
    """
    path = Path(path)
    values = array.detach().cpu().numpy() if isinstance(array, Tensor) else np.asarray(array)
    if values.ndim not in (3, 4):
        raise DataError(f"an image is (channel, *space) with 2 or 3 space axes, not {values.shape}")
    if path.name.endswith((".nii", ".nii.gz")):
        _save_nifti(path, values, np.asarray(affine, np.float64), description)
    elif path.suffix == ".png":
        _save_png(path, values, window)
    else:
        raise DataError("images are written as .nii, .nii.gz or .png")
    return path


def _save_nifti(
    path: Path, values: NDArray[Any], affine: NDArray[np.float64], description: str
) -> None:
    import nibabel

    if values.ndim == 3 and values.shape[0] > 1:  # several slices: the third axis is space
        values = values[..., None]
    stored = np.moveaxis(values, 0, -1) if values.shape[0] > 1 else values[0]
    if stored.dtype == np.bool_:
        stored = stored.astype(np.uint8)
    elif stored.dtype.kind == "f" or stored.dtype.itemsize > 4:
        stored = stored.astype(np.float32 if stored.dtype.kind == "f" else np.int32)
    image = nibabel.Nifti1Image(stored, affine)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = description.encode()[:79]
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    nibabel.save(image, path)


def _save_png(path: Path, values: NDArray[Any], window: tuple[float, float] | None) -> None:
    from PIL import Image

    if values.ndim != 3 or values.shape[0] != 1:
        raise DataError(f"a PNG holds one 2-D channel, not {values.shape}")
    if window is not None:
        low, high = window
        values = np.round(np.clip((values - low) / (high - low), 0, 1) * 255)
    if values.min() < 0 or values.max() > 255 or (values != np.round(values)).any():
        raise DataError("a PNG holds whole numbers from 0 to 255; state a window for other values")
    Image.fromarray(values[0].astype(np.uint8)).save(path)
