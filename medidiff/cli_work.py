"""The command line's verbs that draw images and put a model to work on scans."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from medidiff import cli_dicom, cli_paths
from medidiff.changes import pairs
from medidiff.cli_options import (
    AccelerationChoice,
    MismatchChoice,
    ModelName,
    Seed,
    Settings,
    Tile,
    TileOverlap,
    settings_of,
)


def sample(
    model: ModelName,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the images")],
    n: Annotated[int, typer.Option(help="Number of images")] = 4,
    steps: Annotated[int | None, typer.Option(help="Sampling steps (default: the model's)")] = None,
    condition: Annotated[
        list[str] | None, typer.Option("--condition", help="e.g. sex=F; repeat for more")
    ] = None,
    guidance: Annotated[float, typer.Option(help="Guidance scale, 1 = plain conditional")] = 1.0,
    guidance_interval: Annotated[
        tuple[float, float] | None,
        typer.Option(help="Guide between these noise ratios (sigma / alpha) only: LOW HIGH"),
    ] = None,
    noise: Annotated[
        Literal["keyed", "brownian"] | None,
        typer.Option(help="Of a stochastic sampler: its own for each step, or one Brownian path"),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set", "-s", help="A sampling option, e.g. sampler='{kind: ddim}'; repeat for more"
        ),
    ] = None,
    classifier: Annotated[
        str | None, typer.Option(help="Classifier of noisy images that guides (a model)")
    ] = None,
    towards: Annotated[
        list[str] | None, typer.Option("--towards", help="Its class to guide to, e.g. sex=F")
    ] = None,
    classifier_scale: Annotated[
        float, typer.Option(help="Strength of the classifier, 0 = none")
    ] = 1.0,
    encoder: Annotated[
        str | None, typer.Option(help="Noised encoder that guides to an image (a model)")
    ] = None,
    towards_image: Annotated[
        str | None, typer.Option(help="That image; join the channels of a case by commas")
    ] = None,
    aim: Annotated[
        Literal["content", "structure", "style"],
        typer.Option(help="What of the image to guide to"),
    ] = "content",
    image_scale: Annotated[float, typer.Option(help="Strength of that, 0 = none")] = 100.0,
    sampler: Annotated[
        str | None,
        typer.Option(help="Instead of the model's own, e.g. '{kind: ddim, eta: 1}' or ddpm"),
    ] = None,
    tile: Tile = None,
    tile_overlap: TileOverlap = 0.25,
    slices: Annotated[
        int | None,
        typer.Option(help="Volumes of so many slices, from a model of slices and their neighbours"),
    ] = None,
    seed: Seed = 0,
    acceleration: AccelerationChoice = "auto",
    format: Annotated[
        Literal["nifti", "dicom"],
        typer.Option(help="NIfTI files, or a folder an image with the DICOM series of a patient "
                     "of its own"),
    ] = "nifti",
) -> None:  # fmt: skip
    """Draw synthetic images, with their provenance, and a sheet of them."""
    cli_paths.check_scans(*map(Path, [] if towards_image is None else towards_image.split(",")))
    from medidiff.jobs.sample import sample_to_folder

    files, nfe = sample_to_folder(
        model,
        out,
        acceleration=acceleration,
        n=n,
        steps=steps,
        condition=pairs(condition, "--condition"),
        guidance=guidance,
        guidance_interval=guidance_interval,
        classifier=classifier,
        towards=pairs(towards, "--towards"),
        classifier_scale=classifier_scale,
        encoder=encoder,
        towards_image=towards_image,
        aim=aim,
        image_scale=image_scale,
        tile=tile,
        tile_overlap=tile_overlap,
        slices=slices,
        seed=seed,
        changes=settings_of(
            [
                *(setting or []),
                *([] if noise is None else [f"noise={noise}"]),
                *([] if sampler is None else [f"sampler={sampler}"]),
            ]
        ),
        format=format,
    )
    typer.echo(
        f"{n} synthetic images in {out}, {len(files)} files ({nfe} network calls each); "
        f"sheet: {out / 'sheet.png'}"
    )


def run(
    task: Annotated[
        str,
        typer.Argument(help="denoise, reconstruct, super_resolution or inpaint", metavar="TASK"),
    ],
    model: ModelName,
    inputs: Annotated[
        list[str],
        typer.Argument(
            help="Scans (join the channels of one case by commas); k-space or sinograms",
            metavar="INPUT...",
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="A folder, or a .nii.gz file for one input")
    ],
    setting: Settings = None,
    n: Annotated[int, typer.Option(help="Posterior samples; more than 1 adds maps")] = 1,
    seed: Seed = 0,
    mismatch: MismatchChoice = "refuse",
    tile: Tile = None,
    tile_overlap: TileOverlap = 0.25,
    plane: Annotated[
        str | None,
        typer.Option(
            help="For a volume and a model of slices: directions in which rows and columns count "
            "up, e.g. PL (default: the model's, else PL)"
        ),
    ] = None,
    across: Annotated[
        Literal["one", "three"],
        typer.Option(
            "--across", help="Slices of that plane, or of three orientations, averaged each step"
        ),
    ] = "one",
    acceleration: AccelerationChoice = "auto",
    format: Annotated[
        Literal["nifti", "dicom"],
        typer.Option(help="NIfTI files, or a folder a case of derived DICOM series"),
    ] = "nifti",
    patient: cli_dicom.PatientOption = None,
    deidentify: cli_dicom.DeidentifyOption = "none",
    sheet: Annotated[
        bool,
        typer.Option("--sheet", help="A picture beside each result: input, result, deviation"),
    ] = False,
) -> None:
    """Put a model to work on scans; results lie on the input's grid, with their provenance.

    A model of slices takes volumes slice by slice; --tile takes what is larger
    than the grid. As DICOM they belong to the study of a DICOM input; of other
    inputs a study is made. The provenance's residual is the distance to what
    was measured over what its noise explains: far above 1 the image does not
    fit it; a mean of samples may lie below 1, one sample should not.
    """
    cli_paths.check_scans(*(Path(file) for item in inputs for file in item.split(",")))
    from medidiff import api
    from medidiff.jobs.result_sheets import save_sheet
    from medidiff.jobs.run import output_files, save_result
    from medidiff.jobs.to_dicom import patient_of
    from medidiff.tasks import head_and_beside

    settings = settings_of(setting)
    chosen, beside = head_and_beside(task, settings)
    cli_paths.check_scans(*(Path(each) for each in beside.values() if isinstance(each, str)))
    cases: list[list[str | os.PathLike[str]]] = [[*item.split(",")] for item in inputs]
    targets = output_files(cases, out, task, format, deidentify, pictures=sheet)
    whose = patient_of(pairs(patient, "--patient"))
    loaded = api.load(model, acceleration=acceleration)
    results = api.run_each(
        task,
        loaded,
        cases,
        n=n,
        seed=seed,
        mismatch=mismatch,
        tile=tile,
        tile_overlap=tile_overlap,
        plane=plane,
        across=across,
        progress="bars",
        **settings,
    )
    for case, target, result in zip(cases, targets, results, strict=True):  # saved one by one
        for file in save_result(result, case, target, format, whose, deidentify):
            typer.echo(file)
        if sheet:
            typer.echo(save_sheet(result, chosen, loaded, case, target))
    if format == "dicom":
        cli_dicom.tell_of_faces(deidentify)
