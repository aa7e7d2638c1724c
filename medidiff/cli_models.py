"""The command line's verbs for models: kept, registered, exported, imported, averaged."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from medidiff import cli_paths
from medidiff.cli_options import MismatchChoice, ModelName, Seed
from medidiff.errors import ConfigError


def models() -> None:
    """List the models that come with this installation: data, licence, what they are for."""
    from medidiff.jobs.pretrained import shipped_models, shipped_text

    typer.echo(shipped_text(shipped_models()))


def register(
    source: ModelName,
    name: Annotated[str, typer.Option(help="Name in the registry")],
    alias: Annotated[str | None, typer.Option(help="Alias of this version, e.g. champion")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also a model that was found over-trained")
    ] = False,
) -> None:
    """Register a model or run in MLflow (the server of MLFLOW_TRACKING_URI, else ./mlflow.db)."""
    from medidiff import api

    version = api.register(source, name, alias=alias, force=force, progress="bars")
    tell_registered(version, name, alias)


def export(
    model: ModelName,
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder for the copy")],
    dtype: Annotated[
        Literal["float32", "bfloat16"], typer.Option(help="Number format of the weights")
    ] = "float32",
    format: Annotated[
        Literal["medidiff", "monai-bundle"],
        typer.Option(help="A model folder, or a bundle that MONAI runs"),
    ] = "medidiff",
) -> None:
    """Copy a model to a plain, self-contained folder, or make a MONAI bundle of it."""
    from medidiff import api

    typer.echo(f"Model: {api.export(model, out, dtype=dtype, format=format)}")


def import_bundle(
    bundle: Annotated[Path, typer.Argument(help="Folder of a MONAI bundle", metavar="BUNDLE")],
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder for the model")],
    modality: Annotated[str | None, typer.Option(help="What the scanner was, e.g. MR")] = None,
    size: Annotated[str | None, typer.Option(help="Voxels along each axis, e.g. 64,64")] = None,
    spacing: Annotated[
        str | None, typer.Option(help='Voxel size in mm, e.g. 1.1,1.1,1.5, or "as stored"')
    ] = None,
    orientation: Annotated[
        str | None, typer.Option(help='e.g. RAS (PL in 2-D), or "as stored"')
    ] = None,
    intensity: Annotated[
        tuple[float, float] | None,
        typer.Option(help="The scans' intensities that become the value range: LOW HIGH"),
    ] = None,
    value_range: Annotated[
        tuple[float, float] | None,
        typer.Option(help="The values between which the network's images lie: LOW HIGH"),
    ] = None,
    images: Annotated[str | None, typer.Option(help="Names of the channels, e.g. t1,t2")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model")] = None,
    weights: Annotated[str | None, typer.Option(help="File of the weights in models/")] = None,
    autoencoder_weights: Annotated[
        str | None, typer.Option(help="File of the autoencoder's weights in models/")
    ] = None,
    change: Annotated[
        list[str] | None,
        typer.Option("--change", "-c", help="State a value of the bundle's configurations, e.g. "
                     "network_def.in_channels=4; repeat for more"),
    ] = None,
) -> None:  # fmt: skip
    """Make a model of a MONAI bundle. Nothing in the bundle is run or unpickled."""
    from medidiff import api

    found = api.import_bundle(
        bundle,
        out,
        modality=modality,
        size=None if size is None else [int(each) for each in _numbers(size, "--size")],
        spacing_mm=_spacing(spacing),
        orientation=orientation,
        intensity=intensity,
        value_range=value_range,
        images=None if images is None else images.split(","),
        name=name,
        weights=weights,
        autoencoder_weights=autoencoder_weights,
        changes=change or [],
    )
    for note in found.notes:
        typer.echo(note)
    for part, difference in found.differences.items():
        typer.echo(f"largest difference to the output of MONAI's own {part}: {difference:.2g}")
    if not found.differences:
        typer.echo("MONAI's own network is not installed here (einops): outputs were not compared")
    typer.echo(f"Model: {out}")


def gamma(
    model: ModelName,
    manifest: Annotated[Path, typer.Option(help="Manifest of the scans it was trained on")],
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder for the copy")],
    levels: Annotated[int, typer.Option(help="Noise levels that are measured")] = 100,
    seed: Seed = 0,
    mismatch: MismatchChoice = "refuse",
) -> None:
    """Copy a model with its Gamma table measured, for samplers of optimal variance."""
    cli_paths.check_manifest(manifest)
    from medidiff import api

    place = api.gamma(
        model,
        out,
        manifest=manifest,
        levels=levels,
        seed=seed,
        mismatch=mismatch,
        progress="bars",
    )
    typer.echo(f"Model: {place}")


def average(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run", metavar="RUN")],
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder for the model")],
    std: Annotated[
        float, typer.Option(help="Length: relative standard deviation, a share of the training")
    ],
) -> None:
    """The model of a run with its weights averaged over another length (train.ema.kind=power)."""
    from medidiff import api

    typer.echo(f"Model: {api.average(run, out, std=std)}")


def sync(
    folder: Annotated[Path, typer.Argument(help="A run's folder, or one above many")],
) -> None:
    """Send to MLflow what runs could not send, e.g. from nodes without a network."""
    from medidiff import api

    typer.echo(f"{api.sync(folder)} events sent")


def tell_registered(version: int, name: str, alias: str | None) -> None:
    address = f"models:/{name}@{alias}" if alias else f"models:/{name}/{version}"
    typer.echo(f"Registered version {version}: {address}")


def _numbers(text: str, option: str) -> list[float]:
    """Numbers with commas between them."""
    try:
        return [float(each) for each in text.split(",")]
    except ValueError:
        raise ConfigError(f"{option} {text}: write numbers with commas between them") from None


def _spacing(text: str | None) -> list[float] | Literal["as stored"] | None:
    if text is None or text == "as stored":
        return text
    return _numbers(text, "--spacing")
