"""The command line's verbs around a training: plan it, check it, do it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from medidiff import cli_paths
from medidiff.cli_models import tell_registered
from medidiff.cli_options import Changes, ConfigFile


def plan(
    manifest: Annotated[Path, typer.Argument(help="Manifest of the scans", metavar="MANIFEST")],
    out: Annotated[Path, typer.Option("--out", "-o", help="New configuration")] = Path("plan.yaml"),
    gpu_memory: Annotated[
        float, typer.Option(min=0.1, help="GiB of the GPU that the training must fit into")
    ] = 24.0,
    image: Annotated[
        list[str] | None,
        typer.Option(help="Image column, a channel; repeat for more (default: all complete ones)"),
    ] = None,
    method: Annotated[
        Literal["auto", "whole", "wavelet", "patch", "latents"],
        typer.Option(
            help="Whole images, a wavelet's bands, patches, latents (default: what fits first)"
        ),
    ] = "auto",
    modality: Annotated[str | None, typer.Option(help="Where the scans do not say it")] = None,
    window: Annotated[
        Literal["full", "brain", "subdural", "soft-tissue", "mediastinum", "lung", "bone"] | None,
        typer.Option(help="CT window (default: full)"),
    ] = None,
    dims: Annotated[
        int | None,
        typer.Option(
            min=2,
            max=3,
            help="2: slices of volumes; 3: whole ones (default: 2 if slices are thick)",
        ),
    ] = None,
) -> None:
    """Propose a training for a manifest's scans: a configuration with the reason beside each
    line."""
    cli_paths.check_manifest(manifest)
    from medidiff import api

    found = api.plan(
        manifest,
        out,
        gpu_memory=gpu_memory,
        images=image,
        method=None if method == "auto" else method,
        modality=modality,
        window=window,
        dims=dims,  # type: ignore[arg-type]
        progress="bars",
    )
    typer.echo(found.text)
    if found.first is None:
        typer.echo(f"Next: medidiff check {out} --gpu-memory {gpu_memory:g}")
        return
    typer.echo("Next, in this order:")
    for file in (found.first, out):
        typer.echo(f"  medidiff check {file} --gpu-memory {gpu_memory:g}")
        typer.echo(f"  medidiff train {file}")


def check(
    config: ConfigFile,
    change: Changes = None,
    gpu_memory: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            help="Say whether training fits into a GPU of so many GiB, and what could be changed "
            "(exit code 1: it does not fit)",
        ),
    ] = None,
) -> None:
    """Check a configuration and every scan that it names, without training."""
    cli_paths.check_config(config, change or [])
    from medidiff import api

    found = api.check(config, changes=change or [], gpu_memory=gpu_memory, progress="bars")
    slices = found.slices
    kind = "images" if slices is None else f"volumes, cut into {slices.plane} slices"
    typer.echo(
        f"{config}: sound. {found.train_images} training and {found.validation_images} "
        f"validation {kind}, network of {found.parameters / 1e6:.2f} M parameters."
    )
    for note in found.notes:
        typer.echo(f"Note: {note}")
    if found.memory is not None:
        typer.echo(found.memory.text)
        if not found.memory.fits:
            raise typer.Exit(1)


def train(
    config: ConfigFile,
    change: Changes = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the interrupted run")
    ] = False,
    parent: Annotated[
        str | None,
        typer.Option("--from", help="Fine-tune this model; or train a head on it, or beside it"),
    ] = None,
    register: Annotated[
        str | None, typer.Option(help="Register the finished model under this name")
    ] = None,
    alias: Annotated[str | None, typer.Option(help="Alias for the registered version")] = None,
) -> None:
    """Train as the configuration says: a prior, an autoencoder for its latents, a head for its
    variance, a two-call student of it, a classifier or an encoder to guide it."""
    cli_paths.check_config(config, change or [])
    from medidiff import api

    folder = api.train(config, changes=change or [], resume=resume, parent=parent, progress="bars")
    typer.echo(f"Model: {folder / 'model'}")
    if register:
        version = api.register(folder, register, alias=alias, progress="bars")
        tell_registered(version, register, alias)
    else:
        typer.echo(_next(folder))


def _next(folder: Path) -> str:
    """What a run's model is good for."""
    import json

    role = json.loads((folder / "model" / "model.json").read_text(encoding="utf-8"))["role"]
    use = {
        "autoencoder": "medidiff train PRIOR.yaml -c codec.kind=autoencoder -c codec.model={}",
        "classifier": "medidiff sample PRIOR --classifier {} --towards COLUMN=CLASS --out samples",
        "encoder": "medidiff sample PRIOR --sampler ddpm --encoder {} --towards-image FILE "
        "--out samples",
    }.get(role, "medidiff sample {} --n 8 --out samples")
    return f"Next: {use.format(folder)}"
