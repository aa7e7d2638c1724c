"""The command line's verbs for what is kept on this machine."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

app = typer.Typer(
    help="Prepared images and facts of files that are kept on this machine: how much, and clear.",
    no_args_is_help=True,
)


@app.command()
def show() -> None:
    """Where caches lie, and how large they are."""
    from medidiff import api

    for one in api.caches():
        typer.echo(one.text)


@app.command()
def clear(
    name: Annotated[
        Literal["images", "files", "headers"], typer.Argument(help="Which one", metavar="NAME")
    ],
    unused_days: Annotated[
        float,
        typer.Option(
            help="Of images alone: only those that no training has asked for in so many days"
        ),
    ] = 0.0,
) -> None:
    """Remove prepared images, or what is known of files. Nothing is lost but time."""
    from medidiff import api

    count, size = api.clear_cache(name, unused_days=unused_days)
    typer.echo(f"{count} files removed, {size / 1e6:.1f} MB")
