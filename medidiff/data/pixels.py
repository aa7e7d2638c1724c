"""The pixels of a DICOM file in the units it states, by whichever permissive decoder knows them.

Native and RLE: pydicom. JPEG 8 bit: Pillow. JPEG-LS: pyjpegls. JPEG 2000: pylibjpeg-openjpeg.
JPEG lossless and 12 bit: GDCM, which SimpleITK brings (pylibjpeg-libjpeg is GPL, an extra).
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels import apply_modality_lut
from pydicom.uid import (
    UID,
    JPEG2000TransferSyntaxes,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    RLELossless,
)

from medidiff.data import decode
from medidiff.data.codestream import codestream_size
from medidiff.data.functional import group
from medidiff.data.mosaics import is_mosaic, mosaic_of, tiles

AFTER_PIXELS = (0x7FE0, 0xFFFA, 0xFFFC)  # besides private groups: signatures and padding
KINDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
JPEG_8_BIT = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")  # the second knows 12, too
RETIRED_JPEG = ("1.2.840.10008.1.2.4.53", "1.2.840.10008.1.2.4.55")  # spectral, progressive
JPEG = {*JPEGTransferSyntaxes, *RETIRED_JPEG}
DECODED = {*JPEG, *JPEGLSTransferSyntaxes, *JPEG2000TransferSyntaxes, RLELossless}
WITH_UNITS = ("CT", "PT")  # their values mean HU or activity, whichever way they are shown


def pixels(data: Dataset) -> NDArray[Any]:
    """The image in a dataset, in rescaled units (HU for CT).

    Shapes: (frame, rows, columns), the frames of a mosaic being its slices; int16 or int32 where
    the values are whole, else float32.
    MONOCHROME1 is turned so that more is brighter, but where values have units (CT, PET).
    Errors: decode.UnusableError for colour, sizes that do not agree, syntaxes that no decoder
    knows.
    """
    if not any(kind in data for kind in KINDS):
        raise decode.UnusableError("the DICOM file holds no pixels, or is cut short")
    check_grey(data)
    _check_order(data)
    stored = _stored(data)
    if is_mosaic(data):
        stored = tiles(stored[0], mosaic_of(data))
    if data.PhotometricInterpretation == "MONOCHROME1" and data.get("Modality") not in WITH_UNITS:
        top = -1 if data.get("PixelRepresentation") else 2 ** int(data.BitsStored) - 1
        stored = top - stored.astype(np.int32)
    if "ModalityLUTSequence" in data:
        return np.asarray(apply_modality_lut(stored, data))
    return _rescaled(stored, data)


def check_grey(data: Dataset) -> None:
    """Errors: decode.UnusableError where a header promises no grey values that lie as a picture."""
    photometric = str(data.get("PhotometricInterpretation", ""))
    if int(data.get("SamplesPerPixel", 1)) != 1 or "PALETTE" in photometric:
        raise decode.UnusableError("the DICOM image is in colour; grey values are expected")
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise decode.UnusableError("the DICOM image does not say how its grey values are meant")


def _check_order(data: Dataset) -> None:
    """What stands after the pixels is ordered and has a meaning, or the pixels are out of place:
    deflated files have no checksum, and a wrong length reads pixels as elements."""
    tags = [*map(int, data.keys())]
    last = max(int(data[kind].tag) for kind in KINDS if kind in data)
    after = tags[tags.index(last) + 1 :]
    groups = [tag >> 16 for tag in after]
    known = all(group % 2 or group in AFTER_PIXELS for group in groups)
    if not known or any(tag < last for tag in after) or any(tag >> 16 == 0xFFFF for tag in tags):
        raise decode.UnusableError("the DICOM file is damaged: elements are out of place")


def frame_count(data: Dataset) -> int:
    """How many frames the file declares.

    Errors: decode.UnusableError if that is not a positive number.
    """
    count = int(data.get("NumberOfFrames") or 1)
    if count < 1:
        raise decode.UnusableError(f"the DICOM file declares {count} frames")
    return count


def _stored(data: Dataset) -> NDArray[Any]:
    syntax = data.file_meta.TransferSyntaxUID
    shape = (frame_count(data), int(data.Rows), int(data.Columns))
    if "PixelData" in data:
        _check_bits(data)
    if syntax.is_encapsulated:
        if syntax not in DECODED:
            raise decode.UnusableError(
                f"the pixels are compressed as {syntax.name}, which no decoder here knows"
            )
        frames = _frames(data, shape)
        deep = max((said.bits for said in map(codestream_size, frames) if said), default=0)
        by_gdcm = syntax in JPEG and (syntax not in JPEG_8_BIT or deep > 8)
        array = _by_gdcm(data, frames) if by_gdcm else data.pixel_array
    else:
        _check_length(data, shape)
        array = data.pixel_array
    array = array.reshape(shape) if array.size == np.prod(shape) else array
    if array.shape != shape:
        raise decode.UnusableError(f"the pixels decode to {array.shape}; {shape} is declared")
    return array


def _check_length(data: Dataset, shape: tuple[int, ...]) -> None:
    """A wrong number of rows, columns, bits or frames would shear the image in silence."""
    kind = next(kind for kind in KINDS if kind in data)
    bits = {"PixelData": int(data.get("BitsAllocated", 0)), "FloatPixelData": 32}.get(kind, 64)
    expected = -(-int(np.prod(shape, dtype=object)) * bits // 8)
    found = len(data[kind].value or b"")
    if found - expected not in (0, 1):  # an odd length is padded to an even one
        raise decode.UnusableError(
            f"the pixels take {found} bytes; {expected} are declared ({bits} bits, {shape})"
        )


def _frames(data: Dataset, shape: tuple[int, ...]) -> list[bytes]:
    """The compressed frames.

    Errors: decode.UnusableError if a frame declares another size than the header.
    """
    frames = list(generate_frames(data.PixelData, number_of_frames=shape[0]))
    if len(frames) != shape[0]:
        raise decode.UnusableError(f"{len(frames)} frames are stored; {shape[0]} are declared")
    for frame in frames:
        if data.file_meta.TransferSyntaxUID == RLELossless:
            continue
        said = codestream_size(frame)
        if said is None or (said.rows, said.columns, said.components) != (*shape[1:], 1):
            raise decode.UnusableError(
                "a compressed frame is damaged, or of another size than the header says"
            )
    return frames


def _check_bits(data: Dataset) -> None:
    """Decoders clear the bits above the stored ones, where old files keep overlays, if the stored
    ones are the lowest."""
    stored, allocated = int(data.BitsStored), int(data.BitsAllocated)
    if not 1 <= stored <= allocated or int(data.get("HighBit", stored - 1)) != stored - 1:
        raise decode.UnusableError(
            f"{stored} bits stored of {allocated} allocated, the highest being "
            f"{data.get('HighBit')}: this layout is not read"
        )


def _by_gdcm(data: Dataset, frames: list[bytes]) -> NDArray[Any]:
    """Stored values through a file that holds the pixels and nothing else of the header."""
    import SimpleITK as sitk  # noqa: N813  (its usual name)

    bare = Dataset()
    for name in ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit"):
        bare[name] = data[name]
    # damaged lengths of fragments make GDCM take gigabytes: the frames are packed anew
    bare.PixelData = encapsulate(frames)
    bare["PixelData"].VR = "OB"
    bare.PixelRepresentation = int(data.get("PixelRepresentation", 0))
    bare.SamplesPerPixel, bare.PhotometricInterpretation = 1, "MONOCHROME2"
    bare.NumberOfFrames = frame_count(data)
    bare.SOPClassUID = MultiFrameGrayscaleWordSecondaryCaptureImageStorage
    bare.SOPInstanceUID = UID("1.2.3")
    bare.file_meta = FileMetaDataset()
    bare.file_meta.TransferSyntaxUID = data.file_meta.TransferSyntaxUID
    bare.file_meta.MediaStorageSOPClassUID = bare.SOPClassUID
    bare.file_meta.MediaStorageSOPInstanceUID = bare.SOPInstanceUID
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "image.dcm"
        bare.save_as(place, enforce_file_format=True)
        return sitk.GetArrayFromImage(sitk.ReadImage(str(place)))


def _rescaled(stored: NDArray[Any], data: Dataset) -> NDArray[Any]:
    scales = [_scale(data, index) for index in range(len(stored))]
    if len(set(scales)) == 1:
        return _scaled(stored, *scales[0])
    return stacked([_scaled(frame, *scale) for frame, scale in zip(stored, scales, strict=True)])


def stacked(frames: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Frames in one array; int16 or int32 where all are whole numbers, else float32."""
    if any(frame.dtype.kind == "f" for frame in frames):
        frames = [frame.astype(np.float32, copy=False) for frame in frames]
    return np.stack(frames)


