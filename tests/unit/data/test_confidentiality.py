"""The profile does with every attribute what the standard's table says, at every depth."""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter
from datetime import datetime
from pathlib import Path

import nibabel
import pytest
from pydicom import DataElement, Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.datadict import dictionary_VR
from pydicom.tag import Tag
from typer.testing import CliRunner

from medidiff import api, cli
from medidiff.data.confidentiality.finding_phi import phi_of
from medidiff.data.confidentiality.profile import Confidentiality, deidentify
from medidiff.data.confidentiality.table import STEPS, rules
from medidiff.data.decode import decode
from medidiff.data.privacy import SiteKey
from medidiff.errors import ConfigError, DataError, OutputError

KEY = SiteKey(b"k" * 32)
NAME = "Zzyzx"
VALUES = {
    **dict.fromkeys(("AE", "CS", "SH", "LO", "LT", "ST", "UC", "UT", "PN"), NAME),
    "DA": "20210304",
    "DT": "20210304101112",
    "TM": "101112",
    "AS": "047Y",
    "DS": "1.5",
    "IS": "7",
    "UR": f"http://{NAME}",
    "UI": "1.2.3.4",
    **dict.fromkeys(("OB", "OW", "UN"), NAME.encode() + b"\0"),
    **dict.fromkeys(("US", "UL", "SS", "SL", "UV", "SV"), 7),
    **dict.fromkeys(("FD", "FL"), 7.0),
}


def scan() -> Dataset:
    data = dcmread(str(get_testdata_file("CT_small.dcm", download=False)))
    data.PatientName, data.PatientID = "Doe^John", "MRN-77123"
    return data


def cleaned(data: Dataset, key: SiteKey = KEY, **options: object) -> Dataset:
    deidentify(data, Confidentiality(**options), key)  # pyright: ignore
    return data


def everything(data: Dataset) -> str:
    """All values at all depths, as text."""
    return "\n".join(str(element.value) for element in data.iterall() if element.VR != "SQ")


def listed(vr: str | None = None) -> list[int]:
    found = []
    for tag in rules():
        try:
            kind = dictionary_VR(tag)
        except KeyError:
            continue
        if tag >> 16 > 2 and kind in VALUES and vr in (None, kind):
            found.append(tag)
    return found


def test_the_table_has_its_rows_and_every_action_its_step() -> None:
    counts = Counter(rule.basic for rule in rules().values())
    assert set(counts) <= set(STEPS)
    assert sum(counts.values()) == 652
    assert counts["X"] > 400
    assert counts["U"] > 50
    said = {
        "PatientName": ("Z", "", ""),
        "PatientID": ("Z/D", "", ""),
        "PatientAge": ("X", "", "K"),
        "StudyInstanceUID": ("U", "", ""),
        "DeviceSerialNumber": ("X/Z/D", "K", ""),
        "StudyDate": ("Z", "", ""),
        "SeriesDescription": ("X", "", ""),
        "PatientState": ("X", "", "C"),
    }
    for keyword, rule in said.items():
        found = rules()[int(Tag(keyword))]
        assert (found.basic, found.device, found.patient) == rule


@pytest.mark.parametrize("depth", [0, 1, 3])
@pytest.mark.parametrize(
    "options", [{}, {"dates": "shift", "device": "retain", "patient": "retain"}]
)
def test_nothing_stays_of_any_attribute_of_the_table(depth: int, options: dict[str, str]) -> None:
    data = scan()
    place = data
    for _ in range(depth):
        item = Dataset()
        place.ReferencedImageSequence = [item]
        place = item
    for tag in listed():
        place.add(DataElement(tag, dictionary_VR(tag), VALUES[dictionary_VR(tag)]))
    kept = cleaned(data, **options)
    told = everything(kept)
    if not options:
        assert NAME not in told
        assert "20210304" not in told
        assert "1.2.3.4" not in told
    else:
        retained = {tag for tag, rule in rules().items() if rule.device or rule.patient == "K"}
        left = {int(e.tag) for e in kept.iterall() if NAME in str(e.value) and e.VR != "SQ"}
        assert left <= retained
        assert "20210304" not in told


def test_each_action_does_its_own() -> None:
    data = scan()
    data.AccessionNumber = NAME  # Z
    data.SeriesDescription = NAME  # X
    data.VerifyingObserverName = NAME  # D
    data.PerformedProcedureStepDescription = NAME  # X
    data.StationName = NAME  # X/Z/D
    data.FrameOfReferenceUID = "1.2.840.99.1"  # U
    data.Manufacturer = "ACME"  # not in the table
    kept = cleaned(data)
    assert kept.AccessionNumber in ("", None)
    assert "SeriesDescription" not in kept
    assert kept.VerifyingObserverName == "ANONYMIZED"
    assert kept.FrameOfReferenceUID.startswith("2.25.")
    assert kept.Manufacturer == "ACME"
    assert kept.PatientID == kept.PatientName == KEY.pseudonym("MRN-77123")


