"""The command line: one function a verb, which parses, calls the package and prints.

Nothing heavy is imported before a verb runs, so that `--help` answers at once.
"""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from medidiff import cli_cache, cli_dicom, cli_manifest, cli_paths, cli_privacy
from medidiff.changes import pairs as _pairs
from medidiff.changes import parse_value
from medidiff.errors import ConfigError, MedidiffError

NOTICE = "Research only: not a medical device, not for diagnosis."
RESERVED = {"task", "model", "input", "n", "seed", "mismatch", "progress", "limit", "out"}
RESERVED |= {"tile", "tile_overlap", "plane", "across"}
RESERVED |= {"manifest", "split", "validation_split", "holdout", "baselines"}
app = typer.Typer(
    help=f"Diffusion priors for medical images: train, track in MLflow, put to work. {NOTICE}",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(cli_manifest.app, name="manifest")
app.command()(cli_dicom.to_dicom)
cli_privacy.add_to(app)
app.add_typer(cli_cache.app, name="cache")

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
    typer.Option("--set", "-s", help="An option of the task, e.g. sigma=0.1; repeat for more"),
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


@app.command()
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


@app.command()
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


@app.command()
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
        _registered(version, register, alias)
    else:
        typer.echo(_next(folder))


@app.command()
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
    from medidiff.jobs.sample import sample_to_folder

    files, nfe = sample_to_folder(
        model,
        out,
        acceleration=acceleration,
        n=n,
        steps=steps,
        condition=_pairs(condition, "--condition"),
        guidance=guidance,
        guidance_interval=guidance_interval,
        classifier=classifier,
        towards=_pairs(towards, "--towards"),
        classifier_scale=classifier_scale,
        encoder=encoder,
        towards_image=towards_image,
        aim=aim,
        image_scale=image_scale,
        tile=tile,
        tile_overlap=tile_overlap,
        slices=slices,
        seed=seed,
        changes=_settings(
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


@app.command()
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
) -> None:
    """Put a model to work on scans; results lie on the input's grid, with their provenance.

    A model of slices takes volumes slice by slice; --tile takes what is larger than the grid.
    As DICOM they belong to the study of a DICOM input; of other inputs a study is made.
    """
    cli_paths.check_scans(*(Path(file) for item in inputs for file in item.split(",")))
    from medidiff import api
    from medidiff.jobs.run import output_files, save_result
    from medidiff.jobs.to_dicom import patient_of

    cases: list[list[str | os.PathLike[str]]] = [[*item.split(",")] for item in inputs]
    targets = output_files(cases, out, task, format, deidentify)
    whose = patient_of(_pairs(patient, "--patient"))
    settings, loaded = _settings(setting), api.load(model, acceleration=acceleration)
    for case, target in zip(cases, targets, strict=True):  # saved one by one: none is lost
        results = api.run(
            task,
            loaded,
            [case],
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
        for file in save_result(results[0], case, target, format, whose, deidentify):
            typer.echo(file)
    if format == "dicom":
        cli_dicom.tell_of_faces(deidentify)


@app.command()
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
    limit: Annotated[int | None, typer.Option(help="At most this many scans of a split")] = None,
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
        **_settings(setting),
    )
    typer.echo(table.text)


@app.command()
def evaluate(
    model: ModelName,
    manifest: Annotated[Path, typer.Option(help="Manifest of the scans")],
    split: Annotated[str, typer.Option(help="Split that is reported")] = "test",
    validation_split: ValidationSplit = None,
    holdout: Holdout = None,
    n: Annotated[int, typer.Option(help="Samples to draw")] = 64,
    seed: Seed = 0,
    out: Out = None,
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
        mismatch=mismatch,
        likelihood=methods,
        probes=probes,
        bound_steps=bound_steps,
        bit_depth=bit_depth,
        memorisation=memorisation,
        progress="bars",
    )
    typer.echo(found.text)


@app.command()
def models() -> None:
    """List the models that come with this installation: data, licence, what they are for."""
    from medidiff.jobs.pretrained import shipped_models, shipped_text

    typer.echo(shipped_text(shipped_models()))


@app.command()
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
    _registered(version, name, alias)


@app.command()
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


@app.command()
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


@app.command()
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


@app.command()
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


@app.command()
def sync(
    folder: Annotated[Path, typer.Argument(help="A run's folder, or one above many")],
) -> None:
    """Send to MLflow what runs could not send, e.g. from nodes without a network."""
    from medidiff import api

    typer.echo(f"{api.sync(folder)} events sent")


@app.command()
def demo(
    folder: Annotated[Path, typer.Option(help="Folder for everything that the demo makes")] = Path(
        "medidiff-demo"
    ),
) -> None:
    """The main job in a few minutes on a CPU, on generated head phantoms: no data, no GPU."""
    from medidiff import api

    typer.echo(api.demo(folder, progress="bars").text)


@app.command()
def phantoms(
    out: Annotated[Path, typer.Argument(help="New folder for the images", metavar="OUT")],
    kind: Annotated[
        Literal["head", "thorax"], typer.Option(help="Like T1-weighted MR, or CT in HU")
    ] = "head",
    dimensions: Annotated[int, typer.Option(help="2: a slice a subject; 3: a volume")] = 2,
    size: Annotated[int, typer.Option(help="Voxels along each axis")] = 128,
    count: Annotated[int, typer.Option(help="Subjects")] = 50,
    share: Annotated[
        list[str] | None,
        typer.Option(
            help="e.g. train=0.8; repeat for each (default: train 0.8, val 0.1, test 0.1)"
        ),
    ] = None,
    lesions: Annotated[
        list[str] | None,
        typer.Option(
            help="hyperintense, hypointense, same-intensity or mass-effect; repeat for more "
            "(default: none)"
        ),
    ] = None,
    lesion_share: Annotated[float, typer.Option(help="Share of subjects with lesions")] = 0.5,
    healthy: Annotated[
        list[str] | None, typer.Option(help="Split without lesions, e.g. train; repeat for more")
    ] = None,
    coils: Annotated[
        int, typer.Option(help="Also write k-space of so many receiver coils (heads)")
    ] = 0,
    format: Annotated[Literal["nifti", "dicom"], typer.Option(help="Of the images")] = "nifti",
    seed: Seed = 0,
) -> None:
    """Draw heads or chests whose truth is known: images, masks, and a manifest with splits."""
    from medidiff import api

    manifest = api.phantoms(
        out,
        kind=kind,
        dimensions=dimensions,
        size=size,
        count=count,
        shares=cli_manifest.shares_of(share),
        lesions=lesions or (),
        lesion_share=lesion_share,
        healthy=healthy or (),
        coils=coils,
        format=format,
        seed=seed,
        progress="bars",
    )
    typer.echo(f"Manifest: {manifest}")
    typer.echo("Drawn, not scanned: nothing measured on them says anything about patients.")


@app.command()
def doctor(
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write what was found to this file, too")
    ] = None,
) -> None:
    """Check the installed package against exact solutions and recordings, and the machine."""
    from medidiff import api

    found = api.doctor(json_file=json_file, progress="bars")
    typer.echo(found.text)
    if found.faults:
        raise typer.Exit(1)


@app.command()
def schema() -> None:
    """Print the JSON schema of a configuration, for editors."""
    import json

    from medidiff import api

    typer.echo(json.dumps(api.schema(), indent=1, sort_keys=True))


def _print_version(asked: bool) -> None:
    if asked:
        from importlib import metadata

        typer.echo(metadata.version("medidiff"))
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_version,
            is_eager=True,  # before a missing command is complained of
            help="Print the version and stop",
        ),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line: exit code 2 for what a user can mend, 75 for a run stopped on
    request, 1 for a defect of ours or where a check's answer is no."""
    _tell_warnings()
    try:
        app()
    except MedidiffError as error:
        _tell(error)
        sys.exit(2)
    except Exception as error:
        # training.stop.Stopped, not imported here for its weight
        if getattr(error, "killed", False):
            print(f"medidiff: {error}", file=sys.stderr)
            sys.exit(75)  # EX_TEMPFAIL: run again with --resume
        _tell_defect(error)
        sys.exit(1)


