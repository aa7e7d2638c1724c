"""The heads: what a prior is good for, one file each.

A new built-in head is a file here and an entry in `AnyHead`. Other packages add theirs by an entry
point in the group "medidiff.heads" that names a class like these; a string in a configuration
never imports anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from importlib.metadata import entry_points
from typing import TypeAlias, cast, get_args

from medidiff import options
from medidiff.errors import TaskError
from medidiff.tasks.base import Head
from medidiff.tasks.denoise import Denoising
from medidiff.tasks.inpaint import Inpainting
from medidiff.tasks.reconstruct import Reconstruction
from medidiff.tasks.super_resolution import SuperResolution
from medidiff.tasks.synthesis import Synthesis

AnyHead: TypeAlias = Synthesis | Denoising | Reconstruction | SuperResolution | Inpainting
BUILT_IN: tuple[type[AnyHead], ...] = get_args(AnyHead)
GROUP = "medidiff.heads"

__all__ = [
    "AnyHead",
    "Denoising",
    "Head",
    "Inpainting",
    "Reconstruction",
    "SuperResolution",
    "Synthesis",
    "head",
    "head_and_beside",
    "head_classes",
]


def head_classes() -> dict[str, type[Head]]:
    """Every head by its name: the built-in ones and those of installed packages.

    Errors: TaskError if a package's head takes the name of another.
    """
    found: dict[str, type[Head]] = {kind.kind: cast(type[Head], kind) for kind in BUILT_IN}
    for point in entry_points(group=GROUP):
        if point.name in found:
            raise TaskError(
                f"the head {point.name!r} of {point.value} has the name of another head"
            )
        found[point.name] = point.load()
    return found


def head(name: str, given: Mapping[str, object]) -> Head:
    """The head `name` with its options.

    Errors: TaskError for an unknown head, and for options that it does not have or that are out of
    range.
    """
    classes = head_classes()
    if name not in classes:
        raise TaskError(f"no task is called {name!r}; {options.nearest(name, list(classes))}")
    try:
        stated = options.with_usual_kinds(classes[name], {"kind": name, **given})
        return cast(Head, options.read(classes[name], stated))
    except options.OptionError as error:
        raise TaskError(f"{name}: {error}") from None


def head_and_beside(name: str, given: Mapping[str, object]) -> tuple[Head, dict[str, object]]:
    """The head `name`, and what of `given` is no option of it but belongs to the input.

    Errors: as `head`.
    """
    plain = head(name, {})
    names = plain.needs().beside
    known = [each.name for each in fields(plain) if each.name != "kind"]  # type: ignore[arg-type]
    for key in given:
        if key not in (*known, *names):
            raise TaskError(f"{name}: {key}: unknown key; {options.nearest(key, [*known, *names])}")
    beside = {key: value for key, value in given.items() if key in names and value is not None}
    return head(name, {key: value for key, value in given.items() if key not in names}), beside
