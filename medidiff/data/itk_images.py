"""NRRD and MetaImage files to arrays, by SimpleITK, their text headers looked at first.

A header without its end makes ITK take voxels for text, and it can crash the process; a detached
one may name any file of the machine.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from medidiff.data import decode
from medidiff.data.decode import Scan

LONGEST_HEADER = 2**20
NRRD_END = re.compile(rb"\r?\n\r?\n")
META_END = re.compile(rb"ElementDataFile[ \t]*=[^\n]*\n?")
LINES = {"nrrd": re.compile(r"^(#.*|NRRD\d{4}|[^:]+:=?.*)$"), "meta": re.compile(r"^[^=]+=.*$")}
DATA_FILE = {
    "nrrd": re.compile(r"^data ?file:\s*(.+?)\s*$", re.IGNORECASE | re.MULTILINE),
    "meta": re.compile(r"^ElementDataFile\s*=\s*(.+?)\s*$", re.MULTILINE),
}


def load_itk(path: Path) -> Scan:
    """The image in an NRRD (.nrrd, .nhdr) or MetaImage (.mha, .mhd) file.

    Errors: decode.UnusableError for a header that is no header, and for one that names a data file
    elsewhere than beside it.
    """
    import SimpleITK as sitk  # noqa: N813  (its usual name)

    _check_header(path)
    image = sitk.ReadImage(str(path))
    dims = image.GetDimension()
    if dims not in (2, 3):
        raise decode.UnusableError(f"the image has {dims} axes; 2 or 3 can be used")
    array = sitk.GetArrayFromImage(image)
    vector = image.GetNumberOfComponentsPerPixel() > 1
    array = array.T if not vector else np.moveaxis(array, -1, 0).transpose(0, *range(dims, 0, -1))
    affine = np.eye(4)
    direction = np.array(image.GetDirection()).reshape(dims, dims)
    affine[:dims, :dims] = direction * np.array(image.GetSpacing())
    affine[:dims, 3] = image.GetOrigin()
    affine[:2] *= -1  # ITK counts to left, posterior, superior
    return Scan(array if vector else array[None], affine)


def _check_header(path: Path) -> None:
    kind = "nrrd" if path.suffix.lower() in (".nrrd", ".nhdr") else "meta"
    with path.open("rb") as file:
        start = file.read(LONGEST_HEADER)
    end = (NRRD_END if kind == "nrrd" else META_END).search(start)
    if end is None and path.suffix.lower() != ".nhdr":  # a detached header may end with its file
        raise decode.UnusableError("the header has no end: the file is truncated or damaged")
    head = start if end is None else start[: end.end()]
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError:
        raise decode.UnusableError("the header is no text: the file is damaged") from None
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines or not all(line.isprintable() or "\t" in line for line in lines):
        raise decode.UnusableError("the header is no text: the file is damaged")
    if not all(LINES[kind].match(line) for line in lines):
        raise decode.UnusableError("a line of the header is no field: the file is damaged")
    _check_data_file(DATA_FILE[kind].findall(text))


def _check_data_file(names: list[str]) -> None:
    for name in names:
        if name != "LOCAL" and (Path(name).name != name or name.upper().startswith("LIST")):
            raise decode.UnusableError("the header names data that do not lie beside it")
