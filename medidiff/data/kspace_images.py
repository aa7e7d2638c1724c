"""The images of fully sampled k-space in fastMRI's HDF5 layout, and what such a file says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medidiff.data.decode import Scan, UnusableError, check_channel
from medidiff.data.file_names import sequence_in
from medidiff.data.raw import Raw, header_of, without_kspace, without_oversampling

if TYPE_CHECKING:
    import h5py

HOLES = 1e-3  # of the sampled region: samples may be exactly 0 by chance
SEQUENCES = {  # fastMRI's attribute `acquisition`, where the usual words do not find it
    "AXFLAIR": "FLAIR",
    "AXT1": "T1w",
    "AXT1PRE": "T1w",
    "AXT1POST": "T1ce",
    "AXT2": "T2w",
    "CORPD_FBK": "PDw",
    "CORPDFS_FBK": "PDw",
}


@dataclass(frozen=True)
class KSpaceFacts:
    """What a file says beside its samples; `patient` may name somebody."""

    patient: str
    sequence: str
    coils: int
    slices: int
    """Slices, or of 3-D k-space volumes."""
    dims: int


def load_kspace(path: Path, index: int | None = None) -> Scan:
    """Root-sum-of-squares images over the coils, on the grid that the scanner would have shown.

    Shapes: slices become one volume (1, rows, columns, slice), and slice `index` alone a picture
    (1, rows, columns); of 3-D k-space each volume is a channel. Units: arbitrary. The voxel size is
    the header's; no file of this layout says how the body lies in it.
    Errors: UnusableError for undersampled k-space, other layouts, and slices that are not there.
    Source: Roemer et al. 1990 (doi:10.1002/mrm.1910160203); fastMRI's targets (arXiv:1811.08839).
    """
    import h5py

    with h5py.File(path, "r") as file:
        facts = _facts(file)
        if index is not None:
            check_channel(index, facts.slices)
        wanted = range(facts.slices) if index is None else [index]
        slices = [_seen(file, facts, k) for k in wanted]
    array = np.stack([image for image, _ in slices])
    spacing = slices[0][1]
    if facts.dims == 2:
        array = array if index is not None else np.moveaxis(array, 0, -1)[None]
        spacing = spacing[: array.ndim - 1] if spacing else None
        spacing = spacing if spacing and len(spacing) == array.ndim - 1 else None
    return Scan(array, None, "MR", spacing)


def kspace_facts(path: Path) -> KSpaceFacts:
    """Patient, sequence, coils and slices as the file says; nothing is transformed.

    Errors: UnusableError for other layouts; OSError for what is no HDF5.
    """
    import h5py

    with h5py.File(path, "r") as file:
        return _facts(file)


def _facts(file: h5py.File) -> KSpaceFacts:
    import h5py

    kspace = file.get("kspace")
    if not isinstance(kspace, h5py.Dataset):
        raise UnusableError(without_kspace(file))
    if kspace.dtype.kind != "c" or kspace.ndim not in (3, 4, 5):
        raise UnusableError(
            f"kspace is {kspace.dtype} of {kspace.ndim} axes; complex (slice, coil, rows, columns) "
            "is expected"
        )
    said = {name: _word(file.attrs.get(name, "")) for name in ("patient_id", "acquisition")}
    known = SEQUENCES.get(said["acquisition"].upper()) or sequence_in(said["acquisition"])
    coils = 1 if kspace.ndim == 3 else kspace.shape[1]
    return KSpaceFacts(said["patient_id"], known, coils, kspace.shape[0], max(2, kspace.ndim - 2))


def _word(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _seen(
    file: h5py.File, facts: KSpaceFacts, k: int
) -> tuple[NDArray[np.float32], tuple[float, ...] | None]:
    """One slice (or volume) and the size of its voxels; only its samples are read."""
    values = np.asarray(file["kspace"][k])  # pyright: ignore[reportIndexIssue]
    values = values.reshape(1, facts.coils, *values.shape[-facts.dims :]).astype(np.complex64)
    _check_full(file, values)
    header = file.get("ismrmrd_header")
    if header is None or facts.dims == 3:
        stated = file.get("spacing_mm")
        spacing = None if stated is None else tuple(np.asarray(stated, np.float64).tolist())
        raw = Raw(values, {}, spacing)
    else:
        raw = without_oversampling(values, {}, header_of(np.asarray(header).item()))
    image = _root_sum_of_squares(raw.values[0])
    return _middle(image, raw.kept or image.shape), raw.spacing_mm


def _check_full(file: h5py.File, values: NDArray[np.complex64]) -> None:
    """Errors: UnusableError where samples lack between others; what lies outside of all samples
    (zero-filled rims and corners, a partial echo) may lack."""
    sampled = (values != 0).any(axis=(0, 1))
    if "mask" in file:
        sampled = sampled & (np.asarray(file["mask"]) != 0)
    share = max((_held(sampled, axis) & ~sampled).mean() for axis in range(sampled.ndim))
    if not sampled.any() or share > HOLES * sampled.mean():
        raise UnusableError(
            "the k-space is undersampled: its image is made by "
            "`medidiff run reconstruct MODEL FILE`"
        )


def _held(sampled: NDArray[np.bool_], axis: int) -> NDArray[np.bool_]:
    """Places that lie between samples along an axis."""
    before = np.maximum.accumulate(sampled, axis=axis)
    after = np.flip(np.maximum.accumulate(np.flip(sampled, axis), axis=axis), axis)
    return before & after


def _root_sum_of_squares(kspace: NDArray[np.complex64]) -> NDArray[np.float32]:
    axes = tuple(range(1, kspace.ndim))
    seen = np.fft.ifftn(np.fft.ifftshift(kspace, axes=axes), axes=axes, norm="ortho")
    image = np.sqrt((np.abs(seen) ** 2).sum(axis=0))
    return np.fft.fftshift(image).astype(np.float32)


def _middle(image: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The middle of an image, both having their voxel n // 2 at one place."""
    starts = [have // 2 - want // 2 for have, want in zip(image.shape, shape, strict=True)]
    return image[tuple(slice(a, a + n) for a, n in zip(starts, shape, strict=True))]


def slices_of(scan: Scan) -> Iterator[Scan]:
    """The slices of a volume of k-space, one by one, each on the grid that `[k]` names."""
    spacing = scan.spacing_mm[:2] if scan.spacing_mm else None
    for k in range(scan.array.shape[-1]):
        yield Scan(scan.array[..., k], None, scan.modality, spacing)
