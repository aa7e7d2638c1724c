"""A NIfTI header that contradicts itself is refused; its halves and its volumes are found."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medidiff.data.contents import file_digest
from medidiff.data.decode import decode
from medidiff.errors import DataError

VOXELS = np.random.default_rng(5).integers(0, 99, (5, 6, 7)).astype(np.int16)
AFFINE = np.array([[-1.0, 0, 0, 10], [0, 2, 0, 20], [0, 0, 3, 30], [0, 0, 0, 1]])


def image(forms: tuple[int, int], qform: np.ndarray = AFFINE) -> nibabel.Nifti1Image:
    made = nibabel.Nifti1Image(VOXELS, AFFINE)
    made.set_sform(AFFINE, code=forms[0])
    made.set_qform(qform, code=forms[1], update_affine=True)
    return made


def moved(mm: float) -> np.ndarray:
    affine = AFFINE.copy()
    affine[0, 3] += mm
    return affine


@pytest.mark.parametrize(
    ("forms", "qform", "said"),
    [
        ((1, 1), moved(0.3), ""),
        ((1, 1), moved(7), "lie 7 mm apart"),
        ((4, 1), moved(7), ""),
        ((4, 1), AFFINE * [[-1], [1], [1], [1]], "disagree about left and right"),
        ((0, 1), moved(7), ""),
        ((2, 1), AFFINE * [1.5, 1, 1, 1], "two voxel sizes"),
    ],
)
def test_forms_that_contradict_each_other_are_refused(
    forms: tuple[int, int], qform: np.ndarray, said: str, tmp_path: Path
) -> None:
    nibabel.save(image(forms, qform), tmp_path / "x.nii.gz")
    if said:
        with pytest.raises(DataError, match=said):
            decode(tmp_path / "x.nii.gz")
        return
    affine = decode(tmp_path / "x.nii.gz").affine
    assert affine is not None
    assert np.allclose(affine, AFFINE if forms[0] else qform)


def edited(path: Path, at: int, value: bytes, name: str) -> Path:
    content = bytearray(path.read_bytes())
    content[at : at + len(value)] = value
    out = path.with_name(name)
    out.write_bytes(gzip.compress(bytes(content)) if name.endswith(".gz") else bytes(content))
    return out


@pytest.mark.parametrize("name", ["y.nii", "y.nii.gz"])
@pytest.mark.parametrize(
    ("at", "value", "said"),
    [
        (42, (4).to_bytes(2, "little"), "more voxels than"),
        (42, (30000).to_bytes(2, "little"), "fewer voxels than|more than can be there"),
        (42, (0).to_bytes(2, "little"), "declares the shape"),
        (72, (8).to_bytes(2, "little"), "8 bits a voxel and a type of 16"),
        (80, np.float32(9).tobytes(), "two voxel sizes"),
        (254, (77).to_bytes(2, "little"), "codes for its forms"),
        (108, np.float32(3).tobytes(), "begin within|damaged|voxels"),
    ],
)
def test_a_header_that_does_not_fit_its_voxels_is_refused(
    name: str, at: int, value: bytes, said: str, tmp_path: Path
) -> None:
    nibabel.save(image((1, 1)), tmp_path / "x.nii")
    with pytest.raises(DataError, match=said):
        decode(edited(tmp_path / "x.nii", at, value, name))


def test_a_flipped_bit_in_a_gzip_is_found_by_its_checksum(tmp_path: Path) -> None:
    nibabel.save(image((1, 1)), tmp_path / "x.nii.gz")
    content = bytearray((tmp_path / "x.nii.gz").read_bytes())
    content[-6] ^= 1  # within the checksum itself
    (tmp_path / "x.nii.gz").write_bytes(bytes(content))
    with pytest.raises(DataError, match="damaged"):
        decode(tmp_path / "x.nii.gz")


def test_pairs_of_files_are_one_image(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Pair(VOXELS, AFFINE), tmp_path / "x.img")
    for name in ("x.hdr", "x.img"):
        scan = decode(tmp_path / name)
        assert np.array_equal(scan.array[0], VOXELS)
        assert scan.affine is not None
        assert np.allclose(scan.affine, AFFINE)
    before = file_digest(tmp_path / "x.hdr")
    content = bytearray((tmp_path / "x.img").read_bytes())
    content[3] ^= 1
    (tmp_path / "x.img").write_bytes(bytes(content))
    assert file_digest(tmp_path / "x.hdr") != before


def test_analyze_is_refused_for_its_sides(tmp_path: Path) -> None:
    nibabel.save(nibabel.AnalyzeImage(VOXELS, AFFINE), tmp_path / "x.img")
    with pytest.raises(DataError, match="left from right"):
        decode(tmp_path / "x.hdr")


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_one_of_several_volumes_can_be_named(kind: type, tmp_path: Path) -> None:
    stacked = np.stack([VOXELS, VOXELS + 1, VOXELS + 2], -1)
    nibabel.save(kind(stacked, AFFINE), tmp_path / "x.nii.gz")
    assert decode(tmp_path / "x.nii.gz").array.shape == (3, 5, 6, 7)
    assert np.array_equal(decode(tmp_path / "x.nii.gz[2]").array[0], VOXELS + 2)
    with pytest.raises(DataError, match="there is no image 3: the file holds 3"):
        decode(tmp_path / "x.nii.gz[3]")
    digests = {file_digest(tmp_path / f"x.nii.gz{end}") for end in ("", "[0]", "[1]")}
    assert len(digests) == 3


def test_metres_become_millimetres(tmp_path: Path) -> None:
    made = nibabel.Nifti1Image(VOXELS, np.diag([0.001, 0.002, 0.003, 1]))
    made.header.set_xyzt_units("meter")
    nibabel.save(made, tmp_path / "x.nii")
    affine = decode(tmp_path / "x.nii").affine
    assert affine is not None
    assert np.allclose(affine, np.diag([1, 2, 3, 1]))
