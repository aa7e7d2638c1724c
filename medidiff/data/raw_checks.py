"""What is refused of measurements and of what lies beside them, a line each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medidiff.errors import DataError

Kind = Literal["cartesian", "radon"]
OF_THE_OTHER: Mapping[Kind, tuple[str, ...]] = {
    "cartesian": ("angles",),
    "radon": ("mask", "coils", "phase"),
}
"""What only measurements of the other kind have beside them."""


def check_belonging(names: Iterable[str], kind: Kind) -> None:
    """Errors: DataError for what is given beside a measurement of a kind that does not have it."""
    wrong = [name for name in names if name in OF_THE_OTHER[kind]]
    if wrong:
        what, other, say = "k-space", "a sinogram", "radon"
        if kind == "radon":
            what, other, say = "a sinogram", "k-space", "cartesian"
        raise DataError(
            f"{' and '.join(wrong)} would not be used: {what} has none. Leave it out, or, of "
            f"{other}, say measurement={{kind: {say}}}"
        )


def check_values(values: NDArray[Any], kind: Kind) -> None:
    """Of k-space (slice, coil, *space), or sinograms.

    Errors: DataError for values of the other kind, for none, and for what is no finite number.
    """
    what = "k-space" if kind == "cartesian" else "sinogram"
    if min(values.shape) < 1:
        raise DataError(f"the {what} holds nothing: found the shape {values.shape}")
    if kind == "cartesian" and values.dtype.kind != "c":
        raise DataError(
            f"k-space is complex, found {values.dtype} of {values.shape}. Where the last axis holds"
            " real and imaginary part, join them (a[..., 0] + 1j * a[..., 1]); of a sinogram say "
            "measurement={kind: radon}"
        )
    if kind == "radon" and values.dtype.kind == "c":
        raise DataError(
            f"a sinogram is real, found {values.dtype} of {values.shape}; k-space is what "
            "measurement={kind: cartesian} takes, as it does unless told"
        )
    check_finite(f"the {what}", values)
    if kind == "cartesian" and not (values != 0).any():
        raise DataError("all samples of the k-space are 0: nothing was measured")


def check_finite(name: str, values: NDArray[Any]) -> None:
    """Errors: DataError for NaN and infinite numbers, which say where they are."""
    wrong = ~np.isfinite(values)
    if wrong.any():
        first = tuple(int(place) for place in np.argwhere(wrong)[0])
        raise DataError(
            f"{name} holds {int(wrong.sum())} numbers that are NaN or infinite, the first at "
            f"{first} of {values.shape}"
        )


def laid_out(name: str, given: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """A mask, phase or coil maps as they belong to k-space of a shape (slice, coil, *space): with
    as many axes, each as long or 1.

    One for each slice may lack the axis of coils, which a mask and a phase do not have.
    Errors: DataError for another shape, and for numbers that are not finite.
    """
    check_finite(f"the {_called(name)}", given)
    coils, space = (shape[1] if name == "coils" else 1), shape[2:]
    values = given
    if name != "coils" and given.ndim == len(space) + 1 and len(given) == shape[0] > 1:
        values = given[:, None]
    missing = len(shape) - values.ndim
    values = values.reshape(*(1,) * missing, *values.shape)
    wanted = (shape[0], coils, *space)
    if values.shape[1:2] not in ((coils,), ()) or not _broadcasts(values.shape, wanted):
        raise DataError(
            f"the {_called(name)} of {given.shape} and the k-space of {shape} (slices, coils, "
            f"*grid) do not go together: {_layouts(name, space)}"
        )
    return values


def _broadcasts(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return len(shape) == len(wanted) and all(
        n in (1, m) for n, m in zip(shape, wanted, strict=True)
    )


def _called(name: str) -> str:
    return "coil maps" if name == "coils" else name


def _layouts(name: str, space: tuple[int, ...]) -> str:
    grid = ", ".join(map(str, space))
    if name == "coils":
        return f"one map a coil, (coils, {grid}), or those of each slice, (slices, coils, {grid})"
    lines = f"({space[-1]},), " if name == "mask" else ""
    return f"it is {lines}({grid}) or one a slice, (slices, {grid})"


def check_mask(mask: NDArray[Any]) -> None:
    """Errors: DataError for a slice of which nothing was sampled; mask (slice, 1, *space)."""
    empty = [index for index, each in enumerate(mask) if not (each != 0).any()]
    if empty:
        where = "" if len(mask) == 1 else f" of slice {empty[0]}"
        raise DataError(f"the mask{where} names no sample: it is not 0 where k-space was measured")


def check_coils(coils: NDArray[Any]) -> None:
    """Errors: DataError for maps of a slice that are 0 everywhere."""
    if any(not (each != 0).any() for each in coils):
        raise DataError("the coil maps are 0 everywhere: no coil sees anything")


def check_places(more: Mapping[str, NDArray[Any]]) -> None:
    """Errors: DataError for voxels without a size and axes that span no space."""
    spacing, affine = more.get("spacing_mm"), more.get("affine")
    if spacing is not None and not (np.isfinite(spacing).all() and (spacing > 0).all()):
        raise DataError(f"spacing_mm is above 0 along each axis, found {np.ravel(spacing)}")
    if affine is None:
        return
    if affine.shape != (4, 4):
        raise DataError(f"an affine is 4 x 4, not {affine.shape}")
    check_finite("the affine", affine)
    if abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise DataError("the affine's axes do not span space: its 3 x 3 part has no inverse")
