"""What would leak between splits is found, and told by row."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medidiff.data.leakage import MOST_OF_ONE_SCAN
from medidiff.data.manifest import check_manifest, read_manifest
from medidiff.errors import ManifestError

WriteNifti = Callable[..., Path]


def volume(seed: int, step: float = 0.0) -> np.ndarray:
    random = np.random.default_rng(seed)
    if step:
        return (random.integers(1, 700, (20, 22, 24)) * step).astype(np.float32)
    return random.normal(size=(20, 22, 24)).astype(np.float32)


def problems(folder: Path, rows: list[str], header: str = "subject,image,split") -> str:
    path = folder / "manifest.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    try:
        check_manifest(read_manifest(path), leakage="near")
    except ManifestError as error:
        return str(error)
    return ""


def test_a_noisy_copy_in_another_split_is_found(tmp_path: Path, write_nifti: WriteNifti) -> None:
    image = volume(1)
    write_nifti("a.nii.gz", image)
    write_nifti("b.nii.gz", 3 * image + volume(2) * 0.05)
    write_nifti("c.nii.gz", volume(3))
    said = problems(tmp_path, ["x,a.nii.gz,train", "y,c.nii.gz,train", "z,b.nii.gz,test"])
    assert "row 4, column 'image': nearly the same image as in row 2 in another split" in said
    assert "1 problem" in said
    assert not problems(tmp_path, ["x,a.nii.gz,train", "y,c.nii.gz,train", "x,b.nii.gz,train"])


def test_two_sides_of_one_scan_under_two_subjects_are_found(
    tmp_path: Path, write_nifti: WriteNifti
) -> None:
    """As volumes 2k-1 and 2k of the Decathlon's hippocampus set."""
    write_nifti("left.nii.gz", volume(1, 8.96947123))
    write_nifti("right.nii.gz", volume(2, 8.96947123))
    write_nifti("other.nii.gz", volume(3, 8.9712))
    rows = ["h1,left.nii.gz,train", "h2,other.nii.gz,train", "h3,right.nii.gz,test"]
    said = problems(tmp_path, rows)
    assert "row 4, column 'image': a piece of the same scan as row 2 in another split" in said
    assert "1 problem" in said
    together = ["h1,left.nii.gz,train", "h2,other.nii.gz,train", "h1,right.nii.gz,train"]
    assert not problems(tmp_path, together)


def test_a_lattice_that_many_share_is_a_convention(tmp_path: Path, write_nifti: WriteNifti) -> None:
    rows = []
    for index in range(MOST_OF_ONE_SCAN + 1):
        write_nifti(f"{index}.nii.gz", volume(index, 0.3717))
        rows.append(f"s{index},{index}.nii.gz,train")
    assert not problems(tmp_path, rows)


def test_many_pairs_are_told_together_and_all_are_in_the_private_text(
    tmp_path: Path, write_nifti: WriteNifti
) -> None:
    lines = []
    for number in range(5):
        array = volume(number)
        for side, split in (("a", "train"), ("b", "test")):
            write_nifti(f"{number}{side}.nii", array)
            lines.append(f"{number}{side},{number}{side}.nii,{split}")
    write_nifti("9.nii", volume(9))
    path = tmp_path / "manifest.csv"
    for count, problems in ((5, 1), (3, 3)):
        kept = [*lines[: 2 * count], "c,9.nii,train"]
        path.write_text("\n".join(["subject,image,split", *kept]) + "\n")
        with pytest.raises(ManifestError) as caught:
            check_manifest(read_manifest(path))
        assert len(str(caught.value).splitlines()) == 1 + problems
        assert (caught.value.private or "").count(".nii and ") == count
        if count == 5:
            assert "5 pairs of rows hold the same file, e.g. 2 and 3, 4 and 5" in str(caught.value)


def test_one_study_under_two_patients_is_found(tmp_path: Path, write_nifti: WriteNifti) -> None:
    for index in range(3):
        write_nifti(f"{index}.nii.gz", volume(index))
    rows = ["a,0.nii.gz,S-1,train", "b,1.nii.gz,S-1,test", "b,2.nii.gz,S-2,test"]
    said = problems(tmp_path, rows, "subject,image,study,split")
    assert "row 3: the same study as row 2, under another subject" in said
    assert "1 problem" in said


@pytest.mark.parametrize("name", ["ixi_t1_slices", "lgg_flair", "paediatric_t1_slab"])
def test_real_sets_give_no_false_alarm(name: str, shared_data: Path) -> None:
    manifest = read_manifest(shared_data / name / "manifest.csv")
    check_manifest(manifest, images=["image"], leakage="near")


def test_the_hippocampus_leak_planted_again_is_found(shared_data: Path, tmp_path: Path) -> None:
    """Under the names of the original set every volume looks like a subject of its own."""
    folder = shared_data / "hippocampus"
    rows = read_manifest(folder / "manifest.csv").rows
    pairs = {}
    for row in rows:
        pairs.setdefault(row.subject, []).append(row)
    twins = [pair for pair in pairs.values() if len(pair) == 2 and pair[0].split == "train"][:8]
    lines = []
    for one, other in twins:
        lines += [f"{one.images['image'].name},{one.images['image']},train"]
        lines += [f"{other.images['image'].name},{other.images['image']},test"]
    said = problems(tmp_path, lines)
    told = re.search(
        r"(\d+) pairs of rows hold pieces of one scan in two splits, e\.g\. 2 and 3", said
    )
    assert told is not None
    found = int(told[1])
    whole_numbers = sum(
        np.issubdtype(dtype_of(pair[0].images["image"]), np.integer) for pair in twins
    )
    assert found == len(twins) - whole_numbers
    assert found >= 5
    assert "hippocampus_" not in said.split("\n", 1)[1]


def dtype_of(path: Path) -> np.dtype:
    import nibabel

    return nibabel.load(path).get_data_dtype()