def _tell_warnings() -> None:
    """Warnings of ours look like our errors; those of libraries stay as Python shows them."""
    package, others = Path(__file__).parent, warnings.showwarning

    def show(message: Warning | str, category: type[Warning], filename: str, *rest: Any) -> None:
        ours = category is UserWarning and Path(filename).is_relative_to(package)
        if ours:
            print(f"medidiff: warning: {message}", file=sys.stderr)
        else:
            others(message, category, filename, *rest)

    warnings.showwarning = show


def _tell(error: MedidiffError) -> None:
    """The message; what may name files goes to a log that only its owner can read."""
    print(f"medidiff: {error}", file=sys.stderr)
    if error.private:
        from medidiff.data.privacy import keep_private

        log = error.private_log or keep_private(error.private)
        print(f"medidiff: names are in {log}", file=sys.stderr)


def _tell_defect(error: Exception) -> None:
    """Where it happened; what the error says may name a file and goes to the private log."""
    from medidiff.data.privacy import keep_private

    log = keep_private("".join(traceback.format_exception(error)))
    print("".join(traceback.format_tb(error.__traceback__)), end="", file=sys.stderr)
    print(
        f"medidiff: a defect of the program ({type(error).__name__}). What it said is in {log}; "
        "please report it, without names of patients",
        file=sys.stderr,
    )


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


def _registered(version: int, name: str, alias: str | None) -> None:
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


def _settings(items: list[str] | None) -> dict[str, Any]:
    """Options of a task; their values are YAML."""
    found: dict[str, Any] = {}
    for key, text in _pairs(items, "--set").items():
        if key in RESERVED:
            raise ConfigError(f"--set {key}={text}: this is no option of a task (see --help)")
        found[key] = parse_value(text, f"{key}={text}", "--set")
    return found


if __name__ == "__main__":
    main()
