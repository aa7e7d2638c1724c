"""The verb `deface`: a head volume without its face."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medidiff.data.confidentiality.faces import Defacing, deface, head_views
from medidiff.data.decode import decode
from medidiff.data.phantom_files import write_nifti
from medidiff.errors import DataError, OutputError

LEAST_SHARE = 0.01


def write_defaced(
    scan: Path, out: Path, options: Defacing, *, mask: Path | None, picture: Path | None
) -> str:
    """Errors: DataError for what is no whole head; OutputError for places that cannot be used."""
    places = [out, *(each for each in (mask, picture) if each is not None)]
    if len({place.resolve() for place in places}) < len(places):
        raise OutputError(f"{out.name}: the scan, its mask and its picture need a file each")
    for place in places:
        ending = ".png" if place is picture else ".nii.gz"
        if not place.name.endswith(ending) or place.exists():
            raise OutputError(f"{place.name}: a new {ending} file is needed")
    found = decode(scan)
    if found.affine is None or found.dims != 3 or len(found.array) > 1:
        raise DataError("a face is taken off one volume with a geometry", private=str(scan))
    made = deface(found.array[0], found.affine, options)
    whole = np.issubdtype(found.array.dtype, np.integer)
    image = np.round(made.image).astype(found.array.dtype) if whole else made.image
    write_nifti(out, image, found.affine)
    if mask is not None:
        write_nifti(mask, made.mask.astype(np.uint8), found.affine)
    if picture is not None:
        _show(picture, found.array[0], made.image, found.affine)
    if made.share < LEAST_SHARE:
        return (
            f"{out}: nothing of the head lies where its face should be. Its face may be outside of "
            "the field of view, or the volume not upright in its coordinates: look at it."
        )
    return (
        f"{out}: {100 * made.share:.0f} % of the head was taken, before and below the brain, by a "
        "simple rule. Look at the result: brain may be lost and features may be left."
    )


def _show(place: Path, before: np.ndarray, after: np.ndarray, affine: np.ndarray) -> None:
    from PIL import Image

    rows = [head_views(np.asarray(each, dtype=np.float32), affine) for each in (before, after)]
    high = float(np.percentile(before, 99.5)) or 1.0
    low = float(np.percentile(before, 0.5))
    grey = np.clip((np.concatenate(rows) - low) / max(high - low, 1e-6), 0, 1)
    Image.fromarray((255 * grey).astype(np.uint8)).save(place)
