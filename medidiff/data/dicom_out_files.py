"""Objects get their identity, and become files."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from medidiff.data.dicom_out_modules import Making, add_private, own_scheme, put, version
from medidiff.data.dicom_out_protect import Protect
from medidiff.data.dicom_out_source import told_without_values
from medidiff.data.dicom_out_uids import encoded, uid_of
from medidiff.errors import OutputError

IMPLEMENTATION = uid_of("medidiff")  # of the program, for the files' meta header


@told_without_values()
def written(
    objects: Sequence[Dataset],
    folder: Path,
    protect: Protect = lambda data: data,
) -> list[Path]:
    """Objects as files 0001.dcm, 0002.dcm, ... in a new folder, all of them or none.

    `protect` is applied to each before it is written.
    Errors: OutputError if the folder is there already.
    """
    if folder.exists():
        raise OutputError(f"{folder} is there already and is not overwritten; name another")
    names = [f"{number:04d}.dcm" for number in range(1, len(objects) + 1)]
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        for name, data in zip(names, objects, strict=True):
            safe = protect(data)
            safe.file_meta.MediaStorageSOPInstanceUID = safe.SOPInstanceUID
            safe.save_as(part / name, enforce_file_format=True)
        part.replace(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return [folder / name for name in names]


def finished(data: Dataset, kind: UID, series: UID, made: Making) -> Dataset:
    """An object with its identity, which is that of everything else in it."""
    put(
        data,
        {
            "SpecificCharacterSet": "ISO_IR 192",
            "SOPClassUID": kind,
            "SeriesInstanceUID": series,
            "CodingSchemeIdentificationSequence": [own_scheme()],
            "InstanceCreationDate": made.date,
            "InstanceCreationTime": made.time,
        },
    )
    if made.kind == "SYNTHETIC":  # whether a processed image is all faithful, nobody can say
        data.SyntheticData = "YES"
    add_private(data, made)
    data.SOPInstanceUID = uid_of("instance", encoded(data))
    data.file_meta = FileMetaDataset()
    put(
        data.file_meta,
        {
            "MediaStorageSOPClassUID": kind,
            "MediaStorageSOPInstanceUID": data.SOPInstanceUID,
            "TransferSyntaxUID": ExplicitVRLittleEndian,
            "ImplementationClassUID": IMPLEMENTATION,
            "ImplementationVersionName": f"MEDIDIFF_{version()}"[:16],
        },
    )
    return data
