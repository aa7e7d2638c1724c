"""De-identified objects of our own: the patient is gone, and what the image is still stands."""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread

from medidiff.data.confidentiality.finding_phi import phi_of
from medidiff.data.confidentiality.profile import Confidentiality, deidentify
from medidiff.data.decode import decode
from medidiff.data.dicom_out import images
from medidiff.data.dicom_out_files import written
from medidiff.data.dicom_out_maps import Quantity, parametric_map
from medidiff.data.dicom_out_modules import Making
from medidiff.data.dicom_out_origin import Origin
from medidiff.data.dicom_out_protect import deidentified, protection
from medidiff.data.dicom_out_segments import Segment, segmentation
from medidiff.data.dicom_out_source import open_source
from medidiff.data.privacy import SiteKey

SAID = {"model": "prior", "model_digest": "ab12", "seed": 0, "input_digest": "f00d"}
MADE = Making("AI-PROCESSED", "denoise", SAID, datetime(2026, 3, 4, tzinfo=UTC))
NAMES = ("Doe", "Jane", "MRN-77", "Chest of", "Mercy", "Roe", "f00d", "20250102", "20260304")


OURS = {"DeviceSerialNumber", "SeriesDescription", "DerivationDescription"}
OURS |= {"ContributionDescription", "group 0077"}


@pytest.fixture
def objects(tmp_path: Path, write_series: Callable[..., np.ndarray]) -> dict[str, list[Dataset]]:
    """An image, a map and a segmentation of a patient with names in many places."""
    write_series(
        tmp_path / "in", [0, 3, 6], PatientName="Doe^Jane", SeriesDescription="Chest of Doe",
        StudyDescription="Chest of Doe", StudyDate="20250102", AccessionNumber="Doe7",
        Manufacturer="Acme", InstitutionName="Mercy", ReferringPhysicianName="Roe^Rick",
        FrameOfReferenceUID="1.2.3.4", PatientSex="F",
    )  # fmt: skip
    scan, origin = decode(tmp_path / "in"), Origin(open_source(tmp_path / "in"))
    array, affine = scan.array[0], scan.affine
    mask = (array > 0).astype(int)
    return {
        "image": images(array, affine, origin, MADE),
        "map": [parametric_map(abs(array), affine, origin, MADE, Quantity("std"), 2)],
        "mask": [segmentation(mask, affine, origin, MADE, [Segment(1, "lung")], 3)],
    }


def content(data: Dataset) -> str:
    stream = io.BytesIO()
    data.save_as(stream, enforce_file_format=True)
    return stream.getvalue().decode("latin-1")


@pytest.mark.parametrize("dates", ["remove", "shift"])
def test_no_name_number_or_date_is_left(
    dates: str, objects: dict[str, list[Dataset]], key: SiteKey
) -> None:
    for series in objects.values():
        for data in series:
            safe = deidentified(data, Confidentiality(dates=dates), key)  # type: ignore[arg-type]
            assert [name for name in NAMES if name in content(safe)] == []
            assert {found.where.split(".")[-1] for found in phi_of(safe)} <= OURS
            assert data.PatientName == "Doe^Jane"  # the object itself stays as it was


def test_what_made_it_and_what_it_is_stay(objects: dict[str, list[Dataset]], key: SiteKey) -> None:
    for series in objects.values():
        safe = deidentified(series[0], Confidentiality(), key)
        assert safe.SeriesDescription == "AI-PROCESSED denoise"
        assert "prior (ab12)" in safe.DerivationDescription
        assert safe.PatientIdentityRemoved == "YES"
        ours = safe.ContributingEquipmentSequence[-1]
        assert (ours.Manufacturer, ours.DeviceSerialNumber) == ("medidiff", "ab12")
        assert "Research only" in ours.ContributionDescription
        assert safe.private_block(0x77, "MEDIDIFF")[3].value == "ab12"
        assert '"seed": 0' in safe.private_block(0x77, "MEDIDIFF")[4].value


def test_what_is_synthetic_stays_so(key: SiteKey) -> None:
    made = Making("SYNTHETIC", "sample", SAID)
    (data,) = images(np.ones((4, 4)), np.eye(4), Origin(modality="MR"), made)
    safe = deidentified(data, Confidentiality(), key)
    assert safe.SyntheticData == "YES"
    assert safe.SeriesDescription == "SYNTHETIC - not for diagnosis"


def test_it_still_belongs_to_a_source_that_the_site_de_identifies(
    objects: dict[str, list[Dataset]], key: SiteKey, tmp_path: Path
) -> None:
    sources = {}
    for file in (tmp_path / "in").iterdir():
        data = dcmread(file)
        deidentify(data, Confidentiality(), key)
        sources[data.SOPInstanceUID] = data
    first = next(iter(sources.values()))
    for series in objects.values():
        for one in series:
            safe = deidentified(one, Confidentiality(), key)
            assert safe.StudyInstanceUID == first.StudyInstanceUID
            assert safe.FrameOfReferenceUID == first.FrameOfReferenceUID
            assert safe.PatientID == first.PatientID
            told = {item.ReferencedSOPInstanceUID for item in safe.SourceImageSequence}
            assert told <= sources.keys()


def test_the_shift_of_dates_is_not_told_by_ours(
    objects: dict[str, list[Dataset]], key: SiteKey
) -> None:
    safe = deidentified(objects["image"][0], Confidentiality(dates="shift"), key)
    assert safe.StudyDate
    assert safe.StudyDate != "20250102"
    assert safe.SeriesDate == safe.ContentDate == safe.InstanceCreationDate == safe.StudyDate


def test_pixels_and_place_stay(objects: dict[str, list[Dataset]], tmp_path: Path) -> None:
    written(objects["image"], tmp_path / "plain")
    written(objects["image"], tmp_path / "safe", protection("remove"))
    plain, safe = decode(tmp_path / "plain"), decode(tmp_path / "safe")
    assert (plain.array == safe.array).all()
    assert (np.array(plain.affine) == np.array(safe.affine)).all()
    one = dcmread(tmp_path / "safe" / "0001.dcm")
    assert one.file_meta.MediaStorageSOPInstanceUID == one.SOPInstanceUID
    assert one.SOPInstanceUID != objects["image"][0].SOPInstanceUID
