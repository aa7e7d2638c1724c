"""The verbs of medidiff, for scripts. The command line parses, calls these and prints.

    import medidiff

    model = medidiff.load("brain-t1-2d")
    images = model.sample(n=4, steps=20, seed=0)
    result = medidiff.run("denoise", model, "scan.nii.gz", sigma=0.1, seed=0)
    result.save("scan-denoised.nii.gz")

Every verb raises `medidiff.MedidiffError` with one clear message for what a user can mend.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, overload

import torch
from numpy.typing import NDArray
from pydicom.sr.coding import Code
from torch import Tensor

from medidiff.config import Loaded, load_config, schema
from medidiff.data.build import BuildOptions
from medidiff.data.confidentiality.faces import Defacing
from medidiff.data.confidentiality.profile import Confidentiality
from medidiff.data.dicom import Stacking
from medidiff.data.dicom_out_maps import NO_UNIT, Quantity
from medidiff.data.dicom_out_origin import Place
from medidiff.data.dicom_out_patient import Patient
from medidiff.data.dicom_out_protect import Dates, protection
from medidiff.data.dicom_out_segments import Segment
from medidiff.data.options import CTWindowName, Slices
from medidiff.data.population import Format, Kind, PopulationOptions
from medidiff.data.privacy import names_kept_private
from medidiff.data.splitting import SplitOptions
from medidiff.errors import MedidiffError, TaskError
from medidiff.jobs import manifests, privacy
from medidiff.jobs.average import average_run
from medidiff.jobs.benchmark import Table, benchmark_head
from medidiff.jobs.bundles.configs import read_bundle
from medidiff.jobs.bundles.describing import Stated
from medidiff.jobs.bundles.importing import Imported
from medidiff.jobs.bundles.importing import import_bundle as import_monai
from medidiff.jobs.caches import CacheName, Kept
from medidiff.jobs.caches import clear as clear_one
from medidiff.jobs.caches import kept as kept_caches
from medidiff.jobs.cases import Mismatch
from medidiff.jobs.defacing import write_defaced
from medidiff.jobs.demo import DemoResult, run_demo
from medidiff.jobs.doctor import Diagnosis, diagnose
from medidiff.jobs.evaluate import Evaluation, evaluate_model
from medidiff.jobs.fitting import Fit, check_gpu_memory, fit_config
from medidiff.jobs.folder import close_interrupted
from medidiff.jobs.gamma import add_gamma
from medidiff.jobs.likelihood import LikelihoodOptions, Method
from medidiff.jobs.manifests import ManifestMade
from medidiff.jobs.models import export_model, load_model, model_folder, register_model
from medidiff.jobs.parents import parent_notes
from medidiff.jobs.phantoms import write_phantoms
from medidiff.jobs.plans.planning import Planned, plan_training
from medidiff.jobs.plans.scheme import PlanOptions
from medidiff.jobs.prepare import check_data, shape_of
from medidiff.jobs.pretrained import Shipped, shipped_models
from medidiff.jobs.privacy import PhiReport
from medidiff.jobs.reaching import Across, Reaching
from medidiff.jobs.reporting import Quiet, Reporter, reporter
from medidiff.jobs.run import run_head
from medidiff.jobs.splits import Splits
from medidiff.jobs.to_dicom import Content, Conversion, Made, convert
from medidiff.jobs.train import train_model
from medidiff.model import Model
from medidiff.networks import Acceleration
from medidiff.tasks import head, head_and_beside
from medidiff.tasks.base import Peer
from medidiff.tasks.results import Result
from medidiff.tracking import sync as sync_runs

PathLike = str | os.PathLike[str]
ModelLike = PathLike | Model
Progress = Literal["bars", "none"]

__all__ = [
    "Checked",
    "DemoResult",
    "Diagnosis",
    "Evaluation",
    "Fit",
    "Imported",
    "ManifestMade",
    "MedidiffError",
    "Model",
    "Peer",
    "PhiReport",
    "Planned",
    "Result",
    "Shipped",
    "Table",
    "average",
    "benchmark",
    "build_manifest",
    "caches",
    "check",
    "check_manifest",
    "clear_cache",
    "deface",
    "deidentify",
    "demo",
    "doctor",
    "evaluate",
    "export",
    "find_phi",
    "gamma",
    "import_bundle",
    "load",
    "models",
    "phantoms",
    "plan",
    "register",
    "run",
    "schema",
    "split_manifest",
    "sync",
    "to_dicom",
    "train",
]


@dataclass(frozen=True)
class Checked:
    """What a checked configuration would do."""

    loaded: Loaded
    train_images: int
    """Rows of the manifest; with `data.slices` they are volumes."""
    validation_images: int
    parameters: int
    memory: Fit | None = None
    """Whether training fits into a GPU's memory, where one was stated."""
    slices: Slices | None = None
    """What is cut of volumes, in a named plane."""
    notes: tuple[str, ...] = ()
    """What the configuration and its scans leave open."""


