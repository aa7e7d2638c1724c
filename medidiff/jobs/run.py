"""The verb `run`: a head on scans."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from medidiff.data.datasets import Case
from medidiff.data.decode import is_dicom, selected
from medidiff.data.dicom_out_patient import Patient
from medidiff.data.dicom_out_protect import Dates
from medidiff.errors import OutputError, TaskError
from medidiff.jobs.cases import Mismatch, case_of_files, input_digest, not_fitting
from medidiff.jobs.cropping import warn_of_cropped, warn_of_signal
from medidiff.jobs.measurements import open_measurement
from medidiff.jobs.reaching import Reaching, fitted_to, on_tiles
from medidiff.jobs.reporting import Reporter
from medidiff.jobs.result_sheets import sheet_file
from medidiff.model import Model
from medidiff.model_folder import check_free, sidecar, stem
from medidiff.outputs import check_writable
from medidiff.tasks.base import Doubting, Head, Problem, Progress, check_fit
from medidiff.tasks.calibrated import without_verdict
from medidiff.tasks.finish import finish
from medidiff.tasks.results import Result, older, stacked
from medidiff.tasks.room import check_kept, memory_told
from medidiff.warned import kept_warnings, warn, warnings_of

AS_IT_IS = Reaching()
Format = Literal["nifti", "dicom"]
Files = Sequence[Any]
"""Of one input: a file for each channel, or one measurement as a file or an array."""
SLICES = 16  # of a measurement at a time


def run_head(
    head: Head,
    model: Model,
    inputs: Sequence[Files],
    *,
    n: int,
    seed: int,
    mismatch: Mismatch,
    report: Reporter,
    beside: Mapping[str, object] | None = None,
    how: Reaching = AS_IT_IS,
    before: int = 0,
    total: int | None = None,
) -> list[Result]:
    """One result for each input, which is a file for each channel of the model.

    `beside`: what belongs to each input, such as a mask, as a file or an array. `how`: by tiles, or
    slice by slice, for inputs that are larger than the model's grid. `before`: how many of the
    `total` went before these, by which errors and progress number them.

    Errors: TaskError if head and model do not go together; DataError for input that cannot be used.
    """
    check_fit(head, model)
    if not head.needs().input_images:
        raise TaskError(
            f"{head.kind} takes no input image; use `medidiff sample` or model.sample(...)"
        )
    if not isinstance(n, int | np.integer) or n < 1:
        raise TaskError(f"the number of samples is a whole number of at least 1, found {n!r}")
    results: list[Result] = []
    everyone = len(inputs) if total is None else total
    for index, files in enumerate(inputs, before):
        with kept_warnings() as told, numbered(index + 1, everyone):
            if head.needs().measurement:
                parts = on_tiles(model, how)
                found = [_measured(head, parts, files, beside or {}, n, seed, index, report)]
            else:
                check_files(head, files)
                fitted = fitted_to(model, files, how, index + 1)
                case = case_of_files(fitted, files, mismatch, index + 1, head.needs(), beside)
                warn_of_cropped(case, fitted, head.needs(), index + 1)
                digest = _digests(files)
                found = _solved(
                    head, fitted, [case], 1, n, seed, digest, index + 1, report.progress
                )
                if not_fitting(fitted, case, head.needs()):
                    found = [*map(unjudged, found)]
        results += [
            replace(each, provenance={**each.provenance, "warning": [*told]}) for each in found
        ]
        report.progress(head.kind, index + 1, everyone)
    return results


@contextmanager
def numbered(row: int, total: int) -> Iterator[None]:
    """What a head says against its input, with that one's number where there are several."""
    if total == 1:
        yield
        return
    try:
        with warnings_of(f"input {row}"):
            yield
    except TaskError as error:
        raise TaskError(f"input {row}: {error}", private=error.private) from None


def unjudged(result: Result) -> Result:
    """The result on a scan of which nothing was judged."""
    return replace(result, provenance={**result.provenance, **without_verdict(result.provenance)})


def check_files(head: Head, files: Files) -> None:
    """Errors: TaskError for an array, which would not say where the scan lies."""
    for file in files:
        if not isinstance(file, str | os.PathLike):
            raise TaskError(
                f"{head.kind} takes a scan's file (NIfTI, DICOM, PNG and others), found "
                f"{type(file).__name__}; only reconstruct takes arrays. Save it with its affine "
                "first (nibabel.Nifti1Image)"
            )


def _solved(
    head: Head,
    model: Model,
    cases: Sequence[Case],
    count: int | None,
    n: int,
    seed: int,
    digest: str,
    row: int,
    told: Progress,
) -> list[Result]:
    """The results of some cases of input `row`. `count`: how many it has in all; None where there
    was found to be room for their samples before."""
    with memory_told():
        problem = replace(head.prepare(cases, model), progress=told)
        if count is not None:
            _check_room(head, problem, count, n)
        doubts = _doubts_told(head, problem, row)
        solution = head.solve(problem, model, n, seed)
        results = finish(head, problem, solution, model, n, seed)
    return [
        replace(each, provenance={**each.provenance, "input_digest": digest})
        for each in map(_judged, results, doubts)
    ]