def test_pixels_stay_as_they_are() -> None:
    before = scan()
    after = cleaned(scan())
    assert after.PixelData == before.PixelData
    assert (after.Rows, after.RescaleIntercept) == (before.Rows, before.RescaleIntercept)


def test_uids_agree_wherever_they_are_referred_to() -> None:
    first, second = scan(), scan()
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = (
        first.SOPClassUID,
        first.SOPInstanceUID,
    )
    second.SOPInstanceUID = "1.2.3.99"
    second.ReferencedImageSequence = [item]
    kept, referring = cleaned(first), cleaned(second)
    reference = referring.ReferencedImageSequence[0]
    assert reference.ReferencedSOPInstanceUID == kept.SOPInstanceUID
    assert reference.ReferencedSOPClassUID == kept.SOPClassUID == scan().SOPClassUID
    assert kept.StudyInstanceUID == referring.StudyInstanceUID != scan().StudyInstanceUID
    assert len(kept.StudyInstanceUID) <= 64
    assert cleaned(scan(), SiteKey(b"j" * 32)).StudyInstanceUID != kept.StudyInstanceUID


def test_dates_move_by_one_number_of_days_a_subject() -> None:
    data, later, other = scan(), scan(), scan()
    data.StudyDate, later.StudyDate, other.StudyDate = "20200228", "20200310", "20200228"
    data.AcquisitionDateTime, data.StudyTime = "20200229235959.5+0100", "081500"
    data.PatientBirthDate = "19500101"
    other.PatientID = "MRN-2"
    first, second, third = (cleaned(each, dates="shift") for each in (data, later, other))

    def day(text: str) -> datetime:
        return datetime.strptime(text[:8], "%Y%m%d")

    assert (day(second.StudyDate) - day(first.StudyDate)).days == 11
    assert (day(first.AcquisitionDateTime) - day(first.StudyDate)).days == 1
    assert str(first.AcquisitionDateTime)[8:] == "235959.5+0100"
    assert first.StudyTime == "081500"
    assert 365 <= (datetime(2020, 2, 28) - day(first.StudyDate)).days <= 3650
    assert first.StudyDate != third.StudyDate
    assert not first.PatientBirthDate
    assert first.LongitudinalTemporalInformationModified == "MODIFIED"
    removed = cleaned(scan())
    assert not removed.StudyDate
    assert removed.LongitudinalTemporalInformationModified == "REMOVED"


def test_what_is_no_date_does_not_pass_as_one() -> None:
    data = scan()
    for keyword, vr, start in (
        ("StudyDate", "DA", "20200101"),
        ("StudyTime", "TM", "101112"),
        ("AcquisitionDateTime", "DT", "20200101"),
    ):
        data.add(DataElement(Tag(keyword), vr, "", already_converted=True))
        data[keyword]._value = f"{start}{NAME}"
    kept = cleaned(data, dates="shift")
    assert NAME not in everything(kept)


def test_options_keep_what_they_name_and_no_more() -> None:
    def full() -> Dataset:
        data = scan()
        data.DeviceSerialNumber, data.StationName, data.InstitutionName = (
            "SN9",
            "CT1",
            "St Elsewhere",
        )
        data.PatientAge, data.PatientSex, data.PatientWeight = "097Y", "F", "61"
        return data

    plain, device, patient = (
        cleaned(full()),
        cleaned(full(), device="retain"),
        cleaned(full(), patient="retain"),
    )
    assert (device.DeviceSerialNumber, device.StationName) == ("SN9", "CT1")
    assert plain.DeviceSerialNumber != "SN9"
    assert "PatientAge" not in device
    assert (patient.PatientAge, patient.PatientSex, patient.PatientWeight) == ("090Y", "F", 61)
    for kept in (plain, device, patient):
        assert "Elsewhere" not in everything(kept)
    codes = [item.CodeValue for item in patient.DeidentificationMethodCodeSequence]
    assert codes == ["113100", "113108"]
    every = cleaned(
        full(), dates="shift", device="retain", patient="retain", private=("0009,01,X",)
    )
    codes = [item.CodeValue for item in every.DeidentificationMethodCodeSequence]
    assert codes == ["113100", "113107", "113109", "113108", "113111"]
    assert every.PatientIdentityRemoved == "YES"


