"""Weights too large for the package, kept in parts of at most 16 MB: written, and joined again.

    python benchmarks/weights.py split RUN benchmarks/weights --made-by "COMMAND"
    python benchmarks/weights.py join benchmarks/weights/brain-t1-2d-benchmark MODEL

Joining checks every part and the whole against their SHA-256; what comes out is a model folder,
which `medidiff` takes wherever a model is asked for.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from medidiff import api
from medidiff.errors import ModelError
from medidiff.model_folder import CODEC, FILES, HEADS, check_folder, digest, write_json

PART_BYTES = 16_000_000
WHOLE = "model.safetensors"
INDEX = "parts.json"
BESIDE = [name for name in (*FILES, "SHA256SUMS") if name != WHOLE]
OPTIONAL = (HEADS, CODEC, "calibration.json")


def split(model: Path, place: Path, made_by: str, part_bytes: int = PART_BYTES) -> Path:
    """Write a model folder into `place`/NAME with its weights in parts; gives that folder.

    Errors: ModelError if the model is not whole or the folder holds something.
    """
    check_folder(model)
    name = json.loads((model / "model.json").read_text(encoding="utf-8"))["name"]
    folder = place / name
    if folder.exists() and any(folder.iterdir()):
        raise ModelError(f"{folder} already holds files; name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    parts = {}
    for index, content in enumerate(_pieces(model / WHOLE, part_bytes)):
        part = folder / f"{WHOLE}.{index:02d}"
        part.write_bytes(content)
        parts[part.name] = digest(part)
    copy_beside(model, folder)
    write_json(folder / INDEX, {"parts": parts, "whole": digest(model / WHOLE), "made_by": made_by})
    return folder


def join(folder: Path, out: Path) -> Path:
    """The model folder that the parts in `folder` make, written to `out`.

    Errors: ModelError for a part that is missing or altered, for a whole that is not the one that
    was split, and if `out` holds something.
    """
    if out.exists() and any(out.iterdir()):
        raise ModelError(f"{out} already holds files; name another folder")
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    for name, sha256 in index["parts"].items():
        part = folder / name
        if not part.is_file() or digest(part) != sha256:
            raise ModelError(f"{part} is missing or altered (its SHA-256 differs); fetch it again")
    unfinished = out.with_name(out.name + ".part")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    with (unfinished / WHOLE).open("wb") as whole:
        for name in index["parts"]:
            whole.write((folder / name).read_bytes())
    copy_beside(folder, unfinished)
    if digest(unfinished / WHOLE) != index["whole"]:
        raise ModelError(f"{folder}: the joined weights are not those that were split")
    check_folder(unfinished)
    if out.exists():
        out.rmdir()
    unfinished.replace(out)
    return out


def copy_beside(source: Path, place: Path) -> None:
    """The files of a model that are kept whole; `check_folder` misses none that should be there."""
    for name in (*BESIDE, *(name for name in OPTIONAL if (source / name).is_file())):
        shutil.copyfile(source / name, place / name)


def _pieces(file: Path, size: int) -> Iterator[bytes]:
    with file.open("rb") as stream:
        while piece := stream.read(size):
            yield piece


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    splitting = verbs.add_parser("split", help="a model or run into parts")
    splitting.add_argument("model")
    splitting.add_argument("place", type=Path)
    splitting.add_argument("--made-by", required=True, help="the command that trained it")
    joining = verbs.add_parser("join", help="parts into a model folder")
    joining.add_argument("folder", type=Path)
    joining.add_argument("out", type=Path)
    args = parser.parse_args()
    if args.verb == "join":
        print(join(args.folder, args.out))
        return
    bf16 = args.place / ".bf16"
    shutil.rmtree(bf16, ignore_errors=True)
    print(split(api.export(args.model, bf16, dtype="bfloat16"), args.place, args.made_by))
    shutil.rmtree(bf16)


if __name__ == "__main__":
    main()
