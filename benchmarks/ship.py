"""A trained prior made ready to ship: bf16 weights, its card made from the measurements, its
licence, the guard's verdict.

    python benchmarks/ship.py MODEL --result benchmarks/results/prior_brain_t1_2d.json \\
        --verdict prior_brain_t1_2d_memorisation.json

writes medidiff/pretrained/NAME. An over-trained model, or one whose weights the memorisation guard
did not judge, is refused unless forced. The part of the card that a person writes is
benchmarks/cards/NAME.md; the LICENSE lies in medidiff/pretrained/NAME beforehand.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import replace
from pathlib import Path

from record import ROOT

from medidiff.errors import ModelError
from medidiff.jobs.models import model_folder
from medidiff.jobs.pretrained import SHIPPED
from medidiff.jobs.verdict import FILE, check_memorisation
from medidiff.model import Model
from medidiff.spec import describe

CARDS = ROOT / "benchmarks" / "cards"
SIMULATED = "Noise is simulated on magnitude images."


def ship(
    source: Path,
    result: Path,
    verdict: Path,
    *,
    cards: Path = CARDS,
    shipped: Path = SHIPPED,
    force: bool = False,
) -> Path:
    """Put the model in `source` into `shipped`; gives its folder there.

    Errors: ModelError for weights that the guard did not judge or found over-trained, unless
    forced; for a missing LICENSE; if the model is shipped already.
    """
    model = Model.load(source, "cpu")
    name = model.spec.name
    place = shipped / name
    if not (place / "LICENSE").is_file():
        raise ModelError(f"{place}/LICENSE is missing: weights carry the licence of their data")
    if (place / "model.json").is_file():
        raise ModelError(f"{place} is shipped already; remove its files, all but LICENSE, first")
    measured = json.loads(result.read_text(encoding="utf-8"))
    written = (cards / f"{name}.md").read_text(encoding="utf-8")
    model.spec = replace(model.spec, metrics=model.spec.metrics | main_figures(measured))
    ready = place.with_name(f"{name}.ready")
    shutil.rmtree(ready, ignore_errors=True)
    try:
        model.save(ready, card(model, measured, written, place), dtype="bfloat16")
        shutil.copyfile(verdict, ready / FILE)
        if check_memorisation(ready, force) == "not checked" and not force:
            raise ModelError(f"{verdict} is about other weights; evaluate the bf16 ones themselves")
        for file in ready.iterdir():
            file.replace(place / file.name)
    finally:
        shutil.rmtree(ready)
    return place


def main_figures(measured: dict) -> dict[str, float]:
    """The figures that stand in the model itself."""
    return {
        row["what"].removeprefix("denoise ").replace(", ", " "): row["ours"]
        for row in measured["rows"]
        if row["what"].startswith("denoise") and "psnr" in row["what"]
    }


def card(model: Model, measured: dict, written: str, place: Path) -> str:
    """The whole card: what the specification says, what a person wrote, what was measured."""
    licence = (place / "LICENSE").read_text(encoding="utf-8").splitlines()[0]
    plain = describe(replace(model.spec, metrics={}))
    parts = [plain, f"Licence of the weights: **{licence}** (LICENSE beside this card).", written]
    return "\n".join([*parts, training(measured), metrics(measured), memory(measured)])


def training(measured: dict) -> str:
    """How it was trained, and its losses by noise level."""
    facts = measured["facts"]
    minutes = facts["training_minutes"]
    spent = "not recorded" if minutes is None else f"{sum(minutes):.0f} minutes"
    losses = facts["losses_by_level"]
    rows = [
        f"| {ratio:.3g} | "
        + " | ".join(f"{losses[split][index]:.4f}" for split in ("train", "validation", "test"))
        + " |"
        for index, ratio in enumerate(facts["noise_ratios"])
    ]
    return "\n".join(
        [
            "## Training",
            f"{facts['train_images']} images of {facts['train_subjects']} subjects, "
            f"{facts['parameters'] / 1e6:.2f} M parameters, weights of step {facts['steps']}; "
            f"{spent} on {measured['hardware']}.",
            "",
            "Mean squared error of the network's target by noise ratio (sigma / alpha):",
            "",
            "| noise ratio | train | validation | test |",
            "| --: | --: | --: | --: |",
            *rows,
            "",
        ]
    )


def metrics(measured: dict) -> str:
    """The figures, with n, region and data range."""
    facts = measured["facts"]
    denoised = any(row["what"].startswith("denoise") for row in measured["rows"])
    rows = []
    for row in measured["rows"]:
        if row["ours"] is None or row["what"].startswith(("nearest", "membership")):
            continue
        peers = ", ".join(f"{name} {value:.4g}" for name, value in row["peers"].items())
        rows.append(f"| {row['what']} | {row['ours']:.4g} {row['unit']} | {peers} |")
    return "\n".join(
        [
            "## Metrics",
            f"{facts['data']}. {facts['region']}. {facts['estimate'].capitalize()}; intervals "
            f"{facts['intervals']}. {SIMULATED if denoised else ''}".rstrip(),
            "",
            "| what | value | beside it |",
            "| --- | --: | --- |",
            *rows,
            "",
        ]
    )


def memory(measured: dict) -> str:
    """What the memorisation guard found."""
    found = measured["facts"]["memorisation"]
    rows = []
    for row in measured["rows"]:
        if row["what"].startswith(("nearest", "membership")):
            peers = ", ".join(f"{name} {value:.3g}" for name, value in row["peers"].items())
            rows.append(f"| {row['what']} | {row['ours']:.3g} | {peers} |")
    limits = ", ".join(f"{name} {value:g}" for name, value in found["limits"].items())
    return "\n".join(
        [
            "## Memorisation",
            f"Verdict of the guard: **{found['verdict']}** ({found['samples']} samples; "
            f"{found['unseen_subjects']} subjects of the {found['split']} split as unseen ones; "
            f"limits: {limits}).",
            *[f"- {reason}" for reason in found["reasons"]],
            "",
            "| what | value | beside it |",
            "| --- | --: | --- |",
            *rows,
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a model or run folder")
    parser.add_argument("--result", type=Path, required=True)
    parser.add_argument("--verdict", type=Path, required=True)
    parser.add_argument("--force", action="store_true")
    args = parser.parse_args()
    print(ship(model_folder(Path(args.model)), args.result, args.verdict, force=args.force))


if __name__ == "__main__":
    main()
