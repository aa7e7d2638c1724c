"""A model as a folder of plain files with digests; names of what lies beside a result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from medidiff import options
from medidiff.errors import ModelError, OutputError
from medidiff.outputs import all_or_none
from medidiff.spec import FORMAT, ModelSpec

FILES = ("model.safetensors", "model.json", "card.md")
HEADS = "heads.safetensors"
"""The weights of a model's heads, where it has any."""
CODEC = "codec.safetensors"
"""The weights of a codec, in the folder of a prior of latents only."""


def stem(file: Path) -> str:
    """The name of a scan without its ending; dots of a DICOM folder's name stay."""
    scans = (".nii.gz", ".nii", ".hdr", ".img", ".nrrd", ".mha", ".mhd", ".png", ".dcm")
    for ending in (*scans, ".npy", ".npz", ".h5", ".hdf5"):
        if file.name.lower().endswith(ending):
            return file.name[: -len(ending)]
    return file.name


def sidecar(file: Path) -> Path:
    """The provenance file beside an image: scan.nii.gz -> scan.json."""
    return file.with_name(f"{stem(file)}.json")


def check_free(files: Sequence[Path]) -> None:
    """Errors: OutputError if one of `files` is there already."""
    taken = [file for file in files if file.exists()]
    if taken:
        raise OutputError(f"{taken[0]} is there already and is not overwritten; name another")


def write_json(file: Path, content: object) -> None:
    """Write JSON whole or not at all."""
    part = file.with_name(file.name + ".part")
    with all_or_none([part]):
        part.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        part.replace(file)


def check_folder(place: Path) -> None:
    """Errors: ModelError if a file of the model folder is missing or not the one that was saved."""
    if not place.is_dir():
        raise ModelError(f"{place} is not a model folder: no such folder")
    listed = place / "SHA256SUMS"
    lines = (
        listed.read_text(encoding="ascii", errors="replace").splitlines()
        if listed.is_file()
        else []
    )
    sums = {name.strip(): value for value, _, name in (line.partition("  ") for line in lines)}
    more = (HEADS, CODEC)
    files = (*FILES, *(name for name in more if name in sums or (place / name).is_file()))
    missing = [name for name in (*files, "SHA256SUMS") if not (place / name).is_file()]
    if missing:
        raise ModelError(
            f"{place} is not a whole model folder: {', '.join(missing)} missing. Copy it again."
        )
    altered = [name for name in files if sums.get(name) != digest(place / name)]
    if altered:
        raise ModelError(
            f"{place}: {', '.join(altered)} is not the file that was saved (its SHA-256 differs). "
            "Fetch the model again; do not use this copy."
        )


def read_spec(place: Path) -> ModelSpec:
    """The specification in `place`/model.json.

    Errors: ModelError if it is of another format or does not describe a model.
    """
    try:
        content = json.loads((place / "model.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{place}/model.json is not JSON: {error}") from None
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise ModelError(
            f"{place}/model.json is of format {found!r}; this medidiff reads format {FORMAT}"
        )
    try:
        return options.read(ModelSpec, content)
    except options.OptionError as error:
        raise ModelError(f"{place}/model.json: {error}") from None


def folder_digest(place: Path) -> str:
    """What a model folder is known by: 16 digits of the digest of its digests."""
    return digest(place / "SHA256SUMS")[:16]


def digest(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
