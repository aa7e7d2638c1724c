"""The real sets at hand load as they are, and the checks find what is known to be odd in them."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from medidiff.data.datasets import CaseSet, restore
from medidiff.data.decode import decode
from medidiff.data.intensity import fit
from medidiff.data.manifest import check_manifest, read_manifest
from medidiff.data.options import Percentile, Space
from medidiff.data.privacy import SiteKey
from medidiff.errors import DataError, ManifestError

KEY = SiteKey(b"0123456789abcdef")
SETS = {
    "ixi_t1_slices": 527,
    "chest_xray_64": 2500,
    "hippocampus": 220,
    "lgg_flair": 82,
    "paediatric_t1_slab": 52,
}


@pytest.mark.parametrize("name", SETS)
def test_the_manifests_pass_as_they_are(shared_data: Path, name: str) -> None:
    manifest = read_manifest(shared_data / name / "manifest.csv")
    assert len(manifest.rows) == SETS[name]
    check_manifest(manifest, images=["image"], splits=["train", "test"])


def test_a_subject_moved_to_another_split_is_found(shared_data: Path, tmp_path: Path) -> None:
    """Volumes 2k-1 and 2k of the hippocampus set are the two sides of one person."""
    folder = shared_data / "hippocampus"
    with (folder / "manifest.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    subjects = [row["subject"] for row in rows]
    twins = next(subject for subject in subjects if subjects.count(subject) == 2)
    second = len(subjects) - 1 - subjects[::-1].index(twins)
    rows[second]["split"] = "test" if rows[second]["split"] == "train" else "train"
    for row in rows:
        row["image"], row["label"] = str(folder / row["image"]), str(folder / row["label"])
    leaking = tmp_path / "manifest.csv"
    with leaking.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    with pytest.raises(ManifestError, match=r"1 problem\n.* is in more than one split") as caught:
        check_manifest(read_manifest(leaking))
    assert twins not in str(caught.value)
    assert f"'{twins}'" in str(caught.value.private)


def test_hippocampus_goes_to_a_grid_and_back(shared_data: Path) -> None:
    """Each scan has its own intensity scale, so each is normalised by its own percentiles."""
    rows = read_manifest(shared_data / "hippocampus" / "manifest.csv").rows[:6]
    space = Space(3, (64, 64, 64), (1.0, 1.0, 1.0), "RAS")
    raw = CaseSet(rows, ["image"], space, label="label", key=KEY)
    fitted = fit(Percentile(scope="image"), [case.images for case in raw])
    for case in CaseSet(rows, ["image"], space, fitted, label="label", key=KEY):
        assert case.label is not None
        assert set(case.label.unique().tolist()) == {0, 1, 2}
        scan = decode(rows[[row.number for row in rows].index(case.row)].images["image"])
        back, affine = restore(case, case.scale.inverse(case.images, axis=0))
        assert np.allclose(affine, scan.affine)
        assert np.allclose(back, scan.array, atol=1e-3 * float(np.ptp(scan.array)))


def test_pictures_go_to_a_grid_and_back(shared_data: Path) -> None:
    rows = read_manifest(shared_data / "ixi_t1_slices" / "manifest.csv").rows[:4]
    for case in CaseSet(rows, ["image"], Space(2, (256, 256)), key=KEY):
        scan = decode(rows[case.row - rows[0].number].images["image"])
        assert np.array_equal(restore(case, case.images)[0], scan.array)


SYNTAXES = "dicom/cornerstone_syntaxes"


def test_one_image_in_all_transfer_syntaxes_is_one_image(shared_data: Path) -> None:
    folder = shared_data / SYNTAXES
    truth = decode(
        folder / "CTImage.dcm_LittleEndianExplicitTransferSyntax_1.2.840.10008.1.2.1.dcm"
    )
    assert truth.array.min() == -3024
    lossless = ("BigEndian", "Deflated", "J*Lossless", "RLE", "*Implicit", "JPEGProcess14")
    files = [file for part in lossless for file in folder.glob(f"CTImage.dcm_{part}*.dcm")]
    assert len(files) >= 7
    for file in files:
        scan = decode(file)
        assert np.array_equal(scan.array, truth.array), file.name
        assert scan.affine is not None
        assert truth.affine is not None
        assert np.allclose(scan.affine, truth.affine)
    for file in folder.glob("CTImage.dcm_JPEGProcess*_*.dcm"):
        assert np.abs(decode(file).array - truth.array).mean() < 30, file.name


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("dicom/ge_ct_28_gantry_tilt", "2 volumes that differ in image type, thickness, acq"),
        (f"{SYNTAXES}/no-pixel-data.dcm", "no pixels"),
        (f"{SYNTAXES}/TestPattern_RGB.dcm", "colour"),
        ("dicom/dcm_qa_enh_multiframe/Siemens/XA10", "lie at one place"),
    ],
)
def test_odd_dicom_is_refused_with_its_reason(shared_data: Path, name: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        decode(shared_data / name)


def test_a_series_and_a_multiframe_file_become_volumes(shared_data: Path) -> None:
    series = decode(shared_data / "dicom" / "studyforrest_t1_32")
    assert series.array.shape == (1, 32, 384, 274)
    assert series.affine is not None
    assert np.linalg.norm(series.affine[:3, :3], axis=0) == pytest.approx(
        [0.67, 0.67, 0.70], abs=0.04
    )
    frames = decode(shared_data / "dicom/dcm_qa_enh_multiframe/Siemens/XA10/6_1.dcm")
    assert frames.array.shape == (1, 6, 64, 64)
    assert frames.affine is not None
    assert np.linalg.norm(frames.affine[:3, :3], axis=0) == pytest.approx(
        [2.4, 3.375, 3.375], abs=0.02
    )
    assert torch.from_numpy(frames.array.astype(np.float32)).isfinite().all()
