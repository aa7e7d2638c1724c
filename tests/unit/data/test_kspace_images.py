"""K-space of fastMRI's layout becomes rows and images where it is sampled fully."""

from __future__ import annotations

import csv
from pathlib import Path

import h5py
import numpy as np
import pytest

from medidiff.data.build import BuildOptions
from medidiff.data.checks import check_manifest
from medidiff.data.decode import decode
from medidiff.data.images import load_image, original_of
from medidiff.data.manifest import read_manifest
from medidiff.data.options import Space
from medidiff.data.survey import survey
from medidiff.data.transforms import to_space
from medidiff.errors import DataError, ManifestError
from medidiff.jobs.manifests import build
from medidiff.jobs.reporting import Quiet

HEADER = """<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><encoding>
<encodedSpace><matrixSize><x>32</x><y>12</y><z>1</z></matrixSize>
<fieldOfView_mm><x>64</x><y>24</y><z>5</z></fieldOfView_mm></encodedSpace>
<reconSpace><matrixSize><x>16</x><y>10</y><z>1</z></matrixSize>
<fieldOfView_mm><x>32</x><y>20</y><z>5</z></fieldOfView_mm></reconSpace>
</encoding></ismrmrdHeader>"""
RANDOM = np.random.default_rng(3)


def heads(slices: int = 3) -> np.ndarray:
    """Random pictures with nothing in the oversampled halves of the read-out."""
    images = np.zeros((slices, 32, 12))
    images[:, 8:24] = RANDOM.uniform(1, 9, (slices, 16, 12))
    return images


def written(path: Path, images: np.ndarray, coils: int = 4, **attributes: str) -> Path:
    """Coils whose squares add up to 1, each of its own phase."""
    weights = RANDOM.uniform(0.2, 1, (coils, 1, 1)) * np.exp(1j * np.arange(coils))[:, None, None]
    seen = images[:, None] * weights / np.linalg.norm(weights)
    axes = (-2, -1)
    kspace = np.fft.fftshift(
        np.fft.fft2(np.fft.ifftshift(seen, axes=axes), norm="ortho"), axes=axes
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["kspace"] = kspace.astype(np.complex64)
        file["ismrmrd_header"] = HEADER
        file.attrs.update(attributes)
    return path


def rows_of(folder: Path, out: Path, **options: str) -> list[dict[str, str]]:
    build(folder, out, BuildOptions(**options), Quiet())  # pyright: ignore[reportArgumentType]
    with out.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_images_are_those_that_the_coils_saw(tmp_path: Path) -> None:
    images = heads()
    path = written(tmp_path / "a.h5", images)
    volume, one = decode(path), decode(tmp_path / "a.h5[2]")
    shown = images[:, 8:24, 1:11]
    assert np.allclose(volume.array[0], np.moveaxis(shown, 0, -1), atol=1e-4)
    assert np.allclose(one.array[0], shown[2], atol=1e-4)
    assert volume.spacing_mm == (2, 2, 5)
    assert one.spacing_mm == (2, 2)
    with pytest.raises(DataError, match="holds 3"):
        decode(tmp_path / "a.h5[3]")


def test_their_voxels_are_resampled_as_the_header_says(tmp_path: Path) -> None:
    image = load_image(written(tmp_path / "a.h5", heads()).with_name("a.h5[0]"))
    assert not original_of(image).known
    space = Space(dims=2, size=(32, 20), spacing_mm=(1.0, 1.0), orientation="as stored")
    placed = to_space(image, space).as_tensor()[0]
    assert float((placed > 0.9).float().mean()) > 0.9  # 16 x 10 voxels of 2 mm fill it
    with pytest.raises(DataError, match="how the body lies"):
        to_space(image, Space(dims=2, size=(32, 20), spacing_mm=(1.0, 1.0), orientation="PL"))


def test_build_names_the_patient_by_pseudonym_and_counts_coils(tmp_path: Path) -> None:
    written(tmp_path / "k" / "a.h5", heads(), patient_id="Meier", acquisition="AXT1POST")
    written(tmp_path / "k" / "b.h5", heads(), patient_id="Meier", acquisition="CORPD_FBK")
    written(tmp_path / "k" / "c.h5", heads())
    rows = rows_of(tmp_path / "k", tmp_path / "m.csv")
    assert rows[0]["subject"] == rows[1]["subject"] != "Meier"
    assert rows[2]["subject"] == "c"
    assert [row["sequence"] for row in rows] == ["T1ce", "PDw", ""]
    assert {(row["coils"], row["size"], row["modality"]) for row in rows} == {
        ("4", "16 x 10 x 3", "MR")
    }
    assert rows[0]["spacing_mm"] == "2 x 2 x 5"
    raw = rows_of(tmp_path / "k", tmp_path / "raw.csv", subjects="raw")
    assert raw[0]["subject"] == "Meier"


def test_slices_are_rows_that_check_sees_leak(tmp_path: Path) -> None:
    images = heads()
    written(tmp_path / "k" / "a.h5", images, patient_id="one")
    written(tmp_path / "k" / "b.h5", images[1:2], patient_id="other")
    rows = rows_of(tmp_path / "k", tmp_path / "m.csv", kspace="slices")
    assert [row["image"] for row in rows] == [f"k/a.h5[{k}]" for k in range(3)] + ["k/b.h5"]
    assert rows[2]["part"] == "slice 2"
    assert rows[2]["size"] == "16 x 10"
    found = survey(read_manifest(tmp_path / "m.csv").rows, ["image"])
    assert {(seen.spacing_mm, seen.orientation) for seen in found.cases} == {((2.0, 2.0), None)}
    with pytest.raises(ManifestError, match="1 problem"):  # other coils: nearly the same voxels
        check_manifest(read_manifest(tmp_path / "m.csv"), leakage="near")


def test_undersampled_files_are_left_out_and_told(tmp_path: Path) -> None:
    whole = written(tmp_path / "k" / "whole.h5", heads())
    for name, missing in (("lines", np.s_[..., 3]), ("points", np.s_[..., 9, 4])):
        with h5py.File(written(whole.with_name(f"{name}.h5"), heads()), "r+") as file:
            file["kspace"][missing] = 0  # pyright: ignore[reportIndexIssue]
    with h5py.File(written(whole.with_name("rim.h5"), heads()), "r+") as file:
        file["kspace"][..., :2] = 0  # pyright: ignore[reportIndexIssue]
    with h5py.File(written(whole.with_name("masked.h5"), heads()), "r+") as file:
        file["mask"] = np.arange(12) % 2
    with h5py.File(whole.with_name("ismrmrd.h5"), "w") as file:
        file["dataset/data"] = np.zeros(3)
    whole.with_name("none.h5").write_bytes(b"none")
    made = build(whole.parent, tmp_path / "m.csv", BuildOptions(), Quiet())
    assert made.images == 2  # with the zero-filled rim
    assert "3 x the k-space is undersampled: its image is made by" in made.text
    assert "ISMRMRD acquisitions" in made.text
    assert made.skipped == 5


def test_a_header_that_does_not_say_the_grid_is_named_as_the_cause(tmp_path: Path) -> None:
    path = written(tmp_path / "a.h5", heads())
    with h5py.File(path, "a") as file:
        del file["ismrmrd_header"]
        file["ismrmrd_header"] = HEADER.replace("<x>64</x>", "<x>0</x>")
    with pytest.raises(DataError, match="header does not say the encodedSpace's fieldOfView_mm"):
        load_image(path)