def plan(
    manifest: PathLike,
    out: PathLike = "plan.yaml",
    *,
    gpu_memory: float = 24.0,
    images: Sequence[str] | None = None,
    method: Literal["whole", "wavelet", "patch", "latents"] | None = None,
    modality: str | None = None,
    window: CTWindowName | None = None,
    dims: Literal[2, 3] | None = None,
    progress: Progress = "none",
) -> Planned:
    """Propose a training for the train split of `manifest`, written to `out` with its reasons.

    What it proposes fits into `gpu_memory` GiB as `check` predicts it. `images`: columns that
    become channels (None: all that no row lacks). `method`: whole images, a wavelet's bands,
    patches or latents (None: the first that fits); latents take two trainings, the autoencoder's
    planned in `.first`. `modality`: where the scans do not say it. `window`: one of
    radiologists' CT windows. `dims`: slices of volumes or whole ones (None: slices where they were
    acquired thick).
    Errors: ManifestError, DataError, ConfigError, OutputError.
    """
    check_gpu_memory(gpu_memory)
    given = None if images is None else tuple(images)
    asked = PlanOptions(gpu_memory, given, method, modality, window, dims)
    with _reporting(progress) as report:
        return plan_training(Path(manifest), Path(out), asked, report)


def check(
    config: PathLike,
    *,
    changes: Sequence[str] = (),
    gpu_memory: float | None = None,
    progress: Progress = "none",
) -> Checked:
    """Check a configuration and every scan that it names, without training.

    With `gpu_memory` (GiB) it says whether the training fits into a GPU of so much memory and, if
    not, which changes need how much: `.memory.text`, `.memory.fits`. No GPU is needed for that.
    Errors: ConfigError or ManifestError with every problem.
    """
    from medidiff.networks import parameter_count

    if gpu_memory is not None:
        check_gpu_memory(gpu_memory)
    with _reporting(progress) as report:
        loaded = load_config(config, changes)
        data = check_data(loaded, None, report)
    shape = shape_of(loaded.config, data)
    count = parameter_count(loaded.config.network, shape)
    found = None
    if gpu_memory is not None:
        with _reporting(progress) as report:
            found = fit_config(loaded.config, shape, gpu_memory, report)
    notes = (*data.notes, *parent_notes(loaded.config))
    found_rows = (len(data.train), len(data.validation))
    return Checked(loaded, *found_rows, count, found, data.slices, notes)


def train(
    config: PathLike,
    *,
    changes: Sequence[str] = (),
    resume: bool = False,
    parent: ModelLike | None = None,
    progress: Progress = "none",
) -> Path:
    """Train as `config` says; gives the run's folder, whose `model/` is the trained model.

    `changes` are "key=value" strings such as "train.steps=500". `resume` goes on with an
    interrupted run in the same folder and under the same MLflow run. `parent` is a model to
    fine-tune; the objectives spread and alignment leave it as it is.
    Errors: ConfigError, ManifestError, DataError, OutputError, TrainingError;
    `training.stop.Stopped` when asked to stop (a checkpoint is saved).
    """
    start = None if parent is None else load_model(parent, "cpu")
    with _reporting(progress) as report:
        return train_model(config, changes=changes, resume=resume, parent=start, report=report)


