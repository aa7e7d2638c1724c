"""The definitions in a MONAI bundle's configurations, without running any of it.

Of a bundle's configurations only this is read: which network, autoencoder and scheduler they define
(by an allow list of names), with plain values and plain references (`@name`). A Python expression
(`$...`) is never run: where its value is needed, that is an error which says how to state it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from medidiff.changes import parse_value, put, split_pair
from medidiff.errors import ModelError

Part = Literal["network", "autoencoder", "scheduler"]
_PLACES = {
    "network": ("networks.nets", "networks.nets.diffusion_model_unet"),
    "autoencoder": ("networks.nets", "networks.nets.autoencoderkl"),
    "scheduler": (
        "networks.schedulers",
        *(f"networks.schedulers.{name}" for name in ("ddpm", "ddim", "pndm", "rectified_flow")),
    ),
}
_CLASSES = {
    "network": ("DiffusionModelUNet",),
    "autoencoder": ("AutoencoderKL",),
    "scheduler": ("DDPMScheduler", "DDIMScheduler", "PNDMScheduler", "RFlowScheduler"),
}
_USUAL = {
    "network": ("network_def", "diffusion_def", "unet_def", "diffusion_unet_def", "unet"),
    "autoencoder": ("autoencoder_def", "autoencoder"),
    "scheduler": ("noise_scheduler", "scheduler"),
}
_FIRST = ("inference", "infer", "common", "train_diffusion", "train")


@dataclass(frozen=True)
class Definition:
    """A part that a bundle defines: the name it has there, its class and its arguments."""

    id: str
    kind: str
    """The last part of its class's name."""
    arguments: Mapping[str, Any]
    """As written: values are resolved by `Bundle.value`."""


@dataclass(frozen=True)
class Bundle:
    """What the configurations of a bundle say."""

    folder: Path
    tree: Mapping[str, Any]
    metadata: Mapping[str, Any]
    own: Mapping[str, Any] | None
    """medidiff's own description, in a bundle that it exported."""

    def part(self, part: Part) -> Definition | None:
        """The definition of a part; None if there is none.

        Errors: ModelError if there are several and none has a usual name.
        """
        found = dict(_definitions(self.tree, part))
        for name in _USUAL[part]:
            if name in found:
                return found[name]
        if len(found) > 1:
            raise ModelError(
                f"{self.folder.name} defines {len(found)} parts that could be its {part}: "
                f"{', '.join(sorted(found))}. Rename the one that is meant to {_USUAL[part][0]}, "
                f"or state it: --change {_USUAL[part][0]}=@{min(found).replace('.', '#')}"
            )
        return next(iter(found.values()), None)

    def value(self, written: object, place: str) -> Any:
        """The plain value of what is written at `place`, references followed.

        Errors: ModelError for an expression, which is not run, and for a reference to nothing.
        """
        return _value(self.tree, written, place, ())

    def argument(self, part: Definition, name: str, otherwise: object = None) -> Any:
        """The plain value of an argument of a definition."""
        if name not in part.arguments:
            return otherwise
        return self.value(part.arguments[name], f"{part.id}.{name}")

    def number(self, name: str) -> float | None:
        """A number of the configurations by its name; None if there is none, or an expression."""
        written = self.tree.get(name)
        return float(written) if isinstance(written, int | float) else None


def is_bundle(folder: Path) -> bool:
    """Whether a folder looks like a MONAI bundle."""
    return (folder / "configs").is_dir() and any(_files(folder))


def read_bundle(folder: Path, changes: Sequence[str] = ()) -> Bundle:
    """The configurations of the bundle in `folder`, with `changes` such as
    "network_def.in_channels=4" applied.

    Errors: ModelError if it is no bundle or a file of it cannot be read.
    """
    if not is_bundle(folder):
        raise ModelError(f"{folder} is not a MONAI bundle: it has no configs/*.json or *.yaml")
    tree: dict[str, Any] = {}
    for file in _files(folder):
        for name, value in _read(file).items():
            tree.setdefault(name, value)
    for change in changes:
        _apply(tree, change)
    own = folder / "configs" / "medidiff.json"
    return Bundle(folder, tree, _metadata(folder), _read(own) if own.is_file() else None)


def _files(folder: Path) -> list[Path]:
    """The configurations, those for inference first: what they say holds."""
    files = [
        file
        for file in sorted((folder / "configs").glob("*"))
        if file.suffix in (".json", ".yaml", ".yml")
        and file.stem not in ("metadata", "medidiff", "logging")
    ]
    rank = {name: place for place, name in enumerate(_FIRST)}
    return sorted(files, key=lambda file: rank.get(file.stem, len(rank)))


def _metadata(folder: Path) -> Mapping[str, Any]:
    file = folder / "configs" / "metadata.json"
    return _read(file) if file.is_file() else {}


def _read(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
        content = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ModelError(f"{file.name} of the bundle cannot be read: {error}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ModelError(f"{file.name} of the bundle holds no names and values")
    return content


def _apply(tree: dict[str, Any], change: str) -> None:
    key, text = split_pair(change, "--change", "name=value, e.g. scale_factor=0.9")
    written = text if text.startswith("@") else parse_value(text, change, "--change")
    value, _ = _followed(tree, written, f"--change {key}", ())
    put(tree, key.replace("#", ".").replace("::", "."), value, change)


def _definitions(
    tree: object, part: Part, path: tuple[str, ...] = ()
) -> Iterator[tuple[str, Definition]]:
    if not isinstance(tree, dict):
        return
    kind = _allowed(tree.get("_target_"), part)
    if kind is not None:
        arguments = {name: value for name, value in tree.items() if not name.startswith("_")}
        yield ".".join(path), Definition(".".join(path), kind, arguments)
        return
    for name, value in tree.items():
        yield from _definitions(value, part, (*path, name))


def _allowed(target: object, part: Part) -> str | None:
    """The class that a `_target_` names, if it is on the list."""
    if not isinstance(target, str):
        return None
    module, _, name = target.rpartition(".")
    if name not in _CLASSES[part]:
        return None
    known = {f"{package}.{place}" for package in ("monai", "generative") for place in _PLACES[part]}
    return name if module in known or module == "" else None


def _value(tree: Mapping[str, Any], written: object, place: str, seen: tuple[str, ...]) -> Any:
    written, seen = _followed(tree, written, place, seen)
    if isinstance(written, str) and written.startswith("$"):
        raise ModelError(
            f"{place} is the expression {written!r}, and nothing in a bundle is run. State its "
            f"value: --change {place}=VALUE"
        )
    if isinstance(written, list):
        return [_value(tree, each, f"{place}.{at}", seen) for at, each in enumerate(written)]
    if isinstance(written, dict):
        return {name: _value(tree, each, f"{place}.{name}", seen) for name, each in written.items()}
    return written


def _followed(
    tree: Mapping[str, Any], written: object, place: str, seen: tuple[str, ...]
) -> tuple[object, tuple[str, ...]]:
    """What a reference leads to, and the references on the way; other values are themselves."""
    while isinstance(written, str) and written.startswith("@"):
        if written in seen:
            raise ModelError(f"{place}: {written} refers to itself")
        written, seen = _referred(tree, written, place), (*seen, written)
    return written, seen


def _referred(tree: Mapping[str, Any], reference: str, place: str) -> object:
    found: object = tree
    for name in reference[1:].replace("::", "#").split("#"):
        if isinstance(found, dict) and name in found:
            found = found[name]
        elif isinstance(found, list) and name.isdigit() and int(name) < len(found):
            found = found[int(name)]
        else:
            raise ModelError(f"{place} refers to {reference}, which the bundle does not have")
    return found
