"""Siemens mosaics: the slices of one time point tiled in one picture, row by row.

The header's position is that of a picture as large as the mosaic around the first slice's middle,
so the first tile's corner lies half the difference further in. Where the slices go from there is
not in public attributes but in the private CSA header, and once more in the protocol it holds.
"""

from __future__ import annotations

import math
import re
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from medidiff.data import decode

Vector = NDArray[np.float64]
GROUP, CREATOR = 0x0029, "SIEMENS CSA HEADER"
IMAGE, SERIES = 0x10, 0x20  # elements of the creator's block
PARALLEL = 1e-2  # between the normal of the private header and that of the axes
SAME_GAP = 0.01
NUMBER = r"\s*=\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?)"
POSITION = re.compile(r"sSliceArray\.asSlice\[(\d+)\]\.sPosition\.d(Sag|Cor|Tra)" + NUMBER)
OTHERWISE = "export it as enhanced DICOM or convert it to NIfTI first"

warnings.filterwarnings("ignore", message="The DICOM readers are highly experimental")  # nibabel's


@dataclass(frozen=True)
class Mosaic:
    """How tiles lie. Units: LPS mm."""

    count: int
    shape: tuple[int, int]
    """Rows and columns of a tile."""
    corner: Vector
    """Of the first tile's first voxel."""
    step: Vector
    """From each slice to the next."""
    b_value: str = ""


def is_mosaic(data: Dataset) -> bool:
    """Whether a picture holds many slices, by its image type."""
    return "MOSAIC" in (data.get("ImageType") or ())


def mosaic_of(data: Dataset) -> Mosaic:
    """How the tiles of a mosaic lie.

    Errors: decode.UnusableError where the private header is gone or contradicts what else is said.
    Source: nibabel's "DICOM mosaic" notes; the same grid as dcm2niix's (tests/unit/data).
    """
    csa = _csa(data, IMAGE)
    if csa is None:
        raise _refused(
            "its private Siemens header (CSA), which says how the slices lie, is missing, as after "
            "a de-identification"
        )
    count = int(_item(csa, "NumberOfImagesInMosaic", 0))
    side = math.isqrt(max(count, 1) - 1) + 1
    rows, columns = int(data.Rows), int(data.Columns)
    if count < 1 or rows % side or columns % side:
        raise _refused(f"{count} tiles do not fill {rows} x {columns} pixels")
    shape = (rows // side, columns // side)
    across, down = _axes(data)
    between_rows, between_columns = (float(mm) for mm in data.PixelSpacing)
    corner = np.array([float(mm) for mm in data.ImagePositionPatient])
    corner = corner + across * between_columns * (columns - shape[1]) / 2
    corner = corner + down * between_rows * (rows - shape[0]) / 2
    gap = float(data.get("SpacingBetweenSlices") or 0)
    step = _normal(csa, np.cross(across, down)) * gap
    middle = corner + across * between_columns * shape[1] / 2 + down * between_rows * shape[0] / 2
    if not np.isfinite(gap) or gap <= 0:
        raise _refused("the gap between its slices is not given")
    _check_protocol(data, middle, step, count)
    said = csa.get("B_value", {}).get("items") or [""]
    return Mosaic(count, shape, corner, step, str(said[0]))


def tiles(picture: NDArray[Any], mosaic: Mosaic) -> NDArray[Any]:
    """The slices (slice, rows, columns) of a mosaic's pixels (rows, columns).

    Errors: decode.UnusableError if tiles beyond the last slice are not blank.
    """
    rows, columns = mosaic.shape
    grid = picture.reshape(picture.shape[0] // rows, rows, picture.shape[1] // columns, columns)
    found = grid.transpose(0, 2, 1, 3).reshape(-1, rows, columns)
    rest = found[mosaic.count :]
    if rest.size and (rest != rest.flat[0]).any():
        raise _refused(f"there is an image beyond its {mosaic.count} slices")
    return found[: mosaic.count]


def _axes(data: Dataset) -> tuple[Vector, Vector]:
    said = data.get("ImageOrientationPatient")
    if not said or not data.get("ImagePositionPatient") or not data.get("PixelSpacing"):
        raise _refused("its position, orientation or pixel size is not given")
    axes = np.array([float(value) for value in said]).reshape(2, 3)
    return axes[0], axes[1]


def _csa(data: Dataset, element: int) -> dict[str, Any] | None:
    """The tags of a private header, None if there is none; nothing in it is run.

    Errors: decode.UnusableError if it is damaged.
    """
    from nibabel.nicom import csareader

    try:
        block = data.private_block(GROUP, CREATOR)
        return csareader.read(block[element].value)["tags"]
    except KeyError:
        return None
    except Exception as error:  # a damaged one raises anything
        raise _refused(f"its private header is damaged ({type(error).__name__})") from None


def _item(csa: dict[str, Any], name: str, otherwise: Any) -> Any:
    items = csa.get(name, {}).get("items") or [otherwise]
    return otherwise if items[0] in ("", None) else items[0]


def _normal(csa: dict[str, Any], normal: Vector) -> Vector:
    """The axes' own normal, turned to where the private header says that slices go."""
    said = np.array(csa.get("SliceNormalVector", {}).get("items") or [0.0], np.float64)
    if said.shape != (3,) or not np.isfinite(said).all():
        raise _refused("the normal of its slices is not given")
    along = float(said @ normal)
    if abs(abs(along) - 1) > PARALLEL:
        raise _refused("the normal of its slices contradicts its axes")
    return normal * np.sign(along)


def _check_protocol(data: Dataset, middle: Vector, step: Vector, count: int) -> None:
    """The protocol states each slice's middle: as many, as far apart, and on the same side.

    It may lie somewhat elsewhere (a head is followed as it moves), but no half of the stack away.
    """
    protocol = _csa(data, SERIES) or {}
    text = str(_item(protocol, "MrPhoenixProtocol", "") or _item(protocol, "MrProtocol", ""))
    places: dict[int, dict[str, float]] = {}
    for index, axis, value in POSITION.findall(text):
        places.setdefault(int(index), {})[axis] = float(value)
    if len(places) < 2:
        return
    said = np.array([[places[k].get(a, 0.0) for a in ("Sag", "Cor", "Tra")] for k in places])
    if len(said) != count:
        raise _refused(f"it holds {count} slices, its protocol {len(said)}")
    heights = np.sort(said @ step) / float(step @ step)  # in gaps
    if abs((heights[-1] - heights[0]) / (count - 1) - 1) > SAME_GAP:
        raise _refused("its slices lie as far apart as its protocol does not say")
    if np.linalg.norm(said.mean(0) - middle - step * (count - 1) / 2) > (
        np.linalg.norm(step) * count / 4
    ):
        raise _refused("its slices lie elsewhere than its protocol says")


def _refused(why: str) -> decode.UnusableError:
    return decode.UnusableError(
        f"the DICOM image is a mosaic (many slices tiled in one picture), and {why}; {OTHERWISE}"
    )