def load(
    name: ModelLike,
    device: str | torch.device | None = None,
    acceleration: Acceleration = "auto",
) -> Model:
    """The model that is called `name`: a shipped name such as "brain-t1-2d" (see `models`), a
    folder, a run's folder, an MLflow run id, `models:/NAME@ALIAS`, or a MONAI bundle that says all
    that a model must know, as those do that `export` writes (others: `import_bundle`).

    A shipped name comes first; a folder of the same name is given as a path ("./brain-t1-2d").

    On a GPU `acceleration` "auto" takes bfloat16 weights, fused kernels and CUDA graphs where the
    card has them; "none" is plain torch in the weights' own precision.

    Errors: ModelError for a folder that is missing, incomplete or altered; RegistryError for an
    unknown name.
    """
    return load_model(name, device, acceleration)


@overload
def run(
    task: str,
    model: ModelLike,
    input: PathLike | NDArray[Any] | Tensor,
    *,
    n: int = ...,
    seed: int = ...,
    mismatch: Mismatch = ...,
    tile: int | None = ...,
    tile_overlap: float = ...,
    plane: str | None = ...,
    across: Across = ...,
    progress: Progress = ...,
    **task_options: object,
) -> Result: ...


@overload
def run(
    task: str,
    model: ModelLike,
    input: list[PathLike] | list[list[PathLike]] | list[NDArray[Any]],
    *,
    n: int = ...,
    seed: int = ...,
    mismatch: Mismatch = ...,
    tile: int | None = ...,
    tile_overlap: float = ...,
    plane: str | None = ...,
    across: Across = ...,
    progress: Progress = ...,
    **task_options: object,
) -> list[Result]: ...


def run(
    task: str,
    model: ModelLike,
    input: PathLike
    | NDArray[Any]
    | Tensor
    | list[PathLike]
    | list[list[PathLike]]
    | list[NDArray[Any]],
    *,
    n: int = 1,
    seed: int = 0,
    mismatch: Mismatch = "refuse",
    tile: int | None = None,
    tile_overlap: float = 0.25,
    plane: str | None = None,
    across: Across = "one",
    progress: Progress = "none",
    # the head's own options, checked against its dataclass: an unknown one is an error with a
    # suggestion
    **task_options: object,
) -> Result | list[Result]:
    """A head on one scan, or on a list of them (a list gives a list).

    A model of several channels takes a list of files for each case; `reconstruct` takes what a
    scanner measured, as a file or an array. `n` > 1 asks for posterior samples and maps. Some tasks
    take more that belongs to the input, as a file or an array: `mask`, and `reconstruct` also
    `coils`, `phase`, `angles`, `affine` and `spacing_mm`.
    `tile`: take the input whole, in overlapping tiles of so many voxels along each axis (of the
    model's size of voxel), however large it is; the memory is that of a tile, and neighbours are
    blended over the share `tile_overlap`. Without it an input beyond the model's field of view is
    refused.
    A model of slices takes a volume slice by slice: those of `plane`, the directions in which rows
    and columns count up (the model's own, else PL), or with `across` "three" of all three
    orientations, averaged at each noise level.
    Errors: TaskError for an unknown task or option; DataError for input that cannot be read or
    does not fit the model (`mismatch="warn"` warns instead).
    """
    chosen, beside = head_and_beside(task, task_options)
    single = not isinstance(input, list)
    cases = [_files(item) for item in (input if isinstance(input, list) else [input])]
    with _reporting(progress) as report:
        results = run_head(
            chosen,
            load_model(model),
            cases,
            n=n,
            seed=seed,
            mismatch=mismatch,
            report=report,
            beside=beside,
            how=Reaching(tile, tile_overlap, plane, across),
        )
    return results[0] if single else results


def benchmark(
    task: str,
    model: ModelLike,
    *,
    manifest: PathLike,
    split: str = "test",
    validation_split: str | None = None,
    holdout: float | None = None,
    out: PathLike | None = None,
    n: int = 1,
    seed: int = 0,
    limit: int | None = None,
    mismatch: Mismatch = "refuse",
    baselines: Literal["tuned", "none"] = "tuned",
    peers: Sequence[Peer] = (),
    tile: int | None = None,
    tile_overlap: float = 0.25,
    progress: Progress = "none",
    **task_options: object,  # as in `run`
) -> Table:
    """A head against its baselines on one split, by subject; the baselines are tuned on
    `validation_split`.

    Split names and the held-out share are those of the training unless stated.
    With `out`, writes table.md, summary.json, rows.csv (a row a subject and method) and a picture
    there. `baselines` "none" measures the network alone: seconds instead of minutes. `peers` are
    methods of your own, such as a network trained for the task: each is given the same problems
    and compared by subject. `tile` as in `run`, on the model's own grid.
    Errors: TaskError, ManifestError, OutputError; DataError naming all rows whose scans do not fit
    the model (`mismatch="warn"` warns instead).
    """
    chosen, chosen_model = head(task, task_options), load_model(model)
    if tile is not None:
        chosen_model = chosen_model.tiled(tile, tile_overlap)
    with _reporting(progress) as report:
        return benchmark_head(
            chosen,
            chosen_model,
            manifest,
            split=split,
            splits=_splits(chosen_model, validation_split, holdout),
            out=None if out is None else Path(out),
            n=n,
            seed=seed,
            limit=limit,
            mismatch=mismatch,
            report=report,
            baselines=baselines,
            peers=peers,
        )


