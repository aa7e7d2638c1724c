"""Real scans, processed and written back: the same volume to every reader, and no error of form
beyond the source's own."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813  (its usual name)
from pydicom import Dataset, dcmread
from pydicom.uid import PositronEmissionTomographyImageStorage

from medidiff.data.build import BuildOptions
from medidiff.data.decode import Scan, decode
from medidiff.data.dicom import Stacking
from medidiff.data.dicom_out import channels, images
from medidiff.data.dicom_out_files import written
from medidiff.data.dicom_out_maps import Quantity, parametric_map
from medidiff.data.dicom_out_modules import Making
from medidiff.data.dicom_out_origin import Origin
from medidiff.data.dicom_out_protect import protection
from medidiff.data.dicom_out_segments import Segment, segmentation
from medidiff.data.dicom_out_source import SourceSeries, open_source, source_of
from medidiff.data.manifest import read_manifest
from medidiff.jobs.manifests import build
from medidiff.jobs.reporting import Quiet

pytestmark = pytest.mark.slow
WHEN = datetime(2026, 3, 4, tzinfo=UTC)
SAID = {"model": "prior", "model_digest": "ab12", "seed": 0}
SAME_MM = 1e-3
EXCEPTIONS = {
    # part of an error that dciodvfy tells of ours and not of the source: why it stands
    "(0x0008,0x001c)": "Synthetic Data is a younger attribute than Debian 12's dciodvfy of 2022",
    "=<DeidentificationMethod": "a source that says its identity was removed and leaves empty how, "
    "for which it has an error of other wording",
}


@dataclass(frozen=True)
class Written:
    """A volume that was read, and the files that were made of it."""

    scan: Scan
    source: SourceSeries
    values: np.ndarray
    objects: list[Dataset]
    files: list[Path]
    half: float
    """Half a step of what is stored."""


@pytest.fixture(scope="module")
def volumes(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Written]:
    """Every volume in the real DICOM files, tilted and enhanced ones too, with other values."""
    folder = tmp_path_factory.mktemp("dicom")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDIDIFF_HOME", str(folder / "home"))
        options = BuildOptions("pseudonym", Stacking("resample", "resample"), "images")
        build(shared_data / "dicom", folder / "m.csv", options, Quiet())
    found = []
    for number, row in enumerate(read_manifest(folder / "m.csv").rows):
        (path,) = row.images.values()
        found.append(_written(path, folder / f"out-{number}", number))
    return found


def _written(path: Path, out: Path, seed: int) -> Written:
    scan, source = decode(path), open_source(path)
    noise = np.random.default_rng(seed).uniform(-3, 3, scan.array.shape[1:])
    values = (scan.array[0] + noise).astype(np.float32)
    straight = scan.dims == 2 or len(scan.array[0]) == len(source.frames)
    origin = Origin(source, place="grid" if straight and _even(scan, source) else "source")
    objects = images(values, scan.affine, origin, Making("AI-PROCESSED", "denoise", SAID, WHEN))
    files = written(objects, out)
    return Written(scan, source, values, objects, files, _half_step(objects[0]))


def _half_step(data: Dataset) -> float:
    return float(data.get("RescaleSlope", 1)) / 2


def _even(scan: Scan, source: SourceSeries) -> bool:
    """Whether the reader left the slices where they were (a tilted stack was straightened)."""
    return scan.array.shape[-2:] == source.first.frame.shape


def errors(file: Path) -> set[str]:
    done = subprocess.run(["dciodvfy", file], capture_output=True, check=False)
    said = (done.stderr + done.stdout).decode(errors="replace").splitlines()
    return {line for line in said if line.startswith("Error")}


def beyond(ours: Path, source: set[str]) -> list[str]:
    """Errors that the source does not have, but for the named exceptions."""
    new = errors(ours) - source
    return sorted(line for line in new if not any(part in line for part in EXCEPTIONS))


def source_errors(source: SourceSeries, folder: Path) -> set[str]:
    """Of the source's header, with pixels that stand for its own."""
    header = Dataset()
    header.update(source.first.header)
    header.file_meta = source.first.header.file_meta
    header.PixelData = b"\0" * 8
    header["PixelData"].VR = "OW"
    header.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    file = folder / "source.dcm"
    header.save_as(file, enforce_file_format=True)
    return errors(file)


