"""The verb `sample`: images drawn from a prior into a folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from medidiff import options
from medidiff.errors import TaskError
from medidiff.jobs.cases import case_of_files
from medidiff.jobs.models import load_model
from medidiff.jobs.reporting import reporter
from medidiff.jobs.run import Format
from medidiff.networks import Acceleration
from medidiff.outputs import check_new_folder
from medidiff.report.pictures import sheet
from medidiff.spec import SamplingOptions
from medidiff.steering import AimName

NOT_FOR_IMAGES = "It would guide to what the model does not know; give an image that fits."
KINDS = ("sampler", "spacing", "noise")
"""Sampling options that are a choice of kinds."""


def sample_to_folder(
    name: str,
    out: Path,
    *,
    acceleration: Acceleration,
    n: int,
    steps: int | None,
    condition: Mapping[str, str | float | None],
    guidance: float,
    guidance_interval: tuple[float, float] | None,
    classifier: str | None = None,
    towards: Mapping[str, str] | None = None,
    classifier_scale: float = 1.0,
    encoder: str | None = None,
    towards_image: str | None = None,
    aim: AimName = "content",
    image_scale: float = 100.0,
    tile: int | None = None,
    tile_overlap: float = 0.25,
    slices: int | None = None,
    seed: int,
    changes: Mapping[str, object],
    format: Format = "nifti",
) -> tuple[list[Path], int]:
    """(image files, network calls an image); a sheet.png of all images lies beside them.

    `changes` are sampling options of the configuration; `towards_image` names a file, several
    joined by commas for the channels of one case. `slices`: volumes of so many, of a model that
    knows slices' neighbours.
    Errors: OutputError if `out` already holds something; ModelError for an unknown
    condition, an interval of guidance that says nothing, or a classifier or an encoder that does
    not fit; DataError for an image that does not fit; TaskError for numbers below 1 and for
    `changes` that are no sampling options.
    """
    check_new_folder(out)
    for option, number in (("--n", n), ("--steps", steps)):
        if number is not None and number < 1:
            raise TaskError(f"{option} must be at least 1, found {number}")
    model = load_model(name, acceleration=acceleration)
    model.spec = replace(model.spec, sampling=changed(model.spec.sampling, changes))
    if tile is not None and slices is not None:
        raise TaskError("--slices and --tile do not go together: a volume is drawn slab by slab")
    if slices is not None:
        model = model.volumes(slices)
    if tile is not None:
        model = model.tiled(tile, tile_overlap)
    readers = [
        None if each is None else load_model(each, model.device, acceleration)
        for each in (classifier, encoder)
    ]
    image = None
    if towards_image is not None:
        case = case_of_files(model, towards_image.split(","), "refuse", 1, advice=NOT_FOR_IMAGES)
        image = case.scale.inverse(case.images, axis=0)
    report = reporter()
    try:
        samples = model.sample(
            n,
            condition=condition or None,
            guidance=guidance,
            guidance_interval=guidance_interval,
            classifier=readers[0],
            towards=towards,
            classifier_scale=classifier_scale,
            encoder=readers[1],
            towards_image=image,
            aim=aim,
            image_scale=image_scale,
            steps=steps,
            seed=seed,
            progress=lambda done, total: report.progress("sampling", done, total),
        )
    finally:
        report.close()
    files = samples.save(out) if format == "nifti" else samples.save_dicom(out, model.spec.modality)
    typical = model.spec.intensity.typical
    window = (typical.low[0], typical.high[0])
    known = samples.affine if model.spec.space.known_affine() is not None else None
    sheet(samples.images[:, :1], out / "sheet.png", window=window, affine=known)
    return files, samples.nfe


def changed(sampling: SamplingOptions, changes: Mapping[str, object]) -> SamplingOptions:
    """The options with some of them changed; a sampler, spacing or noise by its kind alone, too.

    Errors: TaskError naming every change that is none.
    """
    whole = {
        key: {"kind": value} if isinstance(value, str) and key in KINDS else value
        for key, value in changes.items()
    }
    try:
        return options.read(SamplingOptions, {**options.tree(sampling), **whole})
    except options.OptionError as error:
        raise TaskError(f"--set {error}") from None
