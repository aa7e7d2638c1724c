"""Arguments and options that several verbs of the command line have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from medidiff.changes import pairs, parse_value, put
from medidiff.errors import ConfigError

RESERVED = {"task", "model", "input", "n", "seed", "mismatch", "progress", "limit", "out"}
RESERVED |= {"tile", "tile_overlap", "plane", "across"}
RESERVED |= {"manifest", "split", "validation_split", "holdout", "baselines"}
ConfigFile = Annotated[Path, typer.Argument(help="YAML configuration", metavar="CONFIG")]
Changes = Annotated[
    list[str] | None,
    typer.Option("--change", "-c", help="Change one key, e.g. train.steps=500; repeat for more"),
]
ModelName = Annotated[
    str,
    typer.Argument(
        help="Shipped name (see `medidiff models`), model or run folder, MLflow run id or "
        "models:/NAME@ALIAS",
        metavar="MODEL",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        "-s",
        help="An option of the task, e.g. sigma=0.1 or posterior.steps=50; repeat for more",
    ),
]
Seed = Annotated[int, typer.Option(help="Seed: the same one gives the same result")]
ValidationSplit = Annotated[
    str | None,
    typer.Option(help="Split that baselines are tuned on (default: as in training)"),
]
Holdout = Annotated[
    float | None,
    typer.Option(help="Share of the train subjects that stands in (default: as in training)"),
]
Limit = Annotated[int | None, typer.Option(help="At most this many scans of a split: a first look")]
MismatchChoice = Annotated[
    Literal["refuse", "warn"],
    typer.Option("--mismatch", help="What to do with input that does not fit the model"),
]
AccelerationChoice = Annotated[
    Literal["auto", "none"],
    typer.Option("--acceleration", help="On a GPU: bfloat16, fused kernels, CUDA graphs; or none"),
]
Tile = Annotated[
    int | None,
    typer.Option(help="Voxels along each axis of a tile: less memory, and inputs of any size"),
]
TileOverlap = Annotated[
    float, typer.Option(help="Share of a tile over which neighbours are blended")
]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Folder for the results")]


def settings_of(items: list[str] | None) -> dict[str, Any]:
    """Options of a task by their dotted keys; their values are YAML."""
    found: dict[str, Any] = {}
    for key, text in pairs(items, "--set").items():
        item = f"{key}={text}"
        if key.partition(".")[0] in RESERVED:
            raise ConfigError(f"--set {item}: this is no option of a task (see --help)")
        put(found, key, parse_value(text, item, "--set"), item, "--set")
    return found