@pytest.fixture(scope="module")
def checker() -> None:
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy is not installed (apt-get install dicom3tools)")


def canonical(array: np.ndarray, affine: np.ndarray) -> nibabel.Nifti1Image:
    return nibabel.as_closest_canonical(nibabel.Nifti1Image(array.astype(np.float64), affine))


def apart(one: Written, array: np.ndarray, affine: np.ndarray) -> tuple[float, float]:
    """(values in half steps, mm) between what was written and what a reader gives."""
    values, place = one.values, np.array(one.scan.affine)
    if values.ndim == 2:
        values, place = values[None], place[:, [2, 0, 1, 3]]
    ours, theirs = canonical(values, place), canonical(array, affine)
    assert ours.shape == theirs.shape
    # a single slice's thickness is no geometry of its pixels: readers take other tags for it
    axes = [axis for axis in range(3) if ours.shape[axis] > 1] + [3]
    mm = np.abs((ours.affine - theirs.affine)[:, axes]).max()
    off = np.abs(np.asarray(ours.dataobj) - np.asarray(theirs.dataobj)).max()
    return float(off) / one.half, float(mm)


def test_the_own_reader_gives_the_same(volumes: list[Written]) -> None:
    assert len(volumes) == 13
    for one in volumes:
        back = decode(one.files[0].parent)
        array, affine = back.array[0], np.array(back.affine)
        if array.ndim == 2:
            array, affine = array[None], affine[:, [2, 0, 1, 3]]
        off, mm = apart(one, array, affine)
        assert off <= 1.001
        assert mm < SAME_MM


def test_simpleitk_gives_the_same(volumes: list[Written]) -> None:
    for one in volumes:
        folder = str(one.files[0].parent)
        image = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(folder))
        array = sitk.GetArrayFromImage(image)
        array = array[None] if array.ndim == 2 else array
        axes = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
        affine = np.eye(4)
        affine[:3, :3], affine[:3, 3] = axes[:, ::-1], image.GetOrigin()
        affine[:2] *= -1
        off, mm = apart(one, array, affine)
        assert off <= 1.001
        assert mm < SAME_MM


def test_dcm2niix_gives_the_same(volumes: list[Written], tmp_path: Path) -> None:
    if shutil.which("dcm2niix") is None:
        pytest.skip("dcm2niix is not installed (apt-get install dcm2niix)")
    for number, one in enumerate(volumes):
        out = tmp_path / str(number)
        out.mkdir()
        command = ["dcm2niix", "-o", out, "-f", "x", "-z", "n", "-b", "n", one.files[0].parent]
        subprocess.run(command, check=True, capture_output=True)
        (file,) = out.glob("*.nii")
        image = nibabel.load(file)
        array = np.asarray(image.dataobj)
        off, mm = apart(one, array[..., None] if array.ndim == 2 else array, image.affine)
        assert off <= 1.01  # its slopes are float32
        assert mm < SAME_MM


