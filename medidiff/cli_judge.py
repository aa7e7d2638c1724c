"""The command line's verbs that say how good a model is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from medidiff import cli_paths
from medidiff.cli_options import (
    AccelerationChoice,
    Holdout,
    Limit,
    MismatchChoice,
    ModelName,
    Out,
    Seed,
    Settings,
    Tile,
    TileOverlap,
    ValidationSplit,
    settings_of,
)


def benchmark(
    task: Annotated[
        str,
        typer.Argument(
            help="synthesis, denoise, reconstruct, super_resolution or inpaint", metavar="TASK"
        ),
    ],
    model: ModelName,
    manifest: Annotated[Path, typer.Option(help="Manifest of the scans")],
    split: Annotated[str, typer.Option(help="Split that is reported")] = "test",
    validation_split: ValidationSplit = None,
    holdout: Holdout = None,
    out: Out = None,
    setting: Settings = None,
    n: Annotated[int, typer.Option(help="Posterior samples a case")] = 1,
    seed: Seed = 0,
    limit: Limit = None,
    mismatch: MismatchChoice = "refuse",
    tile: Tile = None,
    tile_overlap: TileOverlap = 0.25,
    baselines: Annotated[
        Literal["tuned", "none"],
        typer.Option("--baselines", help="none: the network alone, seconds instead of minutes"),
    ] = "tuned",
    acceleration: AccelerationChoice = "auto",
) -> None:
    """A task against its baselines on one split: a table, JSON, and a CSV with a row a subject."""
    cli_paths.check_manifest(manifest)
    from medidiff import api

    table = api.benchmark(
        task,
        api.load(model, acceleration=acceleration),
        manifest=manifest,
        split=split,
        validation_split=validation_split,
        holdout=holdout,
        out=out,
        n=n,
        seed=seed,
        limit=limit,
        mismatch=mismatch,
        baselines=baselines,
        tile=tile,
        tile_overlap=tile_overlap,
        progress="bars",
        **settings_of(setting),
    )
    typer.echo(table.text)
    say_where(out)


def evaluate(
    model: ModelName,
    manifest: Annotated[Path, typer.Option(help="Manifest of the scans")],
    split: Annotated[str, typer.Option(help="Split that is reported")] = "test",
    validation_split: ValidationSplit = None,
    holdout: Holdout = None,
    n: Annotated[int, typer.Option(help="Samples to draw")] = 64,
    seed: Seed = 0,
    out: Out = None,
    limit: Limit = None,
    mismatch: MismatchChoice = "refuse",
    acceleration: AccelerationChoice = "auto",
    likelihood: Annotated[
        bool, typer.Option("--likelihood", help="Add the flow's log-likelihood of the scans")
    ] = False,
    bound: Annotated[
        bool, typer.Option("--bound", help="Add the variational bound on the log-likelihood")
    ] = False,
    probes: Annotated[
        int, typer.Option(help="Sign fields that estimate the divergence of large images")
    ] = 8,
    bound_steps: Annotated[int, typer.Option(help="Steps of the process of --bound")] = 1000,
    bit_depth: Annotated[
        int | None,
        typer.Option(help="Add bits: the scans hold whole intensities of so many bits"),
    ] = None,
    memorisation: Annotated[
        bool,
        typer.Option(
            "--memorisation", help="Ask the memorisation guard; --n 500 samples say something"
        ),
    ] = False,
) -> None:
    """How good a prior is: loss by noise level on a split, samples beside real images."""
    cli_paths.check_manifest(manifest)
    from medidiff import api

    methods: list[Literal["flow", "bound"]] = []
    if likelihood:
        methods.append("flow")
    if bound:
        methods.append("bound")

    found = api.evaluate(
        api.load(model, acceleration=acceleration),
        manifest=manifest,
        split=split,
        validation_split=validation_split,
        holdout=holdout,
        n=n,
        seed=seed,
        out=out,
        limit=limit,
        mismatch=mismatch,
        likelihood=methods,
        probes=probes,
        bound_steps=bound_steps,
        bit_depth=bit_depth,
        memorisation=memorisation,
        progress="bars",
    )
    typer.echo(found.text)
    say_where(out)


def say_where(out: Path | None) -> None:
    """Name the files of results below the table, where there are any."""
    if out is not None:
        typer.echo(f"in {out}: {', '.join(sorted(file.name for file in out.iterdir()))}")