def _judged(result: Result, doubt: str | None) -> Result:
    return result if doubt is None else unjudged(result)


def _doubts_told(head: Head, problem: Problem, row: int) -> Sequence[str | None]:
    """What speaks against what was stated of each case of input `row`, which is warned of."""
    if not isinstance(head, Doubting):
        return [None] * len(problem.cases)
    doubts = head.doubts(problem)
    for said in filter(None, doubts):
        warn(f"input {row}: {said}", stacklevel=3)
    return doubts


def _check_room(head: Head, problem: Problem, count: int, n: int) -> None:
    """Errors: TaskError for more samples than can be kept, before any is drawn."""
    on_input = problem.given.shape[1] * math.prod(problem.cases[0].original.shape)
    every = getattr(head, "result", "all") == "all"
    check_kept(n, count, problem.given.numel(), on_input, every=every)


def _measured(
    head: Head,
    model: Model,
    given: Sequence[object],
    beside: Mapping[str, object],
    n: int,
    seed: int,
    index: int,
    report: Reporter,
) -> Result:
    """The image of one measurement: its slices, some at a time, as one volume."""
    if len(given) != 1:
        raise TaskError(f"a measurement is one file or array; {len(given)} given")
    kind = head.needs().measurement or "cartesian"
    opened = open_measurement(given[0], beside, model, index + 1, kind)
    warn_of_signal(opened.cropped, index + 1)
    digest = opened.cases[0].content.split()[0]
    batches: list[list[Result]] = []
    for first in range(0, len(opened.cases), SLICES):
        part = opened.cases[first : first + SLICES]
        count = len(opened.cases) if first == 0 else None
        batches.append(
            _solved(head, model, part, count, n, seed, digest, index + 1, report.progress)
        )
        report.progress(f"{head.kind}, slices", first + len(part), len(opened.cases))
    return stacked(batches, opened.affine)


def _digests(files: Sequence[object]) -> str:
    return input_digest([Path(str(file)) for file in files])


def output_files(
    inputs: Sequence[Files],
    out: Path,
    task: str,
    format: Format = "nifti",
    deidentify: Dates = "none",
    pictures: bool = False,
) -> list[Path]:
    """Where the result of each input goes: `out` itself for one input and a NIfTI name, else names
    inside it; for DICOM a folder for each, which has a number for a name where results are
    de-identified.

    Errors: OutputError if a file is there already or two inputs have one name. Checked before any
    work is done.
    """
    if format == "nifti" and deidentify != "none":
        raise OutputError(
            "results in NIfTI hold nothing of the source's header; --deidentify is for --format "
            "dicom"
        )
    if format == "dicom":
        if out.name.endswith((".nii", ".nii.gz")):
            raise OutputError(f"{out} is a NIfTI name; DICOM series are written into a folder")
        names = [named(Path(files[0])) for files in inputs]
        if deidentify != "none":
            names = [f"case-{number:03d}" for number in range(1, len(inputs) + 1)]
        targets = [out / f"{name}-{task}" for name in names]
    elif out.name.endswith((".nii", ".nii.gz")):
        if len(inputs) > 1:
            raise OutputError(f"{out} names one file for {len(inputs)} inputs; name a folder")
        targets = [out]
    else:
        targets = [out / f"{named(Path(files[0]))}-{task}.nii.gz" for files in inputs]
    twice = sorted({target.name for target in targets if targets.count(target) > 1})
    if twice:
        raise OutputError(
            f"two inputs would both be written to {twice[0]}; run them into two folders"
        )
    written = [each for target in targets for each in (target, sidecar(target), *older(target))]
    check_free(targets if format == "dicom" else written)
    check_free([sheet_file(target) for target in targets if pictures])
    check_writable(targets[0])
    return targets


def named(file: Path) -> str:
    """What results of a scan are called by; FILE[2], the third image of a file, is FILE-2."""
    whole, number = selected(file)
    return stem(whole) if number is None else f"{stem(whole)}-{number}"


def save_result(
    result: Result,
    files: Files,
    target: Path,
    format: Format,
    patient: Patient,
    deidentify: Dates,
) -> list[Path]:
    """Write one result: as NIfTI, or as DICOM in the study of its input where that is DICOM.

    Errors: as `Result.save` and `Result.save_dicom`.
    """
    if format == "nifti":
        return result.save(target)
    paths = [Path(file) for file in files]
    series = [path for path in paths if is_dicom(path)]
    if series and len(series) < len(paths):
        raise OutputError(
            "some images of this case are DICOM and some are not: whose study the result belongs "
            "to cannot be said. Write NIfTI, or name DICOM series for all of them"
        )
    return result.save_dicom(target, sources=series, patient=patient, deidentify=deidentify)