def test_dciodvfy_finds_no_error_that_the_source_has_not(
    volumes: list[Written], checker: None, tmp_path: Path
) -> None:
    for one in volumes:
        known = source_errors(one.source, tmp_path)
        for file in {one.files[0], one.files[len(one.files) // 2], one.files[-1]}:
            assert beyond(file, known) == []


def test_dciodvfy_finds_no_error_in_maps_and_segmentations(
    volumes: list[Written], checker: None, tmp_path: Path
) -> None:
    made = Making("AI-PROCESSED", "std", SAID, WHEN)
    for number, one in enumerate(volumes):
        known = source_errors(one.source, tmp_path)
        over = Origin(source_of(one.objects), beside=one.objects[0])
        spread = parametric_map(
            np.abs(one.values) / 7, one.scan.affine, over, made, Quantity("std"), 2
        )
        labels = (one.values > np.percentile(one.values, 90)).astype(np.uint8)
        mask = segmentation(labels, one.scan.affine, over, made, [Segment(1, "bright")], 3)
        for name, data in (("std", spread), ("seg", mask)):
            (file,) = written([data], tmp_path / f"{name}-{number}")
            assert beyond(file, known) == []


@pytest.mark.parametrize("dates", ["remove", "shift"])
def test_dciodvfy_finds_no_error_in_what_is_de_identified(
    dates: Literal["remove", "shift"],
    volumes: list[Written],
    checker: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MEDIDIFF_HOME", str(tmp_path / "home"))
    for number, one in enumerate(volumes):
        known = source_errors(one.source, tmp_path)
        (file,) = written(one.objects[:1], tmp_path / str(number), protection(dates))
        assert beyond(file, known) == []


@pytest.mark.parametrize("modality", ["MR", "CT"])
@pytest.mark.parametrize("shape", [(1, 6, 5, 4), (2, 6, 5)])
def test_dciodvfy_finds_no_error_in_what_is_drawn(
    modality: str, shape: Sequence[int], checker: None, tmp_path: Path
) -> None:
    values = np.random.default_rng(0).normal(100, 50, shape)
    made = Making("SYNTHETIC", "sample", SAID, WHEN)
    for name, objects in channels(values, np.diag([1.0, 1, 3, 1]), modality, made).items():
        for file in written(objects, tmp_path / name):
            assert beyond(file, set()) == []


def test_dciodvfy_finds_no_error_in_a_picture(checker: None, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 255, (6, 5))
    for modality in ("OT", "DX"):
        made = Making("SYNTHETIC", "sample", SAID, WHEN)
        (file,) = written(images(values, None, Origin(modality=modality), made),
                          tmp_path / modality)  # fmt: skip
        assert beyond(file, set()) == []


def test_what_is_drawn_needs_one_exception_at_most(checker: None, tmp_path: Path) -> None:
    made = Making("SYNTHETIC", "sample", SAID, WHEN)
    objects = channels(np.ones((1, 4, 4)), np.eye(4), "MR", made)["image"]
    found = errors(written(objects, tmp_path / "out")[0])
    assert all("(0x0008,0x001c)" in line for line in found)  # none where dciodvfy knows it


def test_sources_are_named_by_file_and_frame(volumes: list[Written]) -> None:
    seen = 0
    for one in volumes:
        if not one.source.first.enhanced:
            continue
        for plane, frame in zip(one.objects, one.source.frames, strict=True):
            (item,) = plane.SourceImageSequence
            assert item.ReferencedSOPInstanceUID == frame.header.SOPInstanceUID
            assert item.ReferencedFrameNumber == frame.frame.index + 1
            seen += 1
    assert seen >= 6 * 4 + 2 * 32


def test_labels_over_enhanced_files_name_their_frames(volumes: list[Written]) -> None:
    made = Making("AI-PROCESSED", "segmentation", SAID, WHEN)
    seen = 0
    for one in volumes:
        if not one.source.first.enhanced:
            continue
        labels = np.ones(one.values.shape, np.uint8)
        mask = segmentation(labels, one.scan.affine, Origin(one.source), made, [Segment(1, "all")])
        places = {frame.frame.index + 1: frame.frame.corner for frame in one.source.frames}
        for frame in mask.PerFrameFunctionalGroupsSequence:
            (item,) = frame.DerivationImageSequence[0].SourceImageSequence
            assert item.ReferencedSOPInstanceUID == one.source.first.header.SOPInstanceUID
            place = [float(value) for value in frame.PlanePositionSequence[0].ImagePositionPatient]
            corner = places[int(item.ReferencedFrameNumber)]
            assert corner is not None
            assert np.allclose(place, corner, atol=1e-4)
            seen += 1
    assert seen >= 6 * 4 + 2 * 32


def test_no_source_object_is_touched_and_no_name_is_in_a_path(volumes: list[Written]) -> None:
    for one in volumes:
        name = str(one.source.first.header.get("PatientName", ""))
        assert not name or name not in str(one.files)
        uids = {dcmread(file, stop_before_pixels=True).SOPInstanceUID for file in one.files}
        assert len(uids) == len(one.files)
        assert uids.isdisjoint(header.SOPInstanceUID for header in one.source.headers)


PET = {
    "Units": "BQML", "CountsSource": "EMISSION", "SeriesType": ["STATIC", "IMAGE"],
    "NumberOfSlices": 3, "CorrectedImage": ["ATTN", "DECY"], "DecayCorrection": "START",
    "CollimatorType": "NONE", "FrameReferenceTime": 0.0, "ActualFrameDuration": 60000,
    "DecayFactor": 1.02, "ScanOptions": "", "ReconstructionMethod": "OSEM",
    "AttenuationCorrectionMethod": "CT", "PatientPosition": "HFS", "BodyPartExamined": "CHEST",
}  # fmt: skip


def test_pet_keeps_its_class_and_units(checker: None, tmp_path: Path) -> None:
    values = np.random.default_rng(0).uniform(0, 4e4, (5, 6, 3)).round()
    affine = np.diag([-4.0, -4.0, 3.0, 1.0])
    made = Making("AI-PROCESSED", "scan", {}, WHEN)
    for number, data in enumerate(images(values, affine, Origin(modality="MR"), made)):
        _as_pet(data, number)
        written([data], tmp_path / "pet" / str(number))
    source, scan = open_source(tmp_path / "pet"), decode(tmp_path / "pet")
    out = written(images(scan.array[0] * 0.9, scan.affine, Origin(source), made), tmp_path / "out")
    first = dcmread(out[0])
    assert first.SOPClassUID == PositronEmissionTomographyImageStorage
    assert (first.Units, first.DecayFactor, first.Modality) == ("BQML", 1.02, "PT")
    assert first.ImageType == ["DERIVED", "PRIMARY"]  # as the class demands
    assert first.RescaleIntercept == 0
    assert beyond(out[0], errors(tmp_path / "pet" / "0" / "0001.dcm")) == []
    assert np.abs(decode(tmp_path / "out").array - scan.array * 0.9).max() <= 0.5


def _as_pet(data: Dataset, number: int) -> None:
    """A made MR slice as a PET scanner would have exported it."""
    for keyword in ("ScanningSequence", "SequenceVariant", "MRAcquisitionType", "RepetitionTime",
                    "EchoTime", "EchoTrainLength", "SpacingBetweenSlices"):  # fmt: skip
        delattr(data, keyword)
    for keyword, value in PET.items():
        setattr(data, keyword, value)
    data.Modality, data.SOPClassUID = "PT", PositronEmissionTomographyImageStorage
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.ImageType, data.ImageIndex = ["ORIGINAL", "PRIMARY"], number + 1
    data.RescaleSlope, data.RescaleIntercept = 1, 0
    isotope, agent = Dataset(), Dataset()
    agent.CodeValue, agent.CodingSchemeDesignator, agent.CodeMeaning = "77004003", "SCT", "18F"
    isotope.RadionuclideCodeSequence = [agent]
    isotope.RadiopharmaceuticalStartTime, isotope.RadionuclideTotalDose = "080000", 3.5e8
    isotope.RadionuclideHalfLife = 6586.2
    data.RadiopharmaceuticalInformationSequence = [isotope]
    data.SeriesDate, data.SeriesTime = "20260304", "090000"
    data.AcquisitionDate, data.AcquisitionTime = "20260304", "090000"
