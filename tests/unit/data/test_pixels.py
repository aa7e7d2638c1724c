"""Pixels are as many and as large as the header says, in the units it states, or refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.encaps import generate_frames
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless

from medidiff.data.codestream import CodestreamSize, codestream_size
from medidiff.data.decode import decode
from medidiff.errors import DataError

Write = Callable[..., None]
PIXELS = np.arange(24).reshape(4, 6)


@pytest.mark.parametrize(
    ("other", "kind"),
    [
        ({"RescaleSlope": 1, "RescaleIntercept": 0}, np.uint16),
        ({"RescaleSlope": 1, "RescaleIntercept": -1024}, np.int32),
        ({"RescaleSlope": 0.5, "RescaleIntercept": 0}, np.float32),
    ],
)
def test_values_take_no_more_memory_than_they_need(
    other: dict[str, float], kind: type, tmp_path: Path, write_slice: Write
) -> None:
    write_slice(tmp_path / "x.dcm", PIXELS, (0, 0, 0), **other)
    array = decode(tmp_path / "x.dcm").array[0]
    assert array.dtype == kind
    assert np.array_equal(array, PIXELS * other["RescaleSlope"] + other["RescaleIntercept"])


def test_signed_values_stay_signed(tmp_path: Path, write_slice: Write) -> None:
    stored = (PIXELS - 12).astype(np.int16)
    write_slice(
        tmp_path / "x.dcm", stored.view(np.uint16), (0, 0, 0), PixelRepresentation=1, RescaleSlope=1
    )
    assert np.array_equal(decode(tmp_path / "x.dcm").array[0], stored - 1024)


@pytest.mark.parametrize("signed", [0, 1])
def test_overlays_in_unused_bits_are_no_part_of_the_image(
    signed: int, tmp_path: Path, write_slice: Write
) -> None:
    values = PIXELS - 12 if signed else PIXELS
    stored = (values.astype(np.int16).view(np.uint16) & 0x0FFF) | 0x5000
    write_slice(
        tmp_path / "x.dcm",
        stored,
        (0, 0, 0),
        BitsStored=12,
        HighBit=11,
        PixelRepresentation=signed,
        RescaleSlope=1,
        RescaleIntercept=0,
    )
    assert np.array_equal(decode(tmp_path / "x.dcm").array[0], values)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"Rows": 3}, "the pixels take 48 bytes; 36 are declared"),
        ({"Columns": 60000}, "the pixels take 48 bytes"),
        ({"NumberOfFrames": 0}, ""),
        ({"NumberOfFrames": -3}, "declares -3 frames"),
        ({"BitsStored": 12, "HighBit": 15}, "this layout is not read"),
        ({"RescaleSlope": 0}, "slope is 0"),
        ({"RescaleSlope": None}, "slope is 0|does not say how its values become units"),
        ({"PixelSpacing": [0, 1]}, "pixel spacing is not two positive"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]}, "mosaic"),
        ({"PhotometricInterpretation": "RGB"}, "does not say how its grey values"),
    ],
)
def test_what_does_not_agree_is_refused(
    other: dict[str, object], said: str, tmp_path: Path, write_slice: Write
) -> None:
    write_slice(tmp_path / "x.dcm", PIXELS, (0, 0, 0), **other)
    if not said:
        assert decode(tmp_path / "x.dcm").array.shape == (1, 4, 6)
        return
    with pytest.raises(DataError, match=said):
        decode(tmp_path / "x.dcm")


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless])
def test_a_codestream_of_another_size_is_not_decoded(syntax: str, tmp_path: Path) -> None:
    data = pydicom.dcmread(str(get_testdata_file("CT_small.dcm", download=False)))
    if syntax == JPEG2000Lossless:
        frame = compressed_frame("JPEG2000.dcm")
    else:
        from pydicom.pixels import compress

        compress(data, JPEGLSLossless)
        frame = next(generate_frames(data.PixelData, number_of_frames=1))
    said = codestream_size(frame)
    assert said is not None
    if syntax == JPEGLSLossless:
        assert said == CodestreamSize(128, 128, 1, 16)
        data.save_as(tmp_path / "x.dcm")
        assert decode(tmp_path / "x.dcm").array.shape == (1, 128, 128)
        data.Rows = 64
        data.save_as(tmp_path / "x.dcm")
        with pytest.raises(DataError, match="another size than the header"):
            decode(tmp_path / "x.dcm")
    else:
        assert (said.rows, said.columns) == (1024, 256)


def compressed_frame(name: str) -> bytes:
    data = pydicom.dcmread(str(get_testdata_file(name, download=False)))
    return next(generate_frames(data.PixelData, number_of_frames=1))


def test_a_frame_without_a_header_has_no_size() -> None:
    assert codestream_size(b"") is None
    assert codestream_size(b"\xff\xd8" + b"\xff" * 40) is None
    assert codestream_size(b"\xff\x4f\xff\x51") is None
