"""Files come in with their geometry and go out with it; errors do not name them."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from PIL import Image

from medidiff.data.images import load_image, original_of, save_image
from medidiff.errors import DataError

RANDOM = np.random.default_rng(3)


def test_a_saved_volume_comes_back_with_its_geometry(tmp_path: Path, affine_for) -> None:
    array = torch.randn(1, 4, 5, 6)
    affine = affine_for("LPS", (0.9, 1.1, 3.0), (10, -20, 30))
    path = save_image(tmp_path / "v.nii.gz", array, affine, description="AI-PROCESSED")
    image = load_image(path)
    assert torch.equal(image.as_tensor(), array)
    assert np.allclose(image.affine, affine, atol=1e-5)
    header = nibabel.load(path).header
    assert header.get_xyzt_units()[0] == "mm"
    assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 1)
    assert np.allclose(header.get_qform(), affine, atol=1e-4)
    assert bytes(header["descrip"]).startswith(b"AI-PROCESSED")


@pytest.mark.parametrize("shape", [(3, 4, 5), (3, 4, 5, 6), (1, 4, 5)])
def test_channels_survive_nifti(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = torch.randn(shape)
    image = load_image(save_image(tmp_path / "c.nii", array, np.eye(4)))
    assert torch.equal(image.as_tensor(), array)


def test_labels_stay_whole_numbers(tmp_path: Path) -> None:
    path = save_image(tmp_path / "l.nii.gz", np.ones((1, 3, 3, 3), np.uint8), np.eye(4))
    assert nibabel.load(path).get_data_dtype() == np.uint8


def test_pictures_are_rows_and_columns_without_geometry(tmp_path: Path) -> None:
    pixels = RANDOM.integers(0, 255, (7, 9), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "p.png")
    image = load_image(tmp_path / "p.png")
    assert np.array_equal(image.as_tensor()[0].numpy(), pixels)
    assert not original_of(image).known


def test_a_png_is_written_through_a_stated_window(tmp_path: Path) -> None:
    array = torch.tensor([[[-200.0, -100.0], [0.0, 300.0]]])
    with pytest.raises(DataError, match="state a window"):
        save_image(tmp_path / "p.png", array, np.eye(4))
    save_image(tmp_path / "p.png", array, np.eye(4), window=(-100, 155))
    assert np.asarray(Image.open(tmp_path / "p.png")).tolist() == [[0, 0], [100, 255]]


def test_itk_files_are_turned_to_ras(tmp_path: Path, affine_for) -> None:
    array = RANDOM.normal(size=(4, 5, 6)).astype(np.float32)
    image = sitk.GetImageFromArray(array.transpose(2, 1, 0))
    image.SetSpacing((1.0, 2.0, 3.0))
    image.SetOrigin((10.0, 20.0, 30.0))
    sitk.WriteImage(image, str(tmp_path / "v.nrrd"))
    loaded = load_image(tmp_path / "v.nrrd")
    assert np.array_equal(loaded.as_tensor()[0].numpy(), array)
    assert np.allclose(loaded.affine, affine_for("LPS", (1, 2, 3), (-10, -20, 30)))


def test_nifti_without_codes_has_no_known_geometry(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.ones((3, 3, 3), np.float32), None)
    nibabel.save(image, tmp_path / "n.nii")
    assert not original_of(load_image(tmp_path / "n.nii")).known


def test_a_volume_one_voxel_thick_is_a_slice_and_keeps_its_plane(
    tmp_path: Path, affine_for
) -> None:
    array = RANDOM.normal(size=(1, 4, 5)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(array, affine_for("RAS", (7, 2, 3))), tmp_path / "s.nii")
    image = load_image(tmp_path / "s.nii")
    assert image.shape == (1, 4, 5)
    assert np.allclose(np.asarray(image.affine)[:3, :3], affine_for("ASR", (2, 3, 7))[:3, :3])


def damaged(folder: Path) -> dict[str, Path]:
    nibabel.save(nibabel.Nifti1Image(RANDOM.normal(size=(9, 9, 9)), np.eye(4)), folder / "a.nii.gz")
    whole = (folder / "a.nii.gz").read_bytes()
    (folder / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    hole = np.ones((3, 3, 3), np.float32)
    hole[1, 1, 1] = np.nan
    nibabel.save(nibabel.Nifti1Image(hole, np.eye(4)), folder / "nan.nii")
    tilted = np.eye(4)
    tilted[1, 2] = 0.3
    nibabel.save(nibabel.Nifti1Image(np.ones((3, 3, 3), np.float32), tilted), folder / "tilt.nii")
    Image.fromarray(RANDOM.integers(0, 255, (4, 4, 3), dtype=np.uint8)).save(folder / "colour.png")
    (folder / "words.txt").write_text("hello")
    names = ("gone.nii", "cut.nii.gz", "nan.nii", "tilt.nii", "colour.png", "words.txt")
    return {name: folder / name for name in names}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gone.nii", "no such file"),
        ("cut.nii.gz", "truncated, damaged"),
        ("nan.nii", "1 voxels are not finite"),
        ("tilt.nii", "not at right angles"),
        ("colour.png", "in colour"),
        ("words.txt", "format is not known"),
    ],
)
def test_what_cannot_be_read_is_told_without_its_name(tmp_path: Path, name: str, said: str) -> None:
    path = damaged(tmp_path)[name]
    with pytest.raises(DataError, match=said) as caught:
        load_image(path)
    assert name not in str(caught.value)
    assert str(path) in str(caught.value.private)


@pytest.mark.parametrize(
    ("suffix", "old", "new", "said"),
    [
        (".nrrd", b"\n\n", b"\n", "no end|no text"),
        (".nrrd", b"encoding:", b"encoding ", "no field"),
        (".nrrd", b"encoding: raw", b"data file: /etc/hostname", "do not lie beside it"),
        (".mha", b"ElementDataFile = LOCAL", b"ElementDataFile = ../x.raw", "do not lie beside"),
        (".mha", b"DimSize =", b"DimSize \xff", "no text"),
        (".mha", b"ElementDataFile", b"ElementDateFile", "no end|no text"),
    ],
)
def test_a_text_header_that_is_none_is_refused(
    suffix: str, old: bytes, new: bytes, said: str, tmp_path: Path
) -> None:
    path = tmp_path / f"x{suffix}"
    image = sitk.GetImageFromArray(RANDOM.integers(0, 99, (4, 5, 6)).astype(np.int16))
    sitk.WriteImage(image, str(path))
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))
    with pytest.raises(DataError, match=said):
        load_image(path)


@pytest.mark.parametrize("suffix", [".mhd", ".nhdr"])
def test_a_detached_header_finds_the_data_beside_it(suffix: str, tmp_path: Path) -> None:
    array = RANDOM.integers(0, 99, (4, 5, 6)).astype(np.int16)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / f"x{suffix}"))
    assert np.array_equal(load_image(tmp_path / f"x{suffix}").as_tensor()[0].numpy(), array.T)
