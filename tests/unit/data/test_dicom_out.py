"""Derived series: the values, the place and the patient of what they were made from, and nothing
that says they are what the scanner made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813  (its usual name)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from scipy.spatial.transform import Rotation

from medidiff.data.decode import decode
from medidiff.data.dicom_out import channels, images
from medidiff.data.dicom_out_files import written
from medidiff.data.dicom_out_modules import LONG, Making
from medidiff.data.dicom_out_origin import Origin
from medidiff.data.dicom_out_patient import Patient, inherited
from medidiff.data.dicom_out_pixels import coded
from medidiff.data.dicom_out_source import open_source
from medidiff.errors import DataError, OutputError

WHEN = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
PROVENANCE = {"model": "prior", "model_digest": "ab12", "seed": 3, "network_calls": 20}
DENOISED = Making("AI-PROCESSED", "denoise", PROVENANCE, WHEN)
DRAWN = Making("SYNTHETIC", "sample", PROVENANCE, WHEN)
Series = Callable[..., np.ndarray]
Slice = Callable[..., None]


def same_place(
    one: np.ndarray, affine: np.ndarray, other: np.ndarray, other_affine: np.ndarray
) -> float:
    """The largest difference of the values of two volumes at the same points in space."""
    between = np.linalg.inv(other_affine) @ affine
    whole = np.round(between)
    corner = np.array([*[size - 1 for size in one.shape], 1.0])
    away = other_affine @ (between - whole) @ corner
    assert np.abs(away[:3]).max() < 1e-3  # mm
    assert np.abs(affine[:3, 3] - (other_affine @ whole @ [0, 0, 0, 1])[:3]).max() < 1e-3
    indices = np.indices(one.shape).reshape(3, -1)
    places = (whole[:3, :3] @ indices + whole[:3, 3:]).astype(int)
    return float(np.abs(other[tuple(places)].reshape(one.shape) - one.astype(np.float64)).max())


def tree(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file())


@st.composite
def affines(draw: st.DrawFn) -> np.ndarray:
    """Any orientation: axes exchanged, turned round, and turned obliquely."""
    order = draw(st.permutations(range(3)))
    signs = np.array(draw(st.tuples(*[st.sampled_from([-1, 1])] * 3)))
    steps = np.array(draw(st.tuples(*[st.floats(0.2, 6)] * 3)))
    angles = draw(st.tuples(*[st.sampled_from([0.0, 0.1, -0.4, 1.2])] * 3))
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles).as_matrix() @ np.eye(3)[:, order]
    affine[:3, :3] *= signs * steps
    affine[:3, 3] = draw(st.tuples(*[st.floats(-300, 300)] * 3))
    return affine


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(affine=affines(), shape=st.tuples(*[st.integers(2, 5)] * 3), data=st.data())
def test_every_orientation_comes_back_where_it_was(
    affine: np.ndarray,
    shape: tuple[int, ...],
    data: st.DataObject,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    place = tmp_path_factory.mktemp("out") / "series"
    values = np.random.default_rng(data.draw(st.integers(0, 9))).normal(0, 300, shape)
    objects = images(values, affine, Origin(modality="MR"), DRAWN)
    written(objects, place)
    back = decode(place)
    half = float(objects[0].RescaleSlope) / 2
    assert same_place(values, affine, back.array[0], np.array(back.affine)) <= half * 1.001


@settings(max_examples=20, deadline=None)
@given(affine=affines())
def test_a_slice_of_any_orientation_comes_back_where_it_was(
    affine: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = tmp_path_factory.mktemp("out") / "series"
    values = np.arange(12.0).reshape(3, 4)
    written(images(values, affine, Origin(modality="CT"), DRAWN), place)
    back = decode(place)
    assert back.affine is not None
    assert same_place(values[..., None], affine, back.array[0][..., None], back.affine) == 0


def test_planes_are_shown_as_a_radiologist_is_used_to() -> None:
    ras = np.diag([1.0, 1.0, 3.0, 1.0])
    first = images(np.zeros((4, 5, 6)), ras, Origin(modality="MR"), DRAWN)[0]
    assert [float(value) for value in first.ImageOrientationPatient] == [1, 0, 0, 0, 1, 0]
    assert (first.Rows, first.Columns) == (5, 4)
    sagittal = np.diag([4.0, 1.0, 1.0, 1.0])
    first = images(np.zeros((4, 5, 6)), sagittal, Origin(modality="MR"), DRAWN)[0]
    assert [float(value) for value in first.ImageOrientationPatient] == [0, 1, 0, 0, 0, -1]


def test_simpleitk_reads_the_same_series(tmp_path: Path, write_series: Series) -> None:
    write_series(tmp_path / "in", [0, 3, 6, 9], axes=(0.6, 0.8, 0, -0.8, 0.6, 0))
    scan = decode(tmp_path / "in")
    values = scan.array[0] + 0.3
    files = written(
        images(values, scan.affine, Origin(open_source(tmp_path / "in")), DENOISED),
        tmp_path / "out",
    )
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(files[0].parent)))
    image = reader.Execute()
    assert np.abs(sitk.GetArrayFromImage(image) - values).max() <= 0.5
    assert np.allclose(image.GetSpacing(), (0.5, 2, 3), atol=1e-3)
    assert np.allclose(
        np.array(image.GetOrigin()) * (-1, -1, 1), np.array(scan.affine)[:3, 3], atol=1e-3
    )


@settings(max_examples=60, deadline=None)
@given(low=st.floats(-1e5, 1e5), span=st.floats(0, 1e5), modality=st.sampled_from(["MR", "CT"]))
def test_values_keep_to_half_a_step(low: float, span: float, modality: str) -> None:
    values = np.linspace(low, low + span, 97)
    found = coded(values, modality)
    assert found.stored.dtype in (np.int16, np.uint16)
    back = found.stored * found.slope + found.intercept
    assert np.abs(back - values).max() <= 0.5001 * found.slope + 1e-9 * abs(low)
    if modality == "MR" and span > 1e-3:
        assert found.slope == 1 or found.slope <= 2.6 * span / 65534


@pytest.mark.parametrize(
    ("values", "modality", "said"),
    [
        ([-1024.4, 3071.0], "CT", ("int16", 1, 0)),
        ([0.0, 30000.5], "MR", ("uint16", 1, 0)),
        ([0.0, 0.5, 1.0], "MR", ("uint16", 2e-05, 0)),
        ([3, 255], "MR", ("uint16", 1, 0)),
        ([0.0, 200000.0], "CT", ("uint16", 5, 0)),
        ([40000.0, 40010.5], "CT", ("uint16", 1, 0)),
        ([-40000, -39000], "CT", ("uint16", 1, -40000)),
    ],
)
def test_steps_and_intercepts(values: list, modality: str, said: tuple) -> None:
    found = coded(np.array(values), modality)
    assert (found.stored.dtype.name, found.slope, found.intercept) == said


def test_nothing_but_numbers_is_written() -> None:
    with pytest.raises(DataError, match="2 values of the image are not finite"):
        images(np.array([[1, np.nan], [np.inf, 2]]), None, Origin(), DRAWN)


def test_it_says_that_it_is_derived_from_what_and_by_what(
    tmp_path: Path, write_series: Series
) -> None:
    write_series(
        tmp_path / "in", [0, 3, 6], PatientName="Doe^Jane", Manufacturer="Acme", SeriesNumber=4,
        SeriesDescription="Chest", ImageType=["ORIGINAL", "PRIMARY", "AXIAL"], KVP=120,
        WindowCenter=-600, WindowWidth=1500, FrameOfReferenceUID="1.2.3.4",
    )  # fmt: skip
    scan, source = decode(tmp_path / "in"), open_source(tmp_path / "in")
    objects = images(scan.array[0], scan.affine, Origin(source), DENOISED)
    for data, one in zip(objects, source.frames, strict=True):
        assert data.ImageType == ["DERIVED", "SECONDARY", "AXIAL"]
        assert data.SeriesDescription == "AI-PROCESSED denoise: Chest"
        assert data.SeriesNumber == 401
        assert (data.PatientName, data.PatientID) == ("Doe^Jane", "MRN-77")
        assert data.StudyInstanceUID == one.header.StudyInstanceUID
        assert data.FrameOfReferenceUID == "1.2.3.4"
        assert (data.KVP, data.WindowCenter, data.WindowWidth) == (120, -600, 1500)
        (item,) = data.SourceImageSequence
        assert item.ReferencedSOPInstanceUID == one.header.SOPInstanceUID
        assert item.SpatialLocationsPreserved == "YES"
        scanner, ours = data.ContributingEquipmentSequence
        assert scanner.PurposeOfReferenceCodeSequence[0].CodeValue == "109101"
        assert (scanner.Manufacturer, ours.Manufacturer) == ("Acme", "medidiff")
        assert ours.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
        assert data.Manufacturer == "medidiff"
        assert "prior (ab12)" in data.DerivationDescription
        assert data.DerivationDescription.endswith("Not for diagnosis.")
        block = data.private_block(0x77, "MEDIDIFF")
        assert block[1].value == "AI-PROCESSED"
        assert block[3].value == "ab12"
        assert '"seed": 3' in block[4].value
        assert "SyntheticData" not in data


def test_no_uid_of_the_source_is_given_to_another_thing(
    tmp_path: Path, write_series: Series
) -> None:
    write_series(tmp_path / "in", [0, 3])
    scan, source = decode(tmp_path / "in"), open_source(tmp_path / "in")
    objects = images(scan.array[0], scan.affine, Origin(source), DENOISED)
    before = {header.SOPInstanceUID for header in source.headers}
    made = {data.SOPInstanceUID for data in objects}
    assert len(made) == 2
    assert not made & before
    assert {data.SeriesInstanceUID for data in objects}.isdisjoint(
        header.SeriesInstanceUID for header in source.headers
    )
    assert all(pydicom.uid.UID(uid).is_valid for uid in made)


def test_the_same_content_is_the_same_object_and_any_other_is_another(
    tmp_path: Path, write_series: Series
) -> None:
    write_series(tmp_path / "in", [0, 3])
    scan, source = decode(tmp_path / "in"), open_source(tmp_path / "in")

    def identity(values: np.ndarray, made: Making) -> tuple[str, str]:
        first = images(values, scan.affine, Origin(source), made)[0]
        return first.SeriesInstanceUID, first.SOPInstanceUID

    ours = identity(scan.array[0], DENOISED)
    assert identity(scan.array[0], DENOISED) == ours
    changed = scan.array[0].copy()
    changed[0, 0, 0] += 1
    others = [
        identity(changed, DENOISED),
        identity(scan.array[0], replace(DENOISED, when=WHEN.replace(second=8))),
        identity(scan.array[0], replace(DENOISED, provenance={**PROVENANCE, "seed": 4})),
    ]
    assert all(not {*other} & {*ours} for other in others)
    for name in ("one", "two"):
        written(images(scan.array[0], scan.affine, Origin(source), DENOISED), tmp_path / name)
    assert [file.read_bytes() for file in tree(tmp_path / "one")] == [
        file.read_bytes() for file in tree(tmp_path / "two")
    ]


def test_another_modality_has_other_windows(tmp_path: Path, write_series: Series) -> None:
    write_series(tmp_path / "in", [0, 3], Modality="MR", WindowCenter=5000, WindowWidth=9000)
    scan, source = decode(tmp_path / "in"), open_source(tmp_path / "in")
    first = images(scan.array[0], scan.affine, Origin(source, modality="CT"), DENOISED)[0]
    assert (first.Modality, first.RescaleType) == ("CT", "HU")
    assert (first.WindowCenter, first.WindowWidth) == (40, 400)


def test_what_is_drawn_is_nobody() -> None:
    (data,) = channels(np.ones((1, 4, 4)), np.eye(4), "MR", DRAWN)["image"]
    assert data.PatientID.startswith("SYNTHETIC-")
    assert data.SeriesDescription.startswith("SYNTHETIC - not for diagnosis")
    assert data.SyntheticData == "YES"
    assert "SourceImageSequence" not in data
    assert data.ImageType[:2] == ["DERIVED", "SECONDARY"]
    (ours,) = data.ContributingEquipmentSequence
    assert ours.PurposeOfReferenceCodeSequence[0].CodeValue == "109100"


def test_channels_of_one_drawn_case_are_one_patient_in_one_space() -> None:
    found = channels(np.random.default_rng(0).random((2, 3, 4, 4)), np.eye(4), "MR", DRAWN)
    firsts = [objects[0] for objects in found.values()]
    for keyword in ("PatientID", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert len({getattr(data, keyword) for data in firsts}) == 1
    assert len({data.SeriesInstanceUID for data in firsts}) == 2
    assert [data.SeriesNumber for data in firsts] == [1, 2]


def test_a_patient_can_be_stated_for_what_comes_from_no_series() -> None:
    origin = Origin(patient=Patient("77", "Doe^Jane", "19700101", "F"), modality="MR")
    first = images(np.ones((2, 3, 4)), np.eye(4), origin, DENOISED)[0]
    assert (first.PatientID, first.PatientName, first.PatientSex) == ("77", "Doe^Jane", "F")


def test_what_is_made_of_a_synthetic_image_stays_synthetic(tmp_path: Path) -> None:
    values = np.arange(24.0).reshape(2, 3, 4)
    written(images(values, np.eye(4), Origin(modality="MR"), DRAWN), tmp_path / "drawn")
    source = open_source(tmp_path / "drawn")
    scan = decode(tmp_path / "drawn")
    first = images(scan.array[0], scan.affine, Origin(source), DENOISED)[0]
    assert first.SyntheticData == "YES"
    assert first.SeriesDescription == "SYNTHETIC - not for diagnosis: denoise: sample"
    assert first.PatientID == source.first.header.PatientID


def test_times_are_told_in_the_source_s_zone(tmp_path: Path, write_series: Series) -> None:
    write_series(tmp_path / "in", [0, 3], TimezoneOffsetFromUTC="-0530")
    scan, source = decode(tmp_path / "in"), open_source(tmp_path / "in")
    first = images(scan.array[0], scan.affine, Origin(source), DENOISED)[0]
    assert (first.ContentDate, first.ContentTime) == ("20260303", "233607.000000")
    assert first.TimezoneOffsetFromUTC == "-0530"


def test_only_patient_and_study_are_taken_over(tmp_path: Path, write_series: Series) -> None:
    write_series(
        tmp_path / "in", [0, 3], OperatorsName="Roe^Rick", PerformingPhysicianName="Poe^Pat",
        ImageComments="called Doe", PatientName="Doe^Jane", OtherPatientNames="Jane",
        RequestingPhysician="Low^Lou", StudyComments="of Doe",
    )  # fmt: skip
    for file in tree(tmp_path / "in"):
        data = pydicom.dcmread(file)
        data.private_block(0x19, "ACME", create=True).add_new(1, "LO", "Doe private")
        data.save_as(file)
    scan = decode(tmp_path / "in")
    objects = images(scan.array[0], scan.affine, Origin(open_source(tmp_path / "in")), DENOISED)
    said = str(objects[0])
    for name in ("Roe", "Poe", "called", "Low", "of Doe", "ACME", "Doe private"):
        assert name not in said
    assert objects[0].OtherPatientNames == "Jane"


def test_names_in_other_scripts_survive(tmp_path: Path, write_slice: Slice) -> None:
    name = "Müller^Jürgen=渡邊^太郎"
    tmp_path.joinpath("in").mkdir()
    file = tmp_path / "in" / "a.dcm"
    write_slice(file, np.ones((4, 6)), (0, 0, 0))
    data = pydicom.dcmread(file)
    data.SpecificCharacterSet = ["ISO 2022 IR 100", "ISO 2022 IR 87"]
    data.PatientName = name
    data.save_as(file)
    scan = decode(file)
    (out,) = written(
        images(scan.array[0], scan.affine, Origin(open_source(file)), DENOISED), tmp_path / "out"
    )
    assert str(pydicom.dcmread(out).PatientName) == name


def test_an_empty_header_still_gives_a_whole_patient() -> None:
    found = inherited(Dataset())
    assert found.PatientName == ""
    assert "AccessionNumber" in found


def test_numbers_go_the_way_of_the_source_s(tmp_path: Path, write_slice: Slice) -> None:
    tmp_path.joinpath("in").mkdir()
    for index in range(3):
        file = tmp_path / "in" / f"{index}.dcm"
        write_slice(file, np.ones((4, 6)), (0, 0, -3.0 * index), InstanceNumber=index + 1)
    scan, source = decode(tmp_path / "in"), open_source(tmp_path / "in")
    objects = images(scan.array[0], scan.affine, Origin(source), DENOISED)
    assert [data.InstanceNumber for data in objects] == [3, 2, 1]


def test_an_image_elsewhere_than_its_source_is_refused_unless_said(
    tmp_path: Path, write_series: Series
) -> None:
    write_series(tmp_path / "in", [0, 3, 6, 9], FrameOfReferenceUID="1.2.3.4")
    scan, source = decode(tmp_path / "in"), open_source(tmp_path / "in")
    moved = np.array(scan.affine)
    moved[0, 3] += 0.5
    with pytest.raises(DataError, match="does not lie on the voxels"):
        images(scan.array[0], moved, Origin(source), DENOISED)
    first = images(scan.array[0], moved, Origin(source, place="source"), DENOISED)[0]
    assert first.FrameOfReferenceUID == "1.2.3.4"
    assert first.SourceImageSequence[0].SpatialLocationsPreserved == "NO"
    first = images(scan.array[0], moved, Origin(source, place="new"), DENOISED)[0]
    assert first.FrameOfReferenceUID != "1.2.3.4"


def test_planes_between_the_source_s_refer_to_both_sides(
    tmp_path: Path, write_series: Series
) -> None:
    write_series(tmp_path / "in", [0, 3, 6])
    scan, source = decode(tmp_path / "in"), open_source(tmp_path / "in")
    finer = np.array(scan.affine)
    finer[:3, 0] /= 2
    values = np.repeat(scan.array[0], 2, axis=0)[:5]
    objects = images(values, finer, Origin(source, place="source"), DENOISED)
    assert [len(data.SourceImageSequence) for data in objects] == [1, 2, 1, 2, 1]
    codes = [item.CodeValue for item in objects[1].DerivationCodeSequence]
    assert "113085" in codes  # spatial resampling


def test_an_inverted_radiograph_is_shown_as_before(tmp_path: Path, write_slice: Slice) -> None:
    file = tmp_path / "a.dcm"
    stored = np.random.default_rng(0).integers(0, 2**12, (4, 6))
    write_slice(
        file, stored, (0, 0, 0), Modality="CR", PhotometricInterpretation="MONOCHROME1",
        BitsStored=12, HighBit=11, WindowCenter=1000, WindowWidth=900,
        RescaleSlope=1, RescaleIntercept=0, LossyImageCompression="00",
    )  # fmt: skip
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient"):
        data = pydicom.dcmread(file)
        delattr(data, keyword)
        data.save_as(file)
    scan = decode(file)
    (made,) = images(scan.array[0], scan.affine, Origin(open_source(file)), DENOISED)
    assert made.PhotometricInterpretation == "MONOCHROME2"
    assert made.LossyImageCompression == "00"
    shown = pydicom.pixels.apply_windowing(stored, pydicom.dcmread(file))
    made.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    again = pydicom.pixels.apply_windowing(made.pixel_array.astype(int), made)
    one = (shown - shown.min()) / (shown.max() - shown.min())
    other = (again - again.min()) / (again.max() - again.min())
    assert np.abs((1 - one) - other).max() < 2e-3


def test_a_picture_without_place_has_no_frame_of_reference() -> None:
    (data,) = images(np.ones((4, 5)), None, Origin(modality="DX"), DRAWN)
    assert data.SOPClassUID == pydicom.uid.SecondaryCaptureImageStorage
    assert "FrameOfReferenceUID" not in data
    assert "ImagePositionPatient" not in data


def test_a_picture_of_other_pixels_keeps_no_size(tmp_path: Path, write_slice: Slice) -> None:
    file = tmp_path / "a.dcm"
    write_slice(file, np.ones((4, 6)), (0, 0, 0), Modality="DX", ImagerPixelSpacing=[0.1, 0.1])
    data = pydicom.dcmread(file)
    del data.ImagePositionPatient
    data.save_as(file)
    source = open_source(file)
    same = images(np.ones((4, 6)), None, Origin(source), DENOISED)[0]
    assert same.PixelSpacing == [2.0, 0.5]
    with pytest.raises(DataError, match="does not lie on the voxels"):
        images(np.ones((8, 12)), None, Origin(source), DENOISED)
    finer = images(np.ones((8, 12)), None, Origin(source, place="source"), DENOISED)[0]
    assert not [element for element in finer if "Spacing" in element.keyword]


def test_a_volume_whose_class_would_lose_its_place_is_refused() -> None:
    with pytest.raises(DataError, match="state the modality"):
        images(np.ones((4, 5, 6)), np.eye(4), Origin(), DRAWN)


def test_loss_of_the_source_is_told(tmp_path: Path, write_series: Series) -> None:
    write_series(
        tmp_path / "in", [0, 3], LossyImageCompression="01", LossyImageCompressionRatio=9.5,
        LossyImageCompressionMethod="ISO_15444_1",
    )  # fmt: skip
    scan, source = decode(tmp_path / "in"), open_source(tmp_path / "in")
    first = images(scan.array[0], scan.affine, Origin(source), DENOISED)[0]
    assert first.LossyImageCompression == "01"
    assert first.LossyImageCompressionRatio == 9.5
    assert first.LossyImageCompressionMethod == "ISO_15444_1"


def test_nothing_is_overwritten_and_nothing_half_written(tmp_path: Path) -> None:
    objects = channels(np.ones((1, 4, 4, 2)), np.eye(4), "MR", DRAWN)["image"]
    files = written(objects, tmp_path / "out")
    assert [file.name for file in files] == ["0001.dcm", "0002.dcm"]
    with pytest.raises(OutputError, match="not overwritten"):
        written(objects, tmp_path / "out")

    def failing(data: Dataset) -> Dataset:
        raise DataError("stopped")

    with pytest.raises(DataError):
        written(objects, tmp_path / "other", failing)
    assert sorted(tmp_path.iterdir()) == [tmp_path / "out"]


@pytest.mark.parametrize("damage", ["WindowCenter", "SOPInstanceUID"])
def test_a_damaged_header_is_told_without_its_values(
    damage: str, tmp_path: Path, write_series: Series
) -> None:
    write_series(tmp_path / "in", [0, 3], WindowCenter=1, WindowWidth=2)
    scan, source = decode(tmp_path / "in"), open_source(tmp_path / "in")
    header = source.first.header
    if damage == "SOPInstanceUID":
        del header.SOPInstanceUID
    else:
        raw = RawDataElement(header[damage].tag, "DS", 8, b"Doe^Jane", 0, False, True)
        header._dict[header[damage].tag] = raw
    with pytest.raises(DataError, match="header of the DICOM source") as caught:
        images(scan.array[0], scan.affine, Origin(source), DENOISED)
    assert "Doe" not in str(caught.value)
    assert caught.value.private


def test_long_words_are_cut_to_what_dicom_allows(tmp_path: Path, write_series: Series) -> None:
    write_series(tmp_path / "in", [0, 3], SeriesDescription="a \\ b " * 9)
    scan, source = decode(tmp_path / "in"), open_source(tmp_path / "in")
    made = replace(DENOISED, provenance={**PROVENANCE, "model": "m" * 200})
    data = images(scan.array[0], scan.affine, Origin(source), made)[0]
    assert len(data.SeriesDescription) <= LONG
    assert len(data.ManufacturerModelName) <= LONG
