"""NIfTI files to arrays: what a header says twice must agree, and the voxels must be all there.

A header has two ways to place the voxels (q-form and s-form), a voxel size besides, and states the
type of a voxel twice. Readers differ in which they believe; files in which they differ are refused.
"""

from __future__ import annotations

import logging
import zlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from medidiff.data import decode
from medidiff.data.decode import Affine, Scan

logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)  # it tells of each header it mends

SAME_SIZE = 0.01  # relative: headers keep float32, registrations round
SAME_PLACE_VOXELS = 0.5
GZIP, GZIP_GROWTH = 31, 1032  # zlib's sign for a gzip wrapper; deflate cannot grow by more
HEADER_BYTES = 544
PAIRS = (".hdr.gz", ".img.gz")
MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # by the header's code for unknown, m, mm, micron


def load_nifti(path: Path, channel: int | None = None) -> Scan:
    """The image in a NIfTI-1 or -2 file, single or in two parts (.hdr and .img).

    A fourth axis becomes channels; with `channel` that one alone is taken from the file. Where
    both forms are stated and place the voxels in different spaces, the s-form counts, as it does
    for most tools.
    Errors: decode.UnusableError for too few or too many voxels, forms that contradict each other.
    """
    packed = path.name.lower().endswith(".gz") and not path.name.lower().endswith(PAIRS)
    header, image = _packed(path) if packed else _plain(path)
    stored: Any = image.dataobj
    if channel is not None and len(stored.shape) == 4:
        decode.check_channel(channel, stored.shape[3])
        return Scan(np.asanyarray(stored[..., channel])[None], _affine(header))
    scan = Scan(_channels_first(np.asanyarray(stored)), _affine(header))
    return scan if channel is None else decode.only(scan, channel)


def _plain(path: Path) -> tuple[Any, nibabel.Nifti1Pair]:
    image = nibabel.load(path)
    if not isinstance(image, nibabel.Nifti1Pair):  # Nifti2 and single files derive from it
        raise decode.UnusableError(
            "the file is Analyze 7.5, which does not say left from right, or no NIfTI; convert it "
            "to NIfTI with a tool that knows where it comes from"
        )
    voxels = image.file_map["image"]
    with image.file_map.get("header", voxels).get_prepare_fileobj("rb") as file:
        header = _header(file.read(HEADER_BYTES))
    with voxels.get_prepare_fileobj("rb") as file:
        held = file.seek(0, 2) if not path.name.endswith(".gz") else len(file.read())
    _check_count(held - int(getattr(image.dataobj, "offset", 0)), _count(header))
    return header, image


def _packed(path: Path) -> tuple[Any, nibabel.Nifti1Pair]:
    packed = path.read_bytes()
    header = _header(_unpacked(packed, HEADER_BYTES)[0])
    offset, count = int(header.get_data_offset()), _count(header)
    if offset < len(header.binaryblock):
        raise decode.UnusableError("the header says that the voxels begin within it")
    if offset + count > GZIP_GROWTH * len(packed) + 2**16:
        raise decode.UnusableError(f"{count} bytes of voxels are declared, more than can be there")
    content, whole = _unpacked(packed, offset + count)
    _check_count(len(content) - offset + (0 if whole else 1), count)
    kind = nibabel.Nifti2Image if isinstance(header, nibabel.Nifti2Header) else nibabel.Nifti1Image
    return header, kind.from_bytes(content)


def _header(block: bytes) -> Any:
    """The header as it is: nibabel mends what it finds wrong in silence."""
    for kind, size in ((nibabel.Nifti1Header, 348), (nibabel.Nifti2Header, 540)):
        sizes = [int.from_bytes(block[:4], order) for order in ("little", "big")]
        if len(block) >= size and size in sizes:
            return kind(block[:size], check=False)
    raise decode.UnusableError("the file is not NIfTI, or ends within its header")


