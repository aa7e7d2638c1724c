"""A manifest is built from what lies in a tree, and names nobody unless asked to."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePath

import nibabel
import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from medidiff.data.build import BuildOptions, build_rows
from medidiff.data.dicom import Stacking
from medidiff.data.file_names import Named, fits, named, sequence_in
from medidiff.data.manifest import check_manifest, read_manifest
from medidiff.errors import ManifestError, OutputError
from medidiff.jobs.manifests import build
from medidiff.jobs.reporting import Quiet

Write = Callable[..., None]
RANDOM = np.random.default_rng(4)


def made(folder: Path, out: Path, **options: object) -> list[dict[str, str]]:
    build(folder, out, BuildOptions(**options), Quiet())  # pyright: ignore[reportArgumentType]
    with out.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def nifti(path: Path, shape: tuple[int, ...] = (5, 6, 7)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = RANDOM.integers(0, 99, shape).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([1, 2, 3, 1])), path)


def picture(path: Path, shape: tuple[int, ...] = (5, 6), **saved: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RANDOM.integers(0, 255, shape).astype(np.uint8)).save(path, **saved)  # pyright: ignore[reportArgumentType]


def stack(folder: Path, write: Write, name: str, **other: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(3):
        pixels = RANDOM.integers(0, 999, (4, 6))
        write(folder / f"{name}{index}", pixels, (0, 0, 5.0 * index), **other)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (
            "sub-01/ses-02/anat/sub-01_ses-02_acq-fast_run-1_T1w.nii.gz",
            Named("01", "02", "acq-fast_run-1", "T1w", "MR", "", False, "01/02"),
        ),
        (
            "derivatives/sub-01/anat/sub-01_space-T1w_desc-brain_mask.nii.gz",
            Named("01", "", "", "", "MR", "", True, "01/"),
        ),
        ("IXI002-Guys-0828-T1.nii.gz", Named("IXI002", "", "", "T1w", "MR", "Guys", False)),
        ("BraTS2021_00000/BraTS2021_00000_t1ce.nii.gz", Named("BraTS2021_00000", sequence="T1ce")),
        ("BraTS2021_00000/BraTS2021_00000_seg.nii.gz", Named("BraTS2021_00000", is_label=True)),
        ("BraTS-GLI-00000-000/BraTS-GLI-00000-000-t2f.nii.gz", Named("BraTS-GLI-00000-000")),
        ("Task04_Hippocampus/imagesTr/hippocampus_001.nii.gz", Named("hippocampus_001")),
        ("imagesTr/la_003_0000.nii.gz", Named("la_003")),
        ("labelsTr/la_003.nii.gz", Named("la_003", is_label=True)),
        ("patient7/flair.nii.gz", Named("patient7", sequence="FLAIR")),
        ("sub-01/anat/sub-01_T1w.png", Named("01", "", "", "T1w", "MR", "", False, "01/")),
        ("images/IXI002.png", Named("IXI002")),
        ("images/train_0000.png", Named("train_0000")),
        ("imagesTr/la_003_0000.png", Named("la_003")),
        ("NORMAL/0001.JPEG", Named("0001")),
        ("masks/a.png", Named("a", is_label=True)),
        ("labels/train/a.png", Named("a", is_label=True)),
        ("segmentations/imagesTr/a.png", Named("a")),
        ("sub-01.png", Named("01")),
        ("patient7/012.png", Named("patient7")),
        ("patient7/images/012.png", Named("patient7")),
        ("patient7/t1_012.png", Named("patient7", sequence="T1w")),
        ("patient7/T1/slice12.jpg", Named("patient7")),
        ("sub-01/2020-01-01/012.png", Named("01")),
        ("CS_4941/CS_4941_1_mask.tif", Named("CS_4941", is_label=True)),
    ],
)
def test_names_say_who_and_what(path: str, said: Named) -> None:
    found = named(PurePath(path))
    assert (found.subject, found.is_label) == (said.subject, said.is_label)
    if said.sequence:
        assert found.sequence == said.sequence
    if said.case:
        assert replace(found, entities=(), space="", kind="") == said


def test_only_known_words_come_out_of_free_text() -> None:
    assert sequence_in("Doe^John t2_tse_tra T2 axial") == "T2w"
    assert sequence_in("Doe John 1961") == ""
    assert sequence_in("FLAIR T2 sag") == "FLAIR"


def test_a_bids_tree_becomes_cases_with_labels_and_missing_contrasts(tmp_path: Path) -> None:
    root = tmp_path / "bids"
    for name in ("sub-a/anat/sub-a_T1w", "sub-a/anat/sub-a_FLAIR", "sub-b/anat/sub-b_T1w"):
        nifti(root / f"{name}.nii.gz")
    nifti(root / "derivatives/sub-a/anat/sub-a_dseg.nii.gz")
    nifti(root / "derivatives/sub-z/anat/sub-z_dseg.nii.gz")
    images = made(root, tmp_path / "images.csv")
    assert [(row["subject"], row["sequence"]) for row in images] == [
        ("a", "FLAIR"),
        ("a", "T1w"),
        ("b", "T1w"),
    ]
    assert images[0]["size"] == "5 x 6 x 7"
    assert images[0]["spacing_mm"] == "1 x 2 x 3"
    assert images[0]["label"].endswith("sub-a_dseg.nii.gz")
    assert images[2]["label"] == ""
    assert len({row["content"] for row in images}) == 3
    made(root, tmp_path / "cases.csv", arrange="cases")
    manifest = read_manifest(tmp_path / "cases.csv")
    assert manifest.names("image") == ("flair", "t1w")
    assert [sorted(row.images) for row in manifest.rows] == [["flair", "t1w"], ["t1w"]]
    check_manifest(manifest, missing="allowed")


T1W = "sub-1/anat/sub-1_T1w.nii.gz"


@pytest.mark.parametrize(
    ("label", "image", "its"),
    [
        ("sub-1_dseg.nii.gz", T1W, True),
        ("sub-1_T1w_dseg.nii.gz", T1W, True),
        ("sub-1_T2w_dseg.nii.gz", T1W, False),
        ("sub-1_space-T1w_desc-brain_mask.nii.gz", T1W, True),
        ("sub-1_space-T1w_desc-brain_mask.nii.gz", "sub-1_T2w.nii.gz", False),
        ("sub-1_space-T1w_desc-brain_mask.nii.gz", "sub-1_space-T1w_FLAIR.nii.gz", True),
        ("sub-1_space-MNI_dseg.nii.gz", T1W, False),
        ("sub-1_space-MNI_dseg.nii.gz", "sub-1_space-MNI_T1w.nii.gz", True),
        ("sub-1_space-orig_dseg.nii.gz", T1W, True),
        ("sub-1_acq-fast_mask.nii.gz", T1W, False),
        ("sub-1_acq-fast_mask.nii.gz", "sub-1_acq-fast_run-1_T1w.nii.gz", True),
        ("sub-1_run-2_mask.nii.gz", "sub-1_run-1_T1w.nii.gz", False),
        ("sub-1_hemi-L_mask.nii.gz", T1W, True),
        ("sub-2_dseg.nii.gz", T1W, False),
        ("patient7/flair_seg.nii.gz", "patient7/flair.nii.gz", True),
        ("patient7/flair_seg.nii.gz", "patient7/t1.nii.gz", False),
        ("BraTS_1/BraTS_1_seg.nii.gz", "BraTS_1/BraTS_1_t1ce.nii.gz", True),
        ("labels/train/a.png", "images/train/a.jpg", True),
        ("labels/train/a.png", "images/test/a.png", False),
        ("p7/masks/012.png", "p7/images/t1_012.png", True),
        ("p7/masks/012.png", "p7/images/t1_013.png", False),
        ("p7/masks/012.png", "p8/images/t1_012.png", False),
    ],
)
def test_a_label_fits_the_images_that_its_name_does_not_rule_out(
    label: str, image: str, its: bool
) -> None:
    assert fits(named(PurePath(label)), named(PurePath(image))) == its


def test_a_label_called_after_a_series_folder_is_its_label(
    tmp_path: Path, write_slice: Write
) -> None:
    tree = tmp_path / "tree"
    stack(tree / "images" / "a", write_slice, "x")
    stack(tree / "images" / "b", write_slice, "x", SeriesInstanceUID="1.2.7")
    for n, uid in enumerate(("1.2.8", "1.2.9")):  # two series in one folder: whose would it be?
        stack(tree / "images" / "c", write_slice, f"x{n}", SeriesInstanceUID=uid)
    for name, shape in (("a", (3, 4, 6)), ("b", (6, 4, 3)), ("c", (3, 4, 6))):
        nifti(tree / "labels" / f"{name}.nii.gz", shape)
    rows = made(tree, tmp_path / "m.csv")
    assert [row["label"] for row in rows] == ["tree/labels/a.nii.gz", "", "", ""]
    assert not [name for name in rows[0] if name.startswith("_")]


def test_each_kind_of_label_has_its_column_and_none_is_lost(tmp_path: Path) -> None:
    root = tmp_path / "bids"
    for name in ("sub-a_T1w", "sub-a_T2w", "sub-b_T1w"):
        nifti(root / name[:5] / "anat" / f"{name}.nii.gz")
    labels = ("sub-a_T1w_dseg", "sub-a_space-T1w_desc-brain_mask", "sub-a_T1w_label-lesion_mask")
    for name in (*labels, "sub-b_space-T1w_desc-brain_mask", "sub-b_desc-brain_mask"):
        nifti(root / "derivatives" / name[:5] / f"{name}.nii.gz")
    made_rows = made(root, tmp_path / "m.csv")
    rows = {(row["subject"], row["sequence"]): row for row in made_rows}
    first = rows["a", "T1w"]
    assert [
        Path(first[f"{kind}:label"]).name for kind in ("dseg", "brain_mask", "lesion_mask")
    ] == [f"{name}.nii.gz" for name in labels]
    assert not any(value for name, value in rows["a", "T2w"].items() if name.endswith("label"))
    assert "space-T1w" in rows["b", "T1w"]["brain_mask:label"]
    built = build_rows(root, tmp_path / "lists", BuildOptions())
    assert [one.text for one in built.skipped] == [
        "a second label or mask of its kind for one image"
    ]
    check_manifest(read_manifest(tmp_path / "m.csv"))


def test_a_session_of_two_labels_has_a_column_for_each(tmp_path: Path) -> None:
    for name in ("sub-a_T1w", "sub-a_T2w", "sub-a_T1w_dseg", "sub-a_T2w_dseg"):
        nifti(tmp_path / "bids" / f"{name}.nii.gz")
    (case,) = made(tmp_path / "bids", tmp_path / "m.csv", arrange="cases")
    assert case["label"].endswith("T1w_dseg.nii.gz")
    assert case["label_2:label"].endswith("T2w_dseg.nii.gz")


def test_volumes_of_a_file_are_rows_of_their_own(tmp_path: Path) -> None:
    nifti(tmp_path / "set" / "imagesTr" / "BRATS_001.nii.gz", (5, 6, 7, 2))
    rows = made(tmp_path / "set", tmp_path / "m.csv")
    assert [(row["subject"], row["part"]) for row in rows] == [
        ("BRATS_001", "volume 0"),
        ("BRATS_001", "volume 1"),
    ]
    check_manifest(read_manifest(tmp_path / "m.csv"))


SECRETS = {
    "PatientID": "MRN-4711",
    "PatientName": "Doe^Secret",
    "InstitutionName": "Secret Hospital",
    "StudyDate": "19610203",
    "SeriesDescription": "Doe T1 secret",
    "ProtocolName": "Secret protocol",
    "AcquisitionTime": "110203",
    "PatientAge": "095Y",
    "PatientSex": "F",
}


LATER = {**SECRETS, "AcquisitionTime": "120405"}


def test_dicom_rows_hold_pseudonyms_and_no_free_text(tmp_path: Path, write_slice: Write) -> None:
    root = tmp_path / "export"
    stack(root / "Doe_John", write_slice, "a", Modality="MR", EchoTime=5, **SECRETS)
    stack(root / "Doe_John", write_slice, "b", Modality="MR", EchoTime=9, **LATER)
    rows = made(root, tmp_path / "m.csv")
    text = (tmp_path / "m.csv").read_text()
    for secret in ("4711", "Doe", "ecret", "1961", "110203", "120405"):
        assert secret not in text, secret
    assert [row["part"] for row in rows] == ["echo time 5.0", "echo time 9.0"]
    assert {row["sequence"] for row in rows} == {"T1w"}
    assert {row["age:number"] for row in rows} == {"90"}
    assert len({row["subject"] for row in rows}) == 1
    assert rows[0]["subject"].startswith("S-")
    check_manifest(read_manifest(tmp_path / "m.csv"))
    raw = made(root, tmp_path / "raw.csv", subjects="raw")
    assert raw[0]["subject"] == "MRN-4711"
    assert raw[0]["site"] == "Secret Hospital"


def test_studies_of_a_patient_are_sessions_in_their_order(
    tmp_path: Path, write_slice: Write
) -> None:
    for name, date in (("late", "20200101"), ("early", "20100101")):
        stack(
            tmp_path / "x" / name,
            write_slice,
            name,
            StudyInstanceUID=f"1.2.{date}",
            SeriesInstanceUID=f"1.3.{date}",
            StudyDate=date,
        )
    rows = made(tmp_path / "x", tmp_path / "m.csv")
    assert [row["session"] for row in rows] == ["1", "2"]


def test_what_cannot_be_used_is_told_and_leaves_no_list(
    tmp_path: Path, write_slice: Write, own_home: Path
) -> None:
    root = tmp_path / "x"
    stack(root / "good", write_slice, "a")
    for index, height in enumerate([0, 5, 12]):
        write_slice(
            root / f"Doe{index}", np.ones((4, 6)), (0, 0, height), SeriesInstanceUID="1.2.3"
        )
    result = build(root, tmp_path / "m.csv", BuildOptions(), Quiet())
    assert (result.images, result.subjects, result.skipped) == (1, 1, 1)
    assert "1 x the gaps between slices are uneven" in result.text
    assert "Doe" not in result.text
    assert "Doe0" in (own_home / "private.log").read_text()
    assert len(list((tmp_path / "m.series").iterdir())) == 1
    stacking = Stacking(gaps="resample")
    again = build(root, tmp_path / "n.csv", BuildOptions(stacking=stacking), Quiet())
    assert again.images == 2


def test_nothing_is_left_where_no_image_can_be_used(tmp_path: Path, write_slice: Write) -> None:
    write_slice(tmp_path / "x.dcm", np.ones((4, 6)), (0, 0, 0), PhotometricInterpretation="RGB")
    with pytest.raises(ManifestError, match="no image can be used"):
        build(tmp_path, tmp_path / "m.csv", BuildOptions(), Quiet())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "x.dcm"]
    (tmp_path / "m.csv").write_text("kept")
    with pytest.raises(OutputError, match="is there already"):
        build(tmp_path, tmp_path / "m.csv", BuildOptions(), Quiet())


def test_a_tree_of_pictures_becomes_rows_that_repeat_nothing_but_names(
    tmp_path: Path, own_home: Path
) -> None:
    root = tmp_path / "x"
    exif, text = Image.Exif(), PngInfo()
    exif[0x010E] = "Doe^Secret"
    text.add_text("PatientName", "Doe^Secret")
    picture(root / "images/a.jpg", exif=exif)
    picture(root / "images/b.png", pnginfo=text)
    picture(root / "labels/b.png")
    picture(root / "labels/gone.png")
    picture(root / "thumbnails/Doe.png", (2, 2))
    picture(root / "images/Doe_thumb.png", (2, 2))
    picture(root / "images/Doe_colour.png", (5, 6, 3))
    (root / "images/Doe.png").write_text("no picture")
    (root / "notes.txt").write_text("Doe")
    (root / "Doe.zip").write_bytes(b"PK\5\6" + bytes(18))
    result = build(root, tmp_path / "m.csv", BuildOptions(), Quiet())
    with (tmp_path / "m.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["subject"], row["size"]) for row in rows] == [("a", "5 x 6"), ("b", "5 x 6")]
    assert [row["label"] for row in rows] == ["", "x/labels/b.png"]
    assert len({row["content"] for row in rows}) == 2
    assert "Doe" not in (tmp_path / "m.csv").read_text() + result.text
    assert "Secret" not in (own_home / "private.log").read_text()
    for line in (
        "2 x a small copy of a picture",
        "1 x the picture is in colour",
        "1 x the file is truncated, damaged or not what its name says",
        "1 x an archive without DICOM",
        "1 x a label or mask with no image",
        "other files, neither scans nor pictures: 1",
    ):
        assert line in result.text, line
    assert "mixed" not in result.text
    check_manifest(read_manifest(tmp_path / "m.csv"))


def test_slices_of_one_person_are_one_subject_each_with_its_own_mask(tmp_path: Path) -> None:
    for person in ("p1", "p2"):
        for number in ("1", "2"):
            picture(tmp_path / f"x/{person}/{person}_{number}.png")
            picture(tmp_path / f"x/{person}/{person}_{number}_mask.png")
    rows = made(tmp_path / "x", tmp_path / "m.csv")
    assert [row["subject"] for row in rows] == ["p1", "p1", "p2", "p2"]
    assert [row["series"] for row in rows] == ["1", "2", "1", "2"]
    assert [row["label"] for row in rows] == [
        row["image"].replace(".png", "_mask.png") for row in rows
    ]


@pytest.mark.parametrize("arrange", ["images", "cases"])
def test_slices_among_volumes_are_told_with_what_to_do(tmp_path: Path, arrange: str) -> None:
    nifti(tmp_path / "x/a_flair.nii.gz")
    picture(tmp_path / "x/b.png")
    picture(tmp_path / "x/c.png")
    options = BuildOptions(arrange=arrange)  # pyright: ignore[reportArgumentType]
    text = build(tmp_path / "x", tmp_path / "m.csv", options, Quiet()).text
    assert "2-D and 3-D are mixed: 2 slices or pictures, 1 volumes" in text
    assert "delete the rows of the other" in text


def test_a_file_of_several_pages_is_no_picture(tmp_path: Path) -> None:
    page = Image.fromarray(np.arange(30, dtype=np.uint8).reshape(5, 6))
    page.save(tmp_path / "a.tif", save_all=True, append_images=[page])
    with pytest.raises(ManifestError, match="the file holds 2 pictures"):
        build(tmp_path, tmp_path / "m.csv", BuildOptions(), Quiet())
