"""Drawn images written as NIfTI, or as DICOM that says in every file that it is synthetic."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray

from medidiff.data.shapes import Array

DRAWN_ON = datetime(2000, 1, 1, tzinfo=UTC)  # the same arguments write the same files


def write_nifti(path: Path, array: NDArray[np.generic], affine: Array) -> None:
    """A NIfTI file with both forms of its affine set."""
    image = nibabel.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    nibabel.save(image, path)


def write_dicom(
    folder: Path,
    array: NDArray[np.int16],
    affine: Array,
    modality: str,
    name: str,
    said: Mapping[str, object],
) -> None:
    """One DICOM series of a synthetic patient in a new folder, a file a slice. `said`: how it was
    drawn, which is kept in every file."""
    from medidiff.data.dicom_out import images
    from medidiff.data.dicom_out_files import written
    from medidiff.data.dicom_out_modules import Making
    from medidiff.data.dicom_out_origin import Origin
    from medidiff.data.dicom_out_patient import Patient

    whose = Patient(id=name, name=f"Phantom^{name}", sex=str(said.get("sex", "")))
    made = Making("SYNTHETIC", "phantom", said, DRAWN_ON)
    place = np.asarray(affine, dtype=np.float64)
    written(images(array, place, Origin(patient=whose, modality=modality), made), folder)