def evaluate(
    model: ModelLike,
    *,
    manifest: PathLike,
    split: str = "test",
    validation_split: str | None = None,
    holdout: float | None = None,
    n: int = 64,
    seed: int = 0,
    out: PathLike | None = None,
    mismatch: Mismatch = "refuse",
    likelihood: Sequence[Method] = (),
    probes: int = 8,
    bound_steps: int = 1000,
    bit_depth: int | None = None,
    memorisation: bool = False,
    progress: Progress = "none",
) -> Evaluation:
    """How good the prior itself is: its loss by noise level on a split, and its samples beside
    real images.

    `likelihood` adds the negative log-likelihood of the split's scans: "flow" (the probability
    flow's; above 4096 values an image estimated with `probes` random sign fields) and "bound" (the
    variational bound of `bound_steps` steps). Nats a value, in model and in intensity units; bits
    only where the scans hold whole intensities 0 .. 2^`bit_depth` - 1.
    `memorisation` asks the guard: the nearest training scan of each of the `n` samples (500 say
    something) beside unseen scans, and what the loss tells of who was trained on. Its verdict is
    left in the folder that the model was loaded from, where `register` reads it.
    Errors: ManifestError, OutputError; TaskError for options of no meaning; DataError as
    `benchmark`, and for intensities that are not those of the bit depth.
    """
    asked = LikelihoodOptions(tuple(likelihood), probes, bound_steps, bit_depth)
    if bit_depth is not None and not likelihood:
        raise TaskError("a bit depth says what a likelihood is of: ask for one (--likelihood)")
    with _reporting(progress) as report:
        place = None if out is None else Path(out)
        # a likelihood needs the weights as they were saved, and derivatives of them
        chosen_model = load_model(model, acceleration="none" if likelihood else "auto")
        return evaluate_model(
            chosen_model,
            manifest,
            split=split,
            splits=_splits(chosen_model, validation_split, holdout),
            n=n,
            seed=seed,
            out=place,
            mismatch=mismatch,
            report=report,
            likelihood=asked if likelihood else None,
            memorisation=memorisation,
        )


def register(
    source: PathLike,
    name: str,
    *,
    alias: str | None = None,
    force: bool = False,
    progress: Progress = "none",
) -> int:
    """Register a model folder or run in MLflow as a version of `name`; gives the version.

    With progress "bars" it says where the memorisation guard was not asked, or was overruled.
    Errors: ModelError for a model that the memorisation guard found over-trained, unless `force`.
    """
    with _reporting(progress) as report:
        return register_model(source, name, alias, force=force, report=report)


def export(
    model: PathLike,
    out: PathLike,
    *,
    dtype: Literal["float32", "bfloat16"] = "float32",
    format: Literal["medidiff", "monai-bundle"] = "medidiff",
) -> Path:
    """A plain, self-contained copy of a model in the folder `out`, or a MONAI bundle of it.

    A bundle's network and scheduler are MONAI's own, its weights float32.
    Errors: ModelError naming what MONAI's network or schedulers do not have; OutputError.
    """
    return export_model(model, Path(out), dtype, format)


