"""The verb `sample`: images drawn from a prior into a folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from medidiff import options
from medidiff.errors import OutputError, TaskError
from medidiff.jobs.models import load_model
from medidiff.jobs.reporting import reporter
from medidiff.networks import Acceleration
from medidiff.report.pictures import sheet
from medidiff.spec import SamplingOptions


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
    seed: int,
    changes: Mapping[str, object],
) -> tuple[list[Path], int]:
    """(image files, network calls an image); a sheet.png of all images lies beside them.

    Errors: OutputError if `out` already holds something; ModelError for an unknown
    condition or an interval of guidance that says nothing; TaskError for numbers below 1;
    TaskError for `changes` that are no sampling options of the configuration.
    """
    if out.exists() and any(out.iterdir()):
        raise OutputError(f"{out} already holds files; name another folder")
    if n < 1 or (steps is not None and steps < 1):
        raise TaskError(f"--n and --steps must be at least 1, found {n} and {steps}")
    model = load_model(name, acceleration=acceleration)
    model.spec = replace(model.spec, sampling=changed(model.spec.sampling, changes))
    report = reporter()
    try:
        samples = model.sample(
            n,
            condition=condition or None,
            guidance=guidance,
            guidance_interval=guidance_interval,
            steps=steps,
            seed=seed,
            progress=lambda done, total: report.progress("sampling", done, total),
        )
    finally:
        report.close()
    files = samples.save(out)
    typical = model.spec.intensity.typical
    sheet(samples.images[:, :1], out / "sheet.png", window=(typical.low[0], typical.high[0]))
    return files, samples.nfe


def changed(sampling: SamplingOptions, changes: Mapping[str, object]) -> SamplingOptions:
    """The options with some of them changed.

    Errors: TaskError naming every change that is none.
    """
    try:
        return options.read(SamplingOptions, {**options.tree(sampling), **changes})
    except options.OptionError as error:
        problems = "; ".join(f"{key}: {message}" for key, message in error.problems)
        raise TaskError(f"--set {problems}") from None
