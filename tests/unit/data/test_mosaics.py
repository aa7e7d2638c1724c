"""Siemens mosaics become the volumes whose slices they tile, or are refused."""

from __future__ import annotations

import gzip
import io
import struct
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest

from medidiff.data.decode import decode
from medidiff.data.dicom import load, to_ras
from medidiff.data.header_cache import HeaderCache
from medidiff.data.index import index_tree
from medidiff.errors import DataError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from nibabel.testing import data_path

Write = Callable[..., None]
REAL = Path(str(data_path)).parents[1] / "nicom" / "tests" / "data"
COUNT, ROWS, COLUMNS = 5, 3, 4  # in 3 x 3 tiles
GAP = 2.5


def real(name: str = "siemens_dwi_0.dcm.gz") -> bytes:
    return gzip.decompress((REAL / name).read_bytes())


def csa(tags: dict[str, list[str]]) -> bytes:
    """A private header of the second kind."""
    parts = [b"SV10\4\3\2\1", struct.pack("<2I", len(tags), 77)]
    for name, items in tags.items():
        kind = b"UN" if name == "MrPhoenixProtocol" else b"FD"
        parts.append(struct.pack("<64si4s3i", name.encode(), 0, kind, 4, len(items), 77))
        for item in items:
            text = item.encode() + b"\0"
            parts.append(struct.pack("<4i", 0, len(text), 77, 0) + text + b"\0" * (-len(text) % 4))
    return b"".join(parts)


def placed(data: pydicom.Dataset, normal: list[float], protocol: list[float] | None) -> None:
    block = data.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
    said = {"NumberOfImagesInMosaic": [str(COUNT)], "SliceNormalVector": [*map(str, normal)]}
    block.add_new(0x10, "OB", csa(said))
    if protocol is not None:
        lines = (
            f"sSliceArray.asSlice[{k}].sPosition.dSag = {2.0}\n"
            f"sSliceArray.asSlice[{k}].sPosition.dCor = {3.0}\n"
            f"sSliceArray.asSlice[{k}].sPosition.dTra = {height}\n"
            for k, height in enumerate(protocol)
        )
        block.add_new(0x20, "OB", csa({"MrPhoenixProtocol": ["".join(lines)]}))


@pytest.fixture
def mosaic(tmp_path: Path, write_slice: Write) -> Callable[..., np.ndarray]:
    """Writes a mosaic around (2, 3, 10) mm of the first slice's middle; gives its slices."""

    def write(
        name: str = "a.dcm",
        normal: tuple[float, ...] = (0, 0, 1),
        protocol: list[float] | None = None,
        **other: object,
    ) -> np.ndarray:
        slices = np.random.default_rng(len(name)).integers(1, 900, (COUNT, ROWS, COLUMNS))
        whole = np.zeros((3 * ROWS, 3 * COLUMNS), np.uint16)
        for k, tile in enumerate(slices):
            top, left = k // 3 * ROWS, k % 3 * COLUMNS
            whole[top : top + ROWS, left : left + COLUMNS] = tile
        corner = (2 - 0.5 * 1.5 * COLUMNS, 3 - 2.0 * 1.5 * ROWS, 10.0)
        path = tmp_path / "m" / name
        path.parent.mkdir(exist_ok=True)
        facts = {"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"], "Modality": "MR"}
        facts |= {"SpacingBetweenSlices": GAP, "RescaleSlope": 1, "RescaleIntercept": 0}
        write_slice(path, whole, corner, **{**facts, **other})
        data = pydicom.dcmread(path)
        if normal:
            placed(data, [*normal], protocol)
        data.save_as(path)
        return slices

    return write


def test_a_real_one_has_the_slices_where_its_protocol_says(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(real())
    scan = decode(tmp_path / "a.dcm")
    assert scan.array.shape == (1, 48, 128, 128)
    whole = pydicom.dcmread(io.BytesIO(real())).pixel_array
    assert np.array_equal(scan.array[0, 9], whole[128:256, 256:384])
    assert scan.affine is not None
    # dcm2niix v1.0.20220720, whose rows run the other way
    assert np.allclose(scan.affine @ (0, 127, 0, 1), (115, -93.1714783, -79.9053497, 1), atol=1e-4)
    # its own protocol's middle of the first and of the last slice
    for k, middle in ((0, (0, -20.03015, -79.31259)), (47, (0, -19.29188, 61.68547))):
        place = scan.affine @ (k, 64, 64, 1)
        assert np.allclose(place[:3], np.array(middle) * (-1, -1, 1), atol=1e-3)


@pytest.mark.parametrize("up", [1, -1])
def test_slices_go_where_the_private_normal_points(
    up: int, tmp_path: Path, mosaic: Callable[..., np.ndarray]
) -> None:
    slices = mosaic(normal=(0, 0, up), protocol=[10 + up * GAP * k for k in range(COUNT)])
    series = load(tmp_path / "m" / "a.dcm")
    assert np.array_equal(series.array, slices[::up])
    low = 10.0 if up == 1 else 10 - GAP * (COUNT - 1)
    expected = np.eye(4)
    expected[:3, :3] = [[0, 0, 0.5], [0, 2, 0], [GAP, 0, 0]]
    expected[:3, 3] = (2 - 0.25 * COLUMNS, 3 - ROWS, low)
    assert series.affine is not None
    assert np.allclose(series.affine, to_ras(expected))


def test_time_points_are_volumes(tmp_path: Path, mosaic: Callable[..., np.ndarray]) -> None:
    both = [
        mosaic(name, AcquisitionNumber=n, InstanceNumber=n)
        for n, name in ((1, "a.dcm"), (2, "bb.dcm"))
    ]
    cache = HeaderCache(tmp_path / "headers.sqlite")
    for _ in range(2):  # read, and kept
        (series,) = index_tree(tmp_path / "m", cache=cache).series
        assert [len(part.members) for part in series.parts] == [COUNT, COUNT]
        assert [part.differs["acquisition"] for part in series.parts] == ["1", "2"]
    assert (both[0] != both[1]).any()


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"normal": ()}, "is missing, as after a de-identification"),
        ({"normal": (0, 1, 0)}, "contradicts its axes"),
        ({"protocol": [10 - GAP * k for k in range(COUNT)]}, "lie elsewhere"),
        ({"protocol": [10 + 2 * GAP * k for k in range(COUNT)]}, "as far apart"),
        ({"protocol": [10, 12.5, 15.0]}, "holds 5 slices, its protocol 3"),
        ({"SpacingBetweenSlices": ""}, "the gap between"),
    ],
)
def test_what_is_not_certain_is_refused(
    how: dict[str, object], said: str, tmp_path: Path, mosaic: Callable[..., np.ndarray]
) -> None:
    mosaic(**how)
    with pytest.raises(DataError, match=said):
        decode(tmp_path / "m" / "a.dcm")


def test_an_image_beyond_the_last_slice_is_refused(
    tmp_path: Path, mosaic: Callable[..., np.ndarray]
) -> None:
    mosaic()
    path = tmp_path / "m" / "a.dcm"
    data = pydicom.dcmread(path)
    pixels = data.pixel_array.copy()
    pixels[-1, -1] = 7
    data.PixelData = pixels.tobytes()
    data.save_as(path)
    with pytest.raises(DataError, match="beyond its 5 slices"):
        decode(path)