def import_bundle(
    bundle: PathLike,
    out: PathLike,
    *,
    modality: str | None = None,
    size: Sequence[int] | None = None,
    spacing_mm: Sequence[float] | Literal["as stored"] | None = None,
    orientation: str | None = None,
    intensity: tuple[float, float] | None = None,
    value_range: tuple[float, float] | None = None,
    images: Sequence[str] | None = None,
    name: str | None = None,
    weights: str | None = None,
    autoencoder_weights: str | None = None,
    changes: Sequence[str] = (),
) -> Imported:
    """A MONAI bundle as a model in the folder `out`; nothing in the bundle is run.

    Network, weights, schedule and target are the bundle's. What it does not say is stated:
    `intensity` are the scans' intensities that become the ends of `value_range`, the values between
    which the network's images lie. `weights` name files in models/, `changes` are values of the
    configurations such as "network_def.in_channels=4", for one that is an expression there.
    Errors: ModelError for what has no counterpart here and for all that is not said.
    """
    stated = Stated(
        modality=modality,
        size=None if size is None else tuple(size),
        spacing_mm=spacing_mm if spacing_mm is None or isinstance(spacing_mm, str)
        else tuple(spacing_mm),
        orientation=orientation,
        intensity=intensity,
        value_range=value_range,
        images=None if images is None else tuple(images),
        name=name,
        weights=weights,
        autoencoder_weights=autoencoder_weights,
    )  # fmt: skip
    imported = import_monai(read_bundle(Path(bundle), changes), stated, "cpu", "none")
    imported.model.save(out)
    return imported


def models() -> list[Shipped]:
    """The models that come with this installation; `load` takes their names."""
    return shipped_models()


def gamma(
    model: PathLike,
    out: PathLike,
    *,
    manifest: PathLike,
    levels: int = 100,
    seed: int = 0,
    mismatch: Mismatch = "refuse",
    progress: Progress = "none",
) -> Path:
    """A copy of a model in the folder `out` that can be sampled with optimal variances.

    Measures Gamma (Analytic-DPM's, arXiv:2201.06503) at `levels` noise levels in one pass over the
    manifest's train split.
    Errors: ModelError, ManifestError, OutputError; TaskError for a model that has learned its
    variance; DataError for scans that do not fit the model.
    """
    folder = model_folder(model)
    with _reporting(progress) as report:
        chosen_model = load_model(folder, acceleration="none")
        return add_gamma(
            chosen_model,
            manifest,
            Path(out),
            splits=_splits(chosen_model, None, None),
            levels=levels,
            seed=seed,
            card=(folder / "card.md").read_text(encoding="utf-8"),
            mismatch=mismatch,
            report=report,
        )


def average(run: PathLike, out: PathLike, *, std: float) -> Path:
    """The model of a finished run, its weights averaged over another length, in the folder `out`.

    `std` is the relative standard deviation of the average (Karras et al. 2024, arXiv:2312.02696).
    The run must have kept snapshots (`train.ema.kind=power`).
    Errors: ModelError, OutputError; TrainingError for a length that the snapshots do not span.
    """
    return average_run(Path(run), Path(out), std)


def sync(folder: PathLike) -> int:
    """Send to MLflow what runs in `folder` could not send before; gives the number of events.

    Runs whose process died are first given the end that it did not write.
    """
    for record in sorted(Path(folder).rglob("run.json")):
        close_interrupted(record.parent)
    return sync_runs(folder)


def demo(folder: PathLike = "medidiff-demo", *, progress: Progress = "none") -> DemoResult:
    """The main job on generated head phantoms: train, sample, denoise, register, load back."""
    with _reporting(progress) as report:
        return run_demo(Path(folder), report)


def phantoms(
    out: PathLike,
    *,
    kind: Kind = "head",
    dimensions: int = 2,
    size: int = 128,
    count: int = 50,
    shares: Mapping[str, float] | None = None,
    lesions: Sequence[str] = (),
    lesion_share: float = 0.5,
    healthy: Sequence[str] = (),
    coils: int = 0,
    format: Format = "nifti",
    seed: int = 0,
    progress: Progress = "none",
) -> Path:
    """Draw a population of heads (like T1-weighted MR) or chests (CT in HU) whose truth is known,
    into the new folder `out`; gives the path of its manifest.

    `lesions`: kinds that subjects may have (hyperintense, hypointense, same-intensity,
    mass-effect), `lesion_share` of them, none in the splits `healthy`.
    `shares`: split -> share (default: train 0.8, val 0.1, test 0.1). `coils`: also the k-space that
    so many receiver coils would have seen of each head. The same arguments draw the same voxels.
    Errors: ConfigError, OutputError.
    """
    options = PopulationOptions(
        *(kind, dimensions, size, tuple(lesions), lesion_share, tuple(healthy), coils, seed)
    )
    with _reporting(progress) as report:
        return write_phantoms(Path(out), options, count, shares, format, report)