def _scale(data: Dataset, index: int) -> tuple[float, float]:
    """Slope and intercept of a frame; multi-frame files keep them in functional groups."""
    holder = group(data, index, "PixelValueTransformationSequence") or data
    slope, intercept = holder.get("RescaleSlope"), holder.get("RescaleIntercept")
    if slope is None and _needs_scale(data):
        raise decode.UnusableError(
            "the DICOM file does not say how its values become units (rescale slope and "
            "intercept): its header is damaged, or it is a picture of a scan"
        )
    scale = (
        1.0 if slope in (None, "") else float(slope),
        0.0 if intercept in (None, "") else float(intercept),
    )
    if not np.isfinite(scale).all() or scale[0] == 0:
        raise decode.UnusableError("the rescale slope is 0, or it or the intercept no number")
    return scale


def _needs_scale(data: Dataset) -> bool:
    """CT always (PS3.3, C.8.2.1), PET and MR where they are multi-frame (C.7.6.16.2.9)."""
    modality = data.get("Modality")
    multi = "PerFrameFunctionalGroupsSequence" in data
    return modality == "CT" or (multi and modality in ("MR", "PT"))


def _scaled(stored: NDArray[Any], slope: float, intercept: float) -> NDArray[Any]:
    if stored.dtype.kind == "f" or slope != 1 or intercept != round(intercept):
        return (stored * np.float64(slope) + intercept).astype(np.float32)
    if intercept == 0 and stored.dtype != np.uint32:
        return stored
    return stored.astype(np.int32) + np.int32(intercept)
