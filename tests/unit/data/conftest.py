"""Small images with known geometry, and a key that is the tests' own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from medidiff.data.privacy import SiteKey

AXES = {"L": (0, -1), "R": (0, 1), "P": (1, -1), "A": (1, 1), "I": (2, -1), "S": (2, 1)}


@pytest.fixture
def key() -> SiteKey:
    return SiteKey(b"0123456789abcdef")


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test touches the user's key."""
    monkeypatch.setenv("MEDIDIFF_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MEDIDIFF_SITE_KEY", raising=False)
    return tmp_path / "home"


@pytest.fixture
def affine_for() -> Callable[..., np.ndarray]:
    """The affine of axes such as "LPS" with their spacing and origin in mm."""

    def make(
        letters: str, spacing_mm: Sequence[float], origin: Sequence[float] = (0, 0, 0)
    ) -> np.ndarray:
        affine = np.zeros((4, 4))
        for axis, (letter, step) in enumerate(zip(letters, spacing_mm, strict=True)):
            direction, sign = AXES[letter]
            affine[direction, axis] = sign * step
        affine[:3, 3] = origin
        affine[3, 3] = 1
        return affine

    return make


@pytest.fixture
def write_nifti(tmp_path: Path) -> Callable[..., Path]:
    def write(name: str, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
        return path

    return write


SERIES = "1.2.826.0.1.3680043.8.498.1"


def make_slice(
    path: Path,
    pixels: np.ndarray,
    position: tuple[float, float, float],
    axes: tuple[float, ...] = (1, 0, 0, 0, 1, 0),
    **other: object,
) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    data.SeriesInstanceUID, data.Modality = SERIES, "CT"
    data.StudyInstanceUID, data.PatientID = SERIES + ".0", "MRN-77"
    data.Rows, data.Columns = pixels.shape
    data.PixelSpacing, data.SliceThickness = [2.0, 0.5], 3.0
    data.ImagePositionPatient, data.ImageOrientationPatient = list(position), list(axes)
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation = 15, 0
    data.RescaleSlope, data.RescaleIntercept = 2.0, -1024.0
    data.PixelData = pixels.astype(np.uint16).tobytes()
    for name, value in other.items():
        setattr(data, name, value)
    pydicom.dcmwrite(path, data)


def make_series(folder: Path, heights: list[float], **other: object) -> np.ndarray:
    folder.mkdir(exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 2000, (len(heights), 4, 6))
    for index, (height, slice_) in enumerate(zip(heights, pixels, strict=True)):
        make_slice(folder / f"{index}.dcm", slice_, (10, 20, height), InstanceNumber=index, **other)
    return pixels


@pytest.fixture
def write_slice() -> Callable[..., None]:
    """Writes one CT slice: file, pixels, position, axes, further attributes."""
    return make_slice


@pytest.fixture
def write_series() -> Callable[..., np.ndarray]:
    """Writes a folder of slices at some heights; gives their pixels."""
    return make_series
