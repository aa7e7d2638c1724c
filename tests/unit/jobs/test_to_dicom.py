"""From the command line: results as DICOM in the study of their input, and files made DICOM."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import (
    MRImageStorage,
    ParametricMapStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from medidiff import api, cli
from medidiff.data.decode import decode
from medidiff.data.dicom_out import images
from medidiff.data.dicom_out_files import written
from medidiff.data.dicom_out_modules import Making
from medidiff.data.dicom_out_origin import Origin
from medidiff.data.dicom_out_patient import Patient
from medidiff.errors import ConfigError, DataError, OutputError, TaskError
from medidiff.jobs.run import output_files, save_result
from medidiff.jobs.to_dicom import patient_of, segments_of
from medidiff.tasks.results import Result, stacked

from .conftest import Make

NAME = "Doe^Jane"


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDIDIFF_HOME", str(tmp_path / "home"))


@pytest.fixture
def model(make: Make, tmp_path: Path) -> Path:
    return make("tiny").save(tmp_path / "model")


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """An MR slice of 24 x 24 as a scanner would export it."""
    values = np.random.default_rng(0).integers(0, 255, (24, 24))
    origin = Origin(patient=Patient("MRN-77", NAME, "19700101", "F"), modality="MR")
    made = Making("AI-PROCESSED", "scan")
    (slice_,) = images(values, np.eye(4), origin, made)
    slice_.SeriesDescription = "of a phantom"
    return written([slice_], tmp_path / "scan")[0]


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """A DICOM series of 3 slices."""
    values = np.random.default_rng(0).integers(0, 255, (8, 6, 3))
    affine = np.diag([-1.0, -1.0, 3.0, 1.0])
    origin = Origin(patient=Patient("MRN-77", NAME), modality="MR")
    written(images(values, affine, origin, Making("AI-PROCESSED", "scan")), tmp_path / "series")
    return tmp_path / "series"


def exit_code(*words: str | Path, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("sys.argv", ["medidiff", *map(str, words)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return int(caught.value.code or 0)


def only(folder: Path) -> Dataset:
    (file,) = folder.iterdir()
    return dcmread(file)


def test_a_run_on_dicom_goes_back_into_the_study(
    model: Path, scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    out = tmp_path / "out"
    words = ("run", "denoise", model, scan, "-o", out, "--n", "2", "--set", "sigma=0.1",
             "--format", "dicom")  # fmt: skip
    assert exit_code(*words, monkeypatch=monkeypatch) == 0
    source = dcmread(scan)
    place = out / "0001-denoise"
    assert {one.name for one in place.iterdir()} == {
        "image", "std", "p05", "p95", "sample-00", "sample-01", "provenance.json",
    }  # fmt: skip
    image, spread = only(place / "image"), only(place / "std")
    for data in (image, spread, only(place / "sample-01")):
        assert (data.PatientName, data.StudyInstanceUID) == (NAME, source.StudyInstanceUID)
        assert data.FrameOfReferenceUID == source.FrameOfReferenceUID
    assert image.ImageType[:2] == ["DERIVED", "SECONDARY"]
    assert image.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert spread.SOPClassUID == ParametricMapStorage
    assert image.SeriesDescription == "AI-PROCESSED denoise: of a phantom"
    assert spread.SeriesDescription == "AI-PROCESSED denoise std: of a phantom"
    names = ("image", "sample-00", "sample-01", "std", "p05", "p95")
    found = [only(place / name) for name in names]
    assert len({data.SeriesInstanceUID for data in found}) == 6
    numbers = [data.SeriesNumber for data in found]
    assert numbers == [*range(numbers[0], numbers[0] + 6)]
    said = json.loads((place / "provenance.json").read_text())
    assert said["task"]["kind"] == "denoise"
    assert image.private_block(0x77, "MEDIDIFF")[3].value == said["model_digest"]
    captured = capfd.readouterr()
    assert "Doe" not in captured.out + captured.err
    assert exit_code(*words, monkeypatch=monkeypatch) == 2  # nothing is overwritten


def test_dicom_and_nifti_results_are_the_same_image(
    model: Path, scan: Path, tmp_path: Path
) -> None:
    result = api.run("denoise", model, scan, n=2, sigma=0.1)
    result.save(tmp_path / "a.nii.gz")
    result.save_dicom(tmp_path / "b", sources=[scan])
    ours, back = decode(tmp_path / "a.nii.gz"), decode(tmp_path / "b" / "image")
    step = float(dcmread(tmp_path / "b" / "image" / "0001.dcm").get("RescaleSlope", 1))
    assert np.abs(ours.array - back.array).max() <= 0.501 * step
    assert np.allclose(np.array(ours.affine)[:, :2], np.array(back.affine)[:, :2], atol=1e-6)
    assert np.allclose(np.array(ours.affine)[:, 3], np.array(back.affine)[:, 3], atol=1e-6)


def test_a_run_on_nifti_makes_a_study_of_the_patient_that_is_stated(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(0).integers(0, 255, (24, 24, 1)).astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "scan.nii.gz")
    words = ("run", "denoise", model, tmp_path / "scan.nii.gz", "--format", "dicom",
             "--set", "sigma=0.1")  # fmt: skip
    stated = ("--patient", "id=77", "--patient", "name=Roe^Ann")
    assert exit_code(*words, "-o", tmp_path / "a", *stated, monkeypatch=monkeypatch) == 0
    assert exit_code(*words, "-o", tmp_path / "b", monkeypatch=monkeypatch) == 0
    stated_one = only(tmp_path / "a" / "scan-denoise" / "image")
    synthetic = only(tmp_path / "b" / "scan-denoise" / "image")
    assert (stated_one.PatientID, stated_one.PatientName) == ("77", "Roe^Ann")
    assert synthetic.PatientID.startswith("AI-PROCESSED-")
    assert stated_one.Modality == synthetic.Modality == "MR"
    assert "SourceImageSequence" not in synthetic


def test_samples_are_patients_of_their_own(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("sample", model, "-o", tmp_path / "s", "--n", "2", "--format", "dicom")
    assert exit_code(*words, monkeypatch=monkeypatch) == 0
    found = [only(tmp_path / "s" / f"sample-000{index}" / "image") for index in range(2)]
    assert all(data.SyntheticData == "YES" for data in found)
    assert len({data.PatientID for data in found}) == 2
    assert len({data.StudyInstanceUID for data in found}) == 2
    assert (tmp_path / "s" / "sheet.png").is_file()


def test_a_finer_result_lies_in_its_source_s_space(volume: Path, tmp_path: Path) -> None:
    scan = decode(volume)
    finer = np.array(scan.affine) @ np.diag([0.5, 0.5, 0.5, 1.0])
    finer[:3, 3] -= 0.25 * np.array(scan.affine)[:3, :3].sum(axis=1)
    values = scan.array.astype(np.float32).repeat(2, 1).repeat(2, 2).repeat(2, 3)
    result = Result(values, finer, {"kind": "AI-PROCESSED"}, {"std": values})
    result.save_dicom(tmp_path / "out", sources=[volume])
    first, source = (dcmread(place / "0001.dcm") for place in (tmp_path / "out" / "image", volume))
    assert first.FrameOfReferenceUID == source.FrameOfReferenceUID
    assert float(first.PixelSpacing[0]) == 0.5 * float(source.PixelSpacing[0])
    assert first.SourceImageSequence[0].SpatialLocationsPreserved == "NO"
    assert np.allclose(np.array(decode(tmp_path / "out" / "image").affine), finer)
    assert only(tmp_path / "out" / "std").NumberOfFrames == 6


def test_maps_of_a_picture_without_place_become_images(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((1, 5, 4)).astype(np.float32)
    result = Result(values, np.eye(4), {"kind": "AI-PROCESSED"}, {"std": values},
                    modality="DX", placed=False)  # fmt: skip
    result.save_dicom(tmp_path / "out")
    spread = only(tmp_path / "out" / "std")
    assert spread.SeriesDescription == "AI-PROCESSED result std"
    assert "FrameOfReferenceUID" not in spread


@pytest.mark.parametrize("placed", [True, False])
def test_slices_of_a_measurement_become_a_volume(tmp_path: Path, placed: bool) -> None:
    """Where nothing says how the body lies DICOM does not say it either: rows and columns are shown
    as they are, with their size, and no viewer writes left and right beside them."""
    file = tmp_path / "kspace.h5"
    file.write_bytes(b"no image")
    corner = np.zeros((1, 5, 4), np.float32)
    corner[0, 0, 3] = 9
    slices = [
        Result(
            (corner + level).astype(np.float32),
            np.eye(4),
            {"kind": "AI-PROCESSED"},
            modality="MR",
            placed=placed,
            sized=not placed,
        )
        for level in (1, 2, 3)
    ]
    volume = stacked([slices], np.diag([1.0, 2.0, 3.0, 1.0]))
    save_result(volume, [file], tmp_path / "out", "dicom", Patient("77"), "none")
    read = [dcmread(tmp_path / "out" / "image" / f"000{number}.dcm") for number in (1, 2, 3)]
    first = read[0]
    assert [int(np.median(each.pixel_array)) for each in read] == [1, 2, 3]
    assert (first.Modality, first.PatientID) == ("MR", "77")
    if placed:
        assert np.unique(decode(tmp_path / "out" / "image").array).size == 6
        assert (first.SOPClassUID, first.SliceThickness) == (MRImageStorage, 3)
        return
    assert first.SOPClassUID == SecondaryCaptureImageStorage
    assert first.PixelSpacing == [1, 2]
    assert (first.Rows, first.Columns) == (5, 4)
    assert first.pixel_array[0, 3] == 10
    assert "ImageOrientationPatient" not in first


def test_a_full_disc_is_no_damaged_header_and_leaves_no_half_of_a_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Dataset.save_as

    def full(data: Dataset, file: Path, **options: Any) -> None:
        if "std" in str(file):
            try:
                raise OSError(errno.ENOSPC, "No space left on device")
            except OSError as error:
                raise OSError("the element cannot be written") from error
        whole(data, file, **options)

    monkeypatch.setattr(Dataset, "save_as", full)
    image, maps = np.ones((1, 4, 6, 5), np.float32), {"std": np.ones((1, 4, 6, 5), np.float32)}
    result = Result(image, np.eye(4), {"kind": "AI-PROCESSED"}, maps, modality="MR")
    with pytest.raises(OSError, match="cannot be written"):
        result.save_dicom(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_two_channels_are_two_series_of_one_patient(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((2, 5, 4, 3)).astype(np.float32)
    result = Result(values, np.eye(4), {"kind": "AI-PROCESSED"}, {"std": values}, modality="MR")
    result.save_dicom(tmp_path / "out")
    names = ("image-1", "std-1", "image-2", "std-2")
    found = [dcmread(tmp_path / "out" / name / "0001.dcm") for name in names]
    assert len({data.PatientID for data in found}) == 1
    assert len({data.FrameOfReferenceUID for data in found}) == 1
    assert len({data.SeriesNumber for data in found}) == 4
    with pytest.raises(TaskError, match="2 channels and 1 sources"):
        result.save_dicom(tmp_path / "other", sources=[tmp_path / "out" / "image-1"])


def test_a_label_map_becomes_a_segmentation_over_its_series(
    volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = decode(volume)
    mask = (scan.array[0] > 128).astype(np.uint8) + (scan.array[0] > 200)
    file = tmp_path / "mask.nii.gz"
    nibabel.save(nibabel.Nifti1Image(mask.astype(np.uint8), scan.affine), file)
    words = ("to-dicom", file, "-o", tmp_path / "seg", "--as", "segmentation", "--source", volume)
    named = ("--label", "1=grey", "--label", "2=SCT:10200004:Liver", "--kind", "processed")
    assert exit_code(*words, *named, monkeypatch=monkeypatch) == 0
    data = only(tmp_path / "seg")
    assert data.SOPClassUID == SegmentationStorage
    assert [one.SegmentLabel for one in data.SegmentSequence] == ["grey", "Liver"]
    assert data.PatientName == NAME


def test_a_map_of_a_result_finds_its_provenance(volume: Path, tmp_path: Path) -> None:
    scan = decode(volume)
    provenance = {"kind": "AI-PROCESSED", "model": "prior", "task": {"kind": "denoise"}}
    values = scan.array.astype(np.float32)
    result = Result(values, np.array(scan.affine), provenance, {"std": values / 9})
    result.save(tmp_path / "r.nii.gz")
    api.to_dicom(tmp_path / "r.nii.gz", tmp_path / "image", source=volume)
    image = dcmread(tmp_path / "image" / "0001.dcm")
    assert image.SeriesDescription.startswith("AI-PROCESSED denoise")
    api.to_dicom(
        tmp_path / "r-std.nii.gz", tmp_path / "std", source=volume, content="map",
        quantity="std", unit="mm2/s",
    )  # fmt: skip
    data = only(tmp_path / "std")
    assert data.private_block(0x77, "MEDIDIFF")[2].value == "prior"
    assert "mm2/s" in str(data)


def test_how_it_was_made_must_be_known(volume: Path, tmp_path: Path) -> None:
    scan = decode(volume)
    file = tmp_path / "x.nii.gz"
    nibabel.save(nibabel.Nifti1Image(scan.array[0].astype(np.int16), scan.affine), file)
    with pytest.raises(ConfigError, match="--kind"):
        api.to_dicom(file, tmp_path / "out", source=volume)
    with pytest.raises(DataError, match="state the modality"):
        api.to_dicom(file, tmp_path / "out", kind="synthetic")
    assert not (tmp_path / "out").exists()
    api.to_dicom(file, tmp_path / "out", kind="synthetic", modality="CT")
    assert dcmread(tmp_path / "out" / "0001.dcm").SyntheticData == "YES"
    with pytest.raises(OutputError):
        api.to_dicom(file, tmp_path / "out", kind="synthetic", modality="CT")


def test_no_name_of_a_file_or_patient_is_in_an_error(
    volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    file = tmp_path / "doe_john.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.zeros((3, 4, 5), np.int16), np.eye(4)), file)
    words = ("to-dicom", file, "--source", volume, "-o", tmp_path / "x", "--kind", "processed")
    assert exit_code(*words, monkeypatch=monkeypatch) == 2
    captured = capfd.readouterr()
    assert "does not lie on the voxels" in captured.err
    assert "john" not in (captured.out + captured.err).lower()


@pytest.mark.parametrize("said", [{"birthday": "1"}, {"birth_date": "1970"}, {"sex": "female"}])
def test_a_patient_is_stated_in_dicom_s_words(said: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="--patient"):
        patient_of(said)


@pytest.mark.parametrize("said", [{"x": "a"}, {"0": "a"}, {"-1": "a"}])
def test_labels_are_numbers_above_nought(said: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="--label"):
        segments_of(said)


def test_results_can_be_written_without_their_patient(
    model: Path, scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jane = scan.rename(tmp_path / "jane.dcm")
    words = ("run", "denoise", model, jane, "--set", "sigma=0.1", "--deidentify", "remove")
    assert exit_code(*words, "-o", tmp_path / "x", monkeypatch=monkeypatch) == 2  # NIfTI
    dicom = ("-o", tmp_path / "out", "--format", "dicom")
    assert exit_code(*words, *dicom, monkeypatch=monkeypatch) == 0
    data = only(tmp_path / "out" / "case-001-denoise" / "image")
    assert data.PatientIdentityRemoved == "YES"
    assert data.SeriesDescription == "AI-PROCESSED denoise"
    provenance = tmp_path / "out" / "case-001-denoise" / "provenance.json"
    assert "input_digest" not in json.loads(provenance.read_text())
    for file in (tmp_path / "out").rglob("*"):
        told = file.name.encode() + (file.read_bytes() if file.is_file() else b"")
        assert not any(name in told.lower() for name in (b"jane", b"mrn-77", b"19700101"))


def test_a_converted_image_can_be_written_without_its_patient(volume: Path, tmp_path: Path) -> None:
    scan = decode(volume)
    file = tmp_path / "x.nii.gz"
    nibabel.save(nibabel.Nifti1Image(scan.array[0].astype(np.int16), scan.affine), file)
    api.to_dicom(file, tmp_path / "out", source=volume, kind="processed", deidentify="shift")
    data = dcmread(tmp_path / "out" / "0001.dcm")
    assert data.PatientName != NAME
    assert data.LongitudinalTemporalInformationModified == "MODIFIED"


def test_a_nifti_name_is_no_folder_for_dicom(model: Path, scan: Path, tmp_path: Path,
                                             monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    words = ("run", "denoise", model, scan, "-o", tmp_path / "a.nii.gz", "--format", "dicom")
    assert exit_code(*words, monkeypatch=monkeypatch) == 2


def test_results_of_one_image_of_a_file_are_named_by_its_number(tmp_path: Path) -> None:
    file = tmp_path / "four.nii.gz"
    file.touch()
    cases = [[f"{file}[{number}]"] for number in (0, 2)]
    found = [each.name for each in output_files(cases, tmp_path / "out", "denoise")]
    assert found == ["four-0-denoise.nii.gz", "four-2-denoise.nii.gz"]
    assert output_files([[str(file)]], tmp_path, "denoise")[0].name == "four-denoise.nii.gz"
