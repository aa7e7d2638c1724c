"""Manifests are read strictly, and every problem is told at once, by row."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medidiff.data.checks import modalities
from medidiff.data.decode import decode
from medidiff.data.manifest import check_manifest, read_manifest
from medidiff.data.placing import stated_modality
from medidiff.errors import ManifestError


def picture(folder: Path, name: str, seed: int, size: tuple[int, int] = (12, 10)) -> None:
    values = np.random.default_rng(seed).integers(0, 255, size, dtype=np.uint8)
    Image.fromarray(values).save(folder / name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index in range(4):
        picture(tmp_path, f"{index}.png", index)
    return tmp_path


def written(folder: Path, *lines: str) -> Path:
    path = folder / "manifest.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def error_of(path: Path, **options: object) -> ManifestError:
    with pytest.raises(ManifestError) as caught:
        check_manifest(read_manifest(path), **options)  # pyright: ignore[reportArgumentType]
    return caught.value


def problems_of(path: Path, **options: object) -> str:
    return str(error_of(path, **options))


def test_columns_are_typed_by_header_and_by_reserved_name(folder: Path) -> None:
    path = written(
        folder,
        "subject,image,t2:image,age:number,sex:category,modality,split",
        "a,0.png,1.png,41.5,F,MR,train",
        "b,2.png,3.png,,,MR,val",
    )
    manifest = read_manifest(path)
    check_manifest(manifest, splits=["train", "val"])
    first, second = manifest.rows
    assert manifest.names("image") == ("image", "t2")
    assert first.images == {"image": folder / "0.png", "t2": folder / "1.png"}
    assert first.conditions == {"age": 41.5, "sex": "F"}
    assert second.conditions == {}
    assert first.text == {"modality": "MR"}
    assert [row.subject for row in manifest.split("val")] == ["b"]
    assert (first.number, second.number) == (2, 3)


@pytest.mark.parametrize("stated", ["", ":text", ":category"])
def test_a_modality_is_read_whether_text_or_category(folder: Path, stated: str) -> None:
    path = written(folder, f"subject,image,modality{stated}", "a,0.png,ct", "b,1.png,")
    first, second = read_manifest(path).rows
    assert modalities([first, second], "image") == {2: "ct", 3: None}
    assert (stated_modality(first), stated_modality(second)) == ("CT", "")
    assert bool(first.conditions) == (stated == ":category")


@pytest.mark.parametrize("stated", ["number", "image", "label"])
def test_a_modality_of_another_type_is_refused(folder: Path, stated: str) -> None:
    path = written(folder, f"subject,image,modality:{stated}", "a,0.png,1")
    with pytest.raises(ManifestError, match="'modality' holds words: of type 'text' or 'category'"):
        read_manifest(path)


def test_json_says_the_same_as_csv(folder: Path) -> None:
    csv_path = written(folder, "subject,t1:image,age:number,split", "a,0.png,41.5,train")
    tree = {
        "format": 1,
        "columns": {"t1": "image", "age": "number"},
        "rows": [{"subject": "a", "t1": "0.png", "age": 41.5, "split": "train"}],
    }
    json_path = folder / "manifest.json"
    json_path.write_text(json.dumps(tree))
    one, other = read_manifest(csv_path), read_manifest(json_path)
    assert one.rows[0].images == other.rows[0].images
    assert one.rows[0].numbers == other.rows[0].numbers
    assert one.digest() == other.digest()


def test_problems_of_form_are_told_together_with_suggestions(folder: Path) -> None:
    path = written(
        folder, "subject,image,age:numbr,w:number", "a,0.png,1,2", "b,1.png", ",2.png,1,heavy"
    )
    with pytest.raises(ManifestError) as caught:
        read_manifest(path)
    text = str(caught.value)
    assert "did you mean 'number'?" in text
    assert "row 3: 2 cells, but the header has 4" in text
    assert "row 4: the subject is missing" in text
    assert "row 4, column 'w': not a number" in text
    assert "heavy" not in text
    assert "row 4, column 'w': not a number | 'heavy'" in str(caught.value.private)


def test_a_missing_subject_column_is_suggested(folder: Path) -> None:
    path = written(folder, "subjct,image", "a,0.png")
    with pytest.raises(ManifestError, match="did you mean 'subjct'"):
        read_manifest(path)


def test_a_table_without_a_header_is_not_read_aloud(folder: Path) -> None:
    path = written(folder, "Doe^John,scans/doe.nii:imag", "Doe^Jane,scans/jane.nii")
    with pytest.raises(ManifestError, match="no column 'subject'") as caught:
        read_manifest(path)
    assert "oe" not in str(caught.value)
    assert "Doe^John" in str(caught.value.private)


def test_a_column_of_many_splits_is_not_read_aloud(folder: Path) -> None:
    rows = [f"s{index},{index % 4}.png,patient{index}" for index in range(12)]
    path = written(folder, "subject,image,split", *rows)
    text = problems_of(path, splits=["train"])
    assert "the split 'train' has no rows (splits: 12 different ones" in text
    assert "patient" not in text.splitlines()[1]


def test_all_problems_of_content_are_told_by_row(folder: Path) -> None:
    (folder / "truncated.png").write_bytes((folder / "0.png").read_bytes()[:60])
    (folder / "copy.png").write_bytes((folder / "1.png").read_bytes())
    Image.open(folder / "2.png").save(folder / "again.bmp")
    Image.fromarray(np.zeros((12, 10), np.uint8)).save(folder / "blank.png")
    path = written(
        folder,
        "subject,image,split",
        "a,0.png,train",
        "b,1.png,train",
        "a,3.png,test",
        "c,gone.png,train",
        "d,truncated.png,train",
        "e,copy.png,val",
        "f,2.png,train",
        "g,again.bmp,test",
        "h,blank.png,val",
        "i,,val",
    )
    error = error_of(path, splits=["train", "holdout"])
    text, private = str(error), str(error.private)
    assert "the split 'holdout' has no rows" in text
    assert "one subject is in more than one split: 'train' (row 2), 'test' (row 4)" in text
    assert "row 5, column 'image': there is no such file" in text
    assert "row 6, column 'image': the file is truncated" in text
    assert "row 7, column 'image': the same file as in row 3" in text
    assert "row 9, column 'image': the same voxels as in row 8" in text
    assert "row 10, column 'image': every voxel has the same value" in text
    assert "row 11, column 'image': no image" in text
    assert "8 problems" in text
    assert (
        "'train' (row 2), 'test' (row 4); split by subject, not by image | subject 'a'" in private
    )
    for number, names in {5: "gone", 6: "truncated", 7: "copy.png and 1", 9: "again"}.items():
        said = next(line for line in private.splitlines() if f"row {number}," in line)
        assert f"| {names}" in said
        assert not any(f"{name}." in text for name in names.split("."))


def test_one_file_under_two_subjects_is_refused_but_not_under_one(folder: Path) -> None:
    fine = written(folder, "subject,image,session", "a,0.png,1", "a,0.png,2", "b,1.png,1")
    check_manifest(read_manifest(fine))
    leaking = written(folder, "subject,image", "a,0.png", "b,0.png")
    assert "row 3, column 'image': the same file" in problems_of(leaking)


def test_many_problems_are_counted_beyond_the_first_twenty(folder: Path) -> None:
    rows = [f"s{index},gone{index}.png" for index in range(30)]
    error = error_of(written(folder, "subject,image", *rows))
    text = str(error)
    assert "30 problems" in text
    assert "and 10 more" in text
    assert "row 21," in text
    assert "row 22," not in text
    assert "gone" not in text
    assert "gone29.png" in str(error.private)


def test_slices_and_volumes_are_not_mixed(folder: Path, write_nifti) -> None:
    volume = np.random.default_rng(9).normal(size=(5, 6, 7)).astype(np.float32)
    write_nifti("volume.nii.gz", volume)
    path = written(folder, "subject,image", "a,0.png", "b,1.png", "c,volume.nii.gz")
    assert "row 4: the image is 3-D, but most are 2-D" in problems_of(path)


def test_a_label_must_lie_on_its_image(folder: Path, write_nifti) -> None:
    values = np.random.default_rng(1).normal(size=(5, 6, 7)).astype(np.float32)
    write_nifti("image.nii.gz", values)
    write_nifti("moved.nii.gz", np.zeros((5, 6, 7), np.uint8), np.diag([1, 1, 2, 1.0]))
    write_nifti("small.nii.gz", np.zeros((5, 6, 6), np.uint8))
    write_nifti("other.nii.gz", values + 1)
    path = written(
        folder,
        "subject,image,label",
        "a,image.nii.gz,moved.nii.gz",
        "b,other.nii.gz,small.nii.gz",
    )
    text = problems_of(path)
    assert "row 2, column 'label': lies elsewhere than 'image'" in text
    assert "row 3, column 'label': the image has the shape (5, 6, 6)" in text


def test_an_unknown_image_column_lists_those_there_are(folder: Path) -> None:
    path = written(folder, "subject,t1:image", "a,0.png")
    assert "no image column 't2' (image columns: 't1')" in problems_of(path, images=["t2"])


def test_missing_contrasts_pass_where_they_are_allowed(folder: Path) -> None:
    path = written(folder, "subject,t1:image,t2:image", "a,0.png,", "b,1.png,2.png", "c,,")
    text = problems_of(path)
    assert "row 2, column 't2': no image" in text
    lenient = problems_of(path, missing="allowed")
    assert "row 2" not in lenient
    assert "row 4: no image in any of the columns t1, t2" in lenient


def test_the_digest_knows_contents_and_not_names(folder: Path) -> None:
    before = read_manifest(
        written(folder, "subject,image,split", "a,0.png,x", "b,1.png,y")
    ).digest()
    (folder / "0.png").rename(folder / "renamed.png")
    path = written(folder, "subject,image,split", "zoe,1.png,y", "yan,renamed.png,x")
    assert read_manifest(path).digest() == before
    grouped = written(folder, "subject,image,split", "a,1.png,y", "a,renamed.png,x")
    assert read_manifest(grouped).digest() != before
    picture(folder, "renamed.png", 77)
    assert read_manifest(path).digest() != before


def test_progress_is_told_for_each_row(folder: Path) -> None:
    path = written(folder, "subject,image", "a,0.png", "b,1.png")
    told: list[tuple[int, int]] = []
    check_manifest(read_manifest(path), progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 2), (2, 2)]


def test_checking_needs_neither_torch_nor_monai() -> None:
    code = (
        "import sys, medidiff.data.manifest\n"
        "print([name for name in ('torch', 'monai') if name in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"


DOCUMENTED = Path(__file__).resolve().parents[3] / "data_manifests"


def test_the_documented_examples_say_the_same(tmp_path: Path) -> None:
    text = (DOCUMENTED / "README.md").read_text(encoding="utf-8")
    blocks = {name: text.split(f"```{name}\n")[1].split("```")[0] for name in ("csv", "json")}
    tables = []
    for name, block in blocks.items():
        path = tmp_path / f"m.{name}"
        path.write_text(block, encoding="utf-8")
        tables.append([replace(row, number=0) for row in read_manifest(path).rows])
    assert tables[0] == tables[1]
    assert tables[0][2].labels == {}
    assert tables[0][0].conditions == {"age": 63.5, "sex": "F"}


def test_the_example_manifest_passes_its_check() -> None:
    check_manifest(
        read_manifest(DOCUMENTED / "example" / "manifest.csv"), splits=["train", "val", "test"]
    )


def test_a_sound_file_is_decoded_again_only_when_it_changed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medidiff.data.contents.UNSETTLED_NS", 0)
    seen: list[str] = []

    def decoded(path: Path) -> object:
        seen.append(path.name)
        return decode(path)

    monkeypatch.setattr("medidiff.data.checks.decode", decoded)
    path = written(folder, "subject,image", "A,0.png", "B,1.png", "C,2.png", "D,broken.png")
    (folder / "broken.png").write_bytes(b"nothing")
    for expected in (["0.png", "1.png", "2.png", "broken.png"], ["broken.png"]):
        error_of(path)
        assert sorted(seen) == expected  # what was wrong may be mended by another decoder
        seen.clear()
    picture(folder, "1.png", 0)
    error = error_of(path)
    assert sorted(seen) == ["1.png", "broken.png"]
    assert "row 3, column 'image': the same file as in row 2" in str(error)