def deidentify(
    folder: PathLike,
    out: PathLike,
    *,
    dates: Literal["remove", "shift"] = "remove",
    device: Literal["remove", "retain"] = "remove",
    patient: Literal["remove", "retain"] = "remove",
    keep_private: Sequence[str] = (),
    burnt_in: Literal["leave-out", "keep"] = "leave-out",
    progress: Progress = "none",
) -> str:
    """Copy the DICOM images of a folder or archive to `out` without the attributes that identify
    their patients (PS3.15 table E.1-1); gives what was done. Pixels stay as they are.

    Names, identifiers, UIDs and the shift of dates come from the site's key: the same subject has
    the same ones in every run. `keep_private`: attributes known to be safe, GROUP,ELEMENT,CREATOR.
    Errors: DataError, ConfigError, OutputError.
    """
    options = Confidentiality(dates, device, patient, tuple(keep_private))
    with _reporting(progress) as report:
        return privacy.deidentify(Path(folder), Path(out), options, burnt_in, report)


def find_phi(
    folder: PathLike,
    *,
    out: PathLike | None = None,
    pixels: Literal["look", "skip"] = "look",
    progress: Progress = "none",
) -> PhiReport:
    """Look through files for what identifies people, counted by attribute and never printed.

    `out`: a JSON file for the counts. `pixels`: whether to look for writing in images.
    Errors: DataError, OutputError.
    """
    with _reporting(progress) as report:
        place = None if out is None else Path(out)
        return privacy.find_phi(Path(folder), place, pixels == "look", report)


def deface(
    scan: PathLike,
    out: PathLike,
    *,
    mask: PathLike | None = None,
    picture: PathLike | None = None,
    fill: Literal["air", "blur"] = "air",
    margin_mm: float = 0.0,
) -> str:
    """Write a head volume without its face to `out` (.nii.gz), on the same grid; gives what was
    done. `mask`, `picture`: files for what was taken, and for a look at it.

    A simple geometric rule: look at every result.
    Errors: DataError for what is no whole head; OutputError.
    """
    with _reporting("none"):
        return write_defaced(
            Path(scan),
            Path(out),
            Defacing(fill, margin_mm),
            mask=None if mask is None else Path(mask),
            picture=None if picture is None else Path(picture),
        )


def doctor(*, json_file: PathLike | None = None, progress: Progress = "none") -> Diagnosis:
    """Whether the installed package is right: its samplers on exactly solvable data, recordings of
    the authors' own code, and what this machine has. `faults` is empty if all is well.

    Errors: OutputError if `json_file` cannot be written.
    """
    with _reporting(progress) as report:
        return diagnose(None if json_file is None else Path(json_file), report)


def build_manifest(
    folder: PathLike,
    out: PathLike,
    *,
    subjects: Literal["pseudonym", "raw"] = "pseudonym",
    tilt: Literal["refuse", "resample"] = "refuse",
    gaps: Literal["refuse", "resample"] = "refuse",
    arrange: Literal["images", "cases"] = "images",
    kspace: Literal["volumes", "slices"] = "volumes",
    progress: Progress = "none",
) -> ManifestMade:
    """Write the manifest `out` (.csv) of a folder tree or archive of scans.

    DICOM is taken by series, each volume of which gets a row and a list of its files in a folder
    beside the manifest; NIfTI, NRRD, MetaImage, PNG and JPEG by their names (BIDS and usual
    layouts); fully sampled k-space in fastMRI's HDF5 as its root-sum-of-squares images. What cannot
    be used is left out and told, and so is a mix of 2-D and 3-D. `subjects`: the patient
    identifiers of DICOM and k-space as keyed pseudonyms or raw. `tilt`, `gaps`: series with a
    tilted gantry, with uneven or missing slices. `arrange`: a row an image, or a row a session with
    a column a sequence. `kspace`: a row a file, or a row a slice for models of slices.
    Errors: DataError, OutputError, ManifestError.
    """
    options = BuildOptions(subjects, Stacking(tilt, gaps), arrange, kspace)
    with _reporting(progress) as report:
        return manifests.build(Path(folder), Path(out), options, report)


