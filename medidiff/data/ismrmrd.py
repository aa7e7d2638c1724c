"""K-space of raw ISMRMRD files: Cartesian 2-D acquisitions, each line where its header says.

Source: Inati et al. 2017 (doi:10.1002/mrm.26089), and the format's own list of flags.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from medidiff.errors import DataError

GROUP = "dataset"
REVERSE = 22
NO_IMAGE = (19, 20, 23, 24, 26, 27, 28, 29, 30, 31)
"""Flags of lines that belong to no image: noise, calibration alone, navigators, phase correction,
feedback, dummies, surface coils, phase stabilisation."""
ONE_OF = ("contrast", "phase", "repetition", "set", "kspace_encode_step_2")
"""Counters of which an image has one value."""
SPARSEST = 256  # samples of a grid for each one that was taken: no scan has more, nor its memory
FIELDS = ("flags", "number_of_samples", "active_channels", "center_sample", "idx")


@dataclass(frozen=True)
class Encoding:
    """What the header says of where lines lie: samples along a line, lines, and the number of the
    line in the middle."""

    samples: int
    lines: int
    middle: int


def holds_acquisitions(file: Mapping[str, Any]) -> bool:
    """Whether an HDF5 file is laid out as ISMRMRD's."""
    group = file.get(GROUP)
    return isinstance(group, Mapping) and "data" in group and "xml" in group


def acquisitions(file: Mapping[str, Any]) -> tuple[NDArray[np.complex64], bytes]:
    """(slice, coil, read-out, lines), zero frequency in the middle and 0 where nothing was taken,
    and the XML header.

    Lines that were taken several times are averaged.
    Errors: DataError for other trajectories, several images of a slice, 3-D, and lines that are
    read backwards.
    """
    text = _header(file)
    where = encoding_of(text)
    table = np.asarray(file[GROUP]["data"])
    if not _holds(table.dtype, "head", "data") or not _holds(table.dtype["head"], *FIELDS):
        raise DataError("the file's ISMRMRD data set holds no acquisitions")
    taken = np.flatnonzero(~_flagged(table["head"], NO_IMAGE))
    if len(taken) == 0:
        raise DataError("none of the file's ISMRMRD acquisitions is of an image")
    _check_one_image(table["head"][taken])
    return _placed(table, taken, where), text


def _holds(kind: np.dtype[Any], *names: str) -> bool:
    return set(names) <= set(kind.names or ())


def _header(file: Mapping[str, Any]) -> bytes:
    written = np.asarray(file[GROUP]["xml"]).ravel()
    if len(written) == 0 or not isinstance(written[0], str | bytes):
        raise DataError("the file's ISMRMRD header is no XML")
    return written[0].encode() if isinstance(written[0], str) else bytes(written[0])


def encoding_of(text: bytes) -> Encoding:
    """Errors: DataError for a header that does not say it, and for other trajectories than a
    grid's."""
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, LookupError):
        raise DataError("the file's ISMRMRD header is no XML") from None
    space = root.tag.partition("}")[0] + "}" if root.tag.startswith("{") else ""

    def said(*path: str) -> str | None:
        return root.findtext("/".join(f"{space}{each}" for each in ("encoding", *path)))

    if said("trajectory") != "cartesian":
        raise DataError(
            f"the file's trajectory is {said('trajectory')}; of ISMRMRD's, cartesian is read"
        )
    try:
        samples, lines = (int(said("encodedSpace", "matrixSize", axis) or "") for axis in "xy")
        limit = said("encodingLimits", "kspace_encoding_step_1", "center")
        middle = lines // 2 if limit is None else int(limit)
    except ValueError:
        raise DataError(
            "the file's ISMRMRD header does not say the encodedSpace's matrixSize"
        ) from None
    if min(samples, lines) < 1:
        raise DataError(
            f"the file's ISMRMRD header says an encodedSpace of {samples} x {lines} samples"
        )
    return Encoding(samples, lines, middle)


def _flagged(head: NDArray[Any], flags: tuple[int, ...]) -> NDArray[np.bool_]:
    bits = np.uint64(sum(1 << (flag - 1) for flag in flags))
    return (head["flags"] & bits) != 0


def _check_one_image(head: NDArray[Any]) -> None:
    for name in ONE_OF:
        count = len(np.unique(head["idx"][name]))
        if count > 1:
            raise DataError(
                f"the file's acquisitions have {count} values of {name.replace('_', ' ')}, and one "
                "image of each slice is reconstructed: write those of one into a file"
            )
    if head["encoding_space_ref"].any():
        raise DataError(
            "the file's lines are of several encodings, or of another than its header's first: "
            "write those of one into a file"
        )
    if _flagged(head, (REVERSE,)).any():
        raise DataError("some lines of the file are read backwards (EPI): turn them round first")
    coils = np.unique(head["active_channels"])
    if len(coils) > 1 or coils[0] == 0:
        raise DataError(f"the file's lines are of {coils.min()} to {coils.max()} coils")


def _placed(table: NDArray[Any], taken: NDArray[np.intp], where: Encoding) -> NDArray[np.complex64]:
    """Of the acquisitions those that are `taken`, by their numbers in the file."""
    head = table["head"][taken]
    slices, which = np.unique(head["idx"]["slice"], return_inverse=True)
    shape = (len(slices), int(head["active_channels"][0]), where.samples, where.lines)
    found = sum(len(each) for each in table["data"][taken]) // 2
    if math.prod(shape) > SPARSEST * found:
        raise DataError(
            f"the file holds {found} samples, and its ISMRMRD header says {len(slices)} slices of "
            f"{where.samples} x {where.lines} for {shape[1]} coils: hardly any of them were taken"
        )
    made, times = np.zeros(shape, np.complex64), np.zeros(shape, np.float32)
    for index, in_slice in zip(taken, which, strict=True):
        each = table[index]
        line, first = _line(each["head"], shape[1], each["data"])
        row = int(each["head"]["idx"]["kspace_encode_step_1"]) - where.middle + where.lines // 2
        start = where.samples // 2 - first
        end = start + line.shape[1]
        if not (0 <= row < where.lines and start >= 0 and end <= where.samples):
            raise DataError(
                f"acquisition {index} of the file lies outside of its {where.samples} x "
                f"{where.lines} encoded samples: found samples {start} to {end} of line {row}"
            )
        made[in_slice, :, start:end, row] += line
        times[in_slice, :, start:end, row] += 1
    return (made / np.maximum(times, 1)).astype(np.complex64)


def _line(head: Any, coils: int, data: NDArray[Any]) -> tuple[NDArray[np.complex64], int]:
    """(coil, sample) without what is to be left out, and which of its samples is in the middle."""
    count, before, after = (
        int(head[name]) for name in ("number_of_samples", "discard_pre", "discard_post")
    )
    numbers = np.ascontiguousarray(data, np.float32).view(np.complex64)
    if numbers.size != coils * count or before + after >= count:
        raise DataError(
            f"a line of the file holds {numbers.size} samples and its header says {coils} x "
            f"{count}, {before} and {after} of which are left out at its ends"
        )
    return numbers.reshape(coils, count)[:, before : count - after], (
        int(head["center_sample"]) - before
    )
