"""A drawn population: the same for the same seed, true to its masks, units and geometry."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy import ndimage

from medidiff import api
from medidiff.data.decode import decode
from medidiff.data.manifest import check_manifest, read_manifest
from medidiff.data.population import Drawn, PopulationOptions, draw
from medidiff.errors import ConfigError, OutputError

KINDS = ("head", "thorax")
LESIONS = ("hyperintense", "hypointense", "same-intensity", "mass-effect")


def drawn(kind: str, dims: int = 2, *lesions: str, index: int = 0, seed: int = 4) -> Drawn:
    size = 96 if dims == 2 else 32
    return draw(PopulationOptions(kind, dims, size, lesions, 1.0, seed=seed), index)  # pyright: ignore


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_seed_and_subject_decide_every_voxel(kind: str, dims: int) -> None:
    first = drawn(kind, dims)
    assert first.image.shape == first.mask.shape == (96, 96) if dims == 2 else (32, 32, 32)
    assert np.array_equal(first.image, drawn(kind, dims).image)
    assert not np.array_equal(first.image, drawn(kind, dims, index=1).image)
    assert not np.array_equal(first.image, drawn(kind, dims, seed=5).image)


def test_a_chest_is_in_hounsfield_units() -> None:
    for index in range(4):
        image = drawn("thorax", index=index).image
        assert abs(np.median(image[:6, :6]) + 1000) < 15
        body = ndimage.binary_fill_holes(image > -500)
        lung = ndimage.binary_erosion(body & (image < -600), iterations=2)
        assert lung.mean() > 0.03
        assert -930 < np.median(image[lung]) < -790
        fat = (image > -140) & (image < -60)
        soft = (image > 10) & (image < 110)
        assert fat.mean() > 0.02
        assert soft.mean() > 0.05
        assert image.max() > 400


@pytest.mark.parametrize("lesion", LESIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_lesion_is_all_that_a_subject_differs_by_from_its_healthy_twin(
    kind: str, lesion: str
) -> None:
    shares = []
    for index in range(3):
        sick, healthy = drawn(kind, 2, lesion, index=index), drawn(kind, index=index)
        assert (sick.lesion, healthy.lesion) == (lesion, "healthy")
        assert not healthy.mask.any()
        mask = sick.mask > 0
        change = np.abs(sick.image.astype(int) - healthy.image)
        reach = 12 if lesion == "mass-effect" else 3
        # the noise is the same draw, so that far from the mask nothing differs
        assert not change[~ndimage.binary_dilation(mask, iterations=reach)].any()
        assert change[mask].any()
        shares.append(mask.mean())
        difference = sick.image[mask].mean() - healthy.image[mask].mean()
        if lesion in ("hyperintense", "hypointense"):
            assert np.sign(difference) == (1 if lesion == "hyperintense" else -1)
            assert change[mask].mean() > 40
        else:
            assert abs(difference) < 40
    assert 0.0005 < np.mean(shares) < 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_a_volume_has_lesions_too(kind: str) -> None:
    for lesion in LESIONS:
        assert drawn(kind, 3, lesion).mask.any()


def test_anatomy_varies_between_subjects() -> None:
    for kind, level in (("head", 100), ("thorax", -300)):
        areas = [(drawn(kind, index=index).image > level).sum() for index in range(8)]
        assert np.std(areas) > 0.02 * np.mean(areas)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_dicom_and_nifti_hold_the_same_image_in_the_same_place(
    kind: str, dims: int, tmp_path: Path
) -> None:
    found = {}
    for format in ("nifti", "dicom"):
        path = api.phantoms(
            tmp_path / format,
            kind=kind,  # pyright: ignore
            dimensions=dims,
            size=24,
            count=2,
            shares={"train": 0.5, "test": 0.5},
            lesions=["hyperintense"],
            format=format,  # pyright: ignore
        )
        manifest = read_manifest(path)
        check_manifest(manifest, splits=["train", "test"])  # labels lie where their images lie
        found[format] = decode(manifest.rows[1].images["image"])
    nifti, dicom = found["nifti"], found["dicom"]
    assert nifti.affine is not None
    assert dicom.affine is not None
    centre = np.array([11.5, 11.5, 0 if dims == 2 else 11.5, 1])
    assert np.allclose(nifti.affine @ centre, dicom.affine @ centre, atol=1e-3)
    # the same voxel at the same place, whichever way the axes run
    way = np.linalg.inv(dicom.affine) @ nifti.affine
    for place in ([3, 17, 0], [15, 4, 0]) if dims == 2 else ([3, 17, 9], [15, 4, 20]):
        there = np.round(way @ [*place, 1])[:3].astype(int)
        assert nifti.array[(0, *place[:dims])] == dicom.array[(0, *there[:dims])]


def test_every_dicom_file_says_that_it_is_synthetic(tmp_path: Path) -> None:
    from pydicom import dcmread

    api.phantoms(tmp_path / "a", kind="thorax", size=16, count=1, format="dicom")
    header = dcmread(tmp_path / "a" / "images" / "phantom0000" / "0001.dcm")
    assert header.ImageType[:2] == ["DERIVED", "SECONDARY"]
    assert header.SeriesDescription.startswith("SYNTHETIC - not for diagnosis")
    assert header.Modality == "CT"
    assert header.PatientID == "phantom0000"


def test_splits_that_are_healthy_have_no_lesions(tmp_path: Path) -> None:
    path = api.phantoms(
        *(tmp_path / "a",), size=32, count=10, lesions=LESIONS, lesion_share=1.0, healthy=["train"]
    )
    kinds = [(row.split, row.conditions["lesion"]) for row in read_manifest(path).rows]
    assert [split for split, _ in kinds] == ["train"] * 8 + ["val", "test"]
    assert all((kind == "healthy") == (split == "train") for split, kind in kinds)
    said = json.loads((tmp_path / "a" / "phantoms.json").read_text())
    assert said["counts"] == {"train": 8, "val": 1, "test": 1}


def test_k_space_of_all_coils_gives_the_image_back(tmp_path: Path) -> None:
    api.phantoms(tmp_path / "a", size=32, count=1, coils=6)
    with h5py.File(tmp_path / "a" / "kspace" / "phantom0000.h5") as file:
        kspace, maps, image = (
            np.asarray(file[key]) for key in ("kspace", "sensitivities", "image")
        )
    assert kspace.shape == (1, *maps.shape) == (1, 6, 32, 32)  # a slice, and its coils
    kspace = kspace[0]
    axes = (1, 2)
    seen = np.fft.ifftn(np.fft.ifftshift(kspace, axes=axes), axes=axes, norm="ortho")
    combined = (maps.conj() * np.fft.fftshift(seen, axes=axes)).sum(axis=0)
    error = np.abs(combined - image).std() / np.abs(image).max()
    assert 0.003 < error < 0.02  # the noise of 1 % alone
    assert np.abs(image.imag).max() > 50


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dimensions": 4}, "of 2 or 3 dimensions"),
        ({"size": 8}, "at least 16 voxels"),
        ({"lesions": ["purple"]}, "lesions purple: kinds are hyperintense"),
        ({"lesion_share": 2}, "share lies between 0 and 1"),
        ({"kind": "thorax", "coils": 4}, "a thorax is CT"),
        ({"shares": {"train": 0.5}}, "shares add up to 1"),
        ({"healthy": ["trian"]}, "no lesions in trian: the splits are train, val, test"),
        ({"count": 0}, "one at least"),
    ],
)
def test_what_cannot_be_drawn_is_told_and_nothing_is_written(
    options: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        api.phantoms(tmp_path / "a", **options)  # pyright: ignore
    assert not (tmp_path / "a").exists()


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="already holds files"):
        api.phantoms(tmp_path, count=1, size=16)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]
