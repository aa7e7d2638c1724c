"""DICOM series are put together by where their slices lie, or refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.data import get_testdata_file

from medidiff.data.decode import decode
from medidiff.errors import DataError

Write = Callable[..., None]
WriteSeries = Callable[..., np.ndarray]
SERIES = "1.2.826.0.1.3680043.8.498.1"


def test_slices_are_sorted_by_height_not_by_name_or_number(
    tmp_path: Path, write_series: WriteSeries
) -> None:
    heights = [15.0, 5.0, 10.0]
    pixels = write_series(tmp_path / "s", heights)
    scan = decode(tmp_path / "s")
    assert np.array_equal(scan.array[0], pixels[[1, 2, 0]] * 2 - 1024)
    assert scan.modality == "CT"
    assert scan.affine is not None
    corner = scan.affine @ [2, 1, 3, 1]  # third slice, second row, fourth column
    assert np.allclose(corner[:3], [-(10 + 3 * 0.5), -(20 + 1 * 2.0), 15])


def test_a_single_sagittal_slice_has_a_whole_affine(tmp_path: Path, write_slice: Write) -> None:
    pixels = np.arange(24).reshape(4, 6)
    write_slice(tmp_path / "one.dcm", pixels, (1, 2, 3), axes=(0, 1, 0, 0, 0, -1))
    scan = decode(tmp_path / "one.dcm")
    assert scan.array.shape == (1, 4, 6)
    assert scan.affine is not None
    assert np.allclose(np.abs(scan.affine[:3, :3]), [[0, 0, 3], [0, 0.5, 0], [2, 0, 0]])


@pytest.mark.parametrize(("modality", "turned"), [("CR", True), ("CT", False), ("PT", False)])
def test_monochrome1_is_turned_so_that_more_is_brighter_but_where_values_have_units(
    modality: str, turned: bool, tmp_path: Path, write_slice: Write
) -> None:
    pixels = np.arange(24).reshape(4, 6)
    write_slice(
        tmp_path / "x.dcm",
        pixels,
        (0, 0, 0),
        Modality=modality,
        PhotometricInterpretation="MONOCHROME1",
        BitsStored=12,
        HighBit=11,
    )
    stored = 4095 - pixels if turned else pixels
    assert np.array_equal(decode(tmp_path / "x.dcm").array[0], stored * 2 - 1024)


@pytest.mark.parametrize(
    ("heights", "said"),
    [([0, 5, 15], "gaps between slices are uneven"), ([0, 5, 5], "lie at one place")],
)
def test_slices_that_make_no_volume_are_refused(
    tmp_path: Path, heights: list[float], said: str, write_series: WriteSeries
) -> None:
    write_series(tmp_path / "s", heights)
    with pytest.raises(DataError, match=said):
        decode(tmp_path / "s")


def test_a_tilted_gantry_is_refused(tmp_path: Path, write_slice: Write) -> None:
    (tmp_path / "s").mkdir()
    for index in range(3):
        place = (0.0, 1.5 * index, 5.0 * index)
        write_slice(tmp_path / "s" / f"{index}.dcm", np.ones((4, 6)), place)
    with pytest.raises(DataError, match="gantry tilt"):
        decode(tmp_path / "s")


def test_two_series_in_a_folder_are_refused(
    tmp_path: Path, write_series: WriteSeries, write_slice: Write
) -> None:
    write_series(tmp_path / "s", [0, 5])
    write_slice(tmp_path / "s" / "z", np.ones((4, 6)), (0, 0, 9), SeriesInstanceUID=SERIES + ".2")
    with pytest.raises(DataError, match="more than one DICOM series"):
        decode(tmp_path / "s")


def test_odd_header_values_are_not_quoted_aloud(tmp_path: Path) -> None:
    content = Path(str(get_testdata_file("CT_small.dcm", download=False))).read_bytes()
    uid = b"1.3.6.1.4.1.5962.1.3.1.1.20040119072730.12322"
    assert content.count(uid) == 1
    file = tmp_path / "odd.dcm"
    file.write_bytes(content.replace(uid, b"doe^john".ljust(len(uid), b"x")))
    code = (
        "import logging, sys; logging.basicConfig(); from medidiff.data.decode import decode\n"
        "decode(sys.argv[1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=True
    )
    assert "doe" not in done.stdout + done.stderr
