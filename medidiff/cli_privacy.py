"""The command line's verbs for privacy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from medidiff import cli_paths

Folder = Annotated[Path, typer.Argument(help="Folder or archive, of any depth", metavar="FOLDER")]
Retained = Literal["remove", "retain"]


def deidentify(
    folder: Folder,
    out: Annotated[Path, typer.Argument(help="New folder for the copies", metavar="OUT")],
    dates: Annotated[
        Literal["remove", "shift"],
        typer.Option(help="Dates go, or move by a number of days that is one subject's own"),
    ] = "remove",
    device: Annotated[
        Retained, typer.Option(help="What identifies the scanner: station, serial number")
    ] = "remove",
    patient: Annotated[
        Retained, typer.Option(help="Age (up to 90), sex, size, weight and the like")
    ] = "remove",
    keep_private: Annotated[
        list[str] | None,
        typer.Option(
            help="Private attribute known to be safe: GROUP,ELEMENT,CREATOR, e.g. "
            '"0019,0c,SIEMENS MR HEADER"; repeat for more'
        ),
    ] = None,
    burnt_in: Annotated[
        Literal["leave-out", "keep"],
        typer.Option(help="Images whose header says, or does not deny, that text is burnt in"),
    ] = "leave-out",
) -> None:
    """Copy DICOM images without what identifies their patients: attributes only, not pixels."""
    cli_paths.check_scans(folder)
    from medidiff import api

    said = api.deidentify(
        folder,
        out,
        dates=dates,
        device=device,
        patient=patient,
        keep_private=keep_private or (),
        burnt_in=burnt_in,
        progress="bars",
    )
    typer.echo(said)


def find_phi(
    folder: Folder,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the counts to this JSON file, too")
    ] = None,
    pixels: Annotated[
        Literal["look", "skip"], typer.Option(help="Whether to look for writing in images")
    ] = "look",
) -> None:
    """Look for protected health information: attributes, private ones, free text, burnt-in text.

    Counts by file; values are written to the private log alone. Exit code 1 if something is found,
    or if files could not be read or are of unknown kinds.
    """
    cli_paths.check_scans(folder)
    from medidiff import api

    found = api.find_phi(folder, out=out, pixels=pixels, progress="bars")
    typer.echo(found.text)
    if not found.clean:
        raise typer.Exit(1)


def deface(
    scan: Annotated[
        Path,
        typer.Argument(help="Head volume: a file, or a folder with one series", metavar="SCAN"),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="New file (.nii.gz)")],
    mask: Annotated[
        Path | None, typer.Option(help="Write what was taken to this file (.nii.gz), too")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Write before and after to this file (.png), too")
    ] = None,
    fill: Annotated[Literal["air", "blur"], typer.Option(help="What the face becomes")] = "air",
    margin: Annotated[
        float, typer.Option(help="Move the cut up by so many mm (takes more), or down")
    ] = 0.0,
) -> None:
    """Take the face off a head volume by a simple rule. Look at every result: it may fail."""
    cli_paths.check_scans(scan)
    from medidiff import api

    typer.echo(api.deface(scan, out, mask=mask, picture=picture, fill=fill, margin_mm=margin))


def add_to(app: typer.Typer) -> None:
    """Make them verbs of `app`."""
    for verb in (deidentify, find_phi, deface):
        app.command()(verb)
