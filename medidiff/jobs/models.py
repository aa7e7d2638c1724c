"""Finding a model by the name a person has for it, registering it, and taking a copy."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import Literal

import torch

from medidiff.errors import ModelError
from medidiff.jobs.bundles.configs import is_bundle, read_bundle
from medidiff.jobs.bundles.describing import Stated
from medidiff.jobs.bundles.exporting import export_bundle
from medidiff.jobs.bundles.importing import import_bundle
from medidiff.jobs.folder import close_interrupted
from medidiff.jobs.pretrained import SHIPPED, shipped_folder, shipped_names
from medidiff.jobs.reporting import Reporter
from medidiff.jobs.verdict import carry_verdict, check_memorisation
from medidiff.model import Model, default_device
from medidiff.model_folder import check_folder
from medidiff.networks import Acceleration
from medidiff.outputs import check_new_folder
from medidiff.tasks import calibrated
from medidiff.tracking import fetch, register

UNSOUND = {
    "not checked": "not checked for memorisation (medidiff evaluate --memorisation)",
    "forced": "forced: the memorisation guard found this model over-trained",
}
RUN_ID = re.compile(r"[0-9a-f]{32}")


def model_folder(name: str | os.PathLike[str], shipped: Path = SHIPPED) -> Path:
    """The folder of a model given as a folder, a run's folder, a run id, `models:/name@alias` or a
    shipped name.

    A shipped name means the shipped model wherever it is said; a folder of the same name is meant
    by a path (./brain-t1-2d, or a Path).
    Errors: ModelError (a MONAI bundle is no model folder until it is imported), RegistryError.
    """
    text = os.fspath(name)
    if isinstance(name, str) and text in shipped_names(shipped):
        return shipped_folder(text, shipped)
    if text.startswith(("models:/", "runs:/")):
        return fetch(text)
    place = Path(text)
    for folder in (place, place / "model"):
        if (folder / "model.json").is_file() or (folder / "SHA256SUMS").is_file():
            close_interrupted(place)
            return folder
    if place.is_dir():
        if (place / "checkpoints").is_dir():
            raise ModelError(
                f"{text}: this run has no finished model yet; go on with it (--resume)"
            )
        if is_bundle(place):
            raise ModelError(
                f"{text} is a MONAI bundle: make a model of it first (medidiff import-bundle)"
            )
        raise ModelError(f"{text} is not a model folder: it holds no model.json")
    if RUN_ID.fullmatch(text):
        return fetch(f"runs:/{text}")
    names = shipped_names(shipped)
    close = difflib.get_close_matches(text, names, n=1)
    raise ModelError(
        f"no model {text!r}: it is not a folder, a run id, a models:/NAME@ALIAS or a shipped name "
        f"({', '.join(names) or 'none is in this installation'})"
        + (f"; did you mean {close[0]!r}?" if close else "")
    )


def load_model(
    name: str | os.PathLike[str] | Model,
    device: str | torch.device | None = None,
    acceleration: Acceleration = "auto",
    shipped: Path = SHIPPED,
) -> Model:
    """The model that `name` says, on `device` (default: a GPU when there is one)."""
    if isinstance(name, Model):
        return name
    if is_bundle(Path(name)) and name not in shipped_names(shipped):
        bundle = read_bundle(Path(name))
        chosen = default_device() if device is None else device
        return import_bundle(bundle, Stated(), chosen, acceleration).model
    return Model.load(model_folder(name, shipped), device, acceleration)


def register_model(
    source: str | os.PathLike[str],
    name: str,
    alias: str | None,
    *,
    force: bool = False,
    report: Reporter,
) -> int:
    """Make a model a version of the registered model `name`; gives the version.

    A model that the memorisation guard was not asked about, or that is forced, is told as such.

    Errors: ModelError for a folder that is not whole, and for a model that was found over-trained
    unless `force`; RegistryError for the server's refusal.
    """
    folder = model_folder(source)
    check_folder(folder)
    told = UNSOUND.get(check_memorisation(folder, force))
    if told:
        report.say(told)
    return register(folder, name, alias=alias)


def export_model(
    source: str | os.PathLike[str],
    out: Path,
    dtype: Literal["float32", "bfloat16"],
    format: Literal["medidiff", "monai-bundle"] = "medidiff",
) -> Path:
    """A copy of the model as a plain folder, its weights in `dtype`, with the memorisation guard's
    verdict on it and those on its maps; or a MONAI bundle, which has no place for them.

    Errors: OutputError if `out` already holds something; ModelError for a bundle of a network or a
    schedule that MONAI does not have.
    """
    check_new_folder(out)
    folder = model_folder(source)
    card = (folder / "card.md").read_text(encoding="utf-8")
    if format == "monai-bundle":
        return export_bundle(Model.load(folder, "cpu"), card, out)
    copy = Model.load(folder, "cpu").save(out, card, dtype=dtype)
    carry_verdict(folder, copy)
    calibrated.carry(folder, copy)
    return copy
