"""Drawn images written as NIfTI, or as DICOM that says in every file that it is synthetic."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, MRImageStorage

from medidiff.data.shapes import Array

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])
DESCRIPTION = "SYNTHETIC - not for diagnosis"


def write_nifti(path: Path, array: NDArray[np.generic], affine: Array) -> None:
    """A NIfTI file with both forms of its affine set."""
    image = nibabel.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    nibabel.save(image, path)


@dataclass(frozen=True)
class DrawnSubject:
    """What the header of a drawn series says of its subject; `key` makes the UIDs."""

    name: str
    age: float
    sex: str
    key: str


def write_dicom(
    folder: Path, array: NDArray[np.int16], affine: Array, modality: str, subject: DrawnSubject
) -> None:
    """One DICOM series, a file a slice, in a new folder.

    It is the least that a CT or MR image needs. Image type is DERIVED\\SECONDARY, for no scanner
    made it, and the series description says that it is synthetic. UIDs are derived from
    `subject.key`: the same arguments write the same files.
    """
    folder.mkdir(parents=True)
    volume = array if array.ndim == 3 else array[None]
    lps = RAS_TO_LPS @ affine[:3]
    # the array's axes are (slices, rows, columns); a slice has its own axis last in the affine
    slices, rows, columns = (lps[:, i] for i in ((2, 0, 1) if array.ndim == 2 else (0, 1, 2)))
    for number, pixels in enumerate(volume):
        header = _header(modality, subject, number)
        header.ImagePositionPatient = _decimals(lps[:, 3] + number * slices)
        header.ImageOrientationPatient = _decimals([*_unit(columns), *_unit(rows)])
        header.PixelSpacing = _decimals([np.linalg.norm(rows), np.linalg.norm(columns)])
        header.SliceThickness = _decimals([np.linalg.norm(slices)])[0]
        header.Rows, header.Columns = pixels.shape
        header.PixelData = np.ascontiguousarray(pixels, dtype="<i2").tobytes()
        header.save_as(folder / f"{number + 1:04d}.dcm", enforce_file_format=True)


def _header(modality: str, subject: DrawnSubject, number: int) -> Dataset:
    data = Dataset()
    data.SOPClassUID = CTImageStorage if modality == "CT" else MRImageStorage
    data.SOPInstanceUID = _uid(subject.key, f"instance {number}")
    data.StudyInstanceUID, data.SeriesInstanceUID = (
        _uid(subject.key, "study"),
        _uid(subject.key, "series"),
    )
    data.FrameOfReferenceUID = _uid(subject.key, "frame of reference")
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    data.PatientName, data.PatientID = f"Phantom^{subject.name}", subject.name
    data.PatientSex, data.PatientAge = subject.sex, f"{round(subject.age):03d}Y"
    data.PatientBirthDate = data.StudyDate = data.StudyTime = data.AccessionNumber = ""
    data.ReferringPhysicianName = data.StudyID = data.PositionReferenceIndicator = ""
    data.Modality, data.Manufacturer = modality, "medidiff"
    data.ManufacturerModelName = "drawn phantom"
    data.ImageType = ["DERIVED", "SECONDARY", "AXIAL" if modality == "CT" else "OTHER"]
    data.SeriesDescription = data.DerivationDescription = DESCRIPTION
    data.BodyPartExamined = "CHEST" if modality == "CT" else "HEAD"
    data.BurnedInAnnotation, data.PatientPosition = "NO", "HFS"
    data.SeriesNumber, data.InstanceNumber, data.AcquisitionNumber = 1, number + 1, 1
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation = 15, 1
    if modality == "CT":
        data.RescaleIntercept, data.RescaleSlope, data.RescaleType = "0", "1", "HU"
        data.KVP = ""
    else:
        data.ScanningSequence, data.SequenceVariant, data.ScanOptions = "RM", "NONE", ""
        data.MRAcquisitionType, data.EchoTime, data.EchoTrainLength = "2D", "", ""
        data.RepetitionTime = ""
    return data


def _uid(*parts: str) -> UID:
    """A UID under 2.25 (X.667, from a UUID) that the parts decide."""
    digest = hashlib.blake2b("/".join(parts).encode(), digest_size=16).digest()
    return UID(f"2.25.{int.from_bytes(digest, 'big')}")


def _unit(vector: Array) -> Array:
    return vector / np.linalg.norm(vector)


def _decimals(values: Array | list[np.floating]) -> list[str]:
    """Numbers of at most 16 characters, as DICOM's decimal strings are."""
    return [f"{float(value) + 0.0:.10g}"[:16] for value in values]
