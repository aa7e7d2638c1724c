"""The command line's verbs for manifests."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from medidiff import cli_paths
from medidiff.changes import pairs
from medidiff.errors import ConfigError

app = typer.Typer(
    help="Manifests: build one from a scanner's export, deal subjects to splits, look for leaks.",
    no_args_is_help=True,
)
ManifestFile = Annotated[Path, typer.Argument(help="The manifest", metavar="MANIFEST")]
NewFile = Annotated[Path, typer.Option("--out", "-o", help="New manifest (.csv)")]
SHARE = "split=share, e.g. train=0.8"
Resample = Literal["refuse", "resample"]


@app.command()
def build(
    folder: Annotated[Path, typer.Argument(help="Folder or archive of scans", metavar="FOLDER")],
    out: NewFile,
    subjects: Annotated[
        Literal["pseudonym", "raw"],
        typer.Option(help="Patient identifiers in headers: keyed pseudonyms, or as they stand"),
    ] = "pseudonym",
    tilt: Annotated[Resample, typer.Option(help="Series made with a tilted gantry")] = "refuse",
    gaps: Annotated[Resample, typer.Option(help="Series with uneven or missing slices")] = "refuse",
    arrange: Annotated[
        Literal["images", "cases"],
        typer.Option(help="A row an image, or a row a session with a column a sequence"),
    ] = "images",
    kspace: Annotated[
        Literal["volumes", "slices"],
        typer.Option(help="Fully sampled k-space (.h5): a row a file, or a row each slice"),
    ] = "volumes",
) -> None:
    """Write the manifest of a tree or archive of DICOM, NIfTI, NRRD, MetaImage, PNG, JPEG or
    fastMRI's k-space."""
    cli_paths.check_scans(folder)
    from medidiff import api

    made = api.build_manifest(
        folder,
        out,
        subjects=subjects,
        tilt=tilt,
        gaps=gaps,
        arrange=arrange,
        kspace=kspace,
        progress="bars",
    )
    typer.echo(made.text)
    typer.echo(f"Next: medidiff manifest split {out} --out split.csv")


@app.command()
def split(
    manifest: ManifestFile,
    out: NewFile,
    share: Annotated[
        list[str] | None,
        typer.Option(
            help="e.g. train=0.8; repeat for each (default: train 0.8, val 0.1, test 0.1)"
        ),
    ] = None,
    stratify: Annotated[
        list[str] | None, typer.Option(help="Column that every split has alike; repeat for more")
    ] = None,
    hold_out: Annotated[
        list[str] | None,
        typer.Option(help="Site whose subjects are all kept for testing; repeat for more"),
    ] = None,
    site_column: Annotated[str, typer.Option(help="Column that names the site")] = "site",
    hold_out_split: Annotated[str, typer.Option(help="Split of the sites held out")] = "test",
    seed: Annotated[int, typer.Option(help="Another seed deals subjects otherwise")] = 0,
) -> None:
    """Deal whole subjects to splits."""
    cli_paths.check_manifest(manifest)
    from medidiff import api

    said = api.split_manifest(
        manifest,
        out,
        shares=shares_of(share),
        stratify=stratify or (),
        hold_out=hold_out or (),
        site_column=site_column,
        hold_out_split=hold_out_split,
        seed=seed,
    )
    typer.echo(said)
    typer.echo(f"Next: medidiff manifest check {out}")


@app.command()
def check(
    manifest: ManifestFile,
    image: Annotated[
        list[str] | None, typer.Option(help="Image column; repeat for more (default: all)")
    ] = None,
    missing: Annotated[
        Literal["refused", "allowed"], typer.Option(help="Whether a row may lack an image")
    ] = "refused",
) -> None:
    """Open every image, and find subjects, images and pieces of one scan in two splits."""
    cli_paths.check_manifest(manifest)
    from medidiff import api

    typer.echo(api.check_manifest(manifest, images=image, missing=missing, progress="bars"))


def shares_of(items: list[str] | None) -> dict[str, float] | None:
    """Options given as split=share; None if there are none."""
    shares: dict[str, float] = {}
    for name, value in pairs(items, "--share", SHARE).items():
        try:
            shares[name] = float(value)
        except ValueError:
            raise ConfigError(f"--share {name}={value}: write it as {SHARE}") from None
    return shares or None
