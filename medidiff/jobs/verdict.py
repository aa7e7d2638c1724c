"""The memorisation guard's verdict as it lies in a model's folder, bound to the weights there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from medidiff.errors import ModelError, OutputError
from medidiff.model_folder import digest, write_json

FILE = "memorisation.json"


def check_memorisation(folder: Path, force: bool) -> Literal["passed", "forced", "not checked"]:
    """What the guard said of the weights in `folder`.

    Errors: ModelError for an over-trained model, unless forced.
    """
    content = _of_these_weights(folder)
    if content is None:
        return "not checked"
    if content["verdict"] == "passed":
        return "passed"
    if force:
        return "forced"
    raise ModelError(
        f"{folder.name}: the memorisation guard found it over-trained: "
        + "; ".join(content["reasons"])
        + ". Train for fewer steps or a smaller network; to go on all the same, force it "
        "(--force, force=True)."
    )


def keep_verdict(content: Mapping[str, object], folder: Path) -> None:
    """Leave the verdict on its weights in a model's folder.

    Errors: OutputError, with the verdict, if nothing can be written there.
    """
    try:
        write_json(folder / FILE, content)
    except OSError as error:
        raise OutputError(
            f"the memorisation guard's verdict ({content['verdict']}) cannot be kept in {folder} "
            f"({error.strerror}), where register reads it: copy the model to a folder of your own "
            "(medidiff export) and judge the copy"
        ) from None


def carry_verdict(source: Path, copy: Path) -> None:
    """Put the verdict on `source` beside its `copy`, whose weights are the same but for their
    number format; `judged_weights` is then the digest of those that were judged."""
    content = _of_these_weights(source)
    if content is not None:
        judged = content.get("judged_weights", content["weights"])
        own = {"weights": _digest(copy), "judged_weights": judged}
        write_json(copy / FILE, {**content, **own})


def _of_these_weights(folder: Path) -> dict[str, Any] | None:
    """The verdict in `folder`; None where there is none, or one on other weights."""
    file = folder / FILE
    if not file.is_file():
        return None
    content = json.loads(file.read_text(encoding="utf-8"))
    return content if content["weights"] == _digest(folder) else None


def _digest(folder: Path) -> str:
    return digest(folder / "model.safetensors")