def _unpacked(packed: bytes, wanted: int) -> tuple[bytes, bool]:
    """The first bytes of a gzip file and whether there are no more; its checksum is verified where
    it ends."""
    done: list[bytes] = []
    left = wanted
    while packed:
        unpack = zlib.decompressobj(GZIP)
        part = unpack.decompress(packed, max(left, 0) + 1)  # 0 would mean no limit
        done.append(part)
        left -= len(part)
        if left < 0:
            return b"".join(done)[:wanted], False
        if not unpack.eof:
            raise decode.UnusableError("the file is truncated, damaged or no gzip")
        packed = unpack.unused_data.lstrip(b"\0")
    return b"".join(done), True


def _count(header: Any) -> int:
    """How many bytes the voxels take."""
    shape = header.get_data_shape()
    if not shape or min(shape) < 1:
        raise decode.UnusableError(f"the header declares the shape {tuple(shape)}")
    size = header.get_data_dtype().itemsize
    if int(header["bitpix"]) != 8 * size:
        raise decode.UnusableError(
            f"the header says {int(header['bitpix'])} bits a voxel and a type of {8 * size} bits"
        )
    return size * int(np.prod(shape, dtype=object))


def _check_count(found: int, count: int) -> None:
    if found != count:
        how = "more" if found > count else "fewer"
        raise decode.UnusableError(
            f"the file is truncated, damaged or its header wrong: {how} voxels than the {count} "
            "bytes that the header declares"
        )


def _affine(header: Any) -> Affine | None:
    sform, s_code = header.get_sform(coded=True)
    qform, q_code = header.get_qform(coded=True)
    if not all(0 <= int(code or 0) < 6 for code in (s_code, q_code)):
        raise decode.UnusableError("the header's codes for its forms are not those of NIfTI")
    if sform is None and qform is None:
        return None
    if sform is not None:
        _check_sizes(sform, header)
    if sform is not None and qform is not None:
        _check_forms(sform, qform, bool(s_code == q_code), header.get_data_shape())
    chosen = np.array(sform if sform is not None else qform, np.float64)
    chosen[:3] *= MM.get(int(header["xyzt_units"]) & 7, 1.0)
    return chosen


def _check_sizes(sform: Affine, header: Any) -> None:
    lengths = np.linalg.norm(sform[:3, :3], axis=0)
    stated = np.abs(np.array(header["pixdim"][1:4], np.float64))
    axes = [axis for axis in range(min(3, len(header.get_data_shape()))) if stated[axis] > 0]
    apart = np.abs(lengths[axes] - stated[axes]) > SAME_SIZE * np.maximum(lengths, stated)[axes]
    if not np.isfinite(lengths).all() or not np.isfinite(stated).all() or apart.any():
        raise decode.UnusableError(
            f"the header gives two voxel sizes, {_shown(stated)} mm and by its s-form "
            f"{_shown(lengths)} mm"
        )


def _check_forms(sform: Affine, qform: Affine, one_space: bool, shape: tuple[int, ...]) -> None:
    if np.linalg.det(sform[:3, :3]) * np.linalg.det(qform[:3, :3]) < 0:
        raise decode.UnusableError(
            "the q-form and the s-form disagree about left and right; find out which is true, and "
            "make the other one like it"
        )
    corners = np.array([*np.ndindex(2, 2, 2)]) * (np.array([*shape, 1, 1])[:3] - 1)
    between = sform - qform
    apart = float(np.linalg.norm(corners @ between[:3, :3].T + between[:3, 3], axis=1).max())
    voxel = float(np.linalg.norm(sform[:3, :3], axis=0).min())
    if one_space and apart > SAME_PLACE_VOXELS * voxel:
        raise decode.UnusableError(
            f"the q-form and the s-form name one space and lie {apart:.3g} mm apart; find out "
            "which is true, and make the other one like it"
        )


def _channels_first(array: NDArray[Any]) -> NDArray[Any]:
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim == 5 and array.shape[3] == 1:  # NIfTI keeps vectors in the fifth axis
        array = array[:, :, :, 0]
    if array.ndim not in (2, 3, 4):
        raise decode.UnusableError(f"the image has {array.ndim} axes; 2 to 4 can be used")
    return np.moveaxis(array, 3, 0) if array.ndim == 4 else array[None]


def _shown(values: NDArray[np.float64]) -> str:
    return " x ".join(f"{value:.4g}" for value in values)