def test_private_attributes_go_unless_they_are_listed() -> None:
    def private() -> Dataset:
        data = scan()
        block = data.private_block(0x0019, "ACME MR", create=True)
        block.add_new(0x0C, "IS", "1000")
        block.add_new(0x0D, "LO", NAME)
        other = data.private_block(0x0019, "OTHER", create=True)
        other.add_new(0x0C, "LO", NAME)
        return data

    assert not [element for element in cleaned(private()) if element.tag.is_private]
    kept = cleaned(private(), private=("0019,0c,acme mr",))
    assert kept.private_block(0x0019, "ACME MR")[0x0C].value == 1000
    assert NAME not in everything(kept)
    assert sum(element.tag.is_private for element in kept) == 2  # the creator and the one


def test_overlays_curves_and_group_lengths_go() -> None:
    data = scan()
    for tag, vr, value in (
        (0x60000010, "US", 8),
        (0x60003000, "OW", b"\1\0"),
        (0x60024000, "LT", NAME),
        (0x50000030, "SH", NAME),
        (0x00080000, "UL", 12),
        (0xFFFCFFFC, "OB", b"\0\0"),
    ):
        data.add(DataElement(tag, vr, value))
    groups = {element.tag.group for element in cleaned(data)}
    assert not groups & {0x6000, 0x6002, 0x5000, 0xFFFC}
    assert 0x00080000 not in data


def test_attributes_that_no_dictionary_knows_go_by_their_kind() -> None:
    data = scan()
    for number, (vr, value) in enumerate(
        (
            ("LO", NAME),
            ("UN", b"Zzyzx\0"),
            ("PN", NAME),
            ("UI", "1.2.3.4"),
            ("US", 5),
            ("DA", "20210304"),
        )
    ):
        data.add(DataElement(0x00189F00 + number, vr, value))
    kept = cleaned(data)
    assert 0x00189F00 not in kept
    assert 0x00189F01 not in kept
    assert not kept[0x00189F02].value
    assert kept[0x00189F03].value.startswith("2.25.")
    assert kept[0x00189F04].value == 5
    assert not kept[0x00189F05].value


def test_texts_that_repeat_the_patient_go_from_attributes_that_stay() -> None:
    data = scan()
    data.Manufacturer, data.SoftwareVersions = "scan of JOHN DOE", ["1.0", "for mrn-77123"]
    data.ConvolutionKernel = "SHARP"
    kept = cleaned(data)
    assert kept.Manufacturer == "ANONYMIZED"
    assert "77123" not in everything(kept)
    assert kept.ConvolutionKernel == "SHARP"


def test_a_header_without_a_patient_takes_its_study_for_one() -> None:
    first, second = scan(), scan()
    del first.PatientID, second.PatientID
    second.StudyInstanceUID = "1.2.3.5"
    assert cleaned(first).PatientID != cleaned(second).PatientID


def test_nothing_is_found_in_what_was_cleaned() -> None:
    data = scan()
    data.BurnedInAnnotation = "NO"
    assert len({one.category for one in phi_of(data)}) >= 4
    assert phi_of(cleaned(data, dates="shift")) == []
    again = cleaned(data)
    assert again.PatientID == KEY.pseudonym("MRN-77123")  # a pseudonym stays as it is


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MEDIDIFF_HOME", str(tmp_path / "home"))
    root = tmp_path / "doe_john"
    root.mkdir()
    for number in range(3):
        data = scan()
        data.SOPInstanceUID = f"1.2.3.{number}"
        data.BodyPartExamined = "HEAD"
        if number == 1:
            data.BurnedInAnnotation = "YES"
        data.save_as(root / f"doe_john_{number}.dcm")
    (root / "doe_john.txt").write_text("no image")
    return root


def test_a_tree_is_written_under_names_that_say_nothing(tree: Path, tmp_path: Path) -> None:
    said = api.deidentify(tree, tmp_path / "out")
    files = sorted((tmp_path / "out").rglob("*.dcm"))
    assert len(files) == 2
    assert "2 DICOM images of 1 subjects" in said
    assert "1 x the header says that text is burnt in" in said
    assert "1 series show heads" in said
    assert "the pixels were not looked at" in said
    assert "doe" not in said.replace(str(tmp_path), "").lower().replace("does", "")
    assert all("doe" not in str(file.relative_to(tmp_path)).lower() for file in files)
    content = b"".join(file.read_bytes() for file in files)
    assert b"Doe" not in content
    assert b"77123" not in content
    header = dcmread(files[0])
    assert header.file_meta.MediaStorageSOPInstanceUID == header.SOPInstanceUID
    assert files[0].read_bytes()[:128] == b"\0" * 128
    kept = api.deidentify(tree, tmp_path / "all", burnt_in="keep")
    assert "3 DICOM images" in kept
    assert "in 1 of them text may be burnt" in kept


