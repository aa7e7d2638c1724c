"""The priors that come with the package: found by name, offline."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medidiff.errors import ModelError
from medidiff.model_folder import read_spec

SHIPPED = Path(__file__).resolve().parent.parent / "pretrained"
MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Shipped:
    """A model that comes with the package, as a list shows it."""

    name: str
    megabytes: float
    images: str
    """Modality, grid and spacing."""
    licence: str
    """The first line of its LICENSE."""
    purpose: str
    """The card's first sentence on what the model is for."""


def shipped_names(folder: Path = SHIPPED) -> list[str]:
    """The names of the models in `folder`, sorted."""
    return sorted(path.parent.name for path in folder.glob("*/model.json"))


def shipped_folder(name: str, folder: Path = SHIPPED) -> Path:
    """Where the shipped model `name` lies.

    Errors: ModelError, naming those that there are.
    """
    names = shipped_names(folder)
    if name not in names:
        there = ", ".join(names) or "none is in this installation"
        raise ModelError(f"no shipped model is called {name!r} ({there})")
    return folder / name


def shipped_models(folder: Path = SHIPPED) -> list[Shipped]:
    """What there is, read from the models' own files."""
    return [_described(folder / name) for name in shipped_names(folder)]


def shipped_text(models: list[Shipped]) -> str:
    """The list as it is printed."""
    if not models:
        return "No model is shipped with this installation."
    blocks = [
        f"{model.name}  {model.megabytes:.1f} MB, {model.images}\n"
        f"    {model.purpose}\n"
        f"    Licence of the weights: {model.licence}"
        for model in models
    ]
    closing = f"medidiff sample {models[0].name} --n 8 --out samples"
    return "\n\n".join(blocks) + f"\n\nNext: {closing}"


def _described(place: Path) -> Shipped:
    spec = read_spec(place)
    spacing = spec.space.spacing_mm
    grid = " x ".join(map(str, spec.space.size))
    mm = spacing if isinstance(spacing, str) else " x ".join(f"{value:g}" for value in spacing)
    licence = (place / "LICENSE").read_text(encoding="utf-8").splitlines()
    return Shipped(
        place.name,
        (place / "model.safetensors").stat().st_size / MEGABYTE,
        f"{spec.modality}, {grid}, {mm} mm",
        licence[0].lstrip("# ") if licence else "not stated",
        _purpose((place / "card.md").read_text(encoding="utf-8")),
    )


def _purpose(card: str) -> str:
    """The first line of text below the card's heading "Intended use"."""
    _, _, below = card.partition("## Intended use\n")
    return next((line for line in below.splitlines() if line.strip()), "See its card.")
