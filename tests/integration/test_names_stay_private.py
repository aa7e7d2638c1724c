"""Whatever goes wrong with a scan, its file and subject are named in the private log only."""

from __future__ import annotations

import csv
import shutil
import stat
import zipfile
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813  (its usual name)
from pydicom import dcmread
from pydicom.data import get_testdata_file

import medidiff
from medidiff import api, cli
from medidiff.data.manifest import read_manifest
from medidiff.errors import DataError, ManifestError, TrainingError

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "smoke-2d.yaml"
NAME = "doe_john"
ENDINGS = ("nii", "nii.gz", "dcm", "png", "nrrd", "mha", "tif", "xyz", "")
Capture = pytest.CaptureFixture[str]


def manifest_of(folder: Path, *files: str) -> Path:
    rows = [f"{NAME}-{index},{file},train" for index, file in enumerate(files)]
    path = folder / "manifest.csv"
    path.write_text("\n".join(["subject,image,split", *rows, "x,there.nii,val"]) + "\n")
    return path


def said(capfd: Capture) -> str:
    captured = capfd.readouterr()  # also what C libraries write
    return captured.out + captured.err


@pytest.fixture
def private_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MEDIDIFF_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "private.log"


def exit_code(*words: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("sys.argv", ["medidiff", *words])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return int(caught.value.code or 0)


@pytest.mark.parametrize("content", [b"", b"\x00" * 400, b"no image at all " * 40])
def test_of_a_damaged_file_of_any_format(
    content: bytes,
    tmp_path: Path,
    private_log: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: Capture,
) -> None:
    files = [f"{NAME}{index}.{ending}".rstrip(".") for index, ending in enumerate(ENDINGS)]
    for file in files:
        (tmp_path / file).write_bytes(content)
    path = manifest_of(tmp_path, *files)
    changes = ("-c", f"data.manifest={path}", "-c", f"output={tmp_path / 'run'}")
    assert exit_code("train", str(CONFIG), *changes, monkeypatch=monkeypatch) == 2
    told = said(capfd)
    assert NAME not in told
    assert f"names are in {private_log}" in told
    assert all(f"row {row}, column 'image'" in told for row in range(2, 2 + len(files)))
    assert all(file in private_log.read_text() for file in files)
    assert stat.S_IMODE(private_log.stat().st_mode) == 0o600
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_of_a_truncated_file_of_any_format(
    share: float,
    tmp_path: Path,
    private_log: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: Capture,
) -> None:
    files = [tmp_path / f"{NAME}{index}.{ending}" for index, ending in enumerate(ENDINGS[:7])]
    for file in files:
        write_scan(file)
        content = file.read_bytes()
        file.write_bytes(content[: int(share * len(content))])
    path = manifest_of(tmp_path, *(file.name for file in files))
    words = ("check", str(CONFIG), "-c", f"data.manifest={path}")
    assert exit_code(*words, monkeypatch=monkeypatch) == 2
    told = said(capfd)
    assert NAME not in told
    assert all(f"row {row}, column 'image'" in told for row in range(2, 2 + len(files)))
    assert all(file.name in private_log.read_text() for file in files)


def write_scan(file: Path) -> None:
    """A sound picture in the format that the name says."""
    values = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    if file.suffix in (".nii", ".gz"):
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), file)
    elif file.suffix == ".dcm":
        shutil.copyfile(str(get_testdata_file("CT_small.dcm", download=False)), file)
    else:
        sitk.WriteImage(sitk.GetImageFromArray(values), str(file))


def test_a_script_is_told_where_the_names_are(tmp_path: Path, private_log: Path) -> None:
    path = manifest_of(tmp_path, f"{NAME}.nii")
    with pytest.raises(ManifestError, match="row 2") as caught:
        api.check(CONFIG, changes=[f"data.manifest={path}"])
    assert caught.value.__notes__ == [f"names are in {private_log}"]
    assert private_log.read_text().count(f"{NAME}.nii") == 1