@pytest.mark.parametrize(
    ("said", "head"),
    [
        ({"SeriesDescription": "t1_head_sag"}, True),
        ({"ProtocolName": "Neuro^routine"}, True),
        ({"SeriesDescription": "Body surface coil"}, False),
        ({"StudyDescription": "Head", "Modality": "CR"}, False),
    ],
)
def test_heads_are_told_by_words_that_are_then_taken_away(
    said: dict[str, str], head: bool, tree: Path, tmp_path: Path
) -> None:
    for file in tree.glob("*.dcm"):
        data = dcmread(file)
        data.BodyPartExamined = ""
        for name, value in said.items():
            setattr(data, name, value)
        data.save_as(file)
    assert ("1 series show heads" in api.deidentify(tree, tmp_path / "out")) == head


def test_what_cannot_be_written_is_told(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        api.deidentify(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(ConfigError, match="GROUP,ELEMENT,CREATOR"):
        api.deidentify(tree, tmp_path / "out", keep_private=["0019,0c"])
    with pytest.raises(ConfigError, match="GROUP,ELEMENT,CREATOR"):
        api.deidentify(tree, tmp_path / "out", keep_private=["0018,0c,ACME"])
    with pytest.raises(OutputError, match="already holds files"):
        api.deidentify(tree, tree)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no DICOM image was written"):
        api.deidentify(tmp_path / "empty", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_made_keeps_its_mark_and_no_more_of_the_text() -> None:
    data = scan()
    for text, mark in (
        ("SYNTHETIC - not for diagnosis", "SYNTHETIC - not for diagnosis"),
        (f"AI-PROCESSED denoise: {NAME}", "AI-PROCESSED"),
    ):
        data.SeriesDescription = text
        assert cleaned(data).SeriesDescription == mark


def test_a_result_is_written_as_a_pseudonyms(tree: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    data = scan()
    data.ReferringPhysicianName = "Roe^Jane"
    data.save_as(source / "1.dcm")
    found = decode(source)
    nibabel.save(nibabel.Nifti1Image(found.array[0], found.affine), tmp_path / "scan.nii.gz")
    for dates in ("none", "remove"):
        words = ["to-dicom", str(tmp_path / "scan.nii.gz"), "--source", str(source)]
        words += ["--kind", "processed", "--deidentify", dates]
        done = CliRunner().invoke(cli.app, [*words, "--out", str(tmp_path / f"of-{dates}")])
        assert done.exit_code == 0
        assert ("a face can be rebuilt" in done.output) == (dates == "remove")
    plain, kept = (next((tmp_path / each).iterdir()) for each in ("of-none", "of-remove"))
    assert b"Doe" in plain.read_bytes()
    for word in (b"Doe", b"Roe", b"77123"):
        assert word not in kept.read_bytes()
    header = dcmread(kept)
    assert header.PatientID == SiteKey.load().pseudonym("MRN-77123")
    assert header.SeriesDescription == "AI-PROCESSED image"  # of ours, what is before the colon
    assert header.ImageType[:2] == ["DERIVED", "SECONDARY"]
    # beside the source that is de-identified with the same key
    api.deidentify(source, tmp_path / "clean")
    beside = dcmread(next((tmp_path / "clean").rglob("*.dcm")))
    assert header.StudyInstanceUID == beside.StudyInstanceUID
    assert header.FrameOfReferenceUID == beside.FrameOfReferenceUID
    of = header.SourceImageSequence[0]
    assert of.ReferencedSOPInstanceUID == beside.SOPInstanceUID
    assert header.file_meta.MediaStorageSOPInstanceUID == header.SOPInstanceUID


@pytest.mark.parametrize("file", ["CT_small.dcm", "MR_small.dcm", "examples_palette.dcm"])
def test_a_validator_finds_no_fault_that_was_not_there(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDIDIFF_HOME", str(tmp_path / "home"))
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy (Debian package dicom3tools) is not installed")
    source = Path(str(get_testdata_file(file, download=False)))
    for options in ({}, {"dates": "shift", "device": "retain", "patient": "retain"}):
        out = tmp_path / f"{len(options)}"
        api.deidentify(source, out, burnt_in="keep", **options)  # pyright: ignore
        (written,) = out.rglob("*.dcm")
        assert faults(written) <= faults(source)


def faults(file: Path) -> set[str]:
    done = subprocess.run(["dciodvfy", str(file)], capture_output=True, text=True)
    return {line for line in done.stderr.splitlines() if line.startswith("Error")}
