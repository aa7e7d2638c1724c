"""Raw ISMRMRD files: lines that lie anywhere in the file are put where their headers say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from medidiff.data.raw import read_raw
from medidiff.errors import DataError

COUNTERS = ("kspace_encode_step_1", "kspace_encode_step_2", "average", "slice", "contrast",
            "phase", "repetition", "set", "segment")  # fmt: skip
IDX = np.dtype([*((name, "<u2") for name in COUNTERS), ("user", "<u2", (8,))])
HEAD = np.dtype(
    [
        ("version", "<u2"), ("flags", "<u8"), ("measurement_uid", "<u4"),
        ("number_of_samples", "<u2"), ("available_channels", "<u2"), ("active_channels", "<u2"),
        ("discard_pre", "<u2"), ("discard_post", "<u2"), ("center_sample", "<u2"),
        ("encoding_space_ref", "<u2"), ("idx", IDX),
    ]
)  # fmt: skip
ROW = np.dtype([("head", HEAD), ("data", h5py.vlen_dtype(np.dtype("<f4")))])
XML = (
    '<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><encoding><encodedSpace><matrixSize>'
    "<x>24</x><y>16</y><z>1</z></matrixSize><fieldOfView_mm><x>48</x><y>48</y><z>5</z>"
    "</fieldOfView_mm></encodedSpace><reconSpace><matrixSize><x>12</x><y>16</y><z>1</z>"
    "</matrixSize></reconSpace><encodingLimits><kspace_encoding_step_1><minimum>0</minimum>"
    "<maximum>14</maximum><center>7</center></kspace_encoding_step_1></encodingLimits>"
    "<trajectory>cartesian</trajectory></encoding></ismrmrdHeader>"
)
NOISE, REVERSED, STABILISED = 1 << 18, 1 << 21, 1 << 29
Line = tuple[np.ndarray, dict[str, Any]]
LEFT_OUT: Line = (np.ones((3, 24), np.complex64), {"flags": NOISE})


def kspace() -> np.ndarray:
    """(slice, coil, read-out, lines); line 0 of the 16 was never taken."""
    draw = np.random.default_rng(0).standard_normal((2, 2, 3, 24, 16))
    full = (draw[0] + 1j * draw[1]).astype(np.complex64)
    full[..., 0] = 0
    return full


def lines(values: np.ndarray, **more: Any) -> list[Line]:
    """In an order of no meaning; the line in the middle, 8 of 16, is number 7."""
    places = [(s, y) for y in range(15) for s in range(len(values))][::-1]
    return [
        (values[s, :, :, y + 1], {"kspace_encode_step_1": y, "slice": s, **more}) for s, y in places
    ]


def written(file: Path, taken: list[Line], xml: str = XML) -> Path:
    table = np.zeros(len(taken), ROW)
    for row, (samples, said) in zip(table, taken, strict=True):
        head = row["head"]
        head["active_channels"], head["number_of_samples"] = samples.shape
        head["center_sample"] = 12
        for name, value in said.items():
            (head["idx"] if name in COUNTERS else head)[name] = value
        row["data"] = np.ascontiguousarray(samples, np.complex64).view(np.float32).ravel()
    with h5py.File(file, "w") as out:
        out.create_dataset("dataset/data", data=table, dtype=ROW)
        out.create_dataset("dataset/xml", data=[xml.encode()], dtype=h5py.string_dtype())
    return file


def as_fastmri(file: Path, values: np.ndarray) -> Path:
    with h5py.File(file, "w") as out:
        out["kspace"], out["ismrmrd_header"] = values, XML
    return file


def test_acquisitions_are_read_as_the_same_samples_in_fastmri_s_layout(tmp_path: Path) -> None:
    values = kspace()
    others = [LEFT_OUT, *lines(7 * values, flags=STABILISED)]
    raw = read_raw(written(tmp_path / "raw.h5", [*others, *lines(values)]), 2)
    like = read_raw(as_fastmri(tmp_path / "like.h5", values), 2)
    assert raw.values.shape == (2, 3, 12, 16)
    assert np.array_equal(raw.values, like.values)
    assert (raw.spacing_mm, raw.kept) == (like.spacing_mm, like.kept) == ((2.0, 3.0, 5.0), (12, 16))


def test_averages_are_averaged_and_a_partial_echo_lies_off_the_middle(tmp_path: Path) -> None:
    values = kspace()[:1]
    twice = [*lines(values + 1), *lines(values - 1, average=1)]
    raw = read_raw(written(tmp_path / "twice.h5", twice), 2)
    like = read_raw(as_fastmri(tmp_path / "like.h5", values), 2)
    np.testing.assert_allclose(raw.values, like.values, atol=1e-6)
    late = [
        (samples[:, 5:], said | {"center_sample": 7, "discard_pre": 2})
        for samples, said in lines(values)
    ]
    raw = read_raw(written(tmp_path / "late.h5", late), 2)  # of which part is missing: not cut
    assert np.array_equal(raw.values[:, :, 7:], values[:, :, 7:])
    assert not raw.values[:, :, :7].any()


@pytest.mark.parametrize(
    ("taken", "xml", "said"),
    [
        (lines(kspace()), XML.replace("cartesian", "radial"), "trajectory is radial"),
        (lines(kspace(), flags=REVERSED), XML, "read backwards"),
        (lines(kspace(), flags=NOISE), XML, "none of the file's ISMRMRD acquisitions is of an im"),
        ([*lines(kspace()), *lines(kspace(), repetition=1)], XML, "2 values of repetition"),
        ([*lines(kspace()), *lines(kspace()[:, :2])], XML, "lines are of 2 to 3 coils"),
        (
            [LEFT_OUT, *lines(kspace(), center_sample=3)],
            XML,
            "acquisition 1 of .* outside of its 24 x 16 encoded samples",
        ),
        (lines(kspace()), XML.replace("<center>7<", "<center>99<"), "outside of its 24 x 16"),
        (lines(kspace()[:, :0]), XML, "lines are of 0 to 0 coils"),
        (lines(kspace(), encoding_space_ref=1), XML, "of another than its header's first"),
        (lines(kspace(), discard_pre=20, discard_post=4), XML, "20 and 4 of which are left out"),
        (lines(kspace()), XML.replace("<x>24<", "<x>2400000<"), "hardly any of them were taken"),
        (lines(kspace()), XML.replace("<x>24<", "<x>-24<"), "encodedSpace of -24 x 16 samples"),
        (lines(kspace()), '<?xml version="1.0" encoding="no"?>' + XML, "header is no XML"),
        (lines(kspace()), "<nothing", "header is no XML"),
        (lines(kspace()), XML.replace("<x>24</x>", ""), "does not say the encodedSpace's matrix"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_what_is_no_one_image_of_a_grid_is_refused(
    taken: list[Line], xml: str, said: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=said):
        read_raw(written(tmp_path / "raw.h5", taken, xml), 2)


def test_hdf5_that_is_laid_out_otherwise_under_the_same_names_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "number.h5", "w") as file:
        file["dataset"] = 1.0
    with pytest.raises(DataError, match="k-space is read as fastMRI keeps it"):
        read_raw(tmp_path / "number.h5", 2)
    with h5py.File(tmp_path / "plain.h5", "w") as file:
        file["dataset/data"] = np.zeros(2, [("head", "<f4"), ("data", "<f4")])
        file["dataset/xml"] = [XML.encode()]
    with pytest.raises(DataError, match="holds no acquisitions"):
        read_raw(tmp_path / "plain.h5", 2)


def test_volumes_of_acquisitions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="for models of 2-D images"):
        read_raw(written(tmp_path / "raw.h5", lines(kspace())), 3)