def test_of_a_defect_of_the_program(
    private_log: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", f"/scans/{NAME}.nii")

    monkeypatch.setattr(api, "check", broken)
    there = f"data.manifest={CONFIG}"  # whatever is there: its absence would be told before
    assert exit_code("check", str(CONFIG), "-c", there, monkeypatch=monkeypatch) == 1
    told = said(capfd)
    assert NAME not in told
    assert "PermissionError" in told
    assert "in broken" in told
    assert f"/scans/{NAME}.nii" in private_log.read_text()


def test_a_condition_on_names_is_refused(flat: Path, tmp_path: Path, private_log: Path) -> None:
    rows = list(csv.DictReader(flat.open()))
    for row in rows:
        row["who:category"] = row["subject"]
        row["image"], row["label"] = str(flat.parent / row["image"]), ""
    with (tmp_path / "m.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    changes = [f"data.manifest={tmp_path / 'm.csv'}", "data.conditions=[who]"]
    with pytest.raises(medidiff.MedidiffError, match="12 of the values in column 'who'") as caught:
        api.check(CONFIG, changes=changes)
    assert rows[0]["subject"] not in str(caught.value)
    assert rows[0]["subject"] in private_log.read_text()


@pytest.mark.slow
def test_of_a_loss_that_is_not_finite(
    flat: Path, place: Path, tmp_path: Path, private_log: Path, capfd: Capture
) -> None:
    out = tmp_path / "run"
    changes = [f"data.manifest={flat}", f"output={out}"]
    changes += ["train.learning_rate=1e30", "train.warmup_steps=0", "train.log_every=1"]
    with pytest.raises(TrainingError, match="manifest rows") as caught:
        medidiff.train(CONFIG, changes=changes)
    images = [row.images["image"] for row in read_manifest(flat).split("train")]
    assert any(str(image) in private_log.read_text() for image in images)
    public = str(caught.value) + said(capfd) + (out / "journal.jsonl").read_text()
    assert not any(image.name in public for image in images)


@pytest.fixture
def misfitting(flat: Path, tmp_path: Path) -> Path:
    """The population with a test scan and a validation scan of three times the field of view."""
    rows = list(csv.DictReader(flat.open()))
    for row in rows:
        row["image"], row["label"] = str(flat.parent / row["image"]), ""
    for number in (12, 19):
        given = nibabel.load(rows[number]["image"])
        image = np.tile(given.get_fdata(), (3, 3))
        file = tmp_path / f"{NAME}{number}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(image, given.affine), file)
        rows[number]["image"] = str(file)
    with (tmp_path / "m.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return tmp_path / "m.csv"


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["benchmark", "evaluate"])
def test_rows_that_do_not_fit_are_refused_together_before_anything_is_drawn(
    verb: str,
    misfitting: Path,
    run_2d: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: Capture,
) -> None:
    out = tmp_path / "out"
    words = [verb, *(["denoise"] if verb == "benchmark" else []), str(run_2d)]
    words += ["--manifest", str(misfitting), "--out", str(out)]
    assert exit_code(*words, monkeypatch=monkeypatch) == 2
    told = said(capfd)
    assert "2 of " in told
    assert "row 14: the field of view is" in told
    assert "row 21: the field of view is" in told
    assert "--mismatch warn" in told
    assert NAME not in told
    assert not out.exists()


@pytest.mark.slow
def test_rows_that_do_not_fit_are_warned_of_and_recorded_by_option(
    misfitting: Path, run_2d: Path, tmp_path: Path
) -> None:
    with pytest.warns(UserWarning, match=r"2 of 10 rows do not fit"):
        medidiff.benchmark(
            "denoise",
            run_2d,
            manifest=misfitting,
            out=tmp_path / "out",
            mismatch="warn",
            sigma=0.1,
        )
    summary = (tmp_path / "out" / "summary.json").read_text().replace("\n", "").replace(" ", "")
    assert '"rows_that_do_not_fit":[14,21]' in summary


@pytest.mark.slow
def test_scans_of_another_kind_are_refused_together(solid: Path, run_2d: Path) -> None:
    with pytest.raises(DataError, match="6 rows cannot be used") as caught:
        medidiff.evaluate(run_2d, manifest=solid)
    assert str(caught.value).count("the image is 3-D") == 6


def planted(folder: Path) -> Path:
    """An export with a name in every free place of its headers, its paths and an archive."""
    root = folder / f"{NAME}_export"
    for number in range(3):
        dicom = dcmread(str(get_testdata_file("CT_small.dcm", download=False)))
        for keyword in PLACES:
            setattr(dicom, keyword, NAME)
        dicom.StudyDate, dicom.PatientBirthDate = "19610203", "19610203"
        dicom.ImagePositionPatient = [0, 0, 5.0 * number]
        dicom.SOPInstanceUID = f"1.2.{number}"
        dicom.add_new(0x00091001, "LO", NAME)
        place = root / NAME / f"{NAME}{number}.dcm"
        place.parent.mkdir(parents=True, exist_ok=True)
        dicom.save_as(place)
    whole = (root / NAME / f"{NAME}0.dcm").read_bytes()
    (root / f"{NAME}_cut.dcm").write_bytes(whole[:1500])
    (root / f"{NAME}_colour.dcm").write_bytes(whole.replace(b"MONOCHROME2 ", b"RGB         "))
    (root / f"{NAME}.zip").write_bytes(b"no archive")
    with zipfile.ZipFile(root / f"{NAME}2.zip", "w") as archive:
        archive.writestr(f"{NAME}/{NAME}.dcm", whole[:2000])
    (root / f"{NAME}.nii").write_bytes(b"no image")
    return root


PLACES = (
    *("PatientName", "PatientID", "OtherPatientIDs", "PatientComments", "InstitutionName"),
    *("StudyDescription", "SeriesDescription", "ProtocolName", "ReferringPhysicianName"),
    *("OperatorsName", "StationName", "AccessionNumber", "StudyID", "ImageComments"),
    *("RequestedProcedureDescription", "PerformedProcedureStepDescription", "DeviceSerialNumber"),
)


def test_of_an_export_that_becomes_a_manifest(
    tmp_path: Path, private_log: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    root = planted(tmp_path)
    made, split = tmp_path / "m.csv", tmp_path / "s.csv"
    words = ("manifest", "build", str(root), "--out", str(made))
    assert exit_code(*words, monkeypatch=monkeypatch) == 0
    shares = ("--share", "train=1", "--stratify", "modality")
    assert (
        exit_code(
            "manifest", "split", str(made), "--out", str(split), *shares, monkeypatch=monkeypatch
        )
        == 0
    )
    assert exit_code("manifest", "check", str(split), monkeypatch=monkeypatch) == 0
    told = said(capfd)
    for text in (told, made.read_text(), split.read_text()):
        assert NAME not in text
        assert "1961" not in text
    assert "left out" in told
    assert private_log.read_text().count(NAME) >= 5
    cache = private_log.parent / "cache"
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in cache.iterdir())


def test_of_a_manifest_that_leaks(
    tmp_path: Path, private_log: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    random = np.random.default_rng(2)
    rows = ["subject,image,split"]
    for index, split in enumerate(["train", "test"]):
        side = (random.integers(1, 700, (16, 16, 16)) * 6.40073).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(side, np.eye(4)), tmp_path / f"{NAME}{index}.nii")
        rows.append(f"{NAME}-{index},{NAME}{index}.nii,{split}")
    (tmp_path / "m.csv").write_text("\n".join(rows) + "\n")
    assert exit_code("manifest", "check", str(tmp_path / "m.csv"), monkeypatch=monkeypatch) == 2
    told = said(capfd)
    assert "row 3, column 'image': a piece of the same scan as row 2 in another split" in told
    assert NAME not in told
    assert f"{NAME}1.nii and {NAME}0.nii" in private_log.read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("build", "nowhere", "--out", "m.csv"), "there is no such folder"),
        (("build", ".", "--out", "m.txt"), "written as .csv"),
        (("build", ".", "--out", "kept.csv"), "is there already"),
        (("build", ".", "--out", "m.csv"), "no image can be used"),
        (("split", "kept.csv", "--out", "m.csv", "--share", "train"), "write it as split=share"),
        (("split", "kept.csv", "--out", "m.csv", "--share", "train=0.5"), "add up to 1"),
        (("split", "kept.csv", "--out", "m.csv", "--hold-out", "doe_john"), "no column 'site'"),
        (("split", "gone.csv", "--out", "m.csv"), "no such manifest"),
        (("check", "kept.csv"), "no such file"),
    ],
)
def test_of_manifest_verbs_that_cannot_do_what_is_asked(
    words: tuple[str, ...],
    message: str,
    tmp_path: Path,
    private_log: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: Capture,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kept.csv").write_text(f"subject,image\n{NAME},{NAME}.nii\n")
    assert exit_code("manifest", *words, monkeypatch=monkeypatch) == 2
    told = said(capfd)
    assert message in told
    assert NAME not in told
    assert not (tmp_path / "m.csv").exists()
    assert not (tmp_path / "m.series").exists()