def split_manifest(
    manifest: PathLike,
    out: PathLike,
    *,
    shares: Mapping[str, float] | None = None,
    stratify: Sequence[str] = (),
    hold_out: Sequence[str] = (),
    site_column: str = "site",
    hold_out_split: str = "test",
    seed: int = 0,
) -> str:
    """Write a manifest again with its subjects dealt to splits; gives how many went where.

    `shares`: split -> share of the subjects. `stratify`: columns that every split has alike.
    `hold_out`: sites whose subjects all go to `hold_out_split`, which then takes no others.
    Errors: ConfigError, OutputError, ManifestError.
    """
    dealt = SplitOptions().shares if shares is None else tuple(shares.items())
    options = SplitOptions(
        dealt, tuple(stratify), tuple(hold_out), site_column, hold_out_split, seed
    )
    with _reporting("none"):
        return manifests.split(Path(manifest), Path(out), options)


def check_manifest(
    manifest: PathLike,
    *,
    images: Sequence[str] | None = None,
    missing: Literal["refused", "allowed"] = "refused",
    progress: Progress = "none",
) -> str:
    """Open every image of a manifest, and look for what would leak between its splits.

    Found: what training would refuse; images that are nearly the same under two subjects or in two
    splits; pieces of one scan, and one study, under two subjects. `images`: image columns (default:
    all). `missing`: whether a row may lack some of them.
    Errors: ManifestError with every problem.
    """
    with _reporting(progress) as report:
        return manifests.check(Path(manifest), report, images=images, missing=missing)


def to_dicom(
    image: PathLike,
    out: PathLike,
    *,
    content: Content = "image",
    source: PathLike | None = None,
    kind: Made | None = None,
    modality: str = "",
    place: Place = "grid",
    patient: Patient | None = None,
    labels: Mapping[int, Segment] | None = None,
    quantity: str = "map",
    unit: str = "1",
    deidentify: Dates = "none",
    when: datetime | None = None,
) -> list[Path]:
    """Write an image, label map or map of a file as one DICOM series into the new folder `out`.

    `source`: the DICOM series that it was made from or lies over; patient, study and geometry are
    its. `place`: how it lies to that: on its voxels ("grid"), in its space ("source"), in another
    ("new"). `kind`: how it was made, where no provenance lies beside it. `labels`: value -> what it
    stands for. `quantity`, `unit` (UCUM): what a map holds. `deidentify`: apply the basic profile
    of PS3.15, with dates removed or shifted. `when`: the time that is stamped.
    Errors: DataError, ConfigError, OutputError.
    """
    asked = Conversion(
        content=content,
        source=None if source is None else Path(source),
        made=kind,
        modality=modality,
        place=place,
        patient=patient or Patient(),
        labels=labels,
        quantity=Quantity(quantity, NO_UNIT if unit == "1" else Code(unit, "UCUM", unit)),
        when=when,
    )
    with _reporting("none"):
        return convert(Path(image), Path(out), asked, protection(deidentify))


def caches() -> list[Kept]:
    """What is kept on this machine to save time: prepared images, facts of files, DICOM headers."""
    return kept_caches()


def clear_cache(name: CacheName, *, unused_days: float = 0.0) -> tuple[int, int]:
    """Remove one of `caches()`, or images not used for so many days; gives files and bytes.

    Nothing is lost but time.
    Errors: ConfigError for days of another cache than images.
    """
    return clear_one(name, unused_days)


def _splits(model: Model, validation: str | None, holdout: float | None) -> Splits:
    """The splits that the model was trained with, unless told otherwise."""
    lineage = model.spec.lineage
    return Splits(
        lineage.train_split,
        lineage.validation_split if validation is None else validation,
        lineage.holdout if holdout is None else holdout,
    )


@contextmanager
def _reporting(progress: Progress) -> Iterator[Reporter]:
    """Where a verb reports to; the names in its errors go to the private log."""
    report = reporter() if progress == "bars" else Quiet()
    with names_kept_private():
        try:
            yield report
        finally:
            report.close()


def _files(item: Any) -> Sequence[Any]:
    return item if isinstance(item, list | tuple) else [item]
